//! The command line: one word, one file.

mod check;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Configuration refused: nothing was started.
const REFUSED: u8 = 3;

/// A gateway and service-mesh sidecar that scores requests in-line.
#[derive(Debug, Parser)]
#[command(name = "foregate", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gateway with the policies of a folder.
    Run(run::Run),
    /// Checks the policies of a folder and tells every fault.
    Check(check::Check),
}

impl Cli {
    /// Carries the command out. Exit codes: 0 fine, 1 a problem was found or the run failed, 2 usage,
    /// 3 configuration refused.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Check(check) => check.run(),
        }
    }
}

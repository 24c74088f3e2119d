//! The `foregate-control` command: policies checked away from any proxy.

mod check;
mod crds;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Looks at policies where no proxy runs.
#[derive(Debug, Parser)]
#[command(name = "foregate-control", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks the policies of a folder and tells every fault, without the files that only a proxy has.
    Check(check::Check),
    /// Prints the `CustomResourceDefinitions` of the kinds of foregate.dev.
    Crds(crds::Crds),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(check) => check.run(),
        Command::Crds(_) => crds::Crds::run(),
    }
}

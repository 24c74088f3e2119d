//! The command line: one word, one file.

mod admin;
pub mod capacity;
mod case_keys;
mod check;
mod control;
mod decisions;
mod demo;
mod explain;
mod explained;
mod features;
mod fleet;
mod funnel;
mod histogram;
mod init;
mod materials;
mod model;
mod output;
mod pages;
mod run;
mod schema;
mod tap;
mod telemetry;
pub mod test;
mod token;
mod token_key;
mod top;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::telemetry::event;

/// Configuration refused: nothing was started.
const REFUSED: u8 = 3;
/// The command line cannot be understood; clap ends with the same code.
const USAGE: u8 = 2;

/// A gateway and service-mesh sidecar that scores requests in-line.
#[derive(Debug, Parser)]
#[command(name = "foregate", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 fine, 1 a problem was found or the run failed, 2 usage, 3 configuration refused.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the gateway with the policies of a folder.
    Run(Box<run::Run>),
    /// Shows what it does in one process: gateway, toy CRM, token issuer, model.
    Demo(demo::Demo),
    /// Checks the policies of a folder and tells every fault; needs no network.
    Check(check::Check),
    /// Runs the cases of a folder against its policies.
    Test(test::Test),
    /// Explains the code of a diagnostic, or a decision of a running gateway step by step.
    Explain(explain::Explain),
    /// Shows how a running gateway does: traffic, routes, refusals, models; as the console does.
    Top(top::Top),
    /// Prints decisions of a running gateway as they are made.
    Tap(tap::Tap),
    /// Verifies and shows decision logs, and makes their keys.
    Decisions(decisions::Decisions),
    /// Redirects the connections of a pod to its sidecar.
    Init(Box<init::Init>),
    /// Makes feature stores, fills them and shows what they hold.
    Features(features::Features),
    /// Shows and checks model bundles, promotes versions and rolls them back.
    Model(model::Model),
    /// Prints the JSON Schema of policy files.
    Schema(schema::Schema),
    /// Makes tokens and keys for development.
    Token(token::Token),
    /// Tells what this binary is.
    Version(version::Version),
    /// Writes the manual pages of all commands.
    Man(pages::Manual),
    /// Prints the script by which a shell completes commands.
    Completions(pages::Completions),
}

impl Cli {
    /// Carries the command out. Exit codes: 0 fine, 1 a problem was found or the run failed, 2 usage,
    /// 3 configuration refused.
    pub fn run(self) -> ExitCode {
        let code = self.command.run();
        event::flush(event::LAST);
        code
    }
}

impl Command {
    fn run(self) -> ExitCode {
        match self {
            Self::Run(run) => run.run(),
            Self::Demo(demo) => demo.run(),
            Self::Check(check) => check.run(),
            Self::Test(test) => test.run(),
            Self::Explain(explain) => explain.run(),
            Self::Top(top) => top.run(),
            Self::Tap(tap) => tap.run(),
            Self::Decisions(decisions) => decisions.run(),
            Self::Init(init) => init.run(),
            Self::Features(features) => features.run(),
            Self::Model(model) => model.run(),
            Self::Schema(schema) => schema.run(),
            Self::Token(token) => token.run(),
            Self::Version(version) => version.run(),
            Self::Man(manual) => manual.run(Cli::command()),
            Self::Completions(completions) => completions.run(Cli::command()),
        }
    }
}

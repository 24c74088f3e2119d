//! The `foregate-control` command: policies checked away from any proxy, policies and identities for proxies.

// Commands have no crate in common.
#[path = "../../../proxy/src/cli/pages.rs"]
mod pages;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use foregate_control::check::Check;
use foregate_control::crds::Crds;
use foregate_control::operate::commands::{AuthorityCommand, TokenCommand};
use foregate_control::rollout::commands::{Diff, Revert, RolloutCommand, Status};
use foregate_control::run::Run;

/// Checks policies where no proxy runs, and gives proxies policies and identities.
#[derive(Debug, Parser)]
#[command(name = "foregate-control", version, arg_required_else_help = true, after_help = pages::UNITS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks the policies of a folder, without the files that only a proxy has, or a cluster, and tells every fault.
    Check(Check),
    /// Runs the control plane.
    Run(Run),
    /// Looks at the certificate authority of a running control plane, and rotates it.
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// Makes tokens with which workloads join.
    #[command(subcommand)]
    Token(TokenCommand),
    Status(Status),
    Diff(Diff),
    #[command(subcommand)]
    Rollout(RolloutCommand),
    Revert(Revert),
    /// Prints the `CustomResourceDefinitions` of the kinds of foregate.dev.
    Crds(Crds),
    /// Writes the manual pages of all commands.
    Man(pages::Manual),
    /// Prints the script by which a shell completes commands.
    Completions(pages::Completions),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(check) => check.run(),
        Command::Run(run) => run.run(),
        Command::Authority(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Status(status) => status.run(),
        Command::Diff(diff) => diff.run(),
        Command::Rollout(command) => command.run(),
        Command::Revert(revert) => revert.run(),
        Command::Crds(_) => Crds::run(),
        Command::Man(manual) => manual.run(Cli::command()),
        Command::Completions(completions) => completions.run(Cli::command()),
    }
}

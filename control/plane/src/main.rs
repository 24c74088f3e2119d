//! The `foregate-control` command: policies checked away from any proxy, policies and identities for proxies.

mod admin;
mod attest;
mod authority;
mod check;
mod clock;
mod config;
mod declared;
mod distribution;
mod event;
mod files;
mod fleet;
mod grants;
mod hex;
mod identity;
mod metrics;
mod operate;
mod process;
mod revision;
mod rollout;
mod run;
mod serve;
mod sources;
mod stream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::operate::commands::{AuthorityCommand, TokenCommand};
use crate::rollout::commands::{Diff, Revert, RolloutCommand, Status};

/// Checks policies where no proxy runs, and gives proxies policies and identities.
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
    /// Runs the control plane.
    Run(run::Run),
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
    }
}

//! The `foregate-control` command: policies checked away from any proxy, policies and identities for proxies.

mod admin;
mod attest;
mod authority;
mod check;
mod clock;
mod config;
mod declared;
mod event;
mod fleet;
mod identity;
mod metrics;
mod operate;
mod policies;
mod process;
mod run;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::operate::commands::{AuthorityCommand, TokenCommand};

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
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(check) => check.run(),
        Command::Run(run) => run.run(),
        Command::Authority(command) => command.run(),
        Command::Token(command) => command.run(),
    }
}

//! The `foregate-inference` command.

use std::process::ExitCode;

use clap::Parser;
use foregate_inference::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}

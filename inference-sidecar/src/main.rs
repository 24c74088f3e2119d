//! The `foregate-inference` command.

use std::process::ExitCode;

use clap::Parser;
use foregate_inference::cli::Cli;

/// A ninth of the instructions of a call were spent in the system's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}

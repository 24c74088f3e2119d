//! The command line of `foregate-inference`: one word, one file.

mod batch;
// Commands have no crate in common.
#[path = "../../../proxy/src/cli/pages.rs"]
mod pages;
mod serve;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

const EXIT_CODES: &str = "Exit codes: 0 fine, 1 the run failed, 2 usage, 3 rows of a batch are at fault.";

/// A batch went through, and some of its rows are at fault.
const ROWS_AT_FAULT: u8 = 3;

/// Serves model bundles over REST and gRPC, and scores files with them.
#[derive(Debug, Parser)]
#[command(name = "foregate-inference", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the bundles of a folder by the Open Inference Protocol (`KServe` v2), REST and gRPC.
    Serve(Box<serve::Serve>),
    /// Scores a file row by row, and resumes where it was killed.
    Batch(batch::Batch),
    /// Writes the manual pages of all commands.
    Man(pages::Manual),
    /// Prints the script by which a shell completes commands.
    Completions(pages::Completions),
}

impl Cli {
    /// Carries the command out.
    pub fn run(self) -> ExitCode {
        if log::set_logger(&Warnings).is_ok() {
            log::set_max_level(log::LevelFilter::Warn);
        }
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Batch(batch) => batch.run(),
            Command::Man(manual) => manual.run(Self::command()),
            Command::Completions(completions) => completions.run(Self::command()),
        }
    }
}

/// What the library warns of, on standard error; other libraries keep quiet.
#[derive(Debug)]
struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn && metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            error(&record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Writes a line to standard output. Where the reader is gone, so is the line.
fn line(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Writes a line to standard error.
fn error(line: &str) {
    let mut out = io::stderr().lock();
    let _ = writeln!(out, "{line}");
}

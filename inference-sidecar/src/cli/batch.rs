//! `foregate-inference batch`: scores a file, and resumes where it was killed.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use foregate_filters::timestamp::Timestamp;
use indicatif::{ProgressBar, ProgressStyle};

use super::{ROWS_AT_FAULT, error};
use crate::batch::{Format, Options, Progress, run};

#[derive(Debug, Args)]
pub(super) struct Batch {
    /// Folder of a bundle.
    #[arg(long, value_name = "BUNDLE")]
    model: PathBuf,
    /// File with records. CSV has a header with names such as `Company` and `Account.Industry`.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// One line for each record. `FILE.checkpoint` lies beside it until all is scored; the same command goes on from it.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Of input and output [default: csv where the input is called so].
    #[arg(long, value_name = "FORMAT")]
    format: Option<FileFormat>,
    /// Threads that score, 1 to 256 [default: one a processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// The moment that dates are held against, such as 2027-01-31T12:00:00Z [default: that of the start].
    #[arg(long, value_name = "MOMENT")]
    now: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FileFormat {
    /// One JSON record a line.
    Ndjson,
    /// Comma-separated values (RFC 4180) with a header.
    Csv,
}

impl Batch {
    pub(super) fn run(self) -> ExitCode {
        let bar = io::stderr().is_terminal().then(bar);
        let mut resumed = false;
        let mut told = |progress: Progress| {
            if progress.resumed && !std::mem::replace(&mut resumed, true) {
                error(&format!("resumed behind {} rows", progress.tally.rows));
            }
            if let Some(bar) = &bar {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
                bar.set_message(format!("{} rows", progress.tally.rows));
            }
        };
        let ended = run(&self.options(), &mut told);
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        match ended {
            Ok(tally) => {
                error(&format!("{} rows scored, {} of them at fault", tally.rows, tally.bad));
                if tally.bad == 0 { ExitCode::SUCCESS } else { ExitCode::from(ROWS_AT_FAULT) }
            }
            Err(fault) => {
                error(&fault.to_string());
                ExitCode::FAILURE
            }
        }
    }

    fn options(self) -> Options {
        let csv = self.input.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        let format = match self.format {
            Some(FileFormat::Csv) => Format::Csv,
            None if csv => Format::Csv,
            Some(FileFormat::Ndjson) | None => Format::Ndjson,
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let moment = |now: Timestamp| Duration::from_micros(u64::try_from(now.micros()).unwrap_or(0));
        Options {
            model: self.model,
            input: self.input,
            output: self.output,
            format,
            threads: self.threads.map_or(processors, usize::from),
            now: self.now.map(moment),
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {percent} %  {msg}, {eta} left");
    let bar = ProgressBar::new(0);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

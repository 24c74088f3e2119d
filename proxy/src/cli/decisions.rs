//! `foregate decisions`: proves and shows decision logs, makes their keys.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use foregate_filters::units::ByteSize;
use foregate_policy::files;
use serde_json::{Value, json};

use crate::cli::output::{self, TextFormat};
use crate::cli::{REFUSED, USAGE};
use crate::decision_log::keys::{KeyError, KeyRef, PublicKey, SealKey, SigningKey};
use crate::decision_log::reader::{Piece, read};
use crate::decision_log::verify::{Keys, Report, verify};
use crate::decision_log::{DecisionLogOptions, MIN_SIZE};

/// Largest size of one file: it is read whole when it is proven.
const MAX_SIZE: u64 = 4 << 30;

/// Options of `foregate run` for the decision log.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Decision log")]
#[expect(clippy::struct_field_names, reason = "they name options that stand among others")]
pub(super) struct DecisionLogArgs {
    /// Writes every decision to a hash-chained log; `foregate decisions verify` proves it.
    #[arg(long, value_name = "FILE")]
    decision_log: Option<PathBuf>,
    /// Encrypts the log with AES-256-GCM: 32 bytes in Base64, see `foregate decisions key`.
    #[arg(long, value_name = "file:PATH|env:NAME", requires = "decision_log")]
    decision_log_key: Option<KeyRef>,
    /// Signs the checkpoints of the log with Ed25519: a private key in PKCS #8 PEM.
    #[arg(long, value_name = "file:PATH|env:NAME", requires = "decision_log")]
    decision_log_sign_key: Option<KeyRef>,
    /// Size at which the file is put aside as FILE.NUMBER and a new one begins, 16KiB to 4GiB.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", requires = "decision_log", value_parser = parse_size)]
    decision_log_max_size: ByteSize,
    /// Files put aside that are kept, 0 or more; older ones are removed.
    #[arg(long, value_name = "N", default_value_t = 16, requires = "decision_log")]
    decision_log_keep: u32,
    /// Refuses requests with 503 while the log cannot be written.
    #[arg(long, requires = "decision_log")]
    decision_log_required: bool,
}

fn parse_size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    if (MIN_SIZE..=MAX_SIZE).contains(&size.0) {
        Ok(size)
    } else {
        Err("it must be from 16KiB to 4GiB".to_owned())
    }
}

impl DecisionLogArgs {
    pub(super) fn options(self) -> Option<DecisionLogOptions> {
        Some(DecisionLogOptions {
            file: self.decision_log?,
            key: self.decision_log_key,
            sign_key: self.decision_log_sign_key,
            max_size: self.decision_log_max_size.0,
            keep: usize::try_from(self.decision_log_keep).unwrap_or(usize::MAX),
            required: self.decision_log_required,
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct Decisions {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Proves that nothing was changed, removed, reordered, inserted or cut off.
    Verify(Verify),
    /// Prints the entries of a log, decrypted, one JSON line each.
    Show(Show),
    /// Makes keys for a log, each in a file that does not exist yet, readable by its owner only.
    Key(Key),
}

#[derive(Debug, Args)]
struct Verify {
    /// All files of one log, in any order.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Key of an encrypted log.
    #[arg(long, value_name = "file:PATH|env:NAME")]
    key: Option<KeyRef>,
    /// Public key that checkpoints must be signed by, PEM. Without it a log that was written anew by
    /// somebody else is not told from the true one.
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// The last file may still be written: a missing end is no fault.
    #[arg(long)]
    open: bool,
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

#[derive(Debug, Args)]
struct Show {
    /// One file of a log.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Key of an encrypted log.
    #[arg(long, value_name = "file:PATH|env:NAME")]
    key: Option<KeyRef>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Key {
    /// Makes a key for --decision-log-key.
    #[arg(long, value_name = "FILE")]
    seal: Option<PathBuf>,
    /// Makes a key for --decision-log-sign-key, and prints its public half for --public-key.
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
}

impl Decisions {
    pub(super) fn run(self) -> ExitCode {
        match self.what {
            What::Verify(verify) => verify.run(),
            What::Show(show) => show.run(),
            What::Key(key) => key.run(),
        }
    }
}

pub(super) fn failed(error: &impl std::fmt::Display, code: ExitCode) -> ExitCode {
    output::error(&format!("foregate: {error}"));
    code
}

impl Verify {
    fn run(self) -> ExitCode {
        let seal = self.key.as_ref().map(SealKey::load).transpose();
        let public = self.public_key.clone().map(|path| PublicKey::load(&KeyRef::File(path))).transpose();
        let keys = match (seal, public) {
            (Ok(seal), Ok(public)) => Keys { seal, public },
            (Err(error), _) | (_, Err(error)) => return failed(&error, ExitCode::from(REFUSED)),
        };
        let report = verify(&self.files, &keys, self.open);
        match self.format {
            TextFormat::Json => {
                let (Value::Object(mut line), ok) = (json!(report), report.problems.is_empty()) else {
                    return ExitCode::FAILURE;
                };
                line.insert("ok".to_owned(), ok.into());
                output::line(&Value::Object(line).to_string());
            }
            TextFormat::Human => tell(&report, keys.public.is_some()),
        }
        if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn tell(report: &Report, proven: bool) {
    for problem in &report.problems {
        let sequence = problem.sequence.map(|sequence| format!(", sequence {sequence}")).unwrap_or_default();
        let line = if problem.line > 0 { format!(", line {}", problem.line) } else { String::new() };
        let (file, wrong) = (&problem.file, problem.wrong);
        output::line(&output::printable(&format!("{wrong}: {file}{line}{sequence}: {}", problem.message)));
    }
    for note in &report.notes {
        output::line(&output::printable(&format!("note: {note}")));
    }
    let verdict = if report.problems.is_empty() { "ok" } else { "not proven" };
    let count = |number: u64, noun| output::count(usize::try_from(number).unwrap_or(usize::MAX), noun);
    output::line(&format!(
        "{verdict}: {}, {}, sequence {} to {}, {}, {} dropped, {} of {} signed",
        output::count(report.files, "file"),
        count(report.entries, "line"),
        report.first,
        report.last,
        count(report.decisions, "decision"),
        report.dropped,
        report.signed,
        count(report.checkpoints, "checkpoint"),
    ));
    if !proven {
        output::line("signatures were not checked: give --public-key");
    }
}

impl Show {
    fn run(self) -> ExitCode {
        let key = match self.key.as_ref().map(SealKey::load).transpose() {
            Ok(key) => key,
            Err(error) => return failed(&error, ExitCode::from(REFUSED)),
        };
        let mut closed = None;
        let shown = read(&self.file, key.as_ref(), &mut |piece| match piece {
            Piece::Line(line) => output::line(&output::printable(&String::from_utf8_lossy(line))),
            Piece::Closed { frame } => closed = closed.or(Some(frame)),
        });
        let file = self.file.display();
        match (shown, closed) {
            (Err(error), _) => failed(&format!("{file}: {error}"), ExitCode::FAILURE),
            (Ok(_), Some(frame)) => {
                failed(&format!("{file}: frame {frame} cannot be opened: it was changed"), ExitCode::FAILURE)
            }
            (Ok(ending), None) if ending.torn > 0 => failed(
                &format!("{file}: the last {} bytes are half an entry", ending.torn),
                ExitCode::FAILURE,
            ),
            (Ok(_), None) => ExitCode::SUCCESS,
        }
    }
}

impl Key {
    fn run(self) -> ExitCode {
        if self.seal.is_some() && self.seal == self.sign {
            return failed(&"two keys need two files", ExitCode::from(USAGE));
        }
        match self.make() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error, ExitCode::FAILURE),
        }
    }

    fn make(&self) -> Result<(), KeyError> {
        if let Some(file) = &self.seal {
            let (_, text) = SealKey::generate()?;
            put(file, &text)?;
        }
        if let Some(file) = &self.sign {
            let (_, private, public) = SigningKey::generate()?;
            put(file, &private)?;
            output::text(&public);
        }
        Ok(())
    }
}

/// Writes a key into a file that does not exist yet, readable by its owner only.
pub(super) fn put(file: &Path, text: &str) -> Result<(), KeyError> {
    files::write_new(file, text.as_bytes())
        .map_err(|error| KeyError::Read(KeyRef::File(file.to_owned()), error.to_string()))
}

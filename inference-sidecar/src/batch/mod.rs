//! Scores files row by row, with bounded memory; a run that was killed is resumed.

mod checkpoint;
mod columns;
mod rows;
mod scored;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use self::checkpoint::{Checkpoint, CheckpointError, beside};
use self::columns::{Columns, HeaderError};
use self::rows::{Place, Row, Rows};
use self::scored::{Lines, Scoring};
use crate::bundle::error::BundleError;
use crate::bundle::manifest::MANIFEST;
use crate::bundle::{Bundle, hex};
use crate::clock;

/// Rows that one thread scores at once, at most.
const PIECE_ROWS: usize = 1_000;
/// Bytes of such rows, at most: one row more may follow them.
const PIECE_BYTES: usize = 1 << 20;
/// Rows after which a checkpoint is written.
const CHECKPOINT_ROWS: u64 = 20_000;

/// How a file and its output are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON record a line.
    Ndjson,
    /// A header with names such as `Company` and `Account.Industry`, then a record a row.
    Csv,
}

/// What is to be scored.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of a bundle.
    pub model: PathBuf,
    pub input: PathBuf,
    pub output: PathBuf,
    pub format: Format,
    pub threads: usize,
    /// The moment that dates are held against, since the Unix epoch; that of the start where it is not given.
    pub now: Option<Duration>,
}

/// What a run did, those before it that it resumed included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub rows: u64,
    /// Rows at fault.
    pub bad: u64,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that were scored, and all of them.
    pub done: u64,
    pub total: u64,
    pub tally: Tally,
    /// True where it goes on from a checkpoint.
    pub resumed: bool,
}

/// Why a file is not scored.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error("{}: {source}", .file.display())]
    File { file: PathBuf, source: io::Error },
    #[error("{}: {source}", .folder.display())]
    Bundle { folder: PathBuf, source: Box<BundleError> },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{}: {source}", .file.display())]
    Header { file: PathBuf, source: HeaderError },
    #[error("{}: it exists, and no checkpoint lies beside it; remove it, or name another output", .0.display())]
    Exists(PathBuf),
    #[error("{}: another run writes to it", .0.display())]
    Locked(PathBuf),
    #[error("{}: it is of another {what}; remove it and the output to begin anew", .file.display())]
    Other { file: PathBuf, what: &'static str },
    #[error("{}: it is shorter than its checkpoint says; remove both to begin anew", .0.display())]
    Short(PathBuf),
    #[error("a thread that scored rows has panicked")]
    Panicked,
}

impl Format {
    /// The format as options name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }
}

fn at(file: &Path) -> impl Fn(io::Error) -> BatchError {
    move |source| BatchError::File { file: file.to_owned(), source }
}

/// Scores a file, or what is left of it; tells now and then how far it is.
pub fn run(options: &Options, told: &mut dyn FnMut(Progress)) -> Result<Tally, BatchError> {
    let Options { model, input, output, format, threads, now } = options;
    let bundle = Bundle::load_alone(model)
        .map_err(|source| BatchError::Bundle { folder: model.clone(), source: Box::new(source) })?;
    let manifest = fs::read(model.join(MANIFEST)).map_err(at(model))?;
    let fingerprint = hex(&Sha256::digest(&manifest));
    let mut opened = File::open(input).map_err(at(input))?;
    let total = opened.metadata().map_err(at(input))?.len();
    let columns = match format {
        Format::Ndjson => None,
        Format::Csv => Some(header(&opened, &bundle, input)?),
    };
    opened.seek(SeekFrom::Start(0)).map_err(at(input))?;

    let file = beside(output);
    let found = Checkpoint::read(&file)?;
    let resumed = found.as_ref().is_some_and(|found| found.output > 0);
    let begun = now.unwrap_or_else(clock::now);
    let fresh = Checkpoint::new(&fingerprint, format.name(), u64::try_from(begun.as_micros()).unwrap_or(0));
    let checkpoint = found.unwrap_or_else(|| fresh.clone());
    let other = |what| Err(BatchError::Other { file: file.clone(), what });
    if checkpoint.bundle != fresh.bundle {
        return other("model");
    }
    if checkpoint.format != fresh.format {
        return other("format");
    }
    if now.is_some() && checkpoint.now != fresh.now {
        return other("moment");
    }
    let place = checkpoint.resume(&mut opened, input)?;
    let written = destination(output, &file, &checkpoint)?;
    let scoring =
        Scoring { bundle: &bundle, format: *format, columns, now: Duration::from_micros(checkpoint.now) };
    let mut rows = match format {
        Format::Ndjson => Rows::lines(opened, place),
        Format::Csv => Rows::csv(opened, place),
    };
    let tally = Tally { rows: checkpoint.rows, bad: checkpoint.bad };
    let mut job = Job { out: BufWriter::new(written), length: checkpoint.output, tally, scoring, checkpoint };
    if job.length == 0 {
        job.write(&job.scoring.header(), output)?;
        // The header of the input is a row of the file, and none of the output.
        if *format == Format::Csv {
            rows.next_row().map_err(at(input))?;
        }
    }
    let mut tell = |job: &Job<'_>, done| told(Progress { done, total, tally: job.tally, resumed });
    tell(&job, rows.place().offset);
    let mut next = job.tally.rows + CHECKPOINT_ROWS;
    while job.step(&mut rows, *threads, input, output)? {
        if job.tally.rows >= next {
            job.save(&rows.place(), output, &file)?;
            next = job.tally.rows + CHECKPOINT_ROWS;
        }
        tell(&job, rows.place().offset);
    }
    job.save(&rows.place(), output, &file)?;
    fs::remove_file(&file).map_err(at(&file))?;
    Ok(job.tally)
}

/// The columns of a CSV file.
fn header(mut opened: &File, bundle: &Bundle, input: &Path) -> Result<Columns, BatchError> {
    let fault = |source| BatchError::Header { file: input.to_owned(), source };
    let first = Rows::csv(&mut opened, Place::start()).next_row().map_err(at(input))?;
    let first = first.ok_or_else(|| fault(HeaderError::Absent))?;
    Columns::new(&first, &bundle.manifest.features).map_err(fault)
}

/// The output, cut to what the checkpoint knows of; the checkpoint lies beside it from now on.
fn destination(output: &Path, file: &Path, checkpoint: &Checkpoint) -> Result<File, BatchError> {
    let begun = file.exists();
    if output.exists() && !begun {
        return Err(BatchError::Exists(output.to_owned()));
    }
    if !begun {
        checkpoint.write(file)?;
    }
    let mut opened =
        OpenOptions::new().write(true).create(true).truncate(false).open(output).map_err(at(output))?;
    match opened.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(BatchError::Locked(output.to_owned())),
        Err(TryLockError::Error(source)) => return Err(at(output)(source)),
    }
    if opened.metadata().map_err(at(output))?.len() < checkpoint.output {
        return Err(BatchError::Short(output.to_owned()));
    }
    opened.set_len(checkpoint.output).map_err(at(output))?;
    opened.seek(SeekFrom::End(0)).map_err(at(output))?;
    Ok(opened)
}

/// A run under way.
struct Job<'a> {
    out: BufWriter<File>,
    /// Bytes that were written.
    length: u64,
    tally: Tally,
    scoring: Scoring<'a>,
    checkpoint: Checkpoint,
}

impl Job<'_> {
    /// Scores one piece for each thread; false at the end of the file.
    fn step(
        &mut self,
        rows: &mut Rows<File>,
        threads: usize,
        input: &Path,
        output: &Path,
    ) -> Result<bool, BatchError> {
        let mut pieces = Vec::with_capacity(threads);
        while pieces.len() < threads.max(1) {
            let piece = piece(rows).map_err(at(input))?;
            if piece.is_empty() {
                break;
            }
            pieces.push(piece);
        }
        let scoring = &self.scoring;
        let lines: Result<Vec<Lines>, BatchError> = std::thread::scope(|scope| {
            let others: Vec<_> =
                pieces.iter().skip(1).map(|piece| scope.spawn(|| scoring.score(piece))).collect();
            let first = pieces.first().map(|piece| scoring.score(piece));
            let others = others.into_iter().map(|thread| thread.join().map_err(|_| BatchError::Panicked));
            first.map(Ok).into_iter().chain(others).collect()
        });
        for (lines, piece) in lines?.iter().zip(&pieces) {
            self.write(&lines.text, output)?;
            self.tally.rows += piece.len() as u64;
            self.tally.bad += lines.bad;
        }
        Ok(!pieces.is_empty())
    }

    fn write(&mut self, text: &str, output: &Path) -> Result<(), BatchError> {
        self.out.write_all(text.as_bytes()).map_err(at(output))?;
        self.length += text.len() as u64;
        Ok(())
    }

    /// What the checkpoint tells of must be on disk before it.
    fn save(&mut self, place: &Place, output: &Path, file: &Path) -> Result<(), BatchError> {
        self.out.flush().and_then(|()| self.out.get_ref().sync_data()).map_err(at(output))?;
        Ok(self.checkpoint.at(place, self.length, self.tally).write(file)?)
    }
}

/// The next rows, as many as one thread scores at once.
fn piece(rows: &mut Rows<File>) -> io::Result<Vec<Row>> {
    let (mut piece, mut bytes) = (Vec::new(), 0);
    while piece.len() < PIECE_ROWS && bytes < PIECE_BYTES {
        let Some(row) = rows.next_row()? else { break };
        bytes += row.text.len();
        piece.push(row);
    }
    Ok(piece)
}

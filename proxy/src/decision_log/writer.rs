//! Writes the decision log: chunks of entries, checkpoints, rotation, what happens when the disk fails.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::moment::Moment;
use uuid::Uuid;

use crate::decision_log::entry::{After, Chain, Content, FORMAT, Occasion, Opening};
use crate::decision_log::files::{self, Disk};
use crate::decision_log::keys::{SealKey, SigningKey};
use crate::decision_log::seal::Frames;
use crate::decision_log::{DecisionLogOptions, LogError};
use crate::telemetry::record::Record;

/// Entries between two checkpoints at most: a signature costs about as much as twenty hashes.
pub const SIGN_EVERY: u64 = 1_000;

/// Time between an entry and the checkpoint that covers it, at most.
pub const SIGN_WITHIN: Duration = Duration::from_secs(1);

/// Bytes of lines gathered before they are written.
const CHUNK: usize = 64 << 10;

/// What comes out of the queue.
#[derive(Debug)]
pub enum Item {
    Decision(Arc<Record>),
    /// So many did not fit into the queue.
    Gap(u64),
}

/// What became of a batch.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub written: u64,
    /// Could not be written; a gap record will say so once there is room.
    pub lost: u64,
    pub bytes: u64,
    /// When the last checkpoint was made, since the epoch.
    pub checkpoint: Option<Duration>,
    /// What went wrong, each time something did.
    pub errors: Vec<String>,
    /// Something could not be brought to disk.
    pub failed: bool,
}

/// Opens a file that is not there yet.
pub type Create = Box<dyn Fn(&Path) -> io::Result<Box<dyn Disk>> + Send>;

/// The one that writes.
pub struct Writer {
    options: DecisionLogOptions,
    seal: Option<SealKey>,
    sign: Option<SigningKey>,
    create: Create,
    log: String,
    /// Number of the file that is open, or is to be opened next.
    file: u64,
    chain: Chain,
    /// `None` between two files, also where the next one cannot be opened.
    open: Option<Open>,
    /// What the next file says of the one before.
    after: After,
    /// Decisions that are missing behind the last entry.
    missing: u64,
    lines: Vec<u8>,
    outcome: Outcome,
}

/// The open file.
struct Open {
    disk: Box<dyn Disk>,
    frames: Option<Frames>,
    /// Bytes that are known to be there.
    length: u64,
    /// Entries behind the last checkpoint.
    unsigned: u64,
    /// When the first of them was written, by the monotonic clock.
    since: Duration,
}

/// What of a chunk reached the file.
#[derive(Debug, Default)]
struct Written {
    decisions: u64,
    told: u64,
}

/// Lines that are gathered: where the chain stands behind them, and what is in them.
struct Chunk {
    chain: Chain,
    /// Items of the batch that were taken.
    taken: usize,
    entries: u64,
    decisions: u64,
    /// Decisions that gap records among them tell of.
    told: u64,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("options", &self.options)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// Reads the keys, takes over what an earlier run left, and writes the first entry.
    pub fn open(options: &DecisionLogOptions, now: Moment) -> Result<Self, LogError> {
        Self::with(options, Box::new(files::create), now)
    }

    pub fn with(options: &DecisionLogOptions, create: Create, now: Moment) -> Result<Self, LogError> {
        let seal = options.key.as_ref().map(SealKey::load).transpose()?;
        let sign = options.sign_key.as_ref().map(SigningKey::load).transpose()?;
        let failed = |error| LogError::File(options.file.clone(), error);
        let left = files::take_over(&options.file, seal.as_ref()).map_err(failed)?;
        let mut this = Self {
            options: options.clone(),
            seal,
            sign,
            create,
            log: left.log.unwrap_or_else(|| Uuid::now_v7().to_string()),
            file: left.next_file,
            chain: left.chain,
            open: None,
            after: left.after,
            missing: 0,
            lines: Vec::with_capacity(2 * CHUNK),
            outcome: Outcome::default(),
        };
        this.begin(now).map_err(failed)?;
        Ok(this)
    }

    /// Writes what came, and a checkpoint where one is due.
    pub fn write(&mut self, batch: &[Item], now: Moment) -> Outcome {
        let mut rest = batch;
        while !rest.is_empty() {
            if let Err(error) = self.ready(now) {
                self.lose(rest, &error);
                break;
            }
            let chunk = self.gather(rest, now);
            rest = rest.get(chunk.taken..).unwrap_or_default();
            self.put(&chunk, now);
        }
        self.tick(now)
    }

    /// What is due whether or not anything came: a gap that could not be told, a checkpoint.
    pub fn tick(&mut self, now: Moment) -> Outcome {
        if self.missing > 0 {
            match self.ready(now) {
                Ok(()) => {
                    let chunk = self.gather(&[], now);
                    self.put(&chunk, now);
                }
                Err(error) => self.lose(&[], &error),
            }
        }
        if self.due(now).is_some_and(|left| left.is_zero()) {
            self.checkpoint(Occasion::Interval, now);
        }
        std::mem::take(&mut self.outcome)
    }

    /// Time until something is due; `None` where nothing waits.
    pub fn due(&self, now: Moment) -> Option<Duration> {
        if self.missing > 0 {
            return Some(SIGN_WITHIN);
        }
        let open = self.open.as_ref().filter(|open| open.unsigned > 0)?;
        let gone = now.monotonic.saturating_sub(open.since);
        Some(if open.unsigned >= SIGN_EVERY { Duration::ZERO } else { SIGN_WITHIN.saturating_sub(gone) })
    }

    /// Closes the file with its last checkpoint.
    pub fn close(&mut self, now: Moment) -> Outcome {
        let mut outcome = self.tick(now);
        self.checkpoint(Occasion::End, now);
        self.open = None;
        let last = std::mem::take(&mut self.outcome);
        outcome.bytes += last.bytes;
        outcome.errors.extend(last.errors);
        outcome.failed |= last.failed;
        outcome.checkpoint = last.checkpoint.or(outcome.checkpoint);
        outcome
    }

    fn lose(&mut self, items: &[Item], error: &io::Error) {
        for item in items {
            match item {
                Item::Decision(_) => {
                    self.missing += 1;
                    self.outcome.lost += 1;
                }
                Item::Gap(dropped) => self.missing += dropped,
            }
        }
        self.fail(error);
    }

    fn fail(&mut self, error: &io::Error) {
        self.outcome.errors.push(error.to_string());
        self.outcome.failed = true;
    }

    /// A file with room is open on return.
    fn ready(&mut self, now: Moment) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| open.length >= self.options.max_size) {
            self.checkpoint(Occasion::Rotation, now);
            // A checkpoint that failed may have closed the file already.
            if self.open.take().is_some() {
                self.leave(After::Rotation { file: self.file });
            }
        }
        if self.open.is_none() { self.begin(now) } else { Ok(()) }
    }

    fn leave(&mut self, after: After) {
        self.open = None;
        self.after = after;
        self.file += 1;
    }

    /// Opens the next file, and writes its first entry.
    fn begin(&mut self, now: Moment) -> io::Result<()> {
        let path = self.options.file.clone();
        if path.exists() {
            fs::rename(&path, files::numbered(&path, self.file.saturating_sub(1)))?;
        }
        if let Err(error) = files::prune(&path, self.options.keep) {
            self.outcome.errors.push(format!("an old file cannot be removed: {error}"));
        }
        self.renew_keys();
        let frames = self.seal.as_ref().map(Frames::create).transpose().map_err(io::Error::other)?;
        let opening =
            Opening { format: FORMAT, log: self.log.clone(), file: self.file, after: self.after.clone() };
        let (mut chain, mut lines) = (self.chain, Vec::new());
        chain.append(now.unix, &Content::Open(&opening), &mut lines);
        let mut open =
            Open { disk: (self.create)(&path)?, frames, length: 0, unsigned: 0, since: now.monotonic };
        if let Err(error) = open.begin(&lines) {
            // Nothing refers to it yet: the next attempt begins anew.
            drop(open);
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.outcome.bytes += open.length;
        open.unsigned = 1;
        (self.chain, self.open) = (chain, Some(open));
        Ok(())
    }

    /// Reads the keys anew where they can be read; the old ones serve otherwise.
    fn renew_keys(&mut self) {
        let seal = self.options.key.as_ref().map(SealKey::load).transpose();
        let sign = self.options.sign_key.as_ref().map(SigningKey::load).transpose();
        match (seal, sign) {
            (Ok(seal), Ok(sign)) => (self.seal, self.sign) = (seal, sign),
            (Err(error), _) | (_, Err(error)) => self.outcome.errors.push(error.to_string()),
        }
    }

    /// Makes lines of what is missing and of these items, until there are enough for one chunk.
    fn gather(&mut self, items: &[Item], now: Moment) -> Chunk {
        let mut chunk = Chunk { chain: self.chain, taken: 0, entries: 0, decisions: 0, told: 0 };
        self.lines.clear();
        for item in items {
            chunk.taken += 1;
            match item {
                Item::Gap(dropped) => self.missing += dropped,
                Item::Decision(record) => {
                    self.tell(&mut chunk, now);
                    if chunk.chain.append(now.unix, &Content::Decision(record), &mut self.lines) {
                        (chunk.entries, chunk.decisions) = (chunk.entries + 1, chunk.decisions + 1);
                    } else {
                        (self.missing, self.outcome.lost) = (self.missing + 1, self.outcome.lost + 1);
                    }
                }
            }
            if self.lines.len() >= CHUNK {
                return chunk;
            }
        }
        self.tell(&mut chunk, now);
        chunk
    }

    /// Says how many decisions are missing here, where any are.
    fn tell(&mut self, chunk: &mut Chunk, now: Moment) {
        let missing = std::mem::take(&mut self.missing);
        if missing > 0 && chunk.chain.append(now.unix, &Content::Gap(missing), &mut self.lines) {
            (chunk.entries, chunk.told) = (chunk.entries + 1, chunk.told + missing);
        }
    }

    fn put(&mut self, chunk: &Chunk, now: Moment) {
        if chunk.entries == 0 {
            return;
        }
        let Written { decisions, told } = self.append(chunk, now);
        let lost = chunk.decisions.saturating_sub(decisions);
        self.outcome.written += decisions.min(chunk.decisions);
        self.outcome.lost += lost;
        self.missing += lost + chunk.told.saturating_sub(told);
    }

    /// Writes the gathered lines and steps on; gives what of them is in the file.
    fn append(&mut self, chunk: &Chunk, now: Moment) -> Written {
        let Some(open) = &mut self.open else { return Written::default() };
        let before = open.length;
        match open.write(&self.lines) {
            Ok(()) => {
                if open.unsigned == 0 {
                    open.since = now.monotonic;
                }
                open.unsigned += chunk.entries;
                self.outcome.bytes += open.length - before;
                self.chain = chunk.chain;
                Written { decisions: chunk.decisions, told: chunk.told }
            }
            Err(error) => {
                // Half an entry must not stand before a whole one.
                let cut = open.disk.cut(before);
                self.fail(&error);
                if cut.is_err() { self.abandon() } else { Written::default() }
            }
        }
    }

    /// Leaves a file with half a chunk in it that cannot be cut off: what is whole there counts.
    fn abandon(&mut self) -> Written {
        self.open = None;
        let left = files::left_by(&self.options.file, self.seal.as_ref(), self.file, self.chain.next);
        if let Some(log) = left.log {
            (self.log, self.chain) = (log, left.chain);
        } else {
            (self.log, self.chain) = (Uuid::now_v7().to_string(), Chain::START);
        }
        self.leave(left.after);
        Written { decisions: left.decisions, told: left.told }
    }

    fn checkpoint(&mut self, occasion: Occasion, now: Moment) {
        let mut chunk = Chunk { chain: self.chain, taken: 0, entries: 1, decisions: 0, told: 0 };
        self.lines.clear();
        let content = Content::Checkpoint(occasion, self.sign.as_ref());
        if !chunk.chain.append(now.unix, &content, &mut self.lines) {
            return;
        }
        self.append(&chunk, now);
        let Some(open) = self.open.as_mut().filter(|_| self.chain == chunk.chain) else { return };
        open.unsigned = 0;
        self.outcome.checkpoint = Some(now.unix);
        if let Err(error) = open.disk.sync() {
            self.fail(&error);
        }
    }
}

impl Open {
    fn begin(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Some(frames) = &self.frames {
            self.disk.write(frames.header())?;
            self.length += frames.header().len() as u64;
        }
        self.write(lines)
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(frames) = &mut self.frames else {
            self.disk.write(lines)?;
            self.length += lines.len() as u64;
            return Ok(());
        };
        let frame = frames.seal(lines).map_err(io::Error::other)?;
        if let Err(error) = self.disk.write(&frame) {
            frames.lost();
            return Err(error);
        }
        frames.written();
        self.length += frame.len() as u64;
        Ok(())
    }
}

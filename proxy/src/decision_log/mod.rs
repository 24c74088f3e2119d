//! The decision log: every decision on one line, in a chain that can be proven.

pub mod entry;
mod files;
pub mod keys;
pub mod reader;
mod seal;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use log::Level;

use crate::clock;
use crate::decision_log::keys::{KeyError, KeyRef};
use crate::decision_log::writer::{Item, Outcome, SIGN_WITHIN, Writer};
use crate::telemetry::event::event;
use crate::telemetry::record::Record;
use crate::telemetry::sources::{Kind, Sources};

/// Most decisions that wait to be written; what comes later is dropped, counted and told in the log.
const CAPACITY: usize = 8_192;

/// How long decisions gather before they are written.
const PAUSE: Duration = Duration::from_millis(20);

/// Smallest size at which a file is full: below it there would be more openings than decisions.
pub const MIN_SIZE: u64 = 16 << 10;

/// What the log is, where, and with which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionLogOptions {
    /// The file that is written; full ones get a number behind their name.
    pub file: PathBuf,
    /// Encrypts every file.
    pub key: Option<KeyRef>,
    /// Signs checkpoints.
    pub sign_key: Option<KeyRef>,
    /// Bytes at which a file is full; it may be longer by one chunk of 64 KiB.
    pub max_size: u64,
    /// Full files that are kept; older ones are removed.
    pub keep: usize,
    /// True: requests are refused while the log cannot be written.
    pub required: bool,
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("decision log: {0}")]
    Key(#[from] KeyError),
    #[error("decision log {0}: {1}")]
    File(PathBuf, io::Error),
}

/// Decisions on their way to the thread that writes them. Dropping it closes the log.
#[derive(Debug)]
pub struct DecisionLog {
    shared: Arc<Shared>,
    required: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the writer.
    come: Condvar,
    /// Tells that the writer has ended.
    gone: Condvar,
    counts: Counts,
    /// The last write failed.
    failing: AtomicBool,
    /// The queue was full when somebody came.
    full: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Item>,
    /// Dropped since the last one that found room.
    dropped: u64,
    asleep: bool,
    closed: bool,
    ended: bool,
}

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    /// Microseconds since the epoch; 0 before the first.
    checkpoint: AtomicU64,
}

impl DecisionLog {
    /// Opens the log and starts the thread that writes it.
    ///
    /// # Errors
    /// Where a key cannot be read, a file cannot be made, or another process writes it.
    pub fn open(options: DecisionLogOptions) -> Result<Self, LogError> {
        let writer = Writer::open(&options, clock::now())?;
        Self::start(writer, options.required).map_err(|error| LogError::File(options.file, error))
    }

    fn start(writer: Writer, required: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let run = Arc::clone(&shared);
        thread::Builder::new().name("decision-log".to_owned()).spawn(move || run.run(writer))?;
        Ok(Self { shared, required })
    }

    /// Hands a decision over. Never waits for the disk; where the queue is full the decision is dropped, and
    /// the log will say how many were.
    pub fn push(&self, record: Arc<Record>) {
        let mut queue = self.shared.lock();
        if queue.waiting.len() >= CAPACITY || queue.closed {
            queue.dropped += 1;
            drop(queue);
            self.shared.counts.dropped.fetch_add(1, Ordering::Relaxed);
            self.shared.full.store(true, Ordering::Relaxed);
            return;
        }
        let dropped = std::mem::take(&mut queue.dropped);
        if dropped > 0 {
            queue.waiting.push(Item::Gap(dropped));
        }
        queue.waiting.push(Item::Decision(record));
        let wake = std::mem::take(&mut queue.asleep) || queue.waiting.len() == CAPACITY / 2;
        drop(queue);
        if wake {
            self.shared.come.notify_one();
        }
    }

    /// True while nothing can be written and nothing may pass without it.
    pub fn must_refuse(&self) -> bool {
        self.required
            && (self.shared.failing.load(Ordering::Relaxed) || self.shared.full.load(Ordering::Relaxed))
    }

    /// Writes what waits and the closing checkpoint, in at most this time; true where that was done.
    pub fn close(&self, within: Duration) -> bool {
        let mut queue = self.shared.lock();
        queue.closed = true;
        self.shared.come.notify_one();
        let waited = self.shared.gone.wait_timeout_while(queue, within, |queue| !queue.ended);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Exports the numbers of the log.
    pub fn export(&self, sources: &Sources) {
        let families: [Family; 6] = [
            (Kind::Counter, "foregate_decision_log_written_total", "Decisions in the decision log.", |it| {
                number(it.counts.written.load(Ordering::Relaxed))
            }),
            (
                Kind::Counter,
                "foregate_decision_log_dropped_total",
                "Decisions missing in the decision log: the queue was full, or writing failed.",
                |it| number(it.counts.dropped.load(Ordering::Relaxed)),
            ),
            (
                Kind::Counter,
                "foregate_decision_log_bytes_total",
                "Bytes written to the decision log.",
                |it| number(it.counts.bytes.load(Ordering::Relaxed)),
            ),
            (
                Kind::Counter,
                "foregate_decision_log_errors_total",
                "Writes, checkpoints and rotations of the decision log that failed.",
                |it| number(it.counts.errors.load(Ordering::Relaxed)),
            ),
            (
                Kind::Gauge,
                "foregate_decision_log_last_checkpoint_timestamp_seconds",
                "When the decision log was last signed, or closed, and brought to disk.",
                |it| match it.counts.checkpoint.load(Ordering::Relaxed) {
                    0 => f64::NAN,
                    micros => number(micros) / 1e6,
                },
            ),
            (
                Kind::Gauge,
                "foregate_decision_log_failing",
                "1 while the decision log cannot be written.",
                |it| f64::from(u8::from(it.failing.load(Ordering::Relaxed))),
            ),
        ];
        for (kind, name, help, read) in families {
            let shared = Arc::clone(&self.shared);
            sources.register(kind, name, help, &[], move || read(&shared));
        }
    }
}

/// A metric: what it means, its name, its help, how it is read.
type Family = (Kind, &'static str, &'static str, fn(&Shared) -> f64);

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers")]
fn number(count: u64) -> f64 {
    count as f64
}

impl Drop for DecisionLog {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.come.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer thread: gathers for a while, writes, signs in time, sleeps when there is nothing.
    fn run(&self, mut writer: Writer) {
        let mut batch = Vec::new();
        loop {
            let mut due = writer.due(clock::now());
            if self.failing.load(Ordering::Relaxed) {
                // What could not be written is due at once, and trying at once mends no disk.
                due = due.map(|due| due.max(SIGN_WITHIN));
            }
            let closed = self.take(&mut batch, due);
            let outcome =
                if batch.is_empty() { writer.tick(clock::now()) } else { writer.write(&batch, clock::now()) };
            batch.clear();
            self.account(&outcome);
            if closed {
                break;
            }
        }
        self.account(&writer.close(clock::now()));
        self.lock().ended = true;
        self.gone.notify_all();
    }

    /// Waits until something came, is due, or the log is closed; true where it is.
    fn take(&self, batch: &mut Vec<Item>, due: Option<Duration>) -> bool {
        let mut queue = self.lock();
        if queue.waiting.is_empty() && queue.dropped == 0 && !queue.closed {
            queue.asleep = true;
            let idle = |queue: &mut Queue| queue.asleep && !queue.closed;
            queue = match due {
                Some(due) => {
                    let waited = self.come.wait_timeout_while(queue, due, idle);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.come.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner),
            };
            queue.asleep = false;
        }
        // The first of a burst should not be written alone.
        if !queue.waiting.is_empty() {
            let few = |queue: &mut Queue| queue.waiting.len() < CAPACITY / 2 && !queue.closed;
            queue = self.come.wait_timeout_while(queue, PAUSE, few).unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(batch, &mut queue.waiting);
        let dropped = std::mem::take(&mut queue.dropped);
        if dropped > 0 {
            batch.push(Item::Gap(dropped));
        }
        queue.closed
    }

    fn account(&self, outcome: &Outcome) {
        let counts = &self.counts;
        counts.written.fetch_add(outcome.written, Ordering::Relaxed);
        counts.dropped.fetch_add(outcome.lost, Ordering::Relaxed);
        counts.bytes.fetch_add(outcome.bytes, Ordering::Relaxed);
        counts.errors.fetch_add(outcome.errors.len() as u64, Ordering::Relaxed);
        if let Some(at) = outcome.checkpoint {
            counts.checkpoint.store(u64::try_from(at.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        self.full.store(false, Ordering::Relaxed);
        // Told when it begins and when it ends, not at every write between.
        let was = self.failing.swap(outcome.failed, Ordering::Relaxed);
        if was && !outcome.failed {
            event(Level::Info, "decision log written again", &[]);
        }
        for error in outcome.errors.iter().take(1).filter(|_| !was) {
            event(Level::Error, "decision log failing", &[("error", error.as_str().into())]);
        }
    }
}

//! The access log: one line a request, written off the request path.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use clap::ValueEnum;

use crate::telemetry::combined;
use crate::telemetry::ecs::Ecs;
use crate::telemetry::json;
use crate::telemetry::record::Record;
use crate::telemetry::sources::{Kind, Sources, number};

/// Most records that wait to be written; what comes later is dropped and counted.
const CAPACITY: usize = 8_192;

/// How long records gather before they are written.
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes of lines formatted before they are written.
const CHUNK: usize = 64 << 10;

/// Where access log lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    #[default]
    Stdout,
    /// Appended to; created with mode 0640; opened again when the file was moved away.
    File(PathBuf),
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// JSON with the names of OpenTelemetry.
    #[default]
    Json,
    /// JSON with the names of the Elastic Common Schema.
    Ecs,
    /// The combined format of Apache and nginx.
    Combined,
}

/// Records on their way to the writer thread. Dropping it lets the thread write what is left and end.
#[derive(Debug)]
pub struct LogQueue {
    shared: Option<Arc<Shared>>,
    thread: Option<Thread>,
    format: LogFormat,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when a batch was written.
    written: Condvar,
    /// Records that did not fit, or could not be written.
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Arc<Record>>,
    /// The writer has taken records out that are not written yet.
    writing: bool,
    /// The writer found nothing to do and sleeps until it is woken.
    asleep: bool,
    /// No more records will come.
    closed: bool,
}

/// Where lines are written to.
enum Sink {
    Stdout(io::Stdout),
    File(LogFile),
    #[cfg(test)]
    Test(Box<dyn Write + Send>),
}

/// An open log file that notices when it is moved away.
struct LogFile {
    path: PathBuf,
    file: File,
    inode: u64,
}

struct Writer {
    sink: Sink,
    format: LogFormat,
    lines: Vec<u8>,
    /// The last write failed, perhaps in the middle of a line.
    torn: bool,
}

impl LogQueue {
    /// Opens the output and starts the writer thread.
    pub fn start(to: AccessLog, format: LogFormat) -> io::Result<Self> {
        let sink = match to {
            AccessLog::Off => return Ok(Self { shared: None, thread: None, format }),
            AccessLog::Stdout => Sink::Stdout(io::stdout()),
            AccessLog::File(path) => Sink::File(LogFile::open(path)?),
        };
        Self::write_to(sink, format)
    }

    fn write_to(sink: Sink, format: LogFormat) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { queue: Mutex::default(), written: Condvar::new(), dropped: AtomicU64::new(0) });
        let writer = Writer { sink, format, lines: Vec::new(), torn: false };
        let run = shared.clone();
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || run.run(writer))?;
        Ok(Self { shared: Some(shared), thread: Some(thread.thread().clone()), format })
    }

    /// True where lines tell of headers that requests came with.
    pub fn tells_headers(&self) -> bool {
        self.shared.is_some() && self.format != LogFormat::Json
    }

    pub fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    /// Hands a record over. Never waits for output; drops the record where the queue is full.
    pub fn push(&self, record: Arc<Record>) {
        let Some(shared) = &self.shared else { return };
        let mut queue = shared.lock();
        if queue.waiting.len() >= CAPACITY {
            drop(queue);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.waiting.push(record);
        // One wake-up out of sleep, one when half full; none for the records between.
        let wake = std::mem::take(&mut queue.asleep) || queue.waiting.len() == CAPACITY / 2;
        drop(queue);
        if wake {
            self.wake();
        }
    }

    /// Waits until every record so far is written, at most this long; true where all were.
    pub fn flush(&self, within: Duration) -> bool {
        let Some(shared) = &self.shared else { return true };
        let queue = shared.lock();
        self.wake();
        let pending = |queue: &mut Queue| queue.writing || !queue.waiting.is_empty();
        let waited = shared.written.wait_timeout_while(queue, within, pending);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Records that are missing in the log.
    pub fn dropped(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.dropped.load(Ordering::Relaxed))
    }

    /// Exports the numbers of waiting and dropped records.
    pub fn export(&self, sources: &Sources) {
        let Some(shared) = self.shared.clone() else { return };
        let queue = Arc::clone(&shared);
        sources.register(
            Kind::Gauge,
            "foregate_access_log_waiting",
            "Records that wait to be written.",
            &[],
            move || number(queue.lock().waiting.len() as u64),
        );
        let help = "Records missing in the access log: the queue was full, or writing failed.";
        sources.register(Kind::Counter, "foregate_access_log_dropped_total", help, &[], move || {
            number(shared.dropped.load(Ordering::Relaxed))
        });
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

impl Drop for LogQueue {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.lock().closed = true;
        }
        self.wake();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer thread: gathers for a while, writes, sleeps when there was nothing.
    fn run(&self, mut writer: Writer) {
        let mut batch = Vec::new();
        loop {
            let mut queue = self.lock();
            std::mem::swap(&mut batch, &mut queue.waiting);
            queue.writing = !batch.is_empty();
            queue.asleep = batch.is_empty();
            let closed = queue.closed;
            drop(queue);
            if batch.is_empty() {
                self.written.notify_all();
                if closed {
                    return;
                }
                thread::park();
            } else {
                let lost = writer.write(&batch);
                self.dropped.fetch_add(lost, Ordering::Relaxed);
                batch.clear();
                self.lock().writing = false;
                self.written.notify_all();
            }
            // Also after sleep: the first record of a burst should not be written alone.
            if !closed {
                thread::park_timeout(PAUSE);
            }
        }
    }
}

impl Writer {
    /// Writes a line a record; gives the number of those that could not be written.
    fn write(&mut self, batch: &[Arc<Record>]) -> u64 {
        let mut lost = 0;
        let mut pending = 0;
        self.sink.follow();
        for record in batch {
            let start = self.lines.len();
            let lines = &mut self.lines;
            let written = match self.format {
                LogFormat::Json => json::write(&**record, lines),
                LogFormat::Ecs => json::write(&Ecs(record), lines),
                LogFormat::Combined => {
                    combined::write(record, lines);
                    Ok(())
                }
            };
            if written.is_err() {
                self.lines.truncate(start);
                lost += 1;
                continue;
            }
            self.lines.push(b'\n');
            pending += 1;
            if self.lines.len() >= CHUNK {
                lost += self.put(std::mem::take(&mut pending));
            }
        }
        lost + self.put(pending)
    }

    /// Writes the formatted lines; gives `count` back where that fails.
    fn put(&mut self, count: u64) -> u64 {
        if self.lines.is_empty() {
            return 0;
        }
        // A line that broke off must not swallow the next one.
        let start = if self.torn { self.sink.put(b"\n") } else { Ok(()) };
        let written = start.and_then(|()| self.sink.put(&self.lines));
        self.torn = written.is_err();
        self.lines.clear();
        if self.torn { count } else { 0 }
    }
}

impl Sink {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => {
                let mut stdout = stdout.lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::File(file) => file.file.write_all(bytes),
            #[cfg(test)]
            Self::Test(sink) => sink.write_all(bytes),
        }
    }

    /// Opens the file again where its path leads elsewhere by now; keeps the old one where that fails.
    fn follow(&mut self) {
        if let Self::File(log) = self
            && inode(&log.path) != Some(log.inode)
            && let Ok(fresh) = LogFile::open(log.path.clone())
        {
            *log = fresh;
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|metadata| metadata.ino())
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { path, file, inode })
    }
}

#[cfg(test)]
mod tests {
    use super::{AccessLog, CAPACITY, LogFormat, LogQueue, Sink};
    use crate::telemetry::exposition::Exposition;
    use crate::telemetry::gate::{Gate, Keeper};
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::record::DecisionId;
    use crate::telemetry::sources::Sources;
    use crate::telemetry::testing::{MOMENT, record};
    use serde_json::Value;
    use std::io;
    use std::sync::atomic::Ordering;
    use std::sync::mpsc::{Receiver, Sender};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use std::{fs, mem};

    const LONG: Duration = Duration::from_secs(30);

    struct Gated {
        log: LogQueue,
        entered: Receiver<()>,
        open: Sender<io::Result<()>>,
        text: Arc<Mutex<Vec<u8>>>,
    }

    fn gated() -> Gated {
        let (gate, Keeper { entered, open, text }) = Gate::new();
        let log = LogQueue::write_to(Sink::Test(Box::new(gate)), LogFormat::Json).unwrap();
        Gated { log, entered, open, text }
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let Gated { log, entered, open, text } = gated();
        log.push(Arc::new(record()));
        entered.recv_timeout(LONG).unwrap();
        // The writer is stuck in its first write; the queue fills up behind it.
        let waiting = Arc::new(record());
        for _ in 0..CAPACITY + 10 {
            log.push(waiting.clone());
        }
        assert_eq!(log.dropped(), 10);
        assert!(!log.flush(Duration::from_millis(1)), "nothing was written yet");
        drop(open);
        assert!(log.flush(LONG));
        let text = mem::take(&mut *text.lock().unwrap());
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), CAPACITY + 1);
        for line in lines {
            let value: Value = serde_json::from_slice(line).unwrap();
            assert_eq!(value["http.route"], "leads");
        }
        assert_eq!(log.dropped(), 10);
    }

    #[test]
    fn what_is_dropped_is_counted_beyond_32_bits() {
        let Gated { log, open, .. } = gated();
        drop(open);
        log.shared.as_ref().unwrap().dropped.store((1 << 32) + 2, Ordering::Relaxed);
        let sources = Arc::new(Sources::default());
        log.export(&sources);
        let told = Exposition::new(&Metrics::default(), &sources, Vec::new()).encode(true);
        assert!(told.contains("\nforegate_access_log_dropped_total 4294967298.0\n"), "{told}");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_next_line_stands_alone() {
        let Gated { log, entered, open, text } = gated();
        log.push(Arc::new(record()));
        entered.recv_timeout(LONG).unwrap();
        open.send(Err(io::Error::other("disk full"))).unwrap();
        assert!(log.flush(LONG));
        assert_eq!(log.dropped(), 1);
        drop(open);
        log.push(Arc::new(record()));
        assert!(log.flush(LONG));
        assert_eq!(log.dropped(), 1);
        let text = String::from_utf8(mem::take(&mut *text.lock().unwrap())).unwrap();
        assert!(text.starts_with("\n{") && text.ends_with("}\n"), "{text}");
    }

    #[test]
    fn what_waits_is_written_when_the_log_is_dropped() {
        let Gated { log, entered, open, text } = gated();
        log.push(Arc::new(record()));
        entered.recv_timeout(LONG).unwrap();
        log.push(Arc::new(record()));
        drop((log, open));
        // The sender lives in the writer thread: the channel closes when that thread ends.
        while entered.recv_timeout(LONG).is_ok() {}
        assert_eq!(String::from_utf8_lossy(&text.lock().unwrap()).lines().count(), 2);
    }

    #[test]
    fn a_file_is_appended_to_and_followed_when_moved_away() {
        let path = std::env::temp_dir().join(format!("foregate-{}.log", DecisionId::new(MOMENT)));
        let moved = path.with_extension("1");
        fs::write(&path, "earlier\n").unwrap();
        let log = LogQueue::start(AccessLog::File(path.clone()), LogFormat::Json).unwrap();
        let write = || {
            log.push(Arc::new(record()));
            assert!(log.flush(LONG));
        };
        write();
        fs::rename(&path, &moved).unwrap();
        write();
        let lines = |path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!((lines(&moved).len(), lines(&path).len()), (2, 1));
        assert_eq!(lines(&moved)[0], "earlier");
        fs::remove_file(path).unwrap();
        fs::remove_file(moved).unwrap();
    }

    #[test]
    fn an_absent_log_takes_everything_and_is_always_flushed() {
        let log = LogQueue::start(AccessLog::Off, LogFormat::Json).unwrap();
        log.push(Arc::new(record()));
        assert!(log.is_off() && log.flush(Duration::ZERO) && log.dropped() == 0);
    }
}

//! Events on their way to standard error, written by a thread of their own.

use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Most bytes of lines that wait to be written; what comes later is dropped and counted. A line that is longer than
/// all of it may wait alone.
const CAPACITY: usize = 256 << 10;

/// Lines in the order in which they were told. Until the thread runs they are written at once; from then on nobody
/// waits for whoever reads them.
#[derive(Debug)]
pub(super) struct EventQueue {
    queue: Mutex<Queue>,
    /// Signalled when a line came.
    come: Condvar,
    /// Signalled when a batch was written.
    written: Condvar,
    /// Lines that did not fit, or could not be written.
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Queue {
    waiting: Lines,
    /// The thread has taken lines out that are not written yet.
    writing: bool,
    /// A thread writes what waits.
    started: bool,
}

/// Lines, one behind the other.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    count: u64,
}

impl EventQueue {
    pub(super) const fn new() -> Self {
        let waiting = Lines { bytes: Vec::new(), count: 0 };
        Self {
            queue: Mutex::new(Queue { waiting, writing: false, started: false }),
            come: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Starts the thread, where there is none yet. Where the system lends none, lines are written at once as before.
    pub(super) fn start(&'static self) {
        self.start_with(io::stderr());
    }

    fn start_with(&'static self, mut sink: impl Write + Send + 'static) {
        let mut queue = self.lock();
        if !queue.started {
            let thread = thread::Builder::new().name("events".to_owned());
            queue.started = thread.spawn(move || self.run(&mut sink)).is_ok();
        }
    }

    /// Takes a line. Once the thread runs this never waits for output: the line is dropped where there is no room.
    pub(super) fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        if !queue.started {
            drop(queue);
            if io::stderr().lock().write_all(line).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        let length = queue.waiting.bytes.len();
        if length > 0 && length.saturating_add(line.len()) > CAPACITY {
            drop(queue);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.waiting.bytes.extend_from_slice(line);
        queue.waiting.count += 1;
        drop(queue);
        self.come.notify_one();
    }

    /// Waits until every line so far is written, at most this long; true where all were.
    pub(super) fn flush(&self, within: Duration) -> bool {
        let pending = |queue: &mut Queue| queue.writing || queue.waiting.count > 0;
        let waited = self.written.wait_timeout_while(self.lock(), within, pending);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Lines that are missing on standard error.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: writes all that waits, and sleeps when there is nothing.
    fn run(&self, sink: &mut dyn Write) {
        let mut torn = false;
        loop {
            let batch = self.take();
            // A line that broke off must not swallow the next one.
            let start = if torn { sink.write_all(b"\n") } else { Ok(()) };
            torn = start.and_then(|()| sink.write_all(&batch.bytes)).is_err();
            if torn {
                self.dropped.fetch_add(batch.count, Ordering::Relaxed);
            }
        }
    }

    /// Tells that the last batch is written, and waits for the next.
    fn take(&self) -> Lines {
        let mut queue = self.lock();
        queue.writing = false;
        self.written.notify_all();
        let queue = self.come.wait_while(queue, |queue| queue.waiting.count == 0);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        queue.writing = true;
        mem::take(&mut queue.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::{CAPACITY, EventQueue};
    use crate::telemetry::gate::{Gate, Keeper};
    use std::io;
    use std::sync::mpsc::{Receiver, Sender};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(30);

    struct Gated {
        queue: &'static EventQueue,
        entered: Receiver<()>,
        open: Sender<io::Result<()>>,
        text: Arc<Mutex<Vec<u8>>>,
    }

    impl Gated {
        fn new() -> Self {
            let (gate, Keeper { entered, open, text }) = Gate::new();
            // Its thread lives as long as the process, as that of the real one.
            let queue: &'static EventQueue = Box::leak(Box::new(EventQueue::new()));
            queue.start_with(gate);
            Self { queue, entered, open, text }
        }

        fn text(&self) -> String {
            String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
        }
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_nobody_waits() {
        let gated = Gated::new();
        let line = [b"x".repeat(1_023), b"\n".to_vec()].concat();
        gated.queue.push(b"first\n");
        gated.entered.recv_timeout(LONG).unwrap();
        // The thread is stuck in its first write; the queue fills up behind it.
        for _ in 0..CAPACITY / line.len() + 10 {
            gated.queue.push(&line);
        }
        assert_eq!(gated.queue.dropped(), 10);
        assert!(!gated.queue.flush(Duration::from_millis(1)), "nothing was written yet");
        let Gated { queue, entered, open, text } = gated;
        drop((open, entered));
        assert!(queue.flush(LONG));
        assert_eq!(text.lock().unwrap().len(), CAPACITY + "first\n".len());
        assert_eq!(queue.dropped(), 10);
    }

    #[test]
    fn lines_keep_their_order_and_one_that_is_too_long_is_told_alone() {
        let gated = Gated::new();
        gated.queue.push(b"first\n");
        gated.entered.recv_timeout(LONG).unwrap();
        let long = b"y".repeat(CAPACITY + 1);
        gated.queue.push(&long);
        gated.queue.push(b"no room\n");
        assert_eq!(gated.queue.dropped(), 1);
        gated.open.send(Ok(())).unwrap();
        gated.entered.recv_timeout(LONG).unwrap();
        for line in ["a\n", "b\n", "c\n"] {
            gated.queue.push(line.as_bytes());
        }
        let Gated { queue, open, text, .. } = gated;
        drop(open);
        assert!(queue.flush(LONG));
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        assert_eq!(text, format!("first\n{}a\nb\nc\n", String::from_utf8(long).unwrap()));
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_next_line_stands_alone() {
        let gated = Gated::new();
        gated.queue.push(b"lost\n");
        gated.entered.recv_timeout(LONG).unwrap();
        gated.open.send(Err(io::Error::other("nobody reads"))).unwrap();
        assert!(gated.queue.flush(LONG));
        assert_eq!(gated.queue.dropped(), 1);
        (0..2).for_each(|_| gated.open.send(Ok(())).unwrap());
        gated.queue.push(b"told\n");
        assert!(gated.queue.flush(LONG));
        assert_eq!((gated.text().as_str(), gated.queue.dropped()), ("\ntold\n", 1));
    }

    #[test]
    fn a_second_start_changes_nothing_and_an_idle_queue_is_flushed() {
        let gated = Gated::new();
        gated.queue.start();
        drop(gated.open);
        assert!(gated.queue.flush(Duration::from_secs(1)));
        gated.queue.push(b"told\n");
        assert!(gated.queue.flush(LONG));
        assert_eq!(*gated.text.lock().unwrap(), b"told\n");
        assert!(EventQueue::new().flush(Duration::ZERO), "one that was never started");
    }
}

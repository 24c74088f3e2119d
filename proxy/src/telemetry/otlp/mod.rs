//! OTLP: records wait in a bounded queue; a thread sends them as spans or logs.

mod log_records;
pub mod message;
mod patience;
mod post;
pub mod signal;
pub mod target;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use log::Level;
use tokio::runtime::Builder;
use tokio::sync::Notify;

use crate::telemetry::event::event;
use crate::telemetry::otlp::message::{KeyValue, Resource};
use crate::telemetry::otlp::patience::pause;
use crate::telemetry::otlp::post::{Post, PostError};
use crate::telemetry::otlp::signal::{Batch, Signal};
use crate::telemetry::otlp::target::Target;
use crate::telemetry::random;
use crate::telemetry::record::Record;
use crate::telemetry::sources::{Kind, Sources, number};

/// Most records that wait to be sent; what comes later is dropped and counted.
pub(super) const CAPACITY: usize = 4_096;

/// Records taken out of the queue at once.
pub(super) const BATCH: usize = 256;

/// Size from which a message is sent, in bytes: servers of gRPC take 4 MiB where nothing else is said, and one record
/// more does not reach that.
const MESSAGE: usize = 1 << 20;

/// How long records gather before they are sent.
const PAUSE: Duration = Duration::from_secs(1);

/// Pauses before another attempt to send a message, where the collector asks for no other: after the last one it is
/// dropped.
const RETRIES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// Why items were dropped, as a label: the queue was full, the collector would not have them, it was not there in time.
const REASONS: [&str; 3] = ["full", "refused", "late"];
const FULL: usize = 0;
const REFUSED: usize = 1;
const LATE: usize = 2;

/// Where a signal goes, and whose it is.
#[derive(Clone, Debug)]
pub struct Destination {
    pub target: Target,
    /// Attributes of this process.
    pub resource: Vec<(String, String)>,
}

/// Spans or logs on their way. Dropping it lets the thread end.
#[derive(Debug)]
pub struct Exporter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    signal: Signal,
    queue: Mutex<Queue>,
    come: Notify,
    /// Told when nothing comes any more: a pause before another attempt ends.
    ended: Notify,
    /// Signalled when nothing is left.
    sent: Condvar,
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: [AtomicU64; REASONS.len()],
    /// Whether the last export came about, for the operator: told when it changes.
    troubled: AtomicU32,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Arc<Record>>,
    /// Some were taken out and are not settled yet.
    sending: bool,
    closed: bool,
}

/// Names of the metrics of a signal, and what they say.
struct Names {
    waiting: (&'static str, &'static str),
    exported: (&'static str, &'static str),
    failed: (&'static str, &'static str),
    dropped: (&'static str, &'static str),
}

const SPANS: Names = Names {
    waiting: ("foregate_spans_waiting", "Records whose spans wait to be sent."),
    exported: ("foregate_spans_exported_total", "Spans that the collector has taken."),
    failed: ("foregate_span_exports_failed_total", "Attempts to send spans that failed."),
    dropped: (
        "foregate_spans_dropped_total",
        "Spans dropped: the queue was full, they were refused, or there was no answer in time.",
    ),
};

const LOGS: Names = Names {
    waiting: ("foregate_logs_waiting", "Log records that wait to be sent."),
    exported: ("foregate_logs_exported_total", "Log records that the collector has taken."),
    failed: ("foregate_log_exports_failed_total", "Attempts to send log records that failed."),
    dropped: (
        "foregate_logs_dropped_total",
        "Log records dropped: the queue was full, they were refused, or there was no answer in time.",
    ),
};

impl Exporter {
    /// Starts the thread that sends what the target is for.
    ///
    /// # Errors
    /// Where a file cannot be read or the thread cannot be started.
    pub fn start(to: Destination) -> io::Result<Self> {
        let signal = to.target.signal;
        let shared = Arc::new(Shared::new(signal));
        let post = Post::new(to.target)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let run = Arc::clone(&shared);
        let attributes = to.resource.iter().map(|(key, value)| KeyValue::text(key, value)).collect();
        let resource = Resource { attributes };
        thread::Builder::new()
            .name(signal.name().to_owned())
            .spawn(move || runtime.block_on(run.run(post, &resource)))?;
        Ok(Self { shared })
    }

    /// Hands a record over. Never waits; drops it where the queue is full.
    pub fn push(&self, record: Arc<Record>) {
        let mut queue = self.shared.lock();
        if queue.waiting.len() >= CAPACITY {
            drop(queue);
            self.shared.drop_items(FULL, self.shared.signal.count(&record));
            return;
        }
        queue.waiting.push_back(record);
        // One wake-up out of sleep, one for a whole batch; none for the records between.
        let wake = queue.waiting.len() == 1 || queue.waiting.len() == BATCH;
        drop(queue);
        if wake {
            self.shared.come.notify_one();
        }
    }

    /// Lets the thread end once it has sent what waits.
    pub fn end(&self) {
        self.shared.end();
    }

    /// Sends what waits, in at most this time: a message that fails now is not sent again.
    pub fn close(&self, within: Duration) {
        self.end();
        let pending = |queue: &mut Queue| queue.sending || !queue.waiting.is_empty();
        let _ = self.shared.sent.wait_timeout_while(self.shared.lock(), within, pending);
    }

    /// Exports how many records wait, and what became of items.
    pub fn export(&self, sources: &Sources) {
        let Names { waiting, exported, failed, dropped } = match self.shared.signal {
            Signal::Traces => SPANS,
            Signal::Logs => LOGS,
        };
        let shared = Arc::clone(&self.shared);
        let read = move || number(shared.lock().waiting.len() as u64);
        sources.register(Kind::Gauge, waiting.0, waiting.1, &[], read);
        let shared = Arc::clone(&self.shared);
        sources.register(Kind::Counter, exported.0, exported.1, &[], move || told(&shared.exported));
        let shared = Arc::clone(&self.shared);
        sources.register(Kind::Counter, failed.0, failed.1, &[], move || told(&shared.failed));
        for (place, reason) in REASONS.into_iter().enumerate() {
            let shared = Arc::clone(&self.shared);
            let read = move || shared.dropped.get(place).map_or(f64::NAN, told);
            sources.register(Kind::Counter, dropped.0, dropped.1, &[("reason", reason)], read);
        }
    }

    /// Records that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// Items that the queue had no room for.
    #[cfg(test)]
    pub(super) fn overflowed(&self) -> u64 {
        self.shared.dropped[FULL].load(Ordering::Relaxed)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.end();
    }
}

fn told(count: &AtomicU64) -> f64 {
    number(count.load(Ordering::Relaxed))
}

impl Shared {
    fn new(signal: Signal) -> Self {
        Self {
            signal,
            queue: Mutex::default(),
            come: Notify::new(),
            ended: Notify::new(),
            sent: Condvar::new(),
            exported: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: Default::default(),
            troubled: AtomicU32::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_items(&self, reason: usize, items: usize) {
        if let Some(count) = self.dropped.get(reason) {
            count.fetch_add(items as u64, Ordering::Relaxed);
        }
    }

    /// The next records, where some wait; `Err` where none will come.
    fn take(&self) -> Result<Vec<Arc<Record>>, ()> {
        let mut queue = self.lock();
        if queue.waiting.is_empty() {
            queue.sending = false;
            self.sent.notify_all();
            return if queue.closed { Err(()) } else { Ok(Vec::new()) };
        }
        queue.sending = true;
        let count = queue.waiting.len().min(BATCH);
        Ok(queue.waiting.drain(..count).collect())
    }

    /// True while records may gather: there are few, and nobody waits for the end.
    fn gathers(&self) -> bool {
        let queue = self.lock();
        !queue.closed && queue.waiting.len() < BATCH
    }

    async fn run(&self, mut post: Post, resource: &Resource) {
        while let Ok(records) = self.take() {
            if records.is_empty() {
                self.come.notified().await;
                if self.gathers() {
                    let _ = tokio::time::timeout(PAUSE, self.come.notified()).await;
                }
                continue;
            }
            for (message, count) in self.messages(records, resource) {
                self.send(&mut post, &message, count).await;
            }
        }
    }

    /// What records become, in messages of a bounded size, each made when it is asked for.
    fn messages<'a>(
        &self,
        records: Vec<Arc<Record>>,
        resource: &'a Resource,
    ) -> impl Iterator<Item = (Vec<u8>, usize)> + use<'a> {
        let (signal, mut records) = (self.signal, records.into_iter());
        std::iter::from_fn(move || {
            let (mut batch, mut size): (Batch, usize) = (signal.batch(), 0);
            while size < MESSAGE
                && let Some(record) = records.next()
            {
                size += batch.add(&record);
            }
            let count = batch.count();
            (count > 0).then(|| (batch.message(resource), count))
        })
    }

    /// Sends one message, again where that may help; settles what became of it.
    async fn send(&self, post: &mut Post, message: &[u8], count: usize) {
        let mut pauses = RETRIES.iter();
        loop {
            let error = match post.send(message).await {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.exported.fetch_add((count - rejected) as u64, Ordering::Relaxed);
                    self.drop_items(REFUSED, rejected);
                    self.tell(None);
                    return;
                }
                Err(error) => error,
            };
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.tell(Some(&error));
            if !error.may_pass() {
                return self.drop_items(REFUSED, count);
            }
            // A process that ends does not wait for a collector that is away.
            let usual = pauses.next().filter(|_| !self.lock().closed);
            let Some(usual) = usual else { return self.drop_items(LATE, count) };
            self.pause(pause(*usual, error.asked(), random::next())).await;
        }
    }

    fn end(&self) {
        self.lock().closed = true;
        self.come.notify_one();
        self.ended.notify_one();
    }

    /// Waits so long, or until the end.
    async fn pause(&self, length: Duration) {
        let _ = tokio::time::timeout(length, self.ended.notified()).await;
    }

    /// Tells the operator when sending begins to fail, and when it works again.
    fn tell(&self, error: Option<&PostError>) {
        let troubled = u32::from(error.is_some());
        if self.troubled.swap(troubled, Ordering::Relaxed) == troubled {
            return;
        }
        let (failed, again) = match self.signal {
            Signal::Traces => ("spans not sent", "spans sent again"),
            Signal::Logs => ("logs not sent", "logs sent again"),
        };
        match error {
            Some(error) => event(Level::Warn, failed, &[("error", error.to_string().into())]),
            None => event(Level::Info, again, &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::message::{LogsRequest, Resource};
    use super::signal::Signal;
    use super::target::Target;
    use super::{BATCH, CAPACITY, Destination, Exporter, MESSAGE, Shared};
    use crate::telemetry::exposition::Exposition;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::random;
    use crate::telemetry::record::Record;
    use crate::telemetry::sources::Sources;
    use crate::telemetry::testing::{full_record, record};
    use crate::telemetry::trace_context::TraceContext;
    use prost::Message;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::time::Duration;

    fn exporter(url: &str, signal: Signal) -> Exporter {
        let target = Target::parse(url, signal).unwrap();
        Exporter::start(Destination { target, resource: Vec::new() }).unwrap()
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        // It takes connections and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // Two spans a record, one log record.
        for (signal, name, items) in [(Signal::Traces, "spans", 2), (Signal::Logs, "logs", 1)] {
            let exporter = exporter(&url, signal);
            let mut waiting = record();
            waiting.trace = Some(TraceContext::begin(random::next));
            let waiting = Arc::new(waiting);
            for _ in 0..CAPACITY + BATCH + 10 {
                exporter.push(Arc::clone(&waiting));
            }
            // The thread may have taken one batch.
            let (dropped, batch) = (exporter.overflowed(), u64::try_from(BATCH).unwrap());
            assert!((items * 10..=items * (batch + 10)).contains(&dropped), "{dropped}");
            let waiting = CAPACITY - BATCH..=CAPACITY;
            assert!(waiting.contains(&exporter.waiting()));
            let sources = Arc::new(Sources::default());
            exporter.export(&sources);
            let text = Exposition::new(&Metrics::default(), &sources, Vec::new()).encode(true);
            let series = format!("foregate_{name}_waiting ");
            let told = text.lines().find_map(|line| line.strip_prefix(&*series)?.strip_suffix(".0"));
            assert!(waiting.contains(&told.unwrap().parse::<usize>().unwrap()), "{told:?}");
            exporter.close(Duration::from_millis(1));
        }
    }

    #[tokio::test]
    async fn the_end_ends_a_pause_between_attempts() {
        let shared = Shared::new(Signal::Logs);
        let hour = Duration::from_hours(1);
        tokio::join!(shared.pause(hour), async { shared.end() });
        // Also one that begins as it is told.
        shared.end();
        shared.pause(hour).await;
    }

    #[test]
    fn messages_are_bounded_and_lose_nothing() {
        let shared = Shared::new(Signal::Logs);
        let long = || {
            let mut long = full_record();
            let audit = long.audits[0].clone();
            long.audits = (0..100).map(|_| audit.clone()).collect();
            Arc::new(long)
        };
        let records: Vec<Arc<Record>> = (0..BATCH).map(|_| long()).collect();
        let resource = Resource { attributes: Vec::new() };
        let messages: Vec<_> = shared.messages(records, &resource).collect();
        assert!(messages.len() > 1, "{}", messages.len());
        let mut found = 0;
        for (message, count) in &messages {
            assert!(message.len() < 2 * MESSAGE, "{}", message.len());
            let request = LogsRequest::decode(&**message).unwrap();
            let logs = request.resource_logs[0].scope_logs[0].log_records.len();
            assert_eq!(logs, *count);
            found += logs;
        }
        assert_eq!(found, BATCH);
        assert_eq!(shared.messages(vec![Arc::new(record())], &resource).count(), 1);
        let spans = Shared::new(Signal::Traces);
        assert_eq!(spans.messages(vec![Arc::new(record())], &resource).count(), 0, "without a trace");
    }
}

//! Traces: records wait in a bounded queue; a thread sends them as spans.

pub mod otlp;
mod post;
pub mod spans;
pub mod target;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use log::Level;
use prost::Message;
use tokio::runtime::Builder;
use tokio::sync::Notify;

use crate::telemetry::event::event;
use crate::telemetry::record::Record;
use crate::telemetry::sources::{Kind, Sources};
use crate::telemetry::traces::otlp::{ExportRequest, KeyValue, Resource, ResourceSpans, Scope, ScopeSpans};
use crate::telemetry::traces::post::{Post, PostError};
use crate::telemetry::traces::target::Target;

/// Most records that wait to be sent; the spans of what comes later are dropped and counted.
const CAPACITY: usize = 4_096;

/// Records sent at once.
const BATCH: usize = 256;

/// How long records gather before they are sent.
const PAUSE: Duration = Duration::from_secs(1);

/// Pauses before another attempt to send a batch: after the last one it is dropped.
const RETRIES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// Parts of the ratio of traces that begin here; 56 bits of the trace id decide (W3C Trace Context 2, section 3.2).
const PARTS: u64 = 1 << 56;

/// Names the conventions that attributes follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Why spans were dropped, as a label: the queue was full, the collector would not have them, it was not there in time.
const REASONS: [&str; 3] = ["full", "refused", "late"];
const FULL: usize = 0;
const REFUSED: usize = 1;
const LATE: usize = 2;

/// Where spans go, and which.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    pub target: Target,
    /// Part of the traces that begin here, from 0 to 1.
    pub ratio: f64,
    /// Refusals and errors of requests that are not sampled, a second.
    pub refusals: u32,
    /// Attributes of this process.
    pub resource: Vec<(String, String)>,
}

/// Spans on their way. Dropping it lets the thread end.
#[derive(Debug)]
pub struct Traces {
    shared: Arc<Shared>,
    /// Trace ids below it, of [`PARTS`], are sampled.
    below: u64,
    refusals: Rate,
}

/// So many a second; the second in the upper half, the count in the lower.
#[derive(Debug)]
struct Rate {
    limit: u32,
    window: AtomicU64,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    come: Notify,
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

impl Rate {
    /// True where one more fits into this second.
    fn takes(&self, now: Duration) -> bool {
        let second = now.as_secs() & u64::from(u32::MAX);
        let limit = u64::from(self.limit);
        let next = |window: u64| {
            let count = if window >> 32 == second { window & u64::from(u32::MAX) } else { 0 };
            (count < limit).then_some((second << 32) | (count + 1))
        };
        self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

impl Traces {
    /// Starts the thread that sends.
    ///
    /// # Errors
    /// Where a file cannot be read or the thread cannot be started.
    pub fn start(options: TraceOptions) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let post = Post::new(options.target)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let run = Arc::clone(&shared);
        let resource = resource(&options.resource);
        thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || runtime.block_on(run.run(post, &resource)))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of 2^56")]
        #[expect(clippy::cast_precision_loss, reason = "2^56 is a double")]
        let below = (options.ratio.clamp(0.0, 1.0) * PARTS as f64) as u64;
        let refusals = Rate { limit: options.refusals, window: AtomicU64::new(0) };
        Ok(Self { shared, below, refusals })
    }

    /// True where a trace that begins here is to be sampled.
    pub const fn samples(&self, trace: u128) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are the random ones")]
        let bits = trace as u64 & (PARTS - 1);
        bits < self.below
    }

    /// True where this request is to be told of: its trace is sampled, or it was refused or failed and there is room
    /// for one more in this second. Ask once.
    pub fn wants(&self, record: &Record) -> bool {
        let Some(trace) = &record.trace else { return false };
        let telling = || record.refusal.is_some() || record.status >= 500;
        let ended = record.moment.monotonic + record.durations.total;
        trace.sampled() || (self.refusals.limit > 0 && telling() && self.refusals.takes(ended))
    }

    /// Hands a record over. Never waits; drops it where the queue is full.
    pub fn push(&self, record: Arc<Record>) {
        let mut queue = self.shared.lock();
        if queue.waiting.len() >= CAPACITY {
            drop(queue);
            self.shared.drop_spans(FULL, spans::count(&record));
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

    /// Sends what waits, in at most this time.
    pub fn close(&self, within: Duration) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        self.shared.come.notify_one();
        let pending = |queue: &mut Queue| queue.sending || !queue.waiting.is_empty();
        let _ = self.shared.sent.wait_timeout_while(queue, within, pending);
    }

    /// Exports what became of spans.
    pub fn export(&self, sources: &Sources) {
        let shared = Arc::clone(&self.shared);
        let help = "Spans that the collector has taken.";
        sources.register(Kind::Counter, "foregate_spans_exported_total", help, &[], move || {
            number(&shared.exported)
        });
        let shared = Arc::clone(&self.shared);
        let help = "Attempts to send spans that failed.";
        sources.register(Kind::Counter, "foregate_span_exports_failed_total", help, &[], move || {
            number(&shared.failed)
        });
        for (place, reason) in REASONS.into_iter().enumerate() {
            let shared = Arc::clone(&self.shared);
            let help =
                "Spans dropped: the queue was full, they were refused, or there was no answer in time.";
            let read = move || shared.dropped.get(place).map_or(f64::NAN, number);
            sources.register(
                Kind::Counter,
                "foregate_spans_dropped_total",
                help,
                &[("reason", reason)],
                read,
            );
        }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.come.notify_one();
    }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are doubles; 2^53 is not reached")]
fn number(count: &AtomicU64) -> f64 {
    count.load(Ordering::Relaxed) as f64
}

fn resource(attributes: &[(String, String)]) -> Resource {
    Resource { attributes: attributes.iter().map(|(key, value)| KeyValue::text(key, value)).collect() }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_spans(&self, reason: usize, spans: usize) {
        if let Some(count) = self.dropped.get(reason) {
            count.fetch_add(spans as u64, Ordering::Relaxed);
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
        while let Ok(batch) = self.take() {
            if batch.is_empty() {
                self.come.notified().await;
                if self.gathers() {
                    let _ = tokio::time::timeout(PAUSE, self.come.notified()).await;
                }
                continue;
            }
            let mut spans = Vec::new();
            for record in &batch {
                spans::write(record, &mut spans);
            }
            drop(batch);
            let count = spans.len();
            if count == 0 {
                continue;
            }
            let scope = Scope { name: "foregate".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
            let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
            let all = ResourceSpans {
                resource: Some(resource.clone()),
                scope_spans,
                schema_url: SCHEMA.to_owned(),
            };
            let message = ExportRequest { resource_spans: vec![all] }.encode_to_vec();
            self.send(&mut post, &message, count).await;
        }
    }

    /// Sends one batch, again where that may help; settles what became of it.
    async fn send(&self, post: &mut Post, message: &[u8], count: usize) {
        let mut pauses = RETRIES.iter();
        loop {
            let error = match post.send(message).await {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.exported.fetch_add((count - rejected) as u64, Ordering::Relaxed);
                    self.drop_spans(REFUSED, rejected);
                    self.tell(None);
                    return;
                }
                Err(error) => error,
            };
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.tell(Some(&error));
            if !error.may_pass() {
                return self.drop_spans(REFUSED, count);
            }
            // A process that ends does not wait for a collector that is away.
            let pause = pauses.next().filter(|_| !self.lock().closed);
            let Some(pause) = pause else { return self.drop_spans(LATE, count) };
            tokio::time::sleep(*pause).await;
        }
    }

    /// Tells the operator when sending begins to fail, and when it works again.
    fn tell(&self, error: Option<&PostError>) {
        let troubled = u32::from(error.is_some());
        if self.troubled.swap(troubled, Ordering::Relaxed) == troubled {
            return;
        }
        match error {
            Some(error) => event(Level::Warn, "spans not sent", &[("error", error.to_string().into())]),
            None => event(Level::Info, "spans sent again", &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BATCH, CAPACITY, FULL, Rate, TraceOptions, Traces};
    use crate::telemetry::random;
    use crate::telemetry::testing::{full_record, record};
    use crate::telemetry::trace_context::TraceContext;
    use crate::telemetry::traces::target::Target;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    fn traces(url: &str, ratio: f64, refusals: u32) -> Traces {
        let target = Target::parse(url).unwrap();
        Traces::start(TraceOptions { target, ratio, refusals, resource: Vec::new() }).unwrap()
    }

    fn begun() -> TraceContext {
        TraceContext::begin(random::next)
    }

    #[test]
    fn a_part_of_the_traces_is_sampled() {
        for (ratio, least, most) in [(0.0, 0, 0), (1.0, 10_000, 10_000), (0.1, 800, 1_200)] {
            let traces = traces("grpc://127.0.0.1:9", ratio, 0);
            let sampled = (0..10_000).filter(|_| traces.samples(begun().trace)).count();
            assert!((least..=most).contains(&sampled), "{ratio}: {sampled}");
        }
    }

    #[test]
    fn refusals_and_errors_are_wanted_up_to_a_rate_and_sampled_traces_always() {
        let traces = traces("grpc://127.0.0.1:9", 0.0, 3);
        let wanted = (0..10).filter(|_| traces.wants(&full_record())).count();
        assert_eq!(wanted, 3);
        let mut failed = record();
        (failed.status, failed.trace) = (502, Some(begun()));
        assert!(!traces.wants(&failed), "the second is used up");
        failed.moment.monotonic += Duration::from_secs(1);
        assert!(traces.wants(&failed));
        let mut sampled = record();
        sampled.trace = Some(TraceContext { flags: 1, ..begun() });
        assert!((0..10).all(|_| traces.wants(&sampled)));
        assert!(!traces.wants(&record()), "without a trace there is nothing to tell");
    }

    #[test]
    fn a_rate_begins_anew_with_each_second() {
        let rate = Rate { limit: 2, window: AtomicU64::new(0) };
        let taken = |second| (0..5).filter(|_| rate.takes(Duration::from_secs(second))).count();
        assert_eq!((taken(1), taken(1), taken(2)), (2, 0, 2));
    }

    #[test]
    fn a_full_queue_drops_and_counts_spans_and_never_waits() {
        // It takes connections and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let traces = traces(&format!("http://{}", listener.local_addr().unwrap()), 0.0, 0);
        let mut waiting = record();
        waiting.trace = Some(begun());
        let waiting = Arc::new(waiting);
        for _ in 0..CAPACITY + BATCH + 10 {
            traces.push(Arc::clone(&waiting));
        }
        let dropped = traces.shared.dropped[FULL].load(Ordering::Relaxed);
        // Two spans a record; the thread may have taken one batch.
        assert!((20..=2 * (BATCH as u64 + 10)).contains(&dropped), "{dropped}");
        assert!(traces.shared.lock().waiting.len() <= CAPACITY);
        traces.close(Duration::from_millis(1));
    }
}

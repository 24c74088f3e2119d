//! What a model did since it was loaded, in the words of Triton.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// Counts and times of one model. Times are sums, in nanoseconds.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Milliseconds since the Unix epoch; zero before the first request.
    last: AtomicU64,
    rows: AtomicU64,
    runs: AtomicU64,
    success: Tally,
    fail: Tally,
    queue: Tally,
    input: Tally,
    infer: Tally,
    output: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    count: AtomicU64,
    nanos: AtomicU64,
}

/// How long the parts of one request took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spans {
    /// What its rows waited for a thread of the model. There is no other queue: a request beyond those that are taken at
    /// once is refused.
    pub queue: Duration,
    /// Features out of records.
    pub input: Duration,
    /// The model.
    pub infer: Duration,
    /// Tensors out of scores.
    pub output: Duration,
}

/// How often, and how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    pub count: u64,
    /// Nanoseconds.
    pub ns: u64,
}

/// `InferStatistics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    pub success: Sum,
    pub fail: Sum,
    pub queue: Sum,
    pub compute_input: Sum,
    pub compute_infer: Sum,
    pub compute_output: Sum,
    /// Nothing is cached.
    pub cache_hit: Sum,
    pub cache_miss: Sum,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Milliseconds since the Unix epoch.
    pub last_inference: u64,
    /// Rows.
    pub inference_count: u64,
    /// Runs of the model.
    pub execution_count: u64,
    pub inference_stats: Sums,
}

impl Tally {
    fn add(&self, time: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn sum(&self) -> Sum {
        Sum { count: self.count.load(Ordering::Relaxed), ns: self.nanos.load(Ordering::Relaxed) }
    }
}

impl Statistics {
    /// Notes a request that was answered; `now` is since the Unix epoch.
    pub fn succeeded(&self, now: Duration, rows: usize, runs: usize, spans: Spans) {
        self.last.fetch_max(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.runs.fetch_add(runs as u64, Ordering::Relaxed);
        self.success.add(spans.queue + spans.input + spans.infer + spans.output);
        self.queue.add(spans.queue);
        self.input.add(spans.input);
        self.infer.add(spans.infer);
        self.output.add(spans.output);
    }

    /// Notes a request that was not.
    pub fn failed(&self, took: Duration) {
        self.fail.add(took);
    }

    pub fn counts(&self) -> Counts {
        Counts {
            last_inference: self.last.load(Ordering::Relaxed),
            inference_count: self.rows.load(Ordering::Relaxed),
            execution_count: self.runs.load(Ordering::Relaxed),
            inference_stats: Sums {
                success: self.success.sum(),
                fail: self.fail.sum(),
                queue: self.queue.sum(),
                compute_input: self.input.sum(),
                compute_infer: self.infer.sum(),
                compute_output: self.output.sum(),
                ..Sums::default()
            },
        }
    }
}

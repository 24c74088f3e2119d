//! What came of the requests of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::histogram::Histogram;

/// An answer that came whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    /// Bytes of the body.
    pub bytes: usize,
}

/// Counts of answers and failures, and the times that answers took.
#[derive(Debug, Default)]
pub(super) struct Tally {
    latencies: Histogram,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    requests: u64,
    bytes: usize,
}

impl Tally {
    pub fn answered(&mut self, answer: &Answer, took: Duration) {
        self.requests += 1;
        self.bytes += answer.bytes;
        *self.statuses.entry(answer.status).or_default() += 1;
        self.latencies.add(took);
    }

    pub fn failed(&mut self, error: &anyhow::Error) {
        *self.errors.entry(format!("{error:#}")).or_default() += 1;
    }

    /// Answers that came.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// All of it, for the driver to read.
    pub fn told(&self, seconds: f64) -> Value {
        let micros = |share| self.latencies.micros(share);
        json!({
            "requests": self.requests, "bytes": self.bytes, "seconds": seconds,
            "status": self.statuses, "errors": self.errors,
            "p50": micros(0.5), "p90": micros(0.9), "p99": micros(0.99), "p999": micros(0.999), "max": micros(1.0),
        })
    }
}

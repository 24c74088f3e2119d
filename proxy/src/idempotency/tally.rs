//! Counts what requests with keys met, and what became of their answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::idempotency::memory::Memory;
use crate::telemetry::Telemetry;
use crate::telemetry::sources::Kind;

/// What a request with a key met, where it was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was the first.
    First,
    /// It got the answer of the first.
    Replayed,
    /// Nobody could say, and its policy goes on.
    Unguarded,
}

/// What became of the answer to a first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Kept,
    /// It was carried out, or may have been, and its answer was too large, broke off, took too long, or never came.
    Spent,
    /// The key is free again.
    Released,
}

static OUTCOMES: [(&str, AtomicU64); 3] =
    [("first", AtomicU64::new(0)), ("replayed", AtomicU64::new(0)), ("unguarded", AtomicU64::new(0))];

static ENDS: [(&str, AtomicU64); 3] =
    [("kept", AtomicU64::new(0)), ("spent", AtomicU64::new(0)), ("released", AtomicU64::new(0))];

pub fn count(outcome: Outcome) {
    if let Some((_, counter)) = OUTCOMES.get(outcome as usize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

pub fn ended(ended: Ended) {
    if let Some((_, counter)) = ENDS.get(ended as usize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are doubles; counts above 2^53 are not reached")]
fn number(count: u64) -> f64 {
    count as f64
}

/// Exports the counts, and how the memory of this process stands.
pub fn export(telemetry: &Telemetry, memory: &Arc<Memory>) {
    let help = "Requests with an idempotency key that were not refused.";
    for (outcome, counter) in &OUTCOMES {
        let labels = [("outcome", *outcome)];
        let read = move || number(counter.load(Ordering::Relaxed));
        telemetry.register_source(Kind::Counter, "foregate_idempotency_requests_total", help, &labels, read);
    }
    let help = "Answers to first requests with an idempotency key, and what became of them.";
    for (end, counter) in &ENDS {
        let labels = [("end", *end)];
        let read = move || number(counter.load(Ordering::Relaxed));
        telemetry.register_source(Kind::Counter, "foregate_idempotency_answers_total", help, &labels, read);
    }
    let add = |kind, name: &str, help: &str, read: fn(&Memory) -> u64| {
        let memory = Arc::clone(memory);
        telemetry.register_source(kind, name, help, &[], move || number(read(&memory)));
    };
    let name = "foregate_idempotency_memory_keys";
    add(Kind::Gauge, name, "Idempotency keys in the memory of this process.", |it| it.keys() as u64);
    let name = "foregate_idempotency_memory_bytes";
    add(Kind::Gauge, name, "Bytes of answers in the memory of this process.", |it| it.bytes() as u64);
    let name = "foregate_idempotency_memory_evictions_total";
    let help = "Keys forgotten before their time because there are too many.";
    add(Kind::Counter, name, help, Memory::evictions);
}

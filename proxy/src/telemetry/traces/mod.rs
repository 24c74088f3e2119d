//! Traces: which are sampled, which refusals are told besides; sent by OTLP.

pub mod attempts;
pub mod spans;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::telemetry::otlp::{Destination, Exporter};
use crate::telemetry::record::Record;

/// Parts of the ratio of traces that begin here; 56 bits of the trace id decide (W3C Trace Context 2, section 3.2).
const PARTS: u64 = 1 << 56;

/// Where spans go, and which.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    pub to: Destination,
    /// Part of the traces that begin here, from 0 to 1.
    pub ratio: f64,
    /// Refusals and errors of requests that are not sampled, a second.
    pub refusals: u32,
}

/// Spans on their way, and which of them are told.
#[derive(Debug)]
pub struct Traces {
    exporter: Exporter,
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
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of 2^56")]
        #[expect(clippy::cast_precision_loss, reason = "2^56 is a double")]
        let below = (options.ratio.clamp(0.0, 1.0) * PARTS as f64) as u64;
        let refusals = Rate { limit: options.refusals, window: AtomicU64::new(0) };
        Ok(Self { exporter: Exporter::start(options.to)?, below, refusals })
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
        let telling = || record.refusal.is_some() || record.failed();
        let ended = record.moment.monotonic + record.durations.total;
        trace.sampled() || (self.refusals.limit > 0 && telling() && self.refusals.takes(ended))
    }

    /// Hands a record over. Never waits; drops it where the queue is full.
    pub fn push(&self, record: Arc<Record>) {
        self.exporter.push(record);
    }

    /// What sends them.
    pub const fn exporter(&self) -> &Exporter {
        &self.exporter
    }
}

#[cfg(test)]
mod tests {
    use super::{Rate, TraceOptions, Traces};
    use crate::telemetry::otlp::Destination;
    use crate::telemetry::otlp::signal::Signal;
    use crate::telemetry::otlp::target::Target;
    use crate::telemetry::random;
    use crate::telemetry::testing::{failed_records, full_record, record};
    use crate::telemetry::trace_context::TraceContext;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    fn traces(url: &str, ratio: f64, refusals: u32) -> Traces {
        let target = Target::parse(url, Signal::Traces).unwrap();
        let to = Destination { target, resource: Vec::new() };
        Traces::start(TraceOptions { to, ratio, refusals }).unwrap()
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
        for (second, mut failed) in (2..).zip(failed_records()) {
            failed.trace = Some(begun());
            failed.moment.monotonic += Duration::from_secs(second);
            assert!(traces.wants(&failed), "{failed:?}");
        }
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
}

//! A latency that rises at once and decays with time (peak EWMA).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time after which a measurement weighs 1/e: the constant of Finagle and Linkerd, for traffic of seconds.
pub const DECAY: Duration = Duration::from_secs(10);

/// Longest latency that is told apart, so that one stall is not remembered for minutes.
const LONGEST: Duration = Duration::from_mins(1);

/// One tick is 2^20 ns: 32 bits of them last 52 days.
const TICK: u32 = 20;

/// [`DECAY`] in ticks.
const DECAY_TICKS: f32 = 9_536.743;

/// The estimate in nanoseconds as `f32` in the lower half, its tick in the upper half: read and written at once.
/// Writers that meet may lose one of their samples, which the next one makes good.
#[derive(Debug, Default)]
pub struct PeakEwma(AtomicU64);

#[expect(clippy::cast_possible_truncation, reason = "ticks wrap, and are compared as such")]
fn tick(now: Duration) -> u32 {
    (nanos(now) >> TICK) as u32
}

/// Nanoseconds since the process began: 584 years fit.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What is left of a weight of one.
#[expect(clippy::cast_precision_loss, reason = "a weight")]
fn left(from: u32, to: u32) -> f32 {
    match to.wrapping_sub(from) {
        // At once, or a reading of the clock that is older than the last one.
        0 => 1.0,
        past if past > u32::MAX / 2 => 1.0,
        ticks => (-(ticks as f32) / DECAY_TICKS).exp(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of the word")]
fn halves(word: u64) -> (u32, f32) {
    ((word >> 32) as u32, f32::from_bits(word as u32))
}

impl PeakEwma {
    /// Takes a sample: a higher one at once, a lower one with the weight of the time since the last.
    pub fn observe(&self, sample: Duration, now: Duration) {
        let sample = sample.min(LONGEST).as_secs_f32() * 1e9;
        let now = tick(now);
        let (then, known) = halves(self.0.load(Ordering::Relaxed));
        let next = if sample >= known || known <= 0.0 {
            sample
        } else {
            let weight = left(then, now);
            if weight >= 1.0 {
                return;
            }
            known * weight + sample * (1.0 - weight)
        };
        self.0.store(u64::from(now) << 32 | u64::from(next.to_bits()), Ordering::Relaxed);
    }

    /// In nanoseconds; decays while nothing is observed, so that what was slow is tried again. Zero: unknown.
    pub fn estimate(&self, now: Duration) -> f32 {
        let (then, known) = halves(self.0.load(Ordering::Relaxed));
        if known <= 0.0 { 0.0 } else { known * left(then, tick(now)) }
    }
}

#[cfg(test)]
mod tests {
    use super::{DECAY, PeakEwma};
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_in_time() {
        let latency = PeakEwma::default();
        let start = Duration::from_secs(100);
        assert!(latency.estimate(start) <= 0.0);
        latency.observe(MS, start);
        latency.observe(50 * MS, start);
        assert!((latency.estimate(start) - 50e6).abs() < 1e3);
        latency.observe(MS, start);
        assert!(latency.estimate(start) > 49e6, "one good answer at the same moment mends nothing");
        latency.observe(MS, start + DECAY);
        let now = latency.estimate(start + DECAY);
        let want = 50e6 / std::f32::consts::E + 1e6 * (1.0 - 1.0 / std::f32::consts::E);
        assert!((now - want).abs() < 0.01 * want, "{now} {want}");
    }

    #[test]
    fn what_is_not_asked_decays_and_an_older_clock_changes_nothing() {
        let latency = PeakEwma::default();
        let start = Duration::from_secs(100);
        latency.observe(1_000 * MS, start);
        assert!(latency.estimate(start + 10 * DECAY) < 1e5);
        assert!((latency.estimate(start.saturating_sub(MS * 500)) - 1e9).abs() < 1e3);
        latency.observe(Duration::from_hours(1), start);
        assert!(latency.estimate(start) < 61e9);
    }
}

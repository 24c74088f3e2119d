//! Counts durations in buckets that are at most 1.6 % wide.

use std::time::Duration;

/// Buckets of each doubling.
const PARTS: u64 = 64;

/// How many durations fell into which bucket, in nanoseconds.
#[derive(Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    most: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        // Every number of 64 bits has its bucket.
        Self { counts: vec![0; bucket(u64::MAX) + 1], count: 0, most: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(nanos)) {
            *count += 1;
        }
        self.count += 1;
        self.most = self.most.max(nanos);
    }

    /// Microseconds that a share of the durations, from 0 to 1, does not exceed.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of a run fit"
    )]
    pub fn micros(&self, share: f64) -> f64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (number, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return (least(number).min(self.most)) as f64 / 1e3;
            }
        }
        self.most as f64 / 1e3
    }
}

/// Two octaves of one nanosecond each bucket, then `PARTS` buckets an octave.
fn bucket(nanos: u64) -> usize {
    let shift = u64::from(nanos.max(1).ilog2()).saturating_sub(u64::from(PARTS.ilog2()));
    usize::try_from(shift * PARTS + (nanos >> shift)).unwrap_or(usize::MAX)
}

/// The least duration of a bucket.
fn least(number: usize) -> u64 {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    let shift = (number / PARTS).saturating_sub(1);
    (number - shift * PARTS) << shift
}

#[cfg(test)]
mod tests {
    use super::{Histogram, bucket, least};
    use std::time::Duration;

    #[test]
    fn buckets_follow_one_another_and_are_narrow() {
        for nanos in (0..5_000).chain([1_000_000, 123_456_789, u64::MAX / 2]) {
            let number = bucket(nanos);
            assert!(least(number) <= nanos && least(number + 1) > nanos, "{nanos}");
            assert!(least(number + 1) - least(number) <= (nanos / 64).max(1), "{nanos}");
        }
    }

    #[test]
    fn shares_of_the_durations_are_told() {
        let mut histogram = Histogram::default();
        for micros in 1..=1_000 {
            histogram.add(Duration::from_micros(micros));
        }
        for share in [0.5, 0.99, 0.999] {
            let told = histogram.micros(share);
            assert!((told / (share * 1_000.0) - 1.0).abs() < 0.016, "{share}: {told}");
        }
        assert!(Histogram::default().micros(0.5) <= 0.0, "nothing was counted");
    }
}

//! Pauses between attempts: longer with every fault, and never the same for all.

use std::time::Duration;

use crate::telemetry::random;

/// Pauses that double up to a bound.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Option<Duration>,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: None }
    }

    /// What was attempted went well.
    pub fn reset(&mut self) {
        self.next = None;
    }

    /// The pause after one more fault: from half of it to all of it, by chance.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next.unwrap_or(self.first);
        self.next = Some((pause * 2).min(self.longest));
        jittered(pause, 0.5)
    }
}

/// A time that is shorter by a part of up to `by`, by chance: what many do at the same time is spread.
pub fn jittered(time: Duration, by: f64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "chance needs no more than 53 bits")]
    let chance = (random::next() >> 11) as f64 / (1u64 << 53) as f64;
    time.mul_f64(1.0 - by * chance)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn pauses_double_within_their_bounds() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for longest in [100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.pause().as_millis();
            assert!((longest / 2..=longest).contains(&pause), "{pause} of {longest}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }
}

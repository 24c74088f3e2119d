//! GCRA counters for many keys in bounded memory.

use std::fmt;
use std::time::Duration;

use ahash::RandomState;

use super::store::{Key, Slot, Store};
use crate::moment::Moment;

/// Keys a limiter remembers where nobody asks for another bound: 1,000,000 take about 50 MiB.
pub const CAPACITY: usize = 1_000_000;

/// Longest time a limiter can look ahead in nanoseconds, a fourth of what 64 bits hold.
const HORIZON: u64 = u64::MAX / 4;

/// How much a limiter admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// What is admitted per period, at least 1.
    pub limit: u32,
    pub per: Duration,
    /// What may come at once, at least 1.
    pub burst: u32,
}

/// Counters of one limit: the generic cell rate algorithm (ITU-T I.371), as many cells as a request costs.
///
/// Of a key nothing is kept but the moment at which its whole burst may come again. Exact under concurrency: of
/// any number of calls at one moment, as many are admitted as the burst allows.
pub struct Limiter {
    /// Nanoseconds of the monotonic clock; the note of a shard is the latest moment it has met.
    cells: Store<u64>,
    /// Two independent keyed hashes, so that no caller can aim at another one's counter.
    hashers: [RandomState; 2],
    /// Nanoseconds in which one comes back.
    interval: u64,
    burst: u32,
}

/// How a limit stands after one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub admitted: bool,
    /// What may still be taken at once.
    pub remaining: u64,
    /// Time until what was asked for may be taken, or one where it was taken; zero while some remains, and
    /// `Duration::MAX` where no time helps: it asks for more than is ever admitted at once.
    pub retry_after: Duration,
    /// Time until all may be taken again, rounded up to the time one takes to come back.
    pub reset_after: Duration,
    /// The first of the two keyed hashes of the key.
    pub key: u64,
}

impl Decision {
    /// Nothing is admitted, and nobody knows until when.
    pub(super) const NONE: Self = Self {
        admitted: false,
        remaining: 0,
        retry_after: Duration::MAX,
        reset_after: Duration::MAX,
        key: 0,
    };
}

/// Nanoseconds of the clock that limits use.
pub(super) fn nanoseconds(moment: Moment) -> u64 {
    u64::try_from(moment.monotonic.as_nanos()).unwrap_or(HORIZON).min(HORIZON)
}

impl Limiter {
    /// A limiter for at most `capacity` keys at a time, see [`CAPACITY`]. Zeros in `rate` count as ones.
    pub fn new(rate: Rate, capacity: usize) -> Self {
        let limit = u128::from(rate.limit.max(1));
        // Rounded up, so that a period never admits one more than the limit.
        let interval = rate.per.as_nanos().div_ceil(limit).clamp(1, u128::from(HORIZON));
        let interval = u64::try_from(interval).unwrap_or(HORIZON);
        let burst = u64::from(rate.burst.max(1)).min(HORIZON / interval).max(1);
        let burst = u32::try_from(burst).unwrap_or(u32::MAX);
        let hashers = [RandomState::new(), RandomState::new()];
        Self { cells: Store::new(capacity), hashers, interval, burst }
    }

    /// Counts one request with this key, if it is admitted. Takes 100 to 250 ns, and a lock on one
    /// of 64 shards meanwhile.
    pub fn check(&self, key: &str, moment: Moment) -> Decision {
        self.take(key, 1, moment)
    }

    /// Counts a request that costs so much. One that costs nothing is always admitted.
    pub fn take(&self, key: &str, cost: u32, moment: Moment) -> Decision {
        let key = self.key(key);
        let mut cell = self.hold(key);
        let (decision, next) = self.decide(&cell, key, cost, moment);
        if let Some(next) = next {
            Self::commit(&mut cell, next, moment);
        }
        decision
    }

    pub(super) fn key(&self, key: &str) -> Key {
        let [a, b] = &self.hashers;
        Key(a.hash_one(key), b.hash_one(key))
    }

    pub(super) fn hold(&self, key: Key) -> Slot<'_, u64> {
        self.cells.hold(key)
    }

    /// How a held key stands to a request, and its state once that is counted; `None` where nothing changes.
    pub(super) fn decide(
        &self,
        cell: &Slot<'_, u64>,
        key: Key,
        cost: u32,
        moment: Moment,
    ) -> (Decision, Option<u64>) {
        let now = nanoseconds(moment);
        let full = cell.value().unwrap_or_default().max(now);
        let span = self.interval * u64::from(self.burst);
        // What may be taken now. A clock that went back makes it less, never more.
        let left = now.saturating_add(span).saturating_sub(full) / self.interval;
        let decision = |admitted, remaining: u64, retry_after, full: u64| Decision {
            admitted,
            remaining,
            retry_after,
            reset_after: Duration::from_nanos(
                full.saturating_sub(now).div_ceil(self.interval).saturating_mul(self.interval),
            ),
            key: key.0,
        };
        let asked = u64::from(cost);
        if asked > left && cost > 0 {
            let wait = if cost > self.burst {
                Duration::MAX
            } else {
                let taken = full.saturating_add(asked * self.interval);
                Duration::from_nanos(taken.saturating_sub(now.saturating_add(span)))
            };
            return (decision(false, left, wait, full), None);
        }
        let next = full.saturating_add(asked * self.interval);
        let left = left.saturating_sub(asked);
        let wait = Duration::from_nanos(if left > 0 { 0 } else { self.interval });
        (decision(true, left, wait, next), (cost > 0).then_some(next))
    }

    pub(super) fn commit(cell: &mut Slot<'_, u64>, next: u64, moment: Moment) {
        let latest = cell.note();
        *latest = nanoseconds(moment).max(*latest);
        cell.put(next);
    }

    /// Takes back a request that was counted at `moment` and then refused by something else.
    ///
    /// Whoever came since was told less than there was, and idle time that went by unused meanwhile has come
    /// back already: no more is given than surely is still missing, so that in no case more is admitted
    /// than if the request had never come.
    pub(super) fn give_back(&self, key: Key, cost: u32, moment: Moment) {
        let mut cell = self.hold(key);
        let passed = cell.note().saturating_sub(nanoseconds(moment));
        let missing = (u64::from(cost) * self.interval).saturating_sub(passed);
        if let Some(full) = cell.value() {
            cell.put(full.saturating_sub(missing));
        }
    }

    /// Keys dropped to keep within the capacity; the callers behind them start anew.
    pub fn evictions(&self) -> u64 {
        self.cells.evictions()
    }

    /// Keys held now.
    pub fn live_keys(&self) -> usize {
        self.cells.len()
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("interval", &Duration::from_nanos(self.interval))
            .field("burst", &self.burst)
            .field("live_keys", &self.live_keys())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::{Limiter, Rate};
    use crate::moment::Moment;

    fn at(monotonic: Duration) -> Moment {
        Moment { unix: Duration::from_hours(500_000), monotonic }
    }

    fn rate(limit: u32, per: Duration, burst: u32) -> Rate {
        Rate { limit, per, burst }
    }

    #[test]
    fn a_burst_is_admitted_then_one_request_an_interval() {
        let limiter = Limiter::new(rate(10, Duration::from_secs(1), 3), 1024);
        let start = Duration::from_secs(5);
        for remaining in [2, 1, 0] {
            let decision = limiter.check("a", at(start));
            assert!(decision.admitted);
            assert_eq!(decision.remaining, remaining);
        }
        let refused = limiter.check("a", at(start));
        assert!(!refused.admitted);
        assert_eq!(refused.retry_after, Duration::from_millis(100));
        assert_eq!(refused.reset_after, Duration::from_millis(300));
        assert!(!limiter.check("a", at(start + Duration::from_millis(99))).admitted);
        assert!(limiter.check("a", at(start + Duration::from_millis(100))).admitted);
        assert!(!limiter.check("a", at(start + Duration::from_millis(100))).admitted);
        assert!(limiter.check("b", at(start)).admitted, "another key has its own counter");
    }

    #[test]
    fn a_period_never_admits_one_more_than_the_limit() {
        let limiter = Limiter::new(rate(3, Duration::from_secs(1), 1), 1024);
        let admitted =
            (0..1_000_000_u64).step_by(1000).map(|us| limiter.check("a", at(Duration::from_micros(us))));
        assert_eq!(admitted.filter(|decision| decision.admitted).count(), 3);
    }

    #[test]
    fn a_thousand_concurrent_calls_admit_exactly_the_burst() {
        let limiter = Limiter::new(rate(137, Duration::from_mins(1), 137), 1024);
        let (admitted, start) = (AtomicU32::new(0), Barrier::new(20));
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..50 {
                        let decision = limiter.check("one", at(Duration::from_secs(9)));
                        admitted.fetch_add(u32::from(decision.admitted), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 137);
        assert_eq!(limiter.live_keys(), 1);
    }

    #[test]
    fn the_oldest_keys_fall_out_and_are_counted_while_used_ones_stay() {
        let limiter = Limiter::new(rate(1, Duration::from_hours(1), 1), 1280);
        assert!(limiter.check("kept", at(Duration::ZERO)).admitted);
        for key in 0..20_000 {
            limiter.check(&key.to_string(), at(Duration::ZERO));
            assert!(!limiter.check("kept", at(Duration::ZERO)).admitted, "after {key}");
        }
        assert!(limiter.live_keys() <= 1280, "{}", limiter.live_keys());
        let known = u64::try_from(limiter.live_keys()).unwrap();
        assert_eq!(limiter.evictions() + known, 20_001);
    }

    #[test]
    fn rates_out_of_bounds_are_clamped_and_refuse_in_the_end() {
        for rate in [
            rate(0, Duration::ZERO, 0),
            rate(1, Duration::from_hours(24), u32::MAX),
            rate(u32::MAX, Duration::from_nanos(1), 1),
        ] {
            let limiter = Limiter::new(rate, 2);
            assert!(limiter.check("a", at(Duration::ZERO)).admitted, "{rate:?}");
        }
        let limiter = Limiter::new(rate(1, Duration::MAX, 1), 2);
        assert!(limiter.check("a", at(Duration::ZERO)).admitted);
        assert!(!limiter.check("a", at(Duration::from_secs(1 << 30))).admitted);
    }
}

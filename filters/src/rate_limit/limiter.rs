//! GCRA counters for many keys in bounded memory.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use ahash::RandomState;
use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::{Quota, RateLimiter};

use super::store::{Key, Store};
use crate::moment::Moment;

/// Keys a limiter remembers where nobody asks for another bound: 1,000,000 take about 50 MiB.
pub const CAPACITY: usize = 1_000_000;

/// Longest time a limiter can look ahead, a fourth of what its 64 bits of nanoseconds hold.
const HORIZON: u64 = u64::MAX / 4;

/// How much a limiter admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Requests per period, at least 1.
    pub limit: u32,
    pub per: Duration,
    /// Requests that may come at once, at least 1.
    pub burst: u32,
}

/// Counters of one limit: the generic cell rate algorithm (ITU-T I.371), one cell a request.
///
/// Exact under concurrency: of any number of calls at one moment, as many are admitted as the burst allows.
pub struct Limiter {
    cells: RateLimiter<Key, Store, RequestClock, StateInformationMiddleware>,
    /// Two independent keyed hashes, so that no caller can aim at another one's counter.
    hashers: [RandomState; 2],
    interval: Duration,
    burst: u32,
    /// A second handle: `cells` lends its own to nobody.
    store: Store,
}

/// How a limit stands after one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub admitted: bool,
    /// Requests that may still come at once.
    pub remaining: u32,
    /// Time until one request may come; zero while some remain.
    pub retry_after: Duration,
    /// Time until the whole burst may come again, rounded up to the time one request takes to come back.
    pub reset_after: Duration,
    /// The first of the two keyed hashes of the key.
    pub key: u64,
}

/// Tells governor the moment of the request that is being checked on this thread.
#[derive(Clone, Copy, Debug)]
struct RequestClock;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

impl Clock for RequestClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(NOW.get())
    }
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
        let most = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let interval = Duration::from_nanos(interval);
        let quota = Quota::with_period(interval).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        let store = Store::new(capacity);
        // Governor counts from the first reading of the clock; ours starts with the process.
        NOW.set(0);
        let cells = RateLimiter::new(quota.allow_burst(most), store.clone(), RequestClock);
        Self { cells, hashers: [RandomState::new(), RandomState::new()], interval, burst, store }
    }

    /// Counts one request with this key, if it is admitted. Takes about 100 ns, and a lock on one
    /// of 64 shards meanwhile.
    pub fn check(&self, key: &str, moment: Moment) -> Decision {
        let now = u64::try_from(moment.monotonic.as_nanos()).unwrap_or(HORIZON).min(HORIZON);
        NOW.set(now);
        let [a, b] = &self.hashers;
        let hash = a.hash_one(key);
        match self.cells.check_key(&Key(hash, b.hash_one(key))) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                Decision {
                    admitted: true,
                    remaining,
                    retry_after: if remaining > 0 { Duration::ZERO } else { self.interval },
                    reset_after: self.interval.saturating_mul(self.burst.saturating_sub(remaining)),
                    key: hash,
                }
            }
            Err(until) => {
                let retry_after = until.wait_time_from(Nanos::new(now));
                let rest = self.interval.saturating_mul(self.burst.saturating_sub(1));
                Decision {
                    admitted: false,
                    remaining: 0,
                    retry_after,
                    reset_after: retry_after.saturating_add(rest),
                    key: hash,
                }
            }
        }
    }

    /// Keys dropped to keep within the capacity; the callers behind them start anew.
    pub fn evictions(&self) -> u64 {
        self.store.evictions()
    }

    /// Keys held now.
    pub fn live_keys(&self) -> usize {
        self.store.len()
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("interval", &self.interval)
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

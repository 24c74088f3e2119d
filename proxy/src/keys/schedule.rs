//! When keys may and should be fetched: refresh, back-off, rate limit, unknown kids.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Between fetches that requests ask for, in the long run: whoever sends made-up kids gets one in ten seconds.
pub(super) const DEMAND_INTERVAL: Duration = Duration::from_secs(10);
/// Fetches that requests may ask for at once: an issuer may rotate twice, or a made-up kid come first.
const DEMAND_BURST: u32 = 2;
/// Between refreshes where the issuer names no time.
pub(super) const REFRESH: Duration = Duration::from_mins(5);
/// Shortest time between refreshes, whatever the issuer says: spare its servers.
pub(super) const REFRESH_MIN: Duration = Duration::from_mins(1);
/// Longest time between refreshes: a key that was withdrawn is trusted for a day at most.
pub(super) const REFRESH_MAX: Duration = Duration::from_hours(24);
/// First and longest pause after failed fetches.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// How long a kid that was looked for in vain is not looked for again.
pub(super) const MISSING_FOR: Duration = Duration::from_mins(1);
/// Most kids remembered as missing.
const MISSING_MAX: usize = 1024;
/// Longest kid that is looked for.
const KID_MAX_BYTES: usize = 256;

/// The times of one issuer, all monotonic.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// When the fetches that were asked for would have been due, each an interval after the last (GCRA).
    demanded: Duration,
    refresh_at: Duration,
    succeeded: Option<Duration>,
    failures: u32,
    missing: HashMap<Box<str>, Duration>,
    jitter: RandomState,
}

impl Schedule {
    /// True where a request may ask for a fetch now.
    pub(super) fn allows_demand(&self, now: Duration) -> bool {
        self.demanded <= now.saturating_add(DEMAND_INTERVAL * (DEMAND_BURST - 1))
    }

    /// A fetch begins because a request asked for it.
    pub(super) fn demand(&mut self, now: Duration) {
        self.demanded = self.demanded.max(now).saturating_add(DEMAND_INTERVAL);
    }

    /// A fetch begins; should it never report, the next is not started at once.
    pub(super) fn begin(&mut self, now: Duration) {
        self.refresh_at = self.refresh_at.max(now.saturating_add(BACKOFF.0));
    }

    /// True where looking for this kid could help.
    pub(super) fn may_look_for(&self, kid: &str, now: Duration) -> bool {
        kid.len() <= KID_MAX_BYTES && self.missing.get(kid).is_none_or(|until| now >= *until)
    }

    /// The kid was looked for in vain in a fetch that began after it was asked for.
    pub(super) fn missed(&mut self, kid: &str, now: Duration) {
        if self.missing.len() >= MISSING_MAX {
            self.missing.retain(|_, until| now < *until);
        }
        if self.missing.len() < MISSING_MAX && kid.len() <= KID_MAX_BYTES {
            self.missing.insert(kid.into(), now.saturating_add(MISSING_FOR));
        }
    }

    /// Keys were fetched; the issuer says how long they are fresh (RFC 9111, section 5.2.2.1).
    pub(super) fn succeed(&mut self, now: Duration, max_age: Option<Duration>) {
        self.succeeded = Some(now);
        self.failures = 0;
        let interval = max_age.map_or(REFRESH, |age| age.clamp(REFRESH_MIN, REFRESH_MAX));
        self.refresh_at = now.saturating_add(self.jittered(interval, now));
    }

    pub(super) fn fail(&mut self, now: Duration) {
        let pause = BACKOFF.0.saturating_mul(1 << self.failures.min(6)).min(BACKOFF.1);
        self.failures = self.failures.saturating_add(1);
        self.refresh_at = now.saturating_add(self.jittered(pause, now));
    }

    /// Time until the next refresh is due.
    pub(super) fn due_in(&self, now: Duration) -> Duration {
        self.refresh_at.saturating_sub(now)
    }

    /// Time since keys were last fetched.
    pub(super) fn age(&self, now: Duration) -> Option<Duration> {
        self.succeeded.map(|at| now.saturating_sub(at))
    }

    /// Between 80 and 100 % of the span, so that many gateways do not ask at the same time.
    fn jittered(&self, span: Duration, now: Duration) -> Duration {
        let percent = 80 + self.jitter.hash_one(now) % 21;
        span.mul_f64(f64::from(u8::try_from(percent).unwrap_or(100)) / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{DEMAND_INTERVAL, MISSING_FOR, MISSING_MAX, REFRESH, REFRESH_MAX, REFRESH_MIN, Schedule};
    use std::time::Duration;

    const NOW: Duration = Duration::from_secs(1000);

    fn within(span: Duration, longest: Duration) -> bool {
        span >= longest.mul_f64(0.8) && span <= longest
    }

    #[test]
    fn a_refresh_obeys_the_issuer_within_bounds_and_varies() {
        for (said, used) in [
            (None, REFRESH),
            (Some(Duration::ZERO), REFRESH_MIN),
            (Some(Duration::from_mins(10)), Duration::from_mins(10)),
            (Some(Duration::from_secs(u64::MAX)), REFRESH_MAX),
        ] {
            let mut schedule = Schedule::default();
            schedule.succeed(NOW, said);
            assert!(within(schedule.due_in(NOW), used), "{said:?}");
        }
        let mut schedule = Schedule::default();
        let mut spans = std::collections::HashSet::new();
        for second in 0..50 {
            schedule.succeed(Duration::from_secs(second), None);
            spans.insert(schedule.due_in(Duration::from_secs(second)));
        }
        assert!(spans.len() > 1);
    }

    #[test]
    fn pauses_after_failures_double_up_to_a_minute_and_end_with_success() {
        let mut schedule = Schedule::default();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            schedule.fail(NOW);
            assert!(within(schedule.due_in(NOW), Duration::from_secs(seconds)), "{seconds}");
        }
        assert_eq!(schedule.age(NOW), None);
        schedule.succeed(NOW, None);
        schedule.fail(NOW);
        assert!(schedule.due_in(NOW) <= Duration::from_secs(1));
        assert_eq!(schedule.age(NOW + Duration::from_secs(7)), Some(Duration::from_secs(7)));
    }

    #[test]
    fn demands_are_limited() {
        let mut schedule = Schedule::default();
        assert!(schedule.allows_demand(Duration::ZERO));
        schedule.demand(NOW);
        assert!(schedule.allows_demand(NOW), "a second rotation need not wait");
        schedule.demand(NOW);
        assert!(!schedule.allows_demand(NOW + Duration::from_millis(9_999)));
        for turn in 1..5 {
            let later = NOW + turn * DEMAND_INTERVAL;
            assert!(schedule.allows_demand(later));
            schedule.demand(later);
            assert!(!schedule.allows_demand(later), "one an interval in the long run");
        }
        assert!(schedule.allows_demand(NOW + 7 * DEMAND_INTERVAL));
    }

    #[test]
    fn missing_kids_are_remembered_for_a_while_and_in_bounds() {
        let mut schedule = Schedule::default();
        schedule.missed("a", NOW);
        assert!(!schedule.may_look_for("a", NOW));
        assert!(schedule.may_look_for("b", NOW));
        assert!(schedule.may_look_for("a", NOW + MISSING_FOR));
        assert!(!schedule.may_look_for(&"k".repeat(257), NOW));
        for number in 0..2 * MISSING_MAX {
            schedule.missed(&number.to_string(), NOW);
        }
        assert_eq!(schedule.missing.len(), MISSING_MAX);
        schedule.missed("late", NOW + MISSING_FOR);
        assert_eq!(schedule.missing.len(), 1);
    }
}

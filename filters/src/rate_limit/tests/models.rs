//! Limits against simple models of them, with clocks that go back and forth.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::{Strategy, any, prop, proptest};
use proptest::{prop_assert, prop_assert_eq};

use crate::moment::Moment;
use crate::rate_limit::calendar::{Calendar, Period};
use crate::rate_limit::limiter::{Limiter, Rate};
use crate::rate_limit::windows::{Now, WindowCounter};

fn moment(nanoseconds: u64) -> Moment {
    Moment { unix: Duration::from_hours(500_000), monotonic: Duration::from_nanos(nanoseconds) }
}

/// A bucket that holds `burst`, and gets one back every `interval` nanoseconds.
///
/// What a limiter knows by one number is held here as the level and the moment it was looked at.
struct Bucket {
    interval: u64,
    burst: u64,
    /// Nanoseconds of refill that are missing.
    missing: u64,
    seen: u64,
}

impl Bucket {
    fn take(&mut self, cost: u64, now: u64) -> bool {
        self.missing = self.missing.saturating_sub(now - self.seen);
        self.seen = now;
        if cost > 0 && self.missing + cost * self.interval > self.burst * self.interval {
            return false;
        }
        self.missing += cost * self.interval;
        true
    }
}

fn steps() -> impl Strategy<Value = Vec<(u64, u32)>> {
    // Ever on, by chance: intervals of 10, and waits around them.
    prop::collection::vec((0_u64..60, 0_u32..7), 1..120)
}

proptest! {
    /// While the clock goes on, a limiter is the bucket.
    #[test]
    fn a_limiter_is_a_bucket_that_fills(steps in steps(), burst in 1_u32..6) {
        let rate = Rate { limit: 1, per: Duration::from_nanos(10), burst };
        let limiter = Limiter::new(rate, 1024);
        let mut bucket = Bucket { interval: 10, burst: burst.into(), missing: 0, seen: 0 };
        let mut now = 1_000;
        for (wait, cost) in steps {
            now += wait;
            let admitted = limiter.take("a", cost, moment(now)).admitted;
            prop_assert_eq!(admitted, bucket.take(cost.into(), now), "cost {} at {}", cost, now);
        }
    }

    /// Whatever the clock does, no more passes than the burst and what the furthest clock has filled.
    #[test]
    fn no_clock_lets_more_pass(times in prop::collection::vec((0_u64..2_000, 0_u32..4), 1..200), burst in 1_u32..6) {
        let limiter = Limiter::new(Rate { limit: 1, per: Duration::from_nanos(10), burst }, 1024);
        let (mut taken, mut latest, mut first) = (0, 0, u64::MAX);
        for (now, cost) in times {
            first = first.min(now);
            latest = latest.max(now);
            if limiter.take("a", cost, moment(now)).admitted {
                taken += u64::from(cost);
            }
            prop_assert!(taken <= u64::from(burst) + (latest - first) / 10, "{} taken", taken);
        }
    }

    /// Requests that are given back, at any time and in any order, never let more pass than if they had not come.
    #[test]
    fn giving_back_never_lets_more_pass(
        steps in prop::collection::vec((0_u64..40, 1_u32..4, any::<bool>(), 0_usize..5), 1..120),
        burst in 3_u32..9,
    ) {
        let rate = Rate { limit: 1, per: Duration::from_nanos(10), burst };
        let (limiter, honest) = (Limiter::new(rate, 1024), Limiter::new(rate, 1024));
        let key = limiter.key("a");
        let (mut now, mut open) = (1_000, Vec::new());
        for (wait, cost, stays, order) in steps {
            now += wait;
            if !limiter.take("a", cost, moment(now)).admitted {
                continue;
            }
            if stays {
                prop_assert!(honest.take("a", cost, moment(now)).admitted, "{} at {}", cost, now);
            } else {
                open.push((cost, now));
            }
            if order < open.len() {
                let (cost, at) = open.swap_remove(order);
                limiter.give_back(key, cost, moment(at));
            }
        }
    }

    /// Given back at the moment it was taken, nothing is missing.
    #[test]
    fn what_is_given_back_at_once_is_there(costs in prop::collection::vec(1_u32..4, 1..20)) {
        let limiter = Limiter::new(Rate { limit: 1, per: Duration::from_nanos(10), burst: 5 }, 1024);
        let key = limiter.key("a");
        limiter.take("a", 2, moment(1_000));
        for cost in costs {
            let before = limiter.take("a", 0, moment(1_001)).remaining;
            let decision = limiter.take("a", cost, moment(1_001));
            if decision.admitted {
                limiter.give_back(key, cost, moment(1_001));
            }
            prop_assert_eq!(limiter.take("a", 0, moment(1_001)).remaining, before);
        }
    }

    /// A quota against a table of what was used in each window, while the clock goes to and fro over one end.
    #[test]
    fn a_quota_is_a_table_of_windows(
        steps in prop::collection::vec((0_u64..172_800, 0_u32..5, any::<bool>()), 1..200),
        limit in 1_u32..20,
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe"]),
        from in 1_600_000_000_u64..2_000_000_000,
    ) {
        let calendar = Calendar::new(Period::Day, zone).unwrap();
        let counter = WindowCounter::new([7; 16], 1024);
        let key = counter.key("a");
        let mut table: HashMap<u64, u32> = HashMap::new();
        // Two windows that follow each other, however long they are.
        let (first, middle) = calendar.window(Duration::from_secs(from));
        let (_, end) = calendar.window(Duration::from_secs(middle));
        for (offset, cost, back) in steps {
            let unix = first + offset % (end - first);
            let (start, end) = calendar.window(Duration::from_secs(unix));
            let mut slot = counter.hold(key);
            let now = Now { start, end, unix: Duration::from_secs(unix) };
            let (decision, next) = WindowCounter::decide(&slot, key, cost, limit, now);
            let used = table.entry(start).or_default();
            prop_assert_eq!(decision.admitted, cost == 0 || *used + cost <= limit);
            if let Some(next) = next {
                *used += cost;
                counter.commit(&mut slot, next);
            }
            drop(slot);
            prop_assert_eq!(decision.remaining, u64::from(limit - *used));
            if back && decision.admitted {
                *used -= cost;
                counter.give_back(key, cost, start);
            }
        }
    }

    /// Windows follow each other without gap or overlap, in every zone that does something unusual.
    #[test]
    fn windows_cover_all_time_once(
        unix in 0_u64..4_102_444_800,
        month in any::<bool>(),
        zone in prop::sample::select(vec![
            "UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Havana", "America/Sao_Paulo",
            "Pacific/Apia", "Pacific/Kiritimati", "Asia/Gaza", "Africa/Cairo", "Australia/Lord_Howe", "Africa/Monrovia",
        ]),
    ) {
        let period = if month { Period::Month } else { Period::Day };
        let calendar = Calendar::new(period, zone).unwrap();
        let (start, end) = calendar.window(Duration::from_secs(unix));
        prop_assert!((start..end).contains(&unix));
        prop_assert_eq!(calendar.window(Duration::from_secs(end - 1)), (start, end));
        prop_assert_eq!(calendar.window(Duration::from_secs(end)).0, end);
        let fresh = Calendar::new(period, zone).unwrap();
        prop_assert_eq!(fresh.window(Duration::from_secs(start)), (start, end));
        if start > 0 {
            prop_assert_eq!(fresh.window(Duration::from_secs(start - 1)).1, start);
        }
    }
}

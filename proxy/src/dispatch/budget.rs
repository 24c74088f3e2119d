//! How many retries there may be in relation to requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foregate_policy::balancing::Budget;

/// Bits of one count.
const BITS: u32 = 24;
/// Largest count.
const MOST: u64 = (1 << BITS) - 1;

/// Requests and retries of the current interval, with half of those of the one before, and so on: in one word, so
/// that threads need no lock. Upper 16 bits: the number of the interval.
#[derive(Debug, Default)]
pub struct RetryBudget(AtomicU64);

struct Counts {
    interval: u64,
    requests: u64,
    retries: u64,
}

impl Counts {
    fn read(word: u64, interval: u64) -> Self {
        let past = interval.wrapping_sub(word >> (2 * BITS)) & 0xffff;
        let shift = u32::try_from(past).unwrap_or(u32::MAX).min(BITS);
        Self { interval, requests: (word >> BITS & MOST) >> shift, retries: (word & MOST) >> shift }
    }

    fn write(&self) -> u64 {
        self.interval << (2 * BITS) | self.requests.min(MOST) << BITS | self.retries.min(MOST)
    }
}

fn interval(now: Duration, rules: &Budget) -> u64 {
    let length = u64::try_from(rules.interval.as_millis()).unwrap_or(u64::MAX).max(1);
    (u64::try_from(now.as_millis()).unwrap_or(u64::MAX) / length) & 0xffff
}

impl RetryBudget {
    /// Counts a request.
    pub fn request(&self, rules: &Budget, now: Duration) {
        let interval = interval(now, rules);
        let count = |word| {
            let mut counts = Counts::read(word, interval);
            counts.requests += 1;
            Some(counts.write())
        };
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
    }

    /// Counts a retry, where there may be one more.
    pub fn retry(&self, rules: &Budget, now: Duration) -> bool {
        let interval = interval(now, rules);
        let count = |word| {
            let mut counts = Counts::read(word, interval);
            let most = counts.requests * u64::from(rules.percent) / 100 + u64::from(rules.least);
            counts.retries += 1;
            (counts.retries <= most).then(|| counts.write())
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::RetryBudget;
    use foregate_policy::balancing::Budget;
    use std::time::Duration;

    const RULES: Budget = Budget { percent: 20, interval: Duration::from_secs(10), least: 5 };

    #[test]
    fn retries_are_a_part_of_requests_and_a_few_more() {
        let budget = RetryBudget::default();
        let now = Duration::from_secs(1_000);
        let granted = |now, tries| (0..tries).filter(|_| budget.retry(&RULES, now)).count();
        assert_eq!(granted(now, 100), 5, "the least");
        for _ in 0..1_000 {
            budget.request(&RULES, now);
        }
        assert_eq!(granted(now, 1_000), 200, "a fifth, and the least that was used up");
        let later = now + Duration::from_secs(10);
        assert_eq!(granted(later, 1_000), 3, "half of both is remembered");
        assert_eq!(granted(now + Duration::from_secs(1_000), 100), 5);
    }

    #[test]
    fn over_many_intervals_the_part_holds() {
        let budget = RetryBudget::default();
        let mut granted = 0;
        for step in 0..10_000_u64 {
            let now = Duration::from_millis(step * 100);
            budget.request(&RULES, now);
            granted += usize::from(budget.retry(&RULES, now)) + usize::from(budget.retry(&RULES, now));
        }
        // 100 intervals of 100 requests.
        assert!((1_900..=2_000 + 100 * 5).contains(&granted), "{granted}");
    }
}

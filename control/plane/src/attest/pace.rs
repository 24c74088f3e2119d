//! How often certificates are signed, and how often one address may fail.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Certificates a second over time, and at once: a thousand proxies that come back are served in seconds.
const SIGNED: Rate = Rate { per_second: 500.0, burst: 2_000.0 };

/// Failures of one address.
const FAILED: Rate = Rate { per_second: 0.5, burst: 20.0 };

/// Most addresses that are known at once; of more, those forget first that have failed least.
const MAX_ADDRESSES: usize = 4_096;

#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: f64,
    burst: f64,
}

/// What has been used of a rate.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    level: f64,
    at: Duration,
}

/// The bounds of signing.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    signed: Used,
    failed: HashMap<IpAddr, Used>,
}

/// Why nothing is signed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooOften {
    #[error("too many certificates are asked for at once; try again later")]
    All,
    #[error("too many attempts of this address have failed; try again later")]
    Address,
}

impl Used {
    fn now(&mut self, rate: Rate, now: Duration) -> f64 {
        let gone = now.saturating_sub(self.at).as_secs_f64() * rate.per_second;
        *self = Self { level: (self.level - gone).max(0.0), at: now.max(self.at) };
        self.level
    }
}

impl Pace {
    /// Counts an attempt, of an address where the caller has no identity; `now` is monotonic.
    ///
    /// # Errors
    /// Where there were too many.
    pub fn attempt(&self, address: Option<IpAddr>, now: Duration) -> Result<(), TooOften> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = address.and_then(|address| inner.failed.get_mut(&address.to_canonical()));
        if failed.is_some_and(|used| used.now(FAILED, now) + 1.0 > FAILED.burst) {
            return Err(TooOften::Address);
        }
        if inner.signed.now(SIGNED, now) + 1.0 > SIGNED.burst {
            return Err(TooOften::All);
        }
        inner.signed.level += 1.0;
        Ok(())
    }

    /// Counts a failure of an address.
    pub fn failed(&self, address: IpAddr, now: Duration) {
        let address = address.to_canonical();
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.failed.len() >= MAX_ADDRESSES && !inner.failed.contains_key(&address) {
            inner.failed.retain(|_, used| used.now(FAILED, now) >= 1.0);
            let least = inner.failed.iter().min_by(|one, other| one.1.level.total_cmp(&other.1.level));
            if let Some(least) = least.map(|(least, _)| *least)
                && inner.failed.len() >= MAX_ADDRESSES
            {
                inner.failed.remove(&least);
            }
        }
        let used = inner.failed.entry(address).or_default();
        used.now(FAILED, now);
        used.level += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::{MAX_ADDRESSES, Pace, TooOften};

    #[test]
    fn an_address_that_fails_too_often_must_wait() {
        let pace = Pace::default();
        let [one, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let now = Duration::from_secs(100);
        for _ in 0..20 {
            pace.attempt(Some(one), now).unwrap();
            pace.failed(one, now);
        }
        assert_eq!(pace.attempt(Some(one), now), Err(TooOften::Address));
        pace.attempt(None, now).unwrap();
        pace.attempt(Some(other), now).unwrap();
        pace.attempt(Some(one), now + Duration::from_secs(3)).unwrap();
    }

    #[test]
    fn all_together_are_bounded_and_so_is_what_is_known() {
        let pace = Pace::default();
        let now = Duration::from_secs(100);
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let passed = (0..3_000).filter(|number| pace.attempt(Some(address(*number)), now).is_ok()).count();
        assert_eq!(passed, 2_000);
        for number in 0..10_000 {
            pace.failed(address(number), now);
        }
        assert!(pace.0.lock().unwrap().failed.len() <= MAX_ADDRESSES);
    }
}

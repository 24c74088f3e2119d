//! What is known of one key: units taken in advance, a refusal remembered.

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::rate_limit::limiter::Decision;
use foregate_filters::rate_limit::shared::Counter;

/// A key is remembered for so long after it was asked about.
const IDLE: Duration = Duration::from_secs(5);

/// Which key of which counter: 128 bits of keyed hashes.
pub(super) type Id = u128;

/// What is known of one key.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Taken at the store and used by nobody yet.
    pub(super) units: u32,
    /// How many of them were taken last, and when. What was taken first is used first.
    pub(super) last: (u32, Duration),
    /// When the others were taken: the first of them.
    pub(super) first: Duration,
    /// They are used until then.
    pub(super) until: Duration,
    /// Start of the window that they are of; 0 for rates.
    pub(super) start: u64,
    /// How many are wanted at once: grows while they are used up, up to the lease.
    pub(super) want: u32,
    /// Asked for by requests that are under way.
    pub(super) asked: u32,
    pub(super) refilling: bool,
    /// What the store had left when it was asked last.
    pub(super) left: u64,
    /// When all is there again.
    pub(super) full_at: Duration,
    pub(super) refused: Option<Refusal>,
    pub(super) seen: Duration,
    /// Whose they are, to give them back.
    pub(super) of: Option<(Arc<Counter>, Box<str>)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) cost: u32,
    /// Until the store is asked again.
    pub(super) until: Duration,
    /// When it may be admitted.
    pub(super) retry_at: Duration,
}

impl Entry {
    pub(super) fn is_idle(&self, now: Duration) -> bool {
        let refused = self.refused.is_some_and(|refusal| refusal.until > now);
        self.units == 0
            && self.asked == 0
            && !self.refilling
            && !refused
            && self.seen.saturating_add(IDLE) <= now
    }

    /// When the first of the units was taken.
    pub(super) fn since(&self) -> Duration {
        let (units, at) = self.last;
        if self.units <= units { at } else { self.first }
    }

    /// More units, taken then.
    pub(super) fn add(&mut self, units: u32, at: Duration) {
        self.first = if self.units == 0 { at } else { self.since() };
        self.last = (units, at);
        self.units = self.units.saturating_add(units);
    }

    /// Units that were used for nothing, taken then or later: they are as old as they may be.
    pub(super) fn add_back(&mut self, units: u32, at: Duration) {
        self.first = if self.units == 0 { at } else { self.since().min(at) };
        self.last.0 = self.last.0.min(self.units);
        self.units = self.units.saturating_add(units);
    }

    pub(super) fn decision(&self, id: Id, admitted: bool, now: Duration) -> Decision {
        let remaining = self.left.saturating_add(self.units.into());
        let reset_after = self.full_at.saturating_sub(now);
        let retry_after = match self.refused {
            Some(refusal) if !admitted => refusal.retry_at.saturating_sub(now),
            _ if remaining == 0 => reset_after,
            _ => Duration::ZERO,
        };
        Decision { admitted, remaining, retry_after, reset_after, key: first(id) }
    }
}

/// The half of an id that decisions show.
pub(super) fn first(id: Id) -> u64 {
    u64::try_from(id >> 64).unwrap_or_default()
}

//! What one limit counts with, and what was taken from it.

use std::sync::Arc;

use super::calendar::Calendar;
use super::concurrency::{OpenRequests, Opening, Permit};
use super::limiter::{Decision, Limiter};
use super::shared::{Counter, SharedCounters, Take};
use super::spec::OnError;
use super::store::{Key, Slot};
use super::windows::{Now, WindowCounter, Windows};
use crate::moment::Moment;
use crate::step::Step;

/// Counts in this process.
#[derive(Clone, Debug)]
pub(super) enum Local {
    Rate(Arc<Limiter>),
    Quota { counter: Arc<WindowCounter>, limit: u32, calendar: Arc<Calendar> },
    Open { open: Arc<OpenRequests>, limit: u32 },
}

/// Counts together with other processes.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) counters: Arc<dyn SharedCounters>,
    pub(super) counter: Arc<Counter>,
    pub(super) on_error: OnError,
}

/// A counter of this process, held for one request: it stays as it was decided about until it is let go.
pub(super) enum Held<'a> {
    Rate(Slot<'a, u64>, Option<u64>),
    Quota(&'a WindowCounter, Slot<'a, Windows>, Option<Windows>),
    Open(&'a Arc<OpenRequests>, Opening<'a>),
}

/// What was taken from a counter, so that it can be given back.
#[derive(Debug)]
pub(crate) enum Taken {
    Rate { limiter: Arc<Limiter>, key: Key, cost: u32 },
    Quota { counter: Arc<WindowCounter>, key: Key, cost: u32, start: u64 },
    Shared { counters: Arc<dyn SharedCounters>, take: Take },
}

impl Local {
    pub(super) fn key(&self, key: &str) -> Key {
        match self {
            Self::Rate(limiter) => limiter.key(key),
            Self::Quota { counter, .. } => counter.key(key),
            Self::Open { open, .. } => open.key(key),
        }
    }

    /// Where the counter lies in memory: several are held in this order by everybody, so that nobody waits
    /// for one who waits for them.
    pub(super) fn place(&self) -> usize {
        match self {
            Self::Rate(limiter) => Arc::as_ptr(limiter).addr(),
            Self::Quota { counter, .. } => Arc::as_ptr(counter).addr(),
            Self::Open { open, .. } => Arc::as_ptr(open).addr(),
        }
    }

    /// Holds the counter of a key, and tells how it stands to a request that costs so much.
    pub(super) fn hold(&self, key: Key, cost: u32, moment: Moment) -> (Held<'_>, Decision) {
        match self {
            Self::Rate(limiter) => {
                let cell = limiter.hold(key);
                let (decision, next) = limiter.decide(&cell, key, cost, moment);
                (Held::Rate(cell, next), decision)
            }
            Self::Quota { counter, limit, calendar } => {
                let (start, end) = calendar.window(moment.unix);
                let slot = counter.hold(key);
                let now = Now { start, end, unix: moment.unix };
                let (decision, next) = WindowCounter::decide(&slot, key, cost, *limit, now);
                (Held::Quota(counter, slot, next), decision)
            }
            Self::Open { open, limit } => {
                let opening = open.hold(key);
                let decision = open.decide(&opening, *limit);
                (Held::Open(open, opening), decision)
            }
        }
    }

    /// What [`Held::commit`] has taken; `None` where there is nothing to give back, or a permit does that.
    pub(super) fn taken(&self, key: Key, cost: u32, moment: Moment) -> Option<Taken> {
        match self {
            _ if cost == 0 => None,
            Self::Rate(limiter) => Some(Taken::Rate { limiter: Arc::clone(limiter), key, cost }),
            Self::Quota { counter, calendar, .. } => {
                let (start, _) = calendar.window(moment.unix);
                Some(Taken::Quota { counter: Arc::clone(counter), key, cost, start })
            }
            Self::Open { .. } => None,
        }
    }
}

impl Held<'_> {
    /// Takes what was decided about.
    pub(super) fn commit(self, moment: Moment, step: Step) -> Option<Permit> {
        match self {
            Self::Rate(mut cell, Some(next)) => Limiter::commit(&mut cell, next, moment),
            Self::Quota(counter, mut slot, Some(next)) => counter.commit(&mut slot, next),
            Self::Open(open, mut opening) => return Some(open.commit(&mut opening, step)),
            Self::Rate(..) | Self::Quota(..) => {}
        }
        None
    }
}

impl Taken {
    pub(super) fn give_back(&self, moment: Moment) {
        match self {
            Self::Rate { limiter, key, cost } => limiter.give_back(*key, *cost, moment),
            Self::Quota { counter, key, cost, start } => counter.give_back(*key, *cost, *start),
            Self::Shared { counters, take } => counters.give_back(std::slice::from_ref(take), moment),
        }
    }
}

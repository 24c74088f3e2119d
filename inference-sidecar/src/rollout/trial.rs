//! A version on trial: what it does is counted and judged.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::rollout::drift::Watch;

/// Part of the calls that may be slower than the p99 says.
const SLOWEST: f64 = 0.01;
/// Not before a publication tries it again.
const FOR_GOOD: u64 = u64::MAX;

/// Bounds that a version on trial must keep.
#[derive(Clone, Debug, PartialEq)]
pub struct Guardrails {
    /// Time that 99 of 100 calls keep to.
    pub p99: Option<Duration>,
    /// Largest part of the records that it fails on and production does not.
    pub error_share: Option<f64>,
    /// Largest part of the records about which it disagrees with production.
    pub disagreement: Option<f64>,
    /// Difference of two scores that is no disagreement yet.
    pub tolerance: f32,
    /// Largest index of a population.
    pub drift: Option<f64>,
    /// Time until it is tried again; `None` for good.
    pub hold_off: Option<Duration>,
    /// Records, or calls, that are judged together.
    pub min_records: u32,
}

/// One of the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guardrail {
    P99,
    ErrorShare,
    Disagreement,
    Drift,
}

/// The part that a version plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Production,
    Canary,
    Shadow,
}

/// A bound that was broken.
#[derive(Clone, Debug, PartialEq)]
pub struct Breach {
    pub guardrail: Guardrail,
    /// What was measured: of a p99, the part of the calls that were slower.
    pub measured: f64,
    pub bound: f64,
    /// Of a drift, the feature or `score`.
    pub feature: Option<Arc<str>>,
}

/// What happens to a version on trial.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    TakenOff { role: Role, version: Arc<str>, breach: Breach, hold_off: Option<Duration> },
    TriedAgain { role: Role, version: Arc<str> },
}

/// Hears of [`Event`]s.
pub type Tell = Arc<dyn Fn(&Event) + Send + Sync>;

/// How many were looked at, and how many of them were bad; since the last judgement.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    seen: u32,
    bad: u32,
}

#[derive(Debug, Default)]
struct Window {
    calls: Tally,
    errors: Tally,
    compared: Tally,
}

/// Counts since the trial began, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    pub records: AtomicU64,
    pub errors: AtomicU64,
    pub compared: AtomicU64,
    pub disagreed: AtomicU64,
    /// By guardrail, in the order of [`Guardrail::ALL`].
    pub breaches: [AtomicU64; 4],
}

/// A canary or a shadow under watch.
pub struct Trial {
    pub role: Role,
    pub version: Arc<str>,
    pub counts: Counts,
    bounds: Guardrails,
    window: Mutex<Window>,
    pub(super) drift: Option<Watch>,
    clock: Stopwatch,
    /// Nanoseconds of the clock until which it is off; 0 while it is on.
    off_until: AtomicU64,
    last: Mutex<Option<Breach>>,
    tell: Tell,
}

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let off_until = self.off_until.load(Ordering::Relaxed);
        f.debug_struct("Trial")
            .field("version", &self.version)
            .field("off_until", &off_until)
            .finish_non_exhaustive()
    }
}

impl Guardrail {
    pub const ALL: [Self; 4] = [Self::P99, Self::ErrorShare, Self::Disagreement, Self::Drift];

    /// The word in documents, labels and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P99 => "p99",
            Self::ErrorShare => "errorShare",
            Self::Disagreement => "disagreement",
            Self::Drift => "drift",
        }
    }
}

impl Role {
    /// The word in labels and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Canary => "canary",
            Self::Shadow => "shadow",
        }
    }
}

impl Tally {
    /// Adds to the tally. Once enough were seen, gives the part that was bad, and begins anew.
    fn add(&mut self, seen: usize, bad: usize, enough: u32) -> Option<f64> {
        self.seen = self.seen.saturating_add(u32::try_from(seen).unwrap_or(u32::MAX));
        self.bad = self.bad.saturating_add(u32::try_from(bad).unwrap_or(u32::MAX));
        if self.seen < enough {
            return None;
        }
        let share = f64::from(self.bad) / f64::from(self.seen);
        *self = Self::default();
        Some(share)
    }
}

impl Trial {
    pub(super) fn new(
        role: Role,
        version: Arc<str>,
        bounds: Guardrails,
        drift: Option<Watch>,
        tell: Tell,
    ) -> Self {
        Self {
            role,
            version,
            counts: Counts::default(),
            bounds,
            window: Mutex::default(),
            drift,
            clock: Stopwatch::start(),
            off_until: AtomicU64::new(0),
            last: Mutex::default(),
            tell,
        }
    }

    /// True while it takes part. Begins anew when the hold-off is over.
    pub fn is_on(&self) -> bool {
        let until = self.off_until.load(Ordering::Acquire);
        if until == 0 {
            return true;
        }
        if until == FOR_GOOD || nanos(self.clock.elapsed()) < until {
            return false;
        }
        *self.window() = Window::default();
        if let Some(drift) = &self.drift {
            drift.restart();
        }
        // Of those that see the end of the hold-off, one tells of it.
        if self.off_until.compare_exchange(until, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            (self.tell)(&Event::TriedAgain { role: self.role, version: Arc::clone(&self.version) });
        }
        true
    }

    /// It was taken off before this process began: it stays off for as long as is left, at most for the whole hold-off;
    /// without a time, until a publication ends it. Nobody is told of that.
    pub fn stay_off(&self, left: Option<Duration>, breach: Breach) {
        let left = match (left, self.bounds.hold_off) {
            (Some(left), Some(whole)) => Some(left.min(whole)),
            (left, whole) => left.or(whole),
        };
        let until = left.map_or(FOR_GOOD, |left| nanos(self.clock.elapsed().saturating_add(left)).max(1));
        self.off_until.store(until, Ordering::Release);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(breach);
    }

    /// Time until it is tried again: zero while it is on, `None` where only a publication ends it.
    pub fn held_off(&self) -> Option<Duration> {
        match self.off_until.load(Ordering::Acquire) {
            FOR_GOOD => None,
            until => Some(Duration::from_nanos(until).saturating_sub(self.clock.elapsed())),
        }
    }

    /// The bound that it broke last.
    pub fn last(&self) -> Option<Breach> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes one call: how long it took, where that counts; its records, and those of them that production has a score
    /// for alone.
    pub(super) fn note_call(&self, took: Option<Duration>, records: usize, errors: usize) {
        count(&self.counts.records, records);
        count(&self.counts.errors, errors);
        let enough = self.bounds.min_records;
        let slow = took.map(|took| self.bounds.p99.is_some_and(|bound| took > bound));
        let (slow, errors) = {
            let mut window = self.window();
            let slow = slow.and_then(|slow| window.calls.add(1, usize::from(slow), enough));
            (slow, window.errors.add(records, errors, enough))
        };
        self.judge(Guardrail::P99, slow, self.bounds.p99.map(|_| SLOWEST));
        self.judge(Guardrail::ErrorShare, errors, self.bounds.error_share);
    }

    /// Notes records that production has scored too, and how many of them differ.
    pub(super) fn note_compared(&self, records: usize, differ: usize) {
        count(&self.counts.compared, records);
        count(&self.counts.disagreed, differ);
        let share = self.window().compared.add(records, differ, self.bounds.min_records);
        self.judge(Guardrail::Disagreement, share, self.bounds.disagreement);
    }

    /// Notes the features and the score of one record.
    pub(super) fn note_row(&self, row: &[f32], score: f32) {
        let Some((feature, moved)) = self.drift.as_ref().and_then(|drift| drift.note(row, score)) else {
            return;
        };
        if let Some(bound) = self.bounds.drift.filter(|bound| moved > *bound) {
            let feature = Some(feature);
            self.take_off(Breach { guardrail: Guardrail::Drift, measured: moved, bound, feature });
        }
    }

    /// Two scores of this difference are no disagreement yet.
    pub(super) fn tolerance(&self) -> f32 {
        self.bounds.tolerance
    }

    fn judge(&self, guardrail: Guardrail, measured: Option<f64>, bound: Option<f64>) {
        if let (Some(measured), Some(bound)) = (measured, bound)
            && measured > bound
        {
            self.take_off(Breach { guardrail, measured, bound, feature: None });
        }
    }

    /// What was under way when it was taken off counts no more.
    fn take_off(&self, breach: Breach) {
        let hold_off = self.bounds.hold_off;
        let until = hold_off.map_or(FOR_GOOD, |time| nanos(self.clock.elapsed().saturating_add(time)).max(1));
        if self.off_until.compare_exchange(0, until, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        let place = Guardrail::ALL.iter().position(|one| *one == breach.guardrail);
        if let Some(breaches) = place.and_then(|place| self.counts.breaches.get(place)) {
            breaches.fetch_add(1, Ordering::Relaxed);
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(breach.clone());
        let (role, version) = (self.role, Arc::clone(&self.version));
        (self.tell)(&Event::TakenOff { role, version, breach, hold_off });
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(FOR_GOOD - 1)
}

fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

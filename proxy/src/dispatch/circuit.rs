//! The circuit of one endpoint: closed, open for a time, half open for one request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_policy::balancing::{Breaker, Outliers};

/// How much later a request that may not be repeated is taken for a trial: others should come first.
const UNSAFE_DELAY: Duration = Duration::from_secs(2);

/// Least time that a trial is waited for before another may be made.
const TRIAL: Duration = Duration::from_secs(1);

/// Why an endpoint gets no requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It answered with errors.
    Errors,
    /// It could not be reached, broke off, or was late.
    Failures,
    /// It asked for a rest (`Retry-After`).
    Rest,
}

impl Cause {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Errors => "errors",
            Self::Failures => "failures",
            Self::Rest => "retry_after",
        }
    }

    /// When a request may try; `safe` where it may be repeated. Who asked for a rest has had it.
    fn due(self, until: Duration, safe: bool) -> Duration {
        if safe || self == Self::Rest { until } else { until.saturating_add(UNSAFE_DELAY) }
    }
}

/// What one exchange says about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    Error,
    Failure,
    /// It asks for so long a rest.
    Rest(Duration),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open {
        until: Duration,
        cause: Cause,
    },
    /// One request is on its way; another may try once this one is long overdue.
    Half {
        until: Duration,
        cause: Cause,
    },
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    errors: u32,
    failures: u32,
    /// Openings that followed each other soon.
    trips: u32,
    closed_at: Duration,
}

/// A change that the choice of endpoints must heed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Opened { cause: Cause, lasts: Duration },
    Closed,
}

/// What opens a circuit, and whether errors may do so now.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub outliers: Outliers,
    pub breaker: Breaker,
    /// False where as many endpoints are ejected already as may be.
    pub may_eject: bool,
    /// Any number, by which times are made uneven.
    pub jitter: u64,
}

/// Nearly always closed and without a failure, which one flag tells.
#[derive(Debug, Default)]
pub struct Circuit {
    troubled: AtomicBool,
    inner: Mutex<Inner>,
}

impl Circuit {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True where it is open, half open, or counts failures.
    pub fn troubled(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
    }

    /// True where requests may pass freely.
    pub fn closed(&self) -> bool {
        !self.troubled() || self.inner().state == State::Closed
    }

    /// When a trial is due, and why the circuit is open.
    pub fn until(&self) -> Option<(Duration, Cause)> {
        if !self.troubled() {
            return None;
        }
        match self.inner().state {
            State::Closed => None,
            State::Open { until, cause } | State::Half { until, cause } => Some((until, cause)),
        }
    }

    /// When a request may try that may be repeated, and when any may.
    pub fn due(&self) -> Option<(Duration, Duration)> {
        self.until().map(|(until, cause)| (until, cause.due(until, false)))
    }

    /// True while one request is trying.
    pub fn on_trial(&self) -> bool {
        self.troubled() && matches!(self.inner().state, State::Half { .. })
    }

    /// Takes the right to try; `safe` where the request may be repeated should the trial fail.
    pub fn try_once(&self, now: Duration, safe: bool) -> bool {
        if !self.troubled() {
            return false;
        }
        let mut inner = self.inner();
        let (State::Open { until, cause } | State::Half { until, cause }) = inner.state else { return false };
        if now < cause.due(until, safe) {
            return false;
        }
        inner.state = State::Half { until: now.saturating_add(TRIAL), cause };
        true
    }

    /// Takes note of an outcome.
    pub fn note(&self, outcome: Outcome, rules: &Rules, now: Duration) -> Option<Turn> {
        if outcome == Outcome::Good && !self.troubled() {
            return None;
        }
        let mut inner = self.inner();
        self.troubled.store(true, Ordering::Relaxed);
        let turn = match outcome {
            Outcome::Good => {
                let turn = inner.good(now);
                self.troubled.store(inner.state != State::Closed, Ordering::Relaxed);
                turn
            }
            Outcome::Error => inner.error(rules, now),
            Outcome::Failure => inner.failure(rules, now),
            Outcome::Rest(asked) => inner.rest(asked, rules, now),
        };
        drop(inner);
        turn
    }
}

impl Inner {
    fn good(&mut self, now: Duration) -> Option<Turn> {
        match self.state {
            // What was sent before it opened says nothing about now.
            State::Open { .. } => None,
            State::Half { .. } => {
                (self.errors, self.failures, self.state, self.closed_at) = (0, 0, State::Closed, now);
                Some(Turn::Closed)
            }
            State::Closed => {
                (self.errors, self.failures) = (0, 0);
                None
            }
        }
    }

    fn error(&mut self, rules: &Rules, now: Duration) -> Option<Turn> {
        let Outliers { consecutive, base, longest, .. } = rules.outliers;
        self.failures = 0;
        self.errors = self.errors.saturating_add(1);
        let over = consecutive > 0 && self.errors >= consecutive;
        let trial = matches!(self.state, State::Half { .. });
        // It answers: that ends a trial of whether it can be reached.
        if matches!(self.state, State::Half { cause: Cause::Failures | Cause::Rest, .. }) && !over {
            (self.state, self.closed_at) = (State::Closed, now);
            return Some(Turn::Closed);
        }
        if matches!(self.state, State::Open { .. }) || !(trial || over && rules.may_eject) {
            return None;
        }
        Some(self.open(Cause::Errors, (base, longest), rules.jitter, now))
    }

    fn failure(&mut self, rules: &Rules, now: Duration) -> Option<Turn> {
        let Breaker { consecutive, base, longest } = rules.breaker;
        self.failures = self.failures.saturating_add(1);
        let over = consecutive > 0 && self.failures >= consecutive;
        let trial = matches!(self.state, State::Half { .. });
        if matches!(self.state, State::Open { .. }) || !(trial || over) {
            return None;
        }
        Some(self.open(Cause::Failures, (base, longest), rules.jitter, now))
    }

    fn rest(&mut self, asked: Duration, rules: &Rules, now: Duration) -> Option<Turn> {
        if self.state != State::Closed || !rules.may_eject {
            return None;
        }
        let lasts = asked.min(rules.outliers.longest);
        self.state = State::Open { until: now.saturating_add(lasts), cause: Cause::Rest };
        Some(Turn::Opened { cause: Cause::Rest, lasts })
    }

    fn open(
        &mut self,
        cause: Cause,
        (base, longest): (Duration, Duration),
        jitter: u64,
        now: Duration,
    ) -> Turn {
        if self.state == State::Closed && now.saturating_sub(self.closed_at) > longest {
            self.trips = 0;
        }
        let lasts = base.saturating_mul(1 << self.trips.min(20)).min(longest);
        // Up to a tenth more, so that endpoints that fell together do not all come back together.
        let lasts =
            lasts.saturating_add(lasts.mul_f64(f64::from(u16::try_from(jitter % 100).unwrap_or(0)) / 1000.0));
        self.trips = self.trips.saturating_add(1);
        self.state = State::Open { until: now.saturating_add(lasts), cause };
        Turn::Opened { cause, lasts }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause, Circuit, Outcome, Rules, Turn};
    use foregate_policy::balancing::{Breaker, Outliers};
    use std::time::Duration;

    const S: Duration = Duration::from_secs(1);
    const NOW: Duration = Duration::from_secs(1_000);

    fn rules() -> Rules {
        let outliers = Outliers { consecutive: 3, base: 10 * S, longest: 25 * S, max_percent: 50 };
        let breaker = Breaker { consecutive: 2, base: S, longest: 60 * S };
        Rules { outliers, breaker, may_eject: true, jitter: 0 }
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_trial_decides() {
        let circuit = Circuit::default();
        let note = |outcome, now| circuit.note(outcome, &rules(), now);
        assert_eq!(note(Outcome::Failure, NOW), None);
        assert_eq!(note(Outcome::Good, NOW), None, "not in a row");
        assert!(!circuit.troubled());
        assert_eq!(note(Outcome::Failure, NOW), None);
        let opened = |lasts| Some(Turn::Opened { cause: Cause::Failures, lasts });
        assert_eq!(note(Outcome::Failure, NOW), opened(S));
        assert!(!circuit.closed() && !circuit.try_once(NOW, true));
        assert_eq!(note(Outcome::Good, NOW), None, "an answer from before");
        assert!(circuit.try_once(NOW + S, true));
        assert!(!circuit.try_once(NOW + S, true), "one at a time");
        assert_eq!(note(Outcome::Failure, NOW + S), opened(2 * S), "longer each time");
        assert!(!circuit.try_once(NOW + 3 * S, false), "what may be repeated comes first");
        assert!(circuit.try_once(NOW + 5 * S, false));
        assert!(circuit.try_once(NOW + 6 * S, true), "a trial that nobody heard of again is made anew");
        assert_eq!(note(Outcome::Good, NOW + 6 * S), Some(Turn::Closed));
        assert!(circuit.closed() && !circuit.troubled());
        note(Outcome::Failure, NOW + 7 * S);
        assert_eq!(note(Outcome::Failure, NOW + 7 * S), opened(4 * S), "soon again: longer still");
        assert!(circuit.try_once(NOW + 12 * S, true));
        note(Outcome::Good, NOW + 12 * S);
        note(Outcome::Failure, NOW + 500 * S);
        assert_eq!(note(Outcome::Failure, NOW + 500 * S), opened(S), "long ago is forgotten");
    }

    #[test]
    fn errors_eject_as_long_as_they_may() {
        let circuit = Circuit::default();
        let full = Rules { may_eject: false, ..rules() };
        for _ in 0..10 {
            assert_eq!(circuit.note(Outcome::Error, &full, NOW), None);
        }
        let opened = |lasts| Some(Turn::Opened { cause: Cause::Errors, lasts });
        assert_eq!(circuit.note(Outcome::Error, &rules(), NOW), opened(10 * S));
        assert!(circuit.try_once(NOW + 10 * S, true));
        assert_eq!(circuit.note(Outcome::Error, &rules(), NOW + 10 * S), opened(20 * S));
        assert!(circuit.try_once(NOW + 30 * S, true));
        assert_eq!(circuit.note(Outcome::Error, &rules(), NOW + 30 * S), opened(25 * S), "never longer");
        let off = Rules { outliers: Outliers { consecutive: 0, ..rules().outliers }, ..rules() };
        let circuit = Circuit::default();
        for _ in 0..100 {
            assert_eq!(circuit.note(Outcome::Error, &off, NOW), None);
        }
    }

    #[test]
    fn a_rest_that_is_asked_for_is_given_within_bounds() {
        let circuit = Circuit::default();
        let turn = circuit.note(Outcome::Rest(100 * S), &rules(), NOW);
        assert_eq!(turn, Some(Turn::Opened { cause: Cause::Rest, lasts: 25 * S }));
        assert!(!circuit.try_once(NOW + 24 * S, true));
        assert!(circuit.try_once(NOW + 25 * S, false));
        let none = Rules { may_eject: false, ..rules() };
        assert_eq!(Circuit::default().note(Outcome::Rest(S), &none, NOW), None);
    }

    #[test]
    fn an_endpoint_that_answers_with_an_error_can_be_reached() {
        let circuit = Circuit::default();
        circuit.note(Outcome::Failure, &rules(), NOW);
        circuit.note(Outcome::Failure, &rules(), NOW);
        assert!(circuit.try_once(NOW + S, true));
        assert_eq!(circuit.note(Outcome::Error, &rules(), NOW + S), Some(Turn::Closed));
    }
}

//! Which filters of a chain ran, noted as they run.

use std::fmt;
use std::time::Duration;

use smallvec::SmallVec;

/// How far a request came in its chain. Noting it takes a few instructions a filter; what it means is
/// looked up in the description of the chain, and only for decisions that are kept.
#[derive(Debug, Default)]
pub struct Trace {
    /// Filters that were asked, counted from the first of the chain.
    pub ran: u16,
    /// Filters that answered; one less than `ran` while a filter is still waited for.
    pub done: u16,
    /// The last of them refused.
    pub refused: bool,
    /// The rules that let the request through: index of the filter in its chain, place of the rule in its list.
    pub allowed: SmallVec<[(u16, u16); 2]>,
    /// Set where the time of every filter is to be measured.
    pub timing: Option<Box<Timing>>,
}

/// Time spent in each filter that answered, in run order.
pub struct Timing {
    clock: fn() -> Duration,
    pub spent: SmallVec<[Duration; 8]>,
    /// When each of them was asked.
    pub began: SmallVec<[Duration; 8]>,
    /// When each score was there, or known to be missing.
    pub scored: SmallVec<[Duration; 2]>,
}

impl Trace {
    /// Measures time with this monotonic clock, which the caller lends.
    pub fn time(&mut self, clock: fn() -> Duration) {
        self.timing = Some(Box::new(Timing {
            clock,
            spent: SmallVec::new(),
            began: SmallVec::new(),
            scored: SmallVec::new(),
        }));
    }

    /// The next filter is asked; gives the time where it is measured.
    pub(crate) fn begin(&mut self) -> Option<Duration> {
        self.ran = self.ran.saturating_add(1);
        self.timing.as_ref().map(|timing| (timing.clock)())
    }

    /// It answered; `started` is what [`Trace::begin`] gave.
    pub(crate) fn end(&mut self, started: Option<Duration>) {
        self.done = self.ran;
        if let (Some(timing), Some(started)) = (&mut self.timing, started) {
            let spent = (timing.clock)().saturating_sub(started);
            timing.spent.push(spent);
            timing.began.push(started);
        }
    }

    /// A model was asked, and its score is there or known to be missing.
    pub(crate) fn score(&mut self) {
        if let Some(timing) = &mut self.timing {
            let now = (timing.clock)();
            timing.scored.push(now);
        }
    }

    /// The rule at this place of its list let the request through.
    pub fn allow(&mut self, place: u16) {
        self.allowed.push((self.ran.saturating_sub(1), place));
    }

    /// Time spent in the filter at this index of the chain, where it was measured.
    pub fn spent(&self, link: usize) -> Option<Duration> {
        self.timing.as_ref().and_then(|timing| timing.spent.get(link).copied())
    }
}

impl fmt::Debug for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timing").field(&self.spent).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use crate::testing::{TestResources, block_on, build, get};

    const POLICY: &str = r#"
addresses: { deny: [10.0.0.0/8] }
authorize:
- { name: no-admin, deny: 'request.path == "/admin"' }
- { name: writers, allow: 'request.method == "POST"' }
- { name: readers, allow: 'request.method == "GET"' }
rateLimit: [{ name: all, key: source.address, limit: 9, per: 1s }]
"#;

    thread_local! {
        static TICKS: Cell<u64> = const { Cell::new(0) };
    }

    /// A clock that goes on by a second at every look.
    fn ticking() -> Duration {
        TICKS.set(TICKS.get() + 1);
        Duration::from_secs(TICKS.get())
    }

    #[test]
    fn a_trace_tells_how_far_a_request_came_and_who_let_it_through() {
        let chain = build(POLICY, &TestResources::default()).unwrap();
        for (call, ran, refused, allowed) in [
            (get("/"), 3, false, Some((2, 2))),
            (get("/").method("POST"), 3, false, Some((2, 1))),
            (get("/").peer("10.0.0.1"), 1, true, None),
            (get("/admin"), 3, true, None),
            (get("/").method("PUT"), 3, true, None),
        ] {
            let (ctx, outcome) = crate::testing::run(&chain, &call);
            assert_eq!(outcome.is_err(), refused);
            let trace = &ctx.trace;
            assert_eq!((trace.ran, trace.done, trace.refused), (ran, ran, refused), "{call:?}");
            assert_eq!(trace.allowed.first().copied(), allowed, "{call:?}");
            assert_eq!(trace.spent(0), None, "no clock was lent");
        }
    }

    #[test]
    fn time_is_measured_where_a_clock_is_lent() {
        let chain = build(POLICY, &TestResources::default()).unwrap();
        let call = get("/");
        let mut ctx = call.context();
        ctx.trace.time(ticking);
        block_on(chain.run_head(&call.head(), &mut ctx)).unwrap();
        let spent: Vec<_> = (0..4).map(|link| ctx.trace.spent(link)).collect();
        let second = Some(Duration::from_secs(1));
        assert_eq!(spent, [second, second, second, None]);
        assert_eq!(TICKS.get(), 6);
    }
}

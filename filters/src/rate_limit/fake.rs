//! Shared counters for tests, with the failures a test asks for.

use std::fmt;
use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use super::in_process::InProcess;
use super::shared::{Decisions, SharedCounters, Take, Taking, Unavailable};
use crate::moment::Moment;

/// Counts what it is asked, and how often.
#[derive(Debug, Default)]
pub struct FakeCounters {
    counters: InProcess,
    /// The store answers nobody.
    pub down: AtomicBool,
    /// Leases suffice: nobody has to wait.
    pub leased: AtomicBool,
    pub trips: AtomicUsize,
    /// No answer comes before the store was asked so often.
    pub after: AtomicUsize,
    pub at_once: AtomicUsize,
    pub given_back: AtomicUsize,
    /// The groups of the last takes.
    pub groups: Mutex<Vec<String>>,
    /// Happens once the next takes are decided, before the answer is there.
    pub meanwhile: Mutex<Option<Meanwhile>>,
}

/// Looks for an answer after which it is not to come any more.
const LOOKS: u32 = 1_000;

/// Something that happens while an answer is waited for.
pub struct Meanwhile(pub Box<dyn FnOnce() + Send>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl FakeCounters {
    fn decide(&self, takes: &[Take], moment: Moment) -> Option<Decisions> {
        *self.groups.lock().unwrap() = takes.iter().map(|take| take.counter.group.to_string()).collect();
        let decisions = self.counters.take_at_once(takes, moment);
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(Meanwhile(happens)) = meanwhile {
            happens();
        }
        decisions
    }
}

impl SharedCounters for FakeCounters {
    fn take_at_once(&self, takes: &[Take], moment: Moment) -> Option<Decisions> {
        self.at_once.fetch_add(1, Ordering::Relaxed);
        self.leased.load(Ordering::Relaxed).then(|| self.decide(takes, moment)).flatten()
    }

    fn take<'a>(&'a self, takes: &'a [Take], moment: Moment) -> Taking<'a> {
        self.trips.fetch_add(1, Ordering::Relaxed);
        let down = self.down.load(Ordering::Relaxed);
        let answer = if down { None } else { self.decide(takes, moment) };
        let mut looks = 0;
        let early = poll_fn(move |_| {
            looks += 1;
            match self.trips.load(Ordering::Relaxed) {
                trips if trips >= self.after.load(Ordering::Relaxed) => Poll::Ready(false),
                _ if looks > LOOKS => Poll::Ready(true),
                _ => Poll::Pending,
            }
        });
        Box::pin(async move {
            let why = if early.await { "nobody else asked" } else { "the test says so" };
            answer.filter(|_| why == "the test says so").ok_or_else(|| Unavailable(why.into()))
        })
    }

    fn give_back(&self, takes: &[Take], moment: Moment) {
        self.given_back.fetch_add(takes.len(), Ordering::Relaxed);
        self.counters.give_back(takes, moment);
    }
}

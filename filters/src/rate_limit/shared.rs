//! The border to counters that several processes share.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use smallvec::SmallVec;

use super::calendar::Calendar;
use super::limiter::{Decision, Rate};
use crate::moment::Moment;

/// One amount to be taken from one counter.
#[derive(Clone, Debug)]
pub struct Take {
    pub counter: Arc<Counter>,
    /// Whose share it is. Kept apart from all other keys of the same counter.
    pub key: Box<str>,
    /// How many are taken, 0 to 1,000,000; 0 only asks how the counter stands.
    pub cost: u32,
}

/// A counter that processes share.
#[derive(Clone, Debug)]
pub struct Counter {
    /// `policy/rule`: processes with the same name and the same [`Admits`] count together.
    pub name: Arc<str>,
    pub admits: Admits,
    /// How many a process may take in advance at once; `None`: every request asks the store.
    pub lease: Option<u32>,
    /// Counters of one group are taken together: they live at one place of the store.
    pub group: Arc<str>,
}

/// How much a shared counter admits.
#[derive(Clone, Debug)]
pub enum Admits {
    Rate(Rate),
    /// At most `limit` in each window of the calendar.
    Window {
        limit: u64,
        calendar: Arc<Calendar>,
    },
}

/// The store cannot be asked: why. For operators, never for callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub Box<str>);

/// One decision for each of the takes, in their order.
pub type Decisions = SmallVec<[Decision; 2]>;

/// Decisions that are being waited for.
pub type Taking<'a> = Pin<Box<dyn Future<Output = Result<Decisions, Unavailable>> + Send + 'a>>;

/// Counters that processes share, kept by somebody else.
pub trait SharedCounters: Debug + Send + Sync {
    /// Takes all, or none, without waiting; `None` where the store must be asked.
    ///
    /// A decision tells how its counter stood: where one is not admitted, nothing was taken from any.
    fn take_at_once(&self, takes: &[Take], moment: Moment) -> Option<Decisions>;

    /// The same in one round trip, bounded by the timeout of the store.
    fn take<'a>(&'a self, takes: &'a [Take], moment: Moment) -> Taking<'a>;

    /// Gives back what was taken and then used for nothing. Waits for nothing, and may be dropped
    /// where the store cannot be asked: callers lose by that, never the limit.
    fn give_back(&self, takes: &[Take], moment: Moment);
}

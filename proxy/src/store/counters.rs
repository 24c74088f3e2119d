//! Counters that processes share, kept in a store.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use foregate_filters::moment::Moment;
use foregate_filters::rate_limit::calendar::Period;
use foregate_filters::rate_limit::shared::{
    Admits, Counter, Decisions, SharedCounters, Take, Taking, Unavailable,
};
use futures_util::stream::{self, StreamExt};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::clock;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::leases::{Answer, Unused};
use crate::store::script::{Argument, GIVE, TAKE, numbers};

/// How often units that nobody used are looked for.
const SWEEP: Duration = Duration::from_millis(250);

/// Keys that units of are given back in one sweep; the others wait for the next.
const SWEPT: usize = 256;

/// Keys that are given back to at once, one behind the other on the wire.
const GIVEN_AT_ONCE: usize = 32;

/// For what was begun with a store that no document names any more.
const RETIRE: Duration = Duration::from_mins(1);

/// Numbers that the script answers for each counter.
const PER_COUNTER: usize = 6;

/// Largest number that scripts count with exactly.
const EXACT: u64 = (1 << 53) - 1;

/// Calendars whose windows are remembered.
const CALENDARS: usize = 64;

/// Start and end of a window, with the start of the one before and the end of the one after.
type Windows = [u64; 4];

/// The counters in one store; a handle.
#[derive(Clone, Debug)]
pub struct Counters(Arc<Store>);

/// The windows of now, by what calendars say: the same zone and period are one, whichever policy asks.
#[derive(Debug, Default)]
pub(super) struct Calendars(Mutex<Vec<Known>>);

#[derive(Debug)]
struct Known {
    period: Period,
    zone: Box<str>,
    windows: Windows,
}

impl Counters {
    pub fn new(store: Arc<Store>) -> Self {
        Self(store)
    }
}

impl SharedCounters for Counters {
    fn take_at_once(&self, takes: &[Take], moment: Moment) -> Option<Decisions> {
        let (decisions, refills) = self.0.leases.decide(takes, moment)?;
        self.0.stats.decided_here();
        for index in refills {
            if let Some(take) = takes.get(index) {
                self.refill(Take { cost: 0, ..take.clone() });
            }
        }
        Some(decisions)
    }

    fn take<'a>(&'a self, takes: &'a [Take], moment: Moment) -> Taking<'a> {
        Box::pin(async move {
            let decided = self.0.take(takes, false, moment).await;
            decided.map_err(|error| Unavailable(format!("store `{}`: {error}", self.0.name()).into()))
        })
    }

    fn give_back(&self, takes: &[Take], moment: Moment) {
        let store = &self.0;
        for take in takes.iter().filter(|take| take.cost > 0) {
            let start = match &take.counter.admits {
                Admits::Rate(_) => 0,
                Admits::Window { calendar, .. } => calendar.window(moment.unix).0,
            };
            if store.leases.give_back(take, start, moment.monotonic) {
                continue;
            }
            let counter = Arc::clone(&take.counter);
            let since = moment.monotonic;
            let unused = Unused { counter, key: take.key.clone(), units: take.cost, start, since };
            let store = Arc::clone(store);
            // Bounded by the requests in flight: beyond them it fails at once, and is dropped.
            self.0.runtime.spawn(async move { store.give(&unused).await });
        }
    }
}

impl Counters {
    /// Takes more in advance, while requests go on with what is left.
    fn refill(&self, take: Take) {
        let store = Arc::clone(&self.0);
        let moment = clock::now();
        // Noted before anybody else looks.
        let claimed = store.leases.claim(&take);
        if claimed {
            self.0.runtime.spawn(async move {
                // Where it fails, requests ask for themselves.
                let _ = store.take(&[take], true, moment).await;
            });
        }
    }
}

impl Store {
    async fn take(&self, takes: &[Take], refill: bool, moment: Moment) -> Result<Decisions, StoreError> {
        let asked = self.leases.ask(takes, refill, moment.monotonic);
        let mut keys = Vec::with_capacity(takes.len());
        let mut arguments: SmallVec<[Argument<'_>; 16]> = SmallVec::new();
        for (take, more) in takes.iter().zip(asked.more()) {
            keys.push(self.counter_key(&take.counter, &take.key));
            let windows = self.calendars.of(&take.counter.admits, moment);
            arguments.extend(take_arguments(take, more, windows));
        }
        let answer = Box::pin(self.run(&TAKE, &keys, &arguments)).await?;
        let answers = answers(&numbers(answer)?, takes.len())?;
        let more = answers.iter().map(|answer| u64::from(answer.more)).sum();
        self.stats.leased(more);
        Ok(asked.settle(takes, &answers, moment))
    }

    /// Gives back to several keys at once, so many that nobody waits for his turn behind them.
    async fn give_each(&self, unused: Vec<Unused>) {
        let give = |unused| async move { self.give(&unused).await };
        stream::iter(unused).for_each_concurrent(GIVEN_AT_ONCE, give).await;
    }

    /// Gives units back; what cannot be told to the store is lost until it comes back by itself.
    async fn give(&self, unused: &Unused) {
        let key = self.counter_key(&unused.counter, &unused.key);
        let units = u64::from(unused.units);
        let numbers = match &unused.counter.admits {
            Admits::Rate(rate) => [units, rate.limit.max(1).into(), micros(rate.per), unused.age()],
            Admits::Window { .. } => [units, unused.start, 0, 0],
        };
        let arguments: SmallVec<[Argument<'_>; 5]> =
            [kind(&unused.counter.admits)].into_iter().chain(numbers.map(Argument::Number)).collect();
        let given = Box::pin(self.run(&GIVE, &[key], &arguments)).await;
        self.stats.returned(units, given.is_ok());
    }

    /// The key of a counter at the server. Keys of callers are hashed: they may be long, and secret.
    ///
    /// Counters of one group have one hash tag, so that a cluster keeps them together; a counter that is a group of
    /// its own has one by key, so that a cluster spreads them.
    fn counter_key(&self, counter: &Counter, key: &str) -> String {
        let mut hash = Sha256::new();
        for part in [counter.name.as_bytes(), key.as_bytes()] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let hash = digest.iter().take(16).fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
        let prefix = &self.settings.prefix;
        let name = plain(&counter.name);
        // Whatever changes what the numbers of a counter mean begins it anew.
        let kind = match &counter.admits {
            Admits::Rate(rate) => format!("{}-{}", rate.limit, micros(rate.per)),
            Admits::Window { calendar, .. } => match calendar.period() {
                Period::Day => format!("day-{}", calendar.zone()),
                Period::Month => format!("month-{}", calendar.zone()),
            },
        };
        // Only a cluster keeps apart what is asked together: elsewhere a limit more or less in the policy changes no key.
        if !self.settings.cluster || counter.group == counter.name {
            format!("{prefix}:{{{hash:032x}}}:{kind}:{name}")
        } else {
            format!("{prefix}:{{{}}}:{kind}:{name}:{hash:032x}", plain(&counter.group))
        }
    }
}

/// A name without what hash tags are made of.
fn plain(name: &str) -> String {
    name.replace(['{', '}'], "_")
}

/// Microseconds, rounded up, so that a period never admits more than the limit.
fn micros(per: Duration) -> u64 {
    u64::try_from(per.as_nanos().div_ceil(1_000)).unwrap_or(EXACT).clamp(1, EXACT)
}

fn kind(admits: &Admits) -> Argument<'static> {
    Argument::Bytes(match admits {
        Admits::Rate(_) => b"r",
        Admits::Window { .. } => b"w",
    })
}

fn take_arguments(take: &Take, more: u32, windows: Windows) -> [Argument<'static>; 8] {
    let [before, start, end, next] = windows;
    let numbers = match &take.counter.admits {
        Admits::Rate(rate) => {
            [u64::from(rate.limit.max(1)), micros(rate.per), u64::from(rate.burst.max(1)), 0, 0]
        }
        Admits::Window { limit, .. } => [(*limit).min(EXACT), before, start, end, next],
    };
    let [limit, second, third, fourth, fifth] = numbers.map(Argument::Number);
    let (cost, more) = (Argument::Number(take.cost.into()), Argument::Number(more.into()));
    [kind(&take.counter.admits), cost, more, limit, second, third, fourth, fifth]
}

/// What the script answered, counter by counter.
fn answers(numbers: &[i64], counters: usize) -> Result<SmallVec<[Answer; 2]>, StoreError> {
    let Some((_, each)) = numbers.split_first() else { return Err(StoreError::Malformed) };
    if each.len() != counters * PER_COUNTER {
        return Err(StoreError::Malformed);
    }
    let one = |numbers: &[i64]| {
        let [admitted, left, retry, reset, more, start] = numbers else { return Err(StoreError::Malformed) };
        let number = |number: i64| u64::try_from(number).map_err(|_| StoreError::Malformed);
        Ok(Answer {
            admitted: *admitted == 1,
            left: number(*left)?,
            retry: Duration::from_micros(number(*retry)?),
            reset: Duration::from_micros(number(*reset)?),
            more: u32::try_from(*more).map_err(|_| StoreError::Malformed)?,
            start: number(*start)?,
        })
    };
    each.chunks(PER_COUNTER).map(one).collect()
}

impl Calendars {
    fn of(&self, admits: &Admits, moment: Moment) -> Windows {
        let Admits::Window { calendar, .. } = admits else { return Windows::default() };
        let now = moment.unix.as_secs();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (period, zone) = (calendar.period(), calendar.zone());
        let place = known.iter().position(|known| known.period == period && *known.zone == *zone);
        if let Some(Known { windows, .. }) = place.and_then(|place| known.get(place)) {
            let [_, start, end, _] = *windows;
            if (start..end).contains(&now) {
                return *windows;
            }
        }
        let (start, end) = calendar.window(moment.unix);
        let (before, _) = calendar.window(Duration::from_secs(start.saturating_sub(1)));
        let (_, next) = calendar.window(Duration::from_secs(end));
        let windows = [before, start, end, next].map(|second| second.min(EXACT / 1_000_000));
        if let Some(place) = place {
            known.swap_remove(place);
        } else if known.len() >= CALENDARS {
            known.remove(0);
        }
        known.push(Known { period, zone: zone.into(), windows });
        windows
    }
}

impl Unused {
    /// Microseconds since the first of the units was taken.
    fn age(&self) -> u64 {
        let age = clock::monotonic().saturating_sub(self.since);
        u64::try_from(age.as_micros()).unwrap_or(EXACT).min(EXACT)
    }
}

/// Gives back what nobody used, again and again; ends with the store.
pub(super) async fn sweep(store: Weak<Store>) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(store) = store.upgrade() else { return };
        let unused = store.leases.sweep(clock::monotonic(), SWEPT);
        store.give_each(unused).await;
    }
}

/// Gives back all that is held, used or not within its time.
pub(super) async fn give_all(store: &Arc<Store>) {
    loop {
        let unused = store.leases.sweep(Duration::MAX, SWEPT);
        if unused.is_empty() {
            return;
        }
        store.give_each(unused).await;
    }
}

/// Gives back all that a store holds that no document names any more, once nobody else has it: requests that were
/// pinned before still ask it, and its sweeper goes on meanwhile.
pub(super) async fn retire(store: Arc<Store>) {
    let end = clock::monotonic().saturating_add(RETIRE);
    while Arc::strong_count(&store) > 1 && clock::monotonic() < end {
        sleep(SWEEP).await;
    }
    // Whoever has it still may take as fast as it gives.
    let _ = timeout(RETIRE, give_all(&store)).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foregate_filters::rate_limit::calendar::{Calendar, Period};
    use foregate_filters::rate_limit::shared::Admits;

    use super::Calendars;
    use crate::clock;

    #[test]
    fn calendars_that_say_the_same_are_remembered_once() {
        let (calendars, moment) = (Calendars::default(), clock::now());
        let windows = |period, zone| {
            let calendar = Arc::new(Calendar::new(period, zone).unwrap());
            let (start, end) = calendar.window(moment.unix);
            let windows = calendars.of(&Admits::Window { limit: 1, calendar }, moment);
            assert_eq!(windows[1..3], [start, end]);
        };
        for _ in 0..100 {
            windows(Period::Day, "UTC");
            windows(Period::Day, "Europe/Berlin");
            windows(Period::Month, "europe/berlin");
        }
        assert_eq!(calendars.0.lock().unwrap().len(), 3);
    }
}

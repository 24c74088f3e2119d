//! Units taken in advance and refusals remembered: decisions without a round trip.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::RandomState;
use foregate_filters::moment::Moment;
use foregate_filters::rate_limit::limiter::Decision;
use foregate_filters::rate_limit::shared::{Admits, Counter, Decisions, Take};
use smallvec::SmallVec;

use crate::store::entry::{Entry, Id, Refusal, first};

/// Units that are not used within this time are given back.
pub(super) const LEASE: Duration = Duration::from_secs(1);

/// A refusal is believed for so long at most: others may give back, and operators may take counters away.
const REFUSAL: Duration = Duration::from_secs(1);

const SHARDS: usize = 64;

/// Keys that one shard remembers: 131,072 in all, about 20 MiB. Without room, every request asks the store.
const SHARD_KEYS: usize = 2_048;

/// A full shard is looked through at most so often.
const PURGE: Duration = Duration::from_millis(100);

/// Units to be given back.
#[derive(Debug)]
pub(super) struct Unused {
    pub(super) counter: Arc<Counter>,
    pub(super) key: Box<str>,
    pub(super) units: u32,
    pub(super) start: u64,
    /// Monotonic time at which the first of them was taken.
    pub(super) since: Duration,
}

/// What the store said of one counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) admitted: bool,
    pub(super) left: u64,
    pub(super) retry: Duration,
    pub(super) reset: Duration,
    /// Taken in advance.
    pub(super) more: u32,
    pub(super) start: u64,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Id, Entry, RandomState>,
    purged: Duration,
}

/// The memory of one store.
#[derive(Debug)]
pub(super) struct Leases {
    shards: Box<[Mutex<Shard>]>,
    hashers: [RandomState; 2],
    /// The shard that the next sweep begins with.
    turn: AtomicUsize,
}

/// Units that are being asked for: no longer, once dropped.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    leases: &'a Leases,
    ids: SmallVec<[(Id, u32); 2]>,
    refill: bool,
    /// The store has answered.
    settled: bool,
}

impl Default for Leases {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hashers: [RandomState::new(), RandomState::new()], turn: AtomicUsize::new(0) }
    }
}

impl Leases {
    pub(super) fn id(&self, take: &Take) -> Id {
        let counter = &take.counter;
        let admits = match &counter.admits {
            Admits::Rate(rate) => (u64::from(rate.limit), u64::from(rate.burst), rate.per),
            Admits::Window { limit, calendar } => (*limit, calendar.period() as u64, Duration::MAX),
        };
        let [a, b] = &self.hashers;
        let what = (&*counter.name, admits, &*take.key);
        u128::from(a.hash_one(what)) << 64 | u128::from(b.hash_one(what))
    }

    fn shard(&self, id: Id) -> Option<MutexGuard<'_, Shard>> {
        let place = usize::try_from(id % SHARDS as u128).unwrap_or_default();
        // No code that can panic runs between two writes to a shard.
        Some(self.shards.get(place)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Decides by what is known here; `None` where the store must be asked. Says which of the takes want a refill.
    pub(super) fn decide(&self, takes: &[Take], moment: Moment) -> Option<(Decisions, SmallVec<[usize; 2]>)> {
        let ids: SmallVec<[Id; 2]> = takes.iter().map(|take| self.id(take)).collect();
        self.refused(takes, &ids, moment).map(|decisions| (decisions, SmallVec::new())).or_else(|| {
            let leased = takes.iter().all(|take| take.counter.lease.is_some());
            if leased && !takes.is_empty() { self.spend(takes, &ids, moment) } else { None }
        })
    }

    fn refused(&self, takes: &[Take], ids: &[Id], moment: Moment) -> Option<Decisions> {
        let now = moment.monotonic;
        let mut any = false;
        let mut decisions = Decisions::new();
        for (take, id) in takes.iter().zip(ids) {
            let shard = self.shard(*id)?;
            let entry = shard.entries.get(id);
            let refused = entry.and_then(|entry| entry.refused);
            let refused = refused.is_some_and(|it| take.cost >= it.cost && take.cost > 0 && it.until > now);
            any |= refused;
            let mut decision = entry.map_or_else(
                || {
                    let remaining = most(&take.counter.admits);
                    let (retry_after, reset_after) = Default::default();
                    Decision { admitted: true, remaining, retry_after, reset_after, key: first(*id) }
                },
                |entry| entry.decision(*id, !refused, now),
            );
            if !fits(take) {
                decision.retry_after = Duration::MAX;
            }
            decisions.push(decision);
        }
        any.then_some(decisions)
    }

    fn spend(&self, takes: &[Take], ids: &[Id], moment: Moment) -> Option<(Decisions, SmallVec<[usize; 2]>)> {
        let now = moment.monotonic;
        let (mut decisions, mut refills) = (Decisions::new(), SmallVec::new());
        for (index, (take, id)) in takes.iter().zip(ids).enumerate() {
            let mut shard = self.shard(*id)?;
            let entry = shard.entries.get_mut(id).filter(|it| it.until > now && it.units >= take.cost);
            let Some(entry) = entry else {
                drop(shard);
                self.put_back(takes.iter().zip(ids).take(index), now);
                return None;
            };
            entry.units -= take.cost;
            entry.seen = now;
            decisions.push(entry.decision(*id, true, now));
            if !entry.refilling && entry.asked == 0 && entry.units.saturating_mul(2) <= entry.want {
                refills.push(index);
            }
        }
        Some((decisions, refills))
    }

    fn put_back<'t>(&self, taken: impl Iterator<Item = (&'t Take, &'t Id)>, now: Duration) {
        for (take, id) in taken {
            let Some(mut shard) = self.shard(*id) else { continue };
            if let Some(entry) = shard.entries.get_mut(id).filter(|entry| entry.until > now) {
                entry.units = entry.units.saturating_add(take.cost);
            }
        }
    }

    /// Takes units back that were spent for nothing in the window that begins at `start`; false where there is no lease
    /// of it to put them to, or no room in it.
    pub(super) fn give_back(&self, take: &Take, start: u64, now: Duration) -> bool {
        let Some(lease) = take.counter.lease else { return false };
        let id = self.id(take);
        let Some(mut shard) = self.shard(id) else { return false };
        let entry = shard.entries.get_mut(&id).filter(|entry| entry.until > now && entry.start == start);
        let Some(entry) = entry else { return false };
        let held = entry.units.saturating_add(entry.asked).saturating_add(take.cost);
        if held > lease {
            return false;
        }
        entry.add_back(take.cost, now);
        true
    }

    /// How many more each of the takes asks for. Whatever comes at once, no key is ever owed more than its lease.
    pub(super) fn ask(&self, takes: &[Take], refill: bool, now: Duration) -> Asked<'_> {
        let mut asked = Asked { leases: self, ids: SmallVec::new(), refill, settled: false };
        for take in takes {
            let id = self.id(take);
            let more = take.counter.lease.map_or(0, |lease| self.reserve(take, id, lease, refill, now));
            asked.ids.push((id, more));
        }
        asked
    }

    /// True where nobody else refills this key: it is now being refilled.
    pub(super) fn claim(&self, take: &Take) -> bool {
        let id = self.id(take);
        let Some(mut shard) = self.shard(id) else { return false };
        let entry = shard.entries.get_mut(&id).filter(|entry| !entry.refilling);
        entry.map(|entry| entry.refilling = true).is_some()
    }

    fn reserve(&self, take: &Take, id: Id, lease: u32, refill: bool, now: Duration) -> u32 {
        let Some(mut shard) = self.shard(id) else { return 0 };
        if take.cost == 0 && !refill {
            return 0;
        }
        let Some(entry) = shard.entry(id, now) else { return 0 };
        if entry.of.is_none() {
            entry.of = Some((Arc::clone(&take.counter), take.key.clone()));
        } else if refill || entry.seen.saturating_add(LEASE) > now {
            // Used up before its time.
            entry.want = entry.want.saturating_mul(2).clamp(1, lease);
        } else {
            entry.want /= 2;
        }
        entry.seen = now;
        entry.refilling |= refill;
        let held = entry.units.saturating_add(entry.asked);
        let more = entry.want.min(lease).saturating_sub(held);
        entry.asked = entry.asked.saturating_add(more);
        more
    }

    /// Notes what the store said of one take.
    fn settle(&self, take: &Take, id: Id, answer: &Answer, moment: Moment) {
        let now = moment.monotonic;
        let Some(mut shard) = self.shard(id) else { return };
        let known = shard.entries.contains_key(&id);
        if !known && answer.admitted {
            return;
        }
        let Some(entry) = shard.entry(id, now) else { return };
        if entry.start != answer.start {
            entry.units = 0;
            entry.until = Duration::ZERO;
            entry.start = answer.start;
        }
        entry.left = answer.left;
        entry.full_at = now.saturating_add(answer.reset);
        entry.seen = entry.seen.max(now);
        if answer.admitted {
            entry.refused = None;
        } else if !answer.retry.is_zero() {
            let until = now.saturating_add(answer.retry.min(REFUSAL));
            let retry_at = now.saturating_add(answer.retry);
            entry.refused = Some(Refusal { cost: take.cost, until, retry_at });
        }
        if answer.more > 0 {
            entry.add(answer.more, now);
            // No unit outlives its window.
            let rest = if answer.start > 0 { answer.reset.min(LEASE) } else { LEASE };
            entry.until = entry.until.max(now.saturating_add(rest));
        }
    }

    /// Lets go of what is idle, and gives what nobody used in time, up to a bound. The next sweep begins behind the shard
    /// where that was reached: no key waits behind others for ever.
    pub(super) fn sweep(&self, now: Duration, bound: usize) -> Vec<Unused> {
        let mut unused = Vec::new();
        let begin = self.turn.load(Ordering::Relaxed) % SHARDS;
        let mut next = begin + 1;
        let (before, from) = self.shards.split_at(begin.min(self.shards.len()));
        for (place, shard) in (begin..).zip(from.iter().chain(before)) {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let full = unused.len() >= bound;
            shard.give(now, bound, &mut unused);
            if !full && unused.len() >= bound {
                next = place + 1;
            }
            shard.entries.retain(|_, entry| !entry.is_idle(now));
        }
        self.turn.store(next % SHARDS, Ordering::Relaxed);
        unused
    }

    /// Units that are held, and keys that are known.
    pub(super) fn held(&self) -> (u64, usize) {
        let (mut units, mut keys) = (0, 0);
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            units += shard.entries.values().map(|entry| u64::from(entry.units)).sum::<u64>();
            keys += shard.entries.len();
        }
        (units, keys)
    }
}

impl Shard {
    /// Takes out what nobody used in time, until so much is unused: where that is not all, what is due for longest.
    fn give(&mut self, now: Duration, bound: usize, unused: &mut Vec<Unused>) {
        let room = bound.saturating_sub(unused.len());
        let due = self.entries.iter().filter(|(_, entry)| entry.units > 0 && entry.until <= now);
        let mut due: Vec<(Duration, Id)> = due.map(|(id, entry)| (entry.until, *id)).collect();
        if room < due.len() {
            due.select_nth_unstable(room);
            due.truncate(room);
        }
        for (_, id) in due {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if entry.units.saturating_mul(2) > entry.want {
                entry.want /= 2;
            }
            let (since, units) = (entry.since(), std::mem::take(&mut entry.units));
            if let Some((counter, key)) = &entry.of {
                let (counter, key) = (Arc::clone(counter), key.clone());
                unused.push(Unused { counter, key, units, start: entry.start, since });
            }
        }
    }

    /// What is known of a key; made where there is room.
    fn entry(&mut self, id: Id, now: Duration) -> Option<&mut Entry> {
        let full = self.entries.len() >= SHARD_KEYS && !self.entries.contains_key(&id);
        if full && self.purged.saturating_add(PURGE) <= now {
            self.purged = now;
            // Refusals make room before leases.
            self.entries.retain(|_, it| it.units > 0 || it.asked > 0 || it.refilling);
        }
        if self.entries.len() >= SHARD_KEYS && !self.entries.contains_key(&id) {
            return None;
        }
        Some(self.entries.entry(id).or_default())
    }
}

impl Asked<'_> {
    /// How many more each take asks for, in their order.
    pub(super) fn more(&self) -> impl Iterator<Item = u32> {
        self.ids.iter().map(|(_, more)| *more)
    }

    /// Notes the answers, and gives the decisions.
    pub(super) fn settle(mut self, takes: &[Take], answers: &[Answer], moment: Moment) -> Decisions {
        self.settled = true;
        let each = takes.iter().zip(&self.ids).zip(answers);
        each.map(|((take, (id, _)), answer)| {
            self.leases.settle(take, *id, answer, moment);
            Decision {
                admitted: answer.admitted,
                remaining: answer.left.saturating_add(answer.more.into()),
                retry_after: if fits(take) { answer.retry } else { Duration::MAX },
                reset_after: answer.reset,
                key: first(*id),
            }
        })
        .collect()
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        for (id, more) in &self.ids {
            let Some(mut shard) = self.leases.shard(*id) else { continue };
            if let Some(entry) = shard.entries.get_mut(id) {
                entry.asked = entry.asked.saturating_sub(*more);
                entry.refilling &= !self.refill;
                if !self.settled {
                    // What was taken may be lost: the next one asks for little.
                    entry.want = 0;
                }
            }
        }
    }
}

/// False for a cost that is never admitted.
fn fits(take: &Take) -> bool {
    u64::from(take.cost) <= most(&take.counter.admits)
}

/// What a counter has left that nobody has taken from.
fn most(admits: &Admits) -> u64 {
    match admits {
        Admits::Rate(rate) => rate.burst.into(),
        Admits::Window { limit, .. } => *limit,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use foregate_filters::moment::Moment;
    use foregate_filters::rate_limit::limiter::Rate;
    use foregate_filters::rate_limit::shared::{Admits, Counter, Take};

    use super::{Answer, LEASE, Leases};

    fn at(millis: u64) -> Moment {
        Moment { unix: Duration::from_hours(500_000), monotonic: Duration::from_millis(millis) }
    }

    fn take(cost: u32) -> Take {
        of("k", cost)
    }

    fn of(key: &str, cost: u32) -> Take {
        let admits = Admits::Rate(Rate { limit: 100, per: Duration::from_secs(1), burst: 100 });
        let (name, group) = ("p/a".into(), "p/a".into());
        let counter = Arc::new(Counter { name, admits, lease: Some(8), group });
        Take { counter, key: key.into(), cost }
    }

    /// Asks the store, which gives all that is asked for; tells how much more that was.
    fn ask(leases: &Leases, moment: Moment, start: u64) -> u32 {
        ask_for(leases, take(1), moment, start)
    }

    fn ask_for(leases: &Leases, take: Take, moment: Moment, start: u64) -> u32 {
        let takes = [take];
        let asked = leases.ask(&takes, false, moment.monotonic);
        let more = asked.more().next().unwrap();
        let (retry, reset) = (Duration::ZERO, Duration::from_millis(300));
        let answer = Answer { admitted: true, left: 50, retry, reset, more, start };
        asked.settle(&takes, &[answer], moment);
        more
    }

    #[test]
    fn a_lease_grows_while_it_is_used_up_and_never_over_its_bound() {
        let leases = Leases::default();
        let mut held = 0;
        let mut most = 0;
        for millis in 0..20 {
            held += ask(&leases, at(millis), 0);
            assert_eq!(leases.held().0, u64::from(held));
            most = most.max(held);
        }
        assert_eq!(most, 8);
        // Two at once do not get twice as much.
        let takes = [take(1)];
        let first = leases.ask(&takes, false, Duration::from_millis(21));
        let second = leases.ask(&takes, false, Duration::from_millis(21));
        assert_eq!((first.more().sum::<u32>(), second.more().sum::<u32>()), (0, 0), "all is held");
        drop((first, second));
        for left in (0..8).rev() {
            let (decisions, _) = leases.decide(&[take(1)], at(30)).unwrap();
            assert!(decisions[0].admitted);
            assert_eq!(decisions[0].remaining, 50 + left);
        }
        assert!(leases.decide(&[take(1)], at(30)).is_none(), "used up: the store is asked");
        let (first, second) = (
            leases.ask(&takes, false, Duration::from_millis(31)),
            leases.ask(&takes, false, Duration::from_millis(31)),
        );
        // The two before were never answered: what they asked for may be lost, so the next ask for little.
        assert_eq!((first.more().sum::<u32>(), second.more().sum::<u32>()), (1, 1));
    }

    #[test]
    fn units_are_used_in_their_time_and_then_given_back() {
        let leases = Leases::default();
        for millis in 0..3 {
            ask(&leases, at(millis), 0);
        }
        let held = u32::try_from(leases.held().0).unwrap();
        assert!(held > 1);
        assert!(leases.sweep(Duration::from_millis(500), 10).is_empty(), "their time is not over");
        assert_eq!(leases.decide(&[take(1)], at(900)).unwrap().0.len(), 1);
        let later = LEASE + Duration::from_millis(3);
        assert!(leases.decide(&[take(1)], Moment { monotonic: later, ..at(0) }).is_none());
        let unused = leases.sweep(later, 10);
        assert_eq!(unused.iter().map(|it| it.units).collect::<Vec<_>>(), [held - 1]);
        assert_eq!(leases.held().0, 0);
    }

    #[test]
    fn what_is_held_at_the_end_is_given_back_before_its_time() {
        let leases = Leases::default();
        for millis in 0..3 {
            ask(&leases, at(millis), 0);
        }
        assert_eq!(leases.sweep(Duration::MAX, 10).len(), 1);
        assert_eq!(leases.held(), (0, 0), "and nothing is remembered");
    }

    /// Leases that hold four units: one of 10 ms, one of 20 ms and two of 30 ms.
    fn four() -> Leases {
        let leases = Leases::default();
        let taken: Vec<u32> = (0..4).map(|number| ask(&leases, at(number * 10), 0)).collect();
        assert_eq!(taken, [0, 1, 1, 2]);
        leases
    }

    #[test]
    fn units_are_given_back_as_old_as_the_first_of_them_is() {
        for (used, since) in [(0, 10), (1, 10), (2, 30), (3, 30)] {
            let leases = four();
            for _ in 0..used {
                assert!(leases.decide(&[take(1)], at(40)).is_some());
            }
            let unused = leases.sweep(Duration::MAX, 10);
            assert_eq!(
                (unused[0].units, unused[0].since),
                (4 - used, Duration::from_millis(since)),
                "{used}"
            );
        }
        // What was used for nothing is as old as when it was used, or as the others.
        let leases = four();
        assert!(leases.decide(&[take(2)], at(40)).is_some());
        assert!(leases.give_back(&take(1), 0, Duration::from_millis(15)));
        assert_eq!(leases.sweep(Duration::MAX, 10)[0].since, Duration::from_millis(15));
    }

    #[test]
    fn no_key_waits_behind_others_for_ever() {
        let leases = Leases::default();
        let lease =
            |key: &str, millis| (0..2).map(|_| ask_for(&leases, of(key, 1), at(millis), 0)).sum::<u32>();
        let keys: Vec<String> = (0..300).map(|number| number.to_string()).collect();
        assert!(keys.iter().all(|key| lease(key, 0) == 1));
        let mut given = std::collections::HashSet::new();
        for sweep in 1..=keys.len() {
            let unused = leases.sweep(Duration::MAX, 8);
            assert_eq!(unused.len(), 8);
            for one in unused {
                // It is asked for again at once.
                lease(&one.key, sweep as u64);
                given.insert(one.key);
            }
        }
        assert_eq!(given.len(), keys.len());
    }

    #[test]
    fn no_unit_outlives_its_window() {
        let leases = Leases::default();
        for millis in 0..3 {
            ask(&leases, at(millis), 7);
        }
        assert!(leases.decide(&[take(1)], at(303)).is_none(), "the window ended after 300 ms");
        ask(&leases, at(310), 8);
        let (units, _) = leases.held();
        assert!(units <= 8);
        assert!(leases.sweep(Duration::MAX, 10).iter().all(|it| it.start == 8));
    }

    #[test]
    fn a_refusal_is_remembered_for_its_cost_until_its_time() {
        let leases = Leases::default();
        let takes = [take(5)];
        let asked = leases.ask(&takes, false, Duration::ZERO);
        let (retry, reset) = (Duration::from_millis(200), Duration::from_millis(900));
        let answer = Answer { admitted: false, left: 3, retry, reset, more: 0, start: 0 };
        asked.settle(&takes, &[answer], at(0));
        let (decisions, _) = leases.decide(&takes, at(50)).unwrap();
        assert_eq!((decisions[0].admitted, decisions[0].retry_after), (false, Duration::from_millis(150)));
        assert!(leases.decide(&[take(3)], at(50)).is_none(), "less may fit");
        assert!(leases.decide(&takes, at(200)).is_none());
        assert_eq!(leases.decide(&[take(101)], at(50)).unwrap().0[0].retry_after, Duration::MAX, "never");
    }
}

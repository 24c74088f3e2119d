//! What was carried out, in the memory of this process: bounded, soonest to expire out.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use foregate_filters::idempotency::answer::Answer;
use foregate_filters::idempotency::ledger::{Asked, Claim, Digest, Found, Later, Ledger, Unavailable};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::clock;

/// Most keys, those of requests under way included.
const KEYS: usize = 100_000;

/// Most bytes of answers.
const BYTES: usize = 64 << 20;

/// All that is remembered. One for the process; it outlives snapshots, and ends with the process.
#[derive(Debug)]
pub struct Memory {
    slots: Arc<Mutex<Slots>>,
    keys: usize,
    bytes: usize,
}

struct Slots {
    by_key: HashMap<Digest, Slot, ahash::RandomState>,
    /// Those that are done, by when they are forgotten.
    order: BTreeSet<(Duration, Digest)>,
    bytes: usize,
    /// Tells one run of a key from the next.
    next: u64,
    evictions: u64,
}

struct Slot {
    run: u64,
    fingerprint: Digest,
    state: State,
}

enum State {
    /// Held until its task ends, however long that takes: those that run are bounded by their number.
    Running(Arc<Notify>),
    Done {
        answer: Option<Arc<Answer>>,
        /// Monotonic time at which it is forgotten.
        until: Duration,
    },
}

/// A key that is held.
struct Held {
    slots: Weak<Mutex<Slots>>,
    bounds: (usize, usize),
    key: Digest,
    run: u64,
    keep: Duration,
}

impl Default for Memory {
    fn default() -> Self {
        Self::bounded(KEYS, BYTES)
    }
}

fn locked(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// At most so many keys, and bytes of answers.
    pub fn bounded(keys: usize, bytes: usize) -> Self {
        let (by_key, order) = Default::default();
        let slots = Slots { by_key, order, bytes: 0, next: 0, evictions: 0 };
        Self { slots: Arc::new(Mutex::new(slots)), keys, bytes }
    }

    /// Keys remembered now.
    pub fn keys(&self) -> usize {
        locked(&self.slots).by_key.len()
    }

    /// Bytes of answers remembered now.
    pub fn bytes(&self) -> usize {
        locked(&self.slots).bytes
    }

    /// Keys that were forgotten before their time.
    pub fn evictions(&self) -> u64 {
        locked(&self.slots).evictions
    }

    fn find(&self, asked: &Asked) -> Result<Found, Unavailable> {
        let now = clock::monotonic();
        let mut slots = locked(&self.slots);
        slots.make_room((self.keys, self.bytes), now);
        if let Some(slot) = slots.by_key.get(&asked.key) {
            return Ok(match &slot.state {
                State::Running(_) => Found::Running(slot.fingerprint),
                State::Done { answer, .. } => Found::Done(slot.fingerprint, answer.clone()),
            });
        }
        slots.make_room((self.keys.saturating_sub(1), self.bytes), now);
        if slots.by_key.len() >= self.keys {
            return Err(Unavailable(format!("{} requests with keys are under way", self.keys).into()));
        }
        slots.next += 1;
        let (run, state) = (slots.next, State::Running(Arc::default()));
        slots.by_key.insert(asked.key, Slot { run, fingerprint: asked.fingerprint, state });
        let (slots, bounds) = (Arc::downgrade(&self.slots), (self.keys, self.bytes));
        Ok(Found::Free(Box::new(Held { slots, bounds, key: asked.key, run, keep: asked.keep })))
    }

    /// Told when the run of a key ends; `None` where there is none.
    fn run_of(&self, key: &Digest) -> Option<Arc<Notify>> {
        match &locked(&self.slots).by_key.get(key)?.state {
            State::Running(ended) => Some(Arc::clone(ended)),
            State::Done { .. } => None,
        }
    }
}

impl Slots {
    fn forget(&mut self, key: &Digest) {
        match self.by_key.remove(key).map(|slot| slot.state) {
            Some(State::Done { answer, until }) => {
                self.bytes = self.bytes.saturating_sub(answer.map_or(0, |answer| answer.weight()));
                self.order.remove(&(until, *key));
            }
            Some(State::Running(ended)) => ended.notify_waiters(),
            None => {}
        }
    }

    /// Forgets what is past its time and, over the bounds, those of what is done that are next to go.
    fn make_room(&mut self, (keys, bytes): (usize, usize), now: Duration) {
        while let Some((until, key)) = self.order.first().copied() {
            let over = self.by_key.len() > keys || self.bytes > bytes;
            if until > now && !over {
                return;
            }
            self.evictions += u64::from(until > now);
            self.forget(&key);
        }
    }

    /// The run of a slot, if it is still this one.
    fn running(&self, key: &Digest, run: u64) -> Option<(&Slot, &Arc<Notify>)> {
        let slot = self.by_key.get(key).filter(|slot| slot.run == run)?;
        match &slot.state {
            State::Running(ended) => Some((slot, ended)),
            State::Done { .. } => None,
        }
    }
}

impl Ledger for Memory {
    fn claim<'a>(&'a self, asked: &'a Asked) -> Later<'a, Result<Found, Unavailable>> {
        Box::pin(std::future::ready(self.find(asked)))
    }

    fn ended<'a>(&'a self, key: &'a Digest, until: Duration) -> Later<'a, bool> {
        Box::pin(async move {
            let Some(run) = self.run_of(key) else { return true };
            let mut ended = pin!(run.notified());
            ended.as_mut().enable();
            // It may have ended between the two.
            if self.run_of(key).is_none_or(|now| !Arc::ptr_eq(&now, &run)) {
                return true;
            }
            timeout(until.saturating_sub(clock::monotonic()), ended).await.is_ok()
        })
    }
}

impl Claim for Held {
    fn finish(self: Box<Self>, answer: Option<Arc<Answer>>) {
        let Some(slots) = self.slots.upgrade() else { return };
        let mut slots = locked(&slots);
        let Some((slot, ended)) = slots.running(&self.key, self.run) else { return };
        let (fingerprint, ended, now) = (slot.fingerprint, Arc::clone(ended), clock::monotonic());
        slots.bytes += answer.as_ref().map_or(0, |answer| answer.weight());
        let until = now.saturating_add(self.keep);
        let done = Slot { run: self.run, fingerprint, state: State::Done { answer, until } };
        slots.by_key.insert(self.key, done);
        slots.order.insert((until, self.key));
        slots.make_room(self.bounds, now);
        ended.notify_waiters();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(slots) = self.slots.upgrade() else { return };
        let mut slots = locked(&slots);
        if slots.running(&self.key, self.run).is_some() {
            slots.forget(&self.key);
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("keys", &self.by_key.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("run", &self.run).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, locked};
    use bytes::Bytes;
    use foregate_filters::idempotency::answer::Answer;
    use foregate_filters::idempotency::ledger::{Asked, Claim, Found, Ledger};
    use http::{HeaderMap, StatusCode};
    use std::sync::Arc;
    use std::time::Duration;

    use crate::clock;

    const LONG: Duration = Duration::from_mins(1);

    fn asked(key: u8) -> Asked {
        Asked { key: [key; 32], fingerprint: [0; 32], lock: LONG, keep: LONG }
    }

    fn answer(bytes: usize) -> Arc<Answer> {
        let body = Bytes::from(vec![0; bytes]);
        Arc::new(Answer { status: StatusCode::OK, headers: HeaderMap::new(), body })
    }

    async fn claim(memory: &Memory, asked: &Asked) -> Box<dyn Claim> {
        match memory.claim(asked).await.unwrap() {
            Found::Free(claim) => claim,
            found => panic!("{found:?}"),
        }
    }

    /// One letter for what is known of a key: free, running, done with or without an answer.
    async fn state(memory: &Memory, asked: &Asked) -> char {
        match memory.claim(asked).await.unwrap() {
            Found::Free(_) => 'f',
            Found::Running(_) => 'r',
            Found::Done(_, Some(_)) => 'd',
            Found::Done(_, None) => 's',
        }
    }

    #[tokio::test]
    async fn a_key_is_held_by_one_and_done_or_free_afterwards() {
        let memory = Memory::default();
        let first = claim(&memory, &asked(1)).await;
        assert_eq!(state(&memory, &asked(1)).await, 'r');
        drop(first);
        let second = claim(&memory, &asked(1)).await;
        second.finish(Some(answer(10)));
        assert_eq!(state(&memory, &asked(1)).await, 'd');
        claim(&memory, &asked(2)).await.finish(None);
        assert_eq!(state(&memory, &asked(2)).await, 's');
        assert_eq!((memory.keys(), memory.bytes()), (2, 266));
    }

    #[tokio::test]
    async fn what_is_past_its_time_is_forgotten_and_a_run_under_way_is_not() {
        let memory = Memory::default();
        let short = Asked { lock: Duration::ZERO, keep: Duration::ZERO, ..asked(1) };
        let late = claim(&memory, &short).await;
        assert_eq!(state(&memory, &asked(1)).await, 'r', "its task lives");
        late.finish(Some(answer(1)));
        assert_eq!(state(&memory, &asked(1)).await, 'f');
        assert_eq!((memory.keys(), memory.bytes(), memory.evictions()), (0, 0, 0));
    }

    #[tokio::test]
    async fn what_is_kept_longest_is_forgotten_last_whenever_it_was_done() {
        let memory = Memory::bounded(3, 1 << 20);
        for (key, minutes) in [(1, 60), (2, 1), (3, 30)] {
            let asked = Asked { keep: Duration::from_mins(minutes), ..asked(key) };
            claim(&memory, &asked).await.finish(Some(answer(1)));
        }
        let mut running = Vec::new();
        for (more, expected) in [(4, [true, false, true]), (5, [true, false, false]), (6, [false; 3])] {
            running.push(claim(&memory, &asked(more)).await);
            let known = [1, 2, 3].map(|key| locked(&memory.slots).by_key.contains_key(&[key; 32]));
            assert_eq!(known, expected, "{more}");
        }
        assert_eq!(memory.evictions(), 3);
    }

    #[tokio::test]
    async fn over_the_bounds_the_oldest_are_forgotten_and_counted() {
        let memory = Memory::bounded(3, 2_000);
        let held = claim(&memory, &asked(0)).await;
        for key in 1..=3 {
            claim(&memory, &asked(key)).await.finish(Some(answer(0)));
        }
        assert_eq!((memory.keys(), memory.evictions()), (3, 1));
        assert_eq!([state(&memory, &asked(0)).await, state(&memory, &asked(3)).await], ['r', 'd']);
        claim(&memory, &asked(4)).await.finish(Some(answer(1_700)));
        assert_eq!(state(&memory, &asked(4)).await, 'd');
        assert!(memory.bytes() <= 2_000 && memory.evictions() >= 3);
        let more: Vec<_> = [claim(&memory, &asked(5)).await, claim(&memory, &asked(6)).await].into();
        assert!(memory.claim(&asked(7)).await.is_err(), "those under way are not forgotten");
        drop((held, more));
        assert_eq!(state(&memory, &asked(7)).await, 'f');
    }

    #[tokio::test]
    async fn who_waits_is_told_of_the_end() {
        let memory = Arc::new(Memory::default());
        let first = claim(&memory, &asked(1)).await;
        let until = clock::monotonic() + LONG;
        let waiting = tokio::spawn({
            let memory = Arc::clone(&memory);
            async move { memory.ended(&[1; 32], until).await }
        });
        tokio::task::yield_now().await;
        first.finish(Some(answer(1)));
        assert!(waiting.await.unwrap());
        assert!(memory.ended(&[1; 32], until).await);
        let _held = claim(&memory, &asked(2)).await;
        assert!(!memory.ended(&[2; 32], clock::monotonic()).await);
    }

    /// 1 for the first, 0 for all others.
    async fn first(memory: Arc<Memory>) -> u32 {
        let Found::Free(claim) = memory.claim(&asked(1)).await.unwrap() else { return 0 };
        tokio::task::yield_now().await;
        claim.finish(Some(answer(1)));
        1
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_at_once_one_is_the_first() {
        let memory = Arc::new(Memory::default());
        let all = (0..200).map(|_| tokio::spawn(first(Arc::clone(&memory))));
        let firsts = futures_util::future::join_all(all).await;
        assert_eq!(firsts.into_iter().map(Result::unwrap).sum::<u32>(), 1);
    }
}

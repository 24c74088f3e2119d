//! Bounded, sharded GCRA state: the oldest keys fall out first.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::nanos::Nanos;
use governor::state::StateStore;

/// Locks are held for a few tens of nanoseconds; 64 keep a few dozen threads apart.
const SHARDS: usize = 64;

/// 128 bits of a keyed hash: two keys meet by chance once in 10^26 pairs of a million live keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) u64, pub(super) u64);

/// Hands on the hash that a [`Key`] already is.
#[derive(Default)]
struct Ready(u64);

type Keys = HashMap<Key, Nanos, BuildHasherDefault<Ready>>;

/// Two generations of keys. A key that is met again moves to the current one; when that is full,
/// the previous one, with all keys not met since, is dropped.
#[derive(Debug, Default)]
struct Shard {
    current: Keys,
    previous: Keys,
}

/// The state of every key of one limiter; a handle.
#[derive(Clone, Debug)]
pub(super) struct Store(Arc<Shards>);

#[derive(Debug)]
struct Shards {
    all: Box<[Mutex<Shard>]>,
    /// Keys a generation of one shard may hold.
    generation: usize,
    evictions: AtomicU64,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

impl Store {
    /// Holds at most `capacity` keys, rounded up to two a shard.
    pub(super) fn new(capacity: usize) -> Self {
        let all = (0..SHARDS).map(|_| Mutex::default()).collect();
        let generation = (capacity / SHARDS / 2).max(1);
        Self(Arc::new(Shards { all, generation, evictions: AtomicU64::new(0) }))
    }

    /// Keys dropped to stay within the bound.
    pub(super) fn evictions(&self) -> u64 {
        self.0.evictions.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        self.0
            .all
            .iter()
            .map(|shard| {
                let shard = lock(shard);
                shard.current.len() + shard.previous.len()
            })
            .sum()
    }

    fn shard(&self, key: Key) -> Option<MutexGuard<'_, Shard>> {
        // The other half of the hash picks the place within the shard.
        let index = usize::try_from(key.1 % SHARDS as u64).unwrap_or_default();
        self.0.all.get(index).map(lock)
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // No code that can panic runs between two writes to a shard.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// Puts a key into the current generation; gives how many keys fell out for it.
    fn put(&mut self, key: Key, state: Nanos, generation: usize) -> usize {
        let mut dropped = 0;
        if self.current.len() >= generation && !self.current.contains_key(&key) {
            dropped = self.previous.len();
            // The emptied map keeps its memory, so that the turn allocates nothing.
            self.previous.clear();
            mem::swap(&mut self.current, &mut self.previous);
        }
        self.current.insert(key, state);
        dropped
    }
}

impl StateStore for Store {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let Some(mut shard) = self.shard(*key) else {
            return decide(None).map(|(outcome, _)| outcome);
        };
        if let Some(state) = shard.current.get_mut(key) {
            let (outcome, next) = decide(Some(*state))?;
            *state = next;
            return Ok(outcome);
        }
        let before = shard.previous.remove(key);
        let decided = decide(before);
        let after = decided.as_ref().ok().map(|(_, next)| *next).or(before);
        let dropped = after.map_or(0, |state| shard.put(*key, state, self.0.generation));
        drop(shard);
        if dropped > 0 {
            self.0.evictions.fetch_add(u64::try_from(dropped).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        decided.map(|(outcome, _)| outcome)
    }
}

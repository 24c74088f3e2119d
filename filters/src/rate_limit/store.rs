//! Bounded, sharded state of many keys: the oldest fall out first.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks are held for a few tens of nanoseconds; 64 keep a few dozen threads apart.
pub(super) const SHARDS: usize = 64;

/// 128 bits of a keyed hash: two keys meet by chance once in 10^26 pairs of a million live keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) u64, pub(super) u64);

/// Hands on the hash that a [`Key`] already is.
#[derive(Debug, Default)]
pub(super) struct Ready(u64);

pub(super) type Keys<V> = HashMap<Key, V, BuildHasherDefault<Ready>>;

/// Two generations of keys. A key that is met again moves to the current one; when that is full,
/// the previous one, with all keys not met since, is dropped.
#[derive(Debug)]
struct Shard<V> {
    current: Keys<V>,
    previous: Keys<V>,
    /// Whatever the owner of the store notes for a whole shard.
    note: u64,
}

/// The state of every key of one counter.
#[derive(Debug)]
pub(super) struct Store<V> {
    first: Mutex<Shard<V>>,
    others: Box<[Mutex<Shard<V>>]>,
    /// Keys a generation of one shard may hold.
    generation: usize,
    evictions: AtomicU64,
}

/// The state of one key, held: nobody else sees or changes it meanwhile.
#[derive(Debug)]
pub(super) struct Slot<'a, V> {
    shard: MutexGuard<'a, Shard<V>>,
    store: &'a Store<V>,
    key: Key,
    value: Option<V>,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl Key {
    /// Which of the shards it lies in. The other half of the hash picks the place within the shard.
    pub(super) fn shard(self) -> usize {
        usize::try_from(self.1 % SHARDS as u64).unwrap_or_default()
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

impl<V> Default for Shard<V> {
    fn default() -> Self {
        Self { current: Keys::default(), previous: Keys::default(), note: 0 }
    }
}

pub(super) fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that can panic runs between two writes to a shard.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<V: Copy> Store<V> {
    /// Holds at most `capacity` keys, rounded up to two a shard.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            first: Mutex::default(),
            others: (1..SHARDS).map(|_| Mutex::default()).collect(),
            generation: (capacity / SHARDS / 2).max(1),
            evictions: AtomicU64::new(0),
        }
    }

    /// Keys dropped to stay within the bound.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    fn shards(&self) -> impl Iterator<Item = &Mutex<Shard<V>>> {
        std::iter::once(&self.first).chain(&*self.others)
    }

    pub(super) fn len(&self) -> usize {
        let count = |shard: &Mutex<Shard<V>>| {
            let shard = lock(shard);
            shard.current.len() + shard.previous.len()
        };
        self.shards().map(count).sum()
    }

    pub(super) fn clear(&self) {
        for shard in self.shards() {
            let mut shard = lock(shard);
            shard.current.clear();
            shard.previous.clear();
        }
    }

    /// Shows every key to `see`, one shard after the other, oldest first.
    pub(super) fn each(&self, mut see: impl FnMut(Key, V)) {
        for shard in self.shards() {
            let shard = lock(shard);
            for (key, value) in shard.previous.iter().chain(&shard.current) {
                see(*key, *value);
            }
        }
    }

    /// Holds a key. Whoever holds several must take them in one order, see `taking.rs`.
    pub(super) fn hold(&self, key: Key) -> Slot<'_, V> {
        let shard = match key.shard() {
            0 => &self.first,
            index => self.others.get(index - 1).unwrap_or(&self.first),
        };
        let mut shard = lock(shard);
        let mut value = shard.current.get(&key).copied();
        if value.is_none()
            && let Some(before) = shard.previous.remove(&key)
        {
            self.put(&mut shard, key, before);
            value = Some(before);
        }
        Slot { shard, store: self, key, value }
    }

    fn put(&self, shard: &mut Shard<V>, key: Key, value: V) {
        if shard.current.len() >= self.generation && !shard.current.contains_key(&key) {
            let dropped = shard.previous.len();
            // The emptied map keeps its memory, so that the turn allocates nothing.
            shard.previous.clear();
            let Shard { current, previous, .. } = shard;
            mem::swap(current, previous);
            if dropped > 0 {
                self.evictions.fetch_add(u64::try_from(dropped).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        }
        shard.current.insert(key, value);
    }
}

impl<V: Copy> Slot<'_, V> {
    /// What is known of the key.
    pub(super) fn value(&self) -> Option<V> {
        self.value
    }

    pub(super) fn put(&mut self, value: V) {
        self.value = Some(value);
        match self.shard.current.get_mut(&self.key) {
            Some(known) => *known = value,
            None => self.store.put(&mut self.shard, self.key, value),
        }
    }

    /// The note of the shard.
    pub(super) fn note(&mut self) -> &mut u64 {
        &mut self.shard.note
    }
}

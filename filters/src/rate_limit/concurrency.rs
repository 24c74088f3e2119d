//! Requests that are open at once for one key.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ahash::RandomState;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limiter::Decision;
use super::spec::COUNTS;
use super::store::{Key, Keys, SHARDS, lock};
use crate::authorize::Mode;
use crate::chain::Built;
use crate::fault::{Code, Fault, Path};
use crate::step::Step;

/// Keys with open requests where nobody asks for another bound.
pub const CAPACITY: usize = 1_000_000;

/// A bound of the requests that one key may have open at once.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ConcurrencyLimit")]
pub struct Spec {
    /// Names the bound in refusals, logs and metrics. Unique among the limits of the policy.
    pub name: String,
    /// CEL expression whose value is the key; requests with the same value share the bound.
    /// An empty string, null or absent value refuses: give the expression a default instead.
    pub key: String,
    /// Requests open at once, 1 to 1,000,000. A request is open until its response body or its tunnel has ended.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: u32,
    /// CEL expression of type bool; the bound applies only where it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    #[serde(default)]
    pub mode: Mode,
}

impl Spec {
    pub(super) fn check(&self, at: &Path) -> Built<()> {
        if COUNTS.contains(&self.limit) {
            return Ok(());
        }
        let message = format!("limit must be from 1 to 1000000, and this is {}", self.limit);
        Err(vec![Fault::new(Code::VALUE, at.key("limit"), message)])
    }
}

/// The open requests of one bound, by key. A key is held only while it has some.
pub struct OpenRequests {
    first: Mutex<Keys<u32>>,
    others: Box<[Mutex<Keys<u32>>]>,
    hashers: [RandomState; 2],
    /// Keys a shard may hold.
    most: usize,
    turned_away: AtomicU64,
}

/// One open request. Given back when it is dropped, whatever became of it.
pub struct Permit {
    open: Arc<OpenRequests>,
    key: Key,
    /// Where it was taken.
    pub(super) step: Step,
}

/// The open requests of one key, held.
pub(super) struct Opening<'a> {
    keys: MutexGuard<'a, Keys<u32>>,
    key: Key,
}

impl OpenRequests {
    /// Counts for at most `capacity` keys at a time; others are turned away, for nobody's count may be forgotten.
    pub fn new(capacity: usize) -> Self {
        Self {
            first: Mutex::default(),
            others: (1..SHARDS).map(|_| Mutex::default()).collect(),
            hashers: [RandomState::new(), RandomState::new()],
            most: (capacity / SHARDS).max(1),
            turned_away: AtomicU64::new(0),
        }
    }

    pub(super) fn key(&self, key: &str) -> Key {
        let [a, b] = &self.hashers;
        Key(a.hash_one(key), b.hash_one(key))
    }

    fn shard(&self, key: Key) -> &Mutex<Keys<u32>> {
        match key.shard() {
            0 => &self.first,
            index => self.others.get(index - 1).unwrap_or(&self.first),
        }
    }

    pub(super) fn hold(&self, key: Key) -> Opening<'_> {
        Opening { keys: lock(self.shard(key)), key }
    }

    pub(super) fn decide(&self, opening: &Opening<'_>, limit: u32) -> Decision {
        let known = opening.keys.get(&opening.key).copied();
        let full = known.is_none() && opening.keys.len() >= self.most;
        if full {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
        }
        let (open, admitted) = (known.unwrap_or_default(), known.unwrap_or_default() < limit && !full);
        Decision {
            admitted,
            remaining: limit.saturating_sub(open).saturating_sub(u32::from(admitted)).into(),
            // Nobody knows when one of them ends.
            retry_after: Duration::MAX,
            reset_after: Duration::MAX,
            key: opening.key.0,
        }
    }

    pub(super) fn commit(self: &Arc<Self>, opening: &mut Opening<'_>, step: Step) -> Permit {
        let key = opening.key;
        let open = opening.keys.entry(key).or_default();
        *open = open.saturating_add(1);
        Permit { open: Arc::clone(self), key, step }
    }

    /// Requests turned away because too many keys have open ones.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    fn sum(&self, of: impl Fn(&Keys<u32>) -> u64) -> u64 {
        std::iter::once(&self.first).chain(&*self.others).map(|keys| of(&lock(keys))).sum()
    }

    /// Keys with open requests.
    pub fn live_keys(&self) -> u64 {
        self.sum(|keys| u64::try_from(keys.len()).unwrap_or(u64::MAX))
    }

    /// Requests open now.
    pub fn open(&self) -> u64 {
        self.sum(|keys| keys.values().map(|open| u64::from(*open)).sum())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut keys = lock(self.open.shard(self.key));
        if let Some(open) = keys.get_mut(&self.key) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

impl fmt::Debug for OpenRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenRequests").field("open", &self.open()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("step", &self.step).finish_non_exhaustive()
    }
}

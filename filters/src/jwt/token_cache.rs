//! Verified tokens, so that each signature is verified once.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::Value;

use crate::jwt::claims::Validity;
use crate::jwt::key_set::{KeySet, VerifyingKey};
use crate::moment::Moment;
use crate::principal::Principal;

/// Most tokens kept by [`TokenCache::default`].
const ENTRIES: u64 = 65_536;
/// Most memory taken by [`TokenCache::default`], in bytes.
const BYTES: u64 = 64 << 20;

/// Verified tokens of one issuer under one set of rules, bounded in number and memory.
///
/// An entry is used only while the token is valid and the key that verified it is still trusted.
pub struct TokenCache {
    entries: Cache<TokenKey, Entry, Weight>,
    sip: std::hash::RandomState,
    aes: ahash::RandomState,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// 128 bits of two keyed hashes. Their keys are random and never leave the process, so nobody can
/// search for a token that meets another's entry; `SipHash` alone would be a sound MAC of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenKey(u64, u64);

/// A verified token.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) principal: Arc<Principal>,
    pub(super) validity: Validity,
    pub(super) key: Arc<VerifyingKey>,
}

#[derive(Clone)]
struct Weight {
    /// Counted for an entry at least, so that the number of entries is bounded too.
    least: u64,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self::new(ENTRIES, BYTES)
    }
}

impl TokenCache {
    /// A cache of at most so many tokens, and at most about so many bytes.
    pub fn new(entries: u64, bytes: u64) -> Self {
        let least = (bytes / entries.max(1)).max(1);
        let estimate = usize::try_from(entries).unwrap_or(usize::MAX);
        Self {
            entries: Cache::with_weighter(estimate, bytes, Weight { least }),
            sip: std::hash::RandomState::new(),
            aes: ahash::RandomState::new(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Tokens held.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Checks answered from the cache since it was made.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Tokens that had to be verified and were good, since it was made.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    pub(super) fn key(&self, token: &str) -> TokenKey {
        TokenKey(self.sip.hash_one(token), self.aes.hash_one(token))
    }

    /// The principal of a token verified before, if it would be accepted again now.
    pub(super) fn find(&self, key: TokenKey, keys: &KeySet, moment: Moment) -> Option<Arc<Principal>> {
        let entry = self.entries.get(&key);
        let known = entry.is_some();
        let valid = entry.filter(|entry| entry.validity.contains(moment) && keys.holds(&entry.key));
        if let Some(entry) = valid {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Some(entry.principal);
        }
        if known {
            self.entries.remove(&key);
        }
        None
    }

    pub(super) fn insert(&self, key: TokenKey, entry: Entry) {
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.entries.insert(key, entry);
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the hash keys nor the claims of callers.
        f.debug_struct("TokenCache").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Weighter<TokenKey, Entry> for Weight {
    fn weight(&self, _: &TokenKey, entry: &Entry) -> u64 {
        let principal = &entry.principal;
        let claims = principal.claims.iter().map(|(name, value)| name.len() + size(value)).sum::<usize>();
        let scopes = principal.scopes.iter().map(|scope| scope.len() + size_of::<Box<str>>()).sum::<usize>();
        let fixed =
            size_of::<Entry>() + size_of::<Principal>() + principal.issuer.len() + principal.subject.len();
        u64::try_from(fixed + claims + scopes).unwrap_or(u64::MAX).max(self.least)
    }
}

/// About how many bytes a value takes.
fn size(value: &Value) -> usize {
    /// A value, its name, its hash and the index entry of an ordered map.
    const SLOT: usize = size_of::<Value>() + size_of::<String>() + 2 * size_of::<usize>();
    SLOT + match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(name, value)| name.len() + size(value)).sum(),
        _ => 0,
    }
}

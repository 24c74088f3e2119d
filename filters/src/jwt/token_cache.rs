//! Verified tokens, so that each signature is verified once.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::jwt::binding::Binding;
use crate::jwt::claims::Validity;
use crate::jwt::key_set::{KeySet, VerifyingKey};
use crate::moment::Moment;
use crate::principal::Principal;

/// Most tokens kept by [`TokenCache::default`].
const ENTRIES: u64 = 131_072;
/// Most memory taken by [`TokenCache::default`], in bytes.
const BYTES: u64 = 64 << 20;

/// Verified tokens of one issuer under one set of rules, bounded in number and memory.
///
/// An entry is used only while the token is valid and the key that verified it is still trusted.
pub struct TokenCache {
    entries: Cache<TokenKey, Entry, Weight>,
    hash: TokenHash,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// 128 bits of two keyed hashes. Their keys are random and never leave the process, so nobody can
/// search for a token that meets another's entry; `SipHash` alone would be a sound MAC of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey(u64, u64);

/// Makes [`TokenKey`]s; every cache has keys of its own.
#[derive(Default)]
pub(crate) struct TokenHash {
    sip: std::hash::RandomState,
    aes: ahash::RandomState,
}

/// A verified token.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) principal: Arc<Principal>,
    pub(super) validity: Validity,
    pub(super) key: Arc<VerifyingKey>,
    /// Checked on every use.
    pub(super) binding: Binding,
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
            hash: TokenHash::default(),
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
        self.hash.key(token)
    }

    /// A token verified before, if its signature and times would be accepted again now.
    pub(super) fn find(&self, key: TokenKey, keys: &KeySet, moment: Moment) -> Option<Entry> {
        let entry = self.entries.get(&key);
        let known = entry.is_some();
        let valid = entry.filter(|entry| entry.validity.contains(moment) && keys.holds(&entry.key));
        if let Some(entry) = valid {
            self.hits.fetch_add(1, Ordering::Relaxed);
            // What this request reads of the claims does not stay in the cache.
            return Some(Entry { principal: Arc::new(entry.principal.compact()), ..entry });
        }
        if known {
            self.entries.remove(&key);
        }
        None
    }

    pub(super) fn insert(&self, key: TokenKey, entry: Entry) {
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.entries.insert(key, Entry { principal: Arc::new(entry.principal.compact()), ..entry });
    }
}

impl TokenKey {
    /// A number from 0 to below `bound` that is the same for the same token: for times that must not coincide.
    pub(crate) fn spread(self, bound: u64) -> u64 {
        self.0.checked_rem(bound).unwrap_or_default()
    }
}

impl TokenHash {
    pub(crate) fn key(&self, token: &str) -> TokenKey {
        TokenKey(self.sip.hash_one(token), self.aes.hash_one(token))
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
        // The key, and what the cache itself keeps of an entry.
        const KEPT: usize = size_of::<TokenKey>() + 6 * size_of::<usize>();
        let bytes = KEPT + size_of::<Entry>() + entry.principal.bytes();
        u64::try_from(bytes).unwrap_or(u64::MAX).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, TokenCache};
    use crate::jwt::binding::Binding;
    use crate::jwt::claims::Validity;
    use crate::jwt::key_set::KeySet;
    use crate::moment::Moment;
    use crate::principal::Principal;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_hundred_thousand_tokens_of_nine_claims_are_kept() {
        let jwk = format!(r#"{{"keys":[{{"kty":"oct","k":"{}"}}]}}"#, "A".repeat(43));
        let keys = KeySet::parse(jwk.as_bytes()).unwrap();
        let key = keys.candidates(None, crate::jwt::Alg::HS256).next().unwrap();
        let cache = TokenCache::default();
        let claims = serde_json::json!({
            "iss": "https://idp.example.com/", "aud": "crm", "sub": "user-17", "iat": 1_800_000_000_u64,
            "exp": 1_800_003_600_u64, "scope": "crm.read crm.write", "org": "00D5g000007XyZa",
            "roles": ["sales", "support"], "jti": "0d1c7a52-7d5c-4f2e-9e43-0a4f6a1f5b0e",
        });
        let entry = || Entry {
            principal: Arc::new(Principal {
                issuer: "https://idp.example.com/".into(),
                subject: "user-17".into(),
                scopes: ["crm.read".into(), "crm.write".into()].into(),
                claims: claims.as_object().unwrap().clone().into(),
                expires: 1_800_003_600,
            }),
            validity: Validity { from: Duration::ZERO, until: Duration::MAX },
            key: Arc::clone(key),
            binding: Binding::default(),
        };
        let tokens = 100_000;
        for number in 0..tokens {
            cache.insert(cache.key(&number.to_string()), entry());
        }
        let found = |number: &i32| {
            let entry = cache.find(cache.key(&number.to_string()), &keys, Moment::default());
            entry.is_some_and(|entry| entry.principal.claims.get("org") == claims.get("org"))
        };
        // Entries lie in shards, of which some fill up before others.
        let kept = (0..tokens).filter(found).count();
        assert!(kept >= 98_000, "{kept}");
    }
}

//! What authorization servers said of tokens, so that each is asked about rarely.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::jwt::binding::Binding;
use crate::jwt::claims::Validity;
use crate::jwt::refusal::Flaw;
use crate::jwt::token_cache::{TokenHash, TokenKey};
use crate::moment::Moment;
use crate::principal::Principal;

/// Most tokens remembered.
const ENTRIES: u64 = 131_072;
/// Most memory taken, in bytes.
const BYTES: u64 = 64 << 20;
/// How long after it has become old an answer may stand in for one that cannot be had.
pub(super) const STALE: Duration = Duration::from_mins(10);
/// Answers become old after 80 to 100 % of their time, so that tokens of one moment are not asked about at one.
const JITTER_PERCENT: u64 = 20;

/// Answers of one endpoint under one set of rules, bounded in number and memory.
pub struct AnswerCache {
    entries: Cache<TokenKey, Known, Weight>,
    hash: TokenHash,
    hits: AtomicU64,
    asked: AtomicU64,
}

/// A token that is active, as far as is known.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) principal: Arc<Principal>,
    pub(super) validity: Validity,
    /// Checked on every use.
    pub(super) binding: Binding,
}

#[derive(Clone)]
struct Known {
    outcome: Result<Active, Flaw>,
    /// Monotonic time from which on the endpoint is asked again.
    until: Duration,
}

#[derive(Clone)]
struct Weight;

impl Active {
    /// What a request reads of the claims does not stay in the cache.
    fn compact(&self) -> Self {
        let principal = Arc::new(self.principal.compact());
        Self { principal, validity: self.validity, binding: self.binding.clone() }
    }
}

impl Default for AnswerCache {
    fn default() -> Self {
        Self {
            entries: Cache::with_weighter(usize::try_from(ENTRIES).unwrap_or(usize::MAX), BYTES, Weight),
            hash: TokenHash::default(),
            hits: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        }
    }
}

impl AnswerCache {
    /// Tokens remembered.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Checks answered from the cache since it was made.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Answers taken over since it was made.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn key(&self, token: &str) -> TokenKey {
        self.hash.key(token)
    }

    /// What is known of a token without asking.
    pub(super) fn find(&self, key: TokenKey, moment: Moment) -> Option<Result<Active, Flaw>> {
        let known = self.entries.get(&key).filter(|known| moment.monotonic < known.until)?;
        if known.outcome.as_ref().is_ok_and(|active| !active.validity.contains(moment)) {
            return None;
        }
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(known.outcome.map(|active| active.compact()))
    }

    /// A token that was active not long ago, and has not expired.
    pub(super) fn find_stale(&self, key: TokenKey, moment: Moment) -> Option<Active> {
        let known = self.entries.get(&key)?;
        let active = known.outcome.ok()?;
        (moment.monotonic < known.until.saturating_add(STALE) && active.validity.contains(moment))
            .then(|| active.compact())
    }

    /// The token is active: believed for about `max`.
    pub(super) fn insert(&self, key: TokenKey, active: &Active, max: Duration, moment: Moment) {
        let until = moment.monotonic.saturating_add(jittered(key, max));
        self.remember(key, Known { outcome: Ok(active.compact()), until });
    }

    /// The token is refused: believed for `negative`.
    pub(super) fn refuse(&self, key: TokenKey, flaw: &Flaw, negative: Duration, moment: Moment) {
        let until = moment.monotonic.saturating_add(jittered(key, negative));
        self.remember(key, Known { outcome: Err(flaw.clone()), until });
    }

    fn remember(&self, key: TokenKey, known: Known) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.entries.insert(key, known);
    }
}

/// Shorter by up to [`JITTER_PERCENT`], so that answers of one moment are not asked for again at one moment.
fn jittered(key: TokenKey, span: Duration) -> Duration {
    let percent = u32::try_from(100 - key.spread(JITTER_PERCENT + 1)).unwrap_or(100);
    span.saturating_mul(percent) / 100
}

impl fmt::Debug for AnswerCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the hash keys nor the claims of callers.
        f.debug_struct("AnswerCache").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Weighter<TokenKey, Known> for Weight {
    fn weight(&self, _: &TokenKey, known: &Known) -> u64 {
        // The key, and what the cache itself keeps of an entry.
        const KEPT: usize = size_of::<TokenKey>() + 6 * size_of::<usize>();
        let principal = known.outcome.as_ref().map_or(0, |active| active.principal.bytes());
        let bytes = u64::try_from(KEPT + size_of::<Known>() + principal).unwrap_or(u64::MAX);
        bytes.max(BYTES / ENTRIES)
    }
}

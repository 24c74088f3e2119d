//! Who keeps what was carried out, and what it is asked.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::answer::Answer;

/// SHA-256 of all that tells one key, or one payload, from others: no key stands in a store as it was sent.
pub type Digest = [u8; 32];

/// Something that may have to be waited for.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a ledger cannot be asked; for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub Box<str>);

/// One key, and what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub key: Digest,
    /// Of the payload; equal for all where the key alone says what is meant.
    pub fingerprint: Digest,
    /// Longest time that a run may hold the key: after it, a run whose gateway ended is forgotten.
    pub lock: Duration,
    /// How long what became of the run is kept.
    pub keep: Duration,
}

/// What is known of a key.
#[derive(Debug)]
pub enum Found {
    /// Nothing: the key is claimed now, and nobody else gets it.
    Free(Box<dyn Claim>),
    /// A request with this fingerprint is being carried out.
    Running(Digest),
    /// A request with this fingerprint was carried out; `None` where its answer was not kept.
    Done(Digest, Option<Arc<Answer>>),
}

/// Holds a key while its request is carried out. Dropped, it frees the key.
pub trait Claim: Debug + Send + Sync {
    /// The request was carried out, or may have been: repeats get this answer, or are told that there is none.
    fn finish(self: Box<Self>, answer: Option<Arc<Answer>>);
}

/// Remembers what was carried out. At most one claim of a key is out at any moment.
pub trait Ledger: Debug + Send + Sync {
    /// Claims a key, where nothing is known of it; both in one step.
    fn claim<'a>(&'a self, asked: &'a Asked) -> Later<'a, Result<Found, Unavailable>>;

    /// Waits until the key may be free or done; false where that was not before `until`, a monotonic time.
    fn ended<'a>(&'a self, key: &'a Digest, until: Duration) -> Later<'a, bool>;
}

/// A ledger that forgets: for policies that are only checked, and for cases, whose requests are all first ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forgetful;

impl Claim for Forgetful {
    fn finish(self: Box<Self>, _: Option<Arc<Answer>>) {}
}

impl Ledger for Forgetful {
    fn claim<'a>(&'a self, _: &'a Asked) -> Later<'a, Result<Found, Unavailable>> {
        Box::pin(std::future::ready(Ok(Found::Free(Box::new(Self)))))
    }

    fn ended<'a>(&'a self, _: &'a Digest, _: Duration) -> Later<'a, bool> {
        Box::pin(std::future::ready(true))
    }
}

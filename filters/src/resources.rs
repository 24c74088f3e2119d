//! What filters are built upon and what outlives a snapshot: keys, limiters, models.

use std::sync::Arc;

use crate::consumers::Consumers;
use crate::fault::{Code, Fault, Path};
use crate::idempotency::ledger::{Forgetful, Ledger};
use crate::introspection::{self, AnswerCache};
use crate::introspector::Introspector;
use crate::jwt::{Jwks, TokenCache};
use crate::keys::Keys;
use crate::rate_limit::calendar::Calendar;
use crate::rate_limit::concurrency::{self, OpenRequests};
use crate::rate_limit::limiter::{Limiter, Rate};
use crate::rate_limit::shared::SharedCounters;
use crate::rate_limit::windows::{self, WindowCounter};
use crate::score::Scorer;

/// Hands out long-lived parts by name; whoever implements it keeps them from one snapshot to the next.
pub trait Resources {
    /// The keys of an issuer, fetched or read as `spec` says. The same spec gives the same keys.
    ///
    /// A missing or malformed key file is a fault at `at`.
    fn keys(&self, issuer: &str, spec: &Jwks, at: &Path) -> Result<Arc<dyn Keys>, Fault>;

    /// The cache of verified tokens for this issuer; `fingerprint` is a hash of all that decides
    /// whether a token is valid, so that a changed rule never meets an old verdict.
    fn tokens(&self, issuer: &str, fingerprint: u64) -> Arc<TokenCache>;

    /// Whoever asks the endpoint that `spec` names; a secret that cannot be had is a fault below `at`.
    fn introspector(&self, spec: &introspection::Spec, at: &Path) -> Result<Arc<dyn Introspector>, Fault>;

    /// The cache of answers of this endpoint; `fingerprint` as for [`Resources::tokens`].
    fn answers(&self, endpoint: &str, fingerprint: u64) -> Arc<AnswerCache>;

    /// The limiter of this name; counters live on while the rate stays the same.
    fn limiter(&self, name: &str, rate: &Rate) -> Arc<Limiter>;

    /// What the keys of a quota of this name have used; it lives on while its calendar stays the same.
    fn quota(&self, name: &str, calendar: &Calendar) -> Arc<WindowCounter> {
        let _ = (name, calendar);
        Arc::new(WindowCounter::new([0; 16], windows::CAPACITY))
    }

    /// The open requests that a bound of this name counts.
    fn concurrency(&self, name: &str) -> Arc<OpenRequests> {
        let _ = name;
        Arc::new(OpenRequests::new(concurrency::CAPACITY))
    }

    /// The counters in the `Store` of this full name; a fault at `at` where there is none.
    fn counters(&self, store: &str, at: &Path) -> Result<Arc<dyn SharedCounters>, Fault> {
        Err(Fault::new(Code::REFERENCE, at.clone(), format!("no Store of this name: {store}")))
    }

    /// The model of this name, loaded and checked; a fault at `at` where there is none.
    fn scorer(&self, model: &str, at: &Path) -> Result<Arc<dyn Scorer>, Fault>;

    /// Who keeps what was carried out: the `Store` of this name, in the namespace of the policy, or the memory of the
    /// process; a fault at `at` where there is no such store.
    fn ledger(&self, policy: &str, store: Option<&str>, at: &Path) -> Result<Arc<dyn Ledger>, Fault> {
        let _ = policy;
        match store {
            None => Ok(Arc::new(Forgetful)),
            Some(store) => {
                Err(Fault::new(Code::REFERENCE, at.clone(), format!("no Store of this name: {store}")))
            }
        }
    }

    /// The clients known by key that a policy of this name accepts; nobody where the documents name none.
    fn consumers(&self, policy: &str) -> Arc<Consumers> {
        let _ = policy;
        Arc::default()
    }
}

//! What commands lend to a compilation that nobody will serve with.

use std::future::Future;
use std::path::Path as FilePath;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foregate_filters::fault::{Fault, Path};
use foregate_filters::idempotency::ledger::Ledger;
use foregate_filters::introspection::{self, AnswerCache};
use foregate_filters::introspector::Introspector;
use foregate_filters::jwt::{Jwks, TokenCache};
use foregate_filters::keys::Keys;
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::rate_limit::shared::SharedCounters;
use foregate_filters::resources::Resources;
use foregate_filters::score::{Offer, ScoreCall, Scorer, Scores};
use foregate_policy::compile::Materials;
use foregate_policy::documents::credentials::Credentials;
use foregate_policy::model::Model;
use foregate_policy::redis_store::RedisStore;
use foregate_policy::snapshot::CertificateFiles;
use tokio::runtime::{Builder, Runtime};

use crate::cli::case_keys::CaseKeys;
use crate::oauth::introspect::Unasked;
use crate::shared::Shared;

/// Time a score may take in a case: cases are about verdicts, and a busy machine must not change them.
const PATIENCE: Duration = Duration::from_secs(10);

/// The process's parts, without what only serving needs.
pub(super) struct Lent<'a> {
    shared: &'a Shared,
    /// False: certificates, authorities and secrets are not looked for.
    secrets: bool,
    /// Secrets that were not looked for.
    unseen: AtomicUsize,
    cases: Option<(&'a CaseKeys, Arc<Runtime>)>,
}

/// A scorer whose answer is waited for.
#[derive(Debug)]
struct Patient {
    inner: Arc<dyn Scorer>,
    runtime: Arc<Runtime>,
}

impl<'a> Lent<'a> {
    /// For a check; without `secrets`, neither certificates nor secrets are looked for.
    pub(super) fn to_check(shared: &'a Shared, secrets: bool) -> Self {
        Self { shared, secrets, unseen: AtomicUsize::new(0), cases: None }
    }

    /// For cases: test keys stand in for those of issuers.
    pub(super) fn to_cases(shared: &'a Shared, keys: &'a CaseKeys) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let unseen = AtomicUsize::new(0);
        Ok(Self { shared, secrets: false, unseen, cases: Some((keys, Arc::new(runtime))) })
    }
}

impl Lent<'_> {
    /// How many secrets were not looked for.
    pub(super) fn unseen(&self) -> usize {
        self.unseen.load(Ordering::Relaxed)
    }
}

impl Resources for Lent<'_> {
    fn keys(&self, issuer: &str, spec: &Jwks, at: &Path) -> Result<Arc<dyn Keys>, Fault> {
        match &self.cases {
            Some((keys, _)) => keys.keys(issuer, at),
            None => self.shared.keys(issuer, spec, at),
        }
    }

    fn tokens(&self, issuer: &str, fingerprint: u64) -> Arc<TokenCache> {
        self.shared.tokens(issuer, fingerprint)
    }

    fn introspector(&self, spec: &introspection::Spec, at: &Path) -> Result<Arc<dyn Introspector>, Fault> {
        if self.secrets {
            return self.shared.introspector(spec, at);
        }
        self.unseen.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Unasked))
    }

    fn answers(&self, endpoint: &str, fingerprint: u64) -> Arc<AnswerCache> {
        self.shared.answers(endpoint, fingerprint)
    }

    fn limiter(&self, name: &str, rate: &Rate) -> Arc<Limiter> {
        self.shared.limiter(name, rate)
    }

    fn ledger(&self, policy: &str, store: Option<&str>, at: &Path) -> Result<Arc<dyn Ledger>, Fault> {
        self.shared.ledger(policy, store, at)
    }

    fn counters(&self, store: &str, at: &Path) -> Result<Arc<dyn SharedCounters>, Fault> {
        self.shared.counters(store, at)
    }

    fn scorer(&self, model: &str, at: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        let inner = self.shared.scorer(model, at)?;
        Ok(match &self.cases {
            Some((_, runtime)) => Arc::new(Patient { inner, runtime: Arc::clone(runtime) }),
            None => inner,
        })
    }
}

impl Materials for Lent<'_> {
    fn unix(&self) -> Duration {
        self.shared.unix()
    }

    fn model(&self, model: &Model, spec: &Path) -> Result<(), Vec<Fault>> {
        let mut model = model.clone();
        if let Some(features) = model.features.as_mut().filter(|_| !self.secrets) {
            self.unseen.fetch_add(1, Ordering::Relaxed);
            features.key = None;
        }
        self.shared.model(&model, spec)
    }

    fn store(&self, store: &Arc<RedisStore>, at: &Path) -> Result<(), Fault> {
        if self.secrets || store.password.is_none() {
            return self.shared.store(store, at);
        }
        self.unseen.fetch_add(1, Ordering::Relaxed);
        let open = RedisStore { password: None, ..RedisStore::clone(store) };
        self.shared.store(&Arc::new(open), at)
    }

    fn certificate(&self, files: &CertificateFiles) -> Result<(), String> {
        if self.secrets { self.shared.certificate(files) } else { Ok(()) }
    }

    fn authorities(&self, file: &FilePath) -> Result<(), String> {
        if self.secrets { self.shared.authorities(file) } else { Ok(()) }
    }

    fn revocations(&self, file: &FilePath) -> Result<(), String> {
        if self.secrets { self.shared.revocations(file) } else { Ok(()) }
    }

    fn credentials(&self, said: &Credentials, at: &Path) -> Result<(), Fault> {
        if self.secrets {
            return self.shared.credentials(said, at);
        }
        self.unseen.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Scorer for Patient {
    fn model(&self) -> &str {
        self.inner.model()
    }

    fn version(&self) -> &str {
        self.inner.version()
    }

    fn offer(&self) -> Option<Offer> {
        self.inner.offer()
    }

    fn score(&self, call: &ScoreCall) -> Option<Scores> {
        let call = ScoreCall { budget: PATIENCE, ..call.clone() };
        let at_once = self.inner.score(&call);
        at_once.or_else(|| Some(self.runtime.block_on(self.inner.submit(call))))
    }

    fn submit<'a>(&'a self, call: ScoreCall) -> Pin<Box<dyn Future<Output = Scores> + Send + 'a>> {
        self.inner.submit(call)
    }
}

//! What commands lend to a compilation that nobody will serve with.

use std::future::Future;
use std::path::Path as FilePath;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::fault::{Fault, Path};
use foregate_filters::jwt::{Jwks, TokenCache};
use foregate_filters::keys::Keys;
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::resources::Resources;
use foregate_filters::score::{ScoreCall, Scorer, Scores};
use foregate_policy::compile::Materials;
use foregate_policy::snapshot::CertificateFiles;
use tokio::runtime::{Builder, Runtime};

use crate::cli::case_keys::CaseKeys;
use crate::shared::Shared;

/// Time a score may take in a case: cases are about verdicts, and a busy machine must not change them.
const PATIENCE: Duration = Duration::from_secs(10);

/// The process's parts, without what only serving needs.
pub(super) struct Lent<'a> {
    shared: &'a Shared,
    /// False: certificates and authorities are not looked for.
    secrets: bool,
    cases: Option<(&'a CaseKeys, Arc<Runtime>)>,
}

/// A scorer whose answer is waited for.
#[derive(Debug)]
struct Patient {
    inner: Arc<dyn Scorer>,
    runtime: Arc<Runtime>,
}

impl<'a> Lent<'a> {
    /// For a check; without `secrets`, no certificate is looked for.
    pub(super) fn to_check(shared: &'a Shared, secrets: bool) -> Self {
        Self { shared, secrets, cases: None }
    }

    /// For cases: test keys stand in for those of issuers.
    pub(super) fn to_cases(shared: &'a Shared, keys: &'a CaseKeys) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        Ok(Self { shared, secrets: false, cases: Some((keys, Arc::new(runtime))) })
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

    fn limiter(&self, name: &str, rate: &Rate) -> Arc<Limiter> {
        self.shared.limiter(name, rate)
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

    fn model(&self, name: &str, bundle: &FilePath, at: &Path) -> Result<(), Fault> {
        self.shared.model(name, bundle, at)
    }

    fn certificate(&self, files: &CertificateFiles) -> Result<(), String> {
        if self.secrets { self.shared.certificate(files) } else { Ok(()) }
    }

    fn authorities(&self, file: &FilePath) -> Result<(), String> {
        if self.secrets { self.shared.authorities(file) } else { Ok(()) }
    }
}

impl Scorer for Patient {
    fn model(&self) -> &str {
        self.inner.model()
    }

    fn version(&self) -> &str {
        self.inner.version()
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

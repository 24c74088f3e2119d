//! What filters are built upon, lent by name and carried over.

use std::convert::Infallible;
use std::path::Path as FilePath;
use std::sync::Arc;

use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::idempotency::ledger::{Forgetful, Ledger};
use foregate_filters::introspection::{self, AnswerCache};
use foregate_filters::introspector::Introspector;
use foregate_filters::jwt::{Jwks, TokenCache};
use foregate_filters::keys::Keys;
use foregate_filters::rate_limit::calendar::Calendar;
use foregate_filters::rate_limit::concurrency::{self, OpenRequests};
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::rate_limit::shared::SharedCounters;
use foregate_filters::rate_limit::windows::WindowCounter;
use foregate_filters::resources::Resources;
use foregate_filters::score::Scorer;

use crate::idempotency::stored::Stored;
use crate::keys::IssuerKeys;
use crate::oauth::introspect::{HttpIntrospector, Unasked};
use crate::oauth::proof::ClientProof;
use crate::part_metrics;
use crate::shared::Shared;

/// Keys remembered by one limiter; the oldest fall out above it.
const LIMITER_KEYS: usize = 1_000_000;

impl Resources for Shared {
    fn keys(&self, issuer: &str, spec: &Jwks, at: &Path) -> Result<Arc<dyn Keys>, Fault> {
        let text = serde_json::to_string(spec).unwrap_or_default();
        // Paths are absolute by now, or relative to the working directory: the base adds nothing.
        let open = || IssuerKeys::open(issuer, spec, FilePath::new(""), self.fetcher.as_ref()).map(Arc::new);
        let tell = |telemetry: &_, keys: &_| part_metrics::keys(telemetry, issuer, keys);
        let keys = self.part(|kept| &mut kept.keys, (issuer.to_owned(), text), open, tell);
        keys.map(|keys| keys.keys()).map_err(|error| Fault::new(Code::FILE, at.clone(), error.to_string()))
    }

    fn tokens(&self, issuer: &str, fingerprint: u64) -> Arc<TokenCache> {
        let make = || Ok::<_, Infallible>(Arc::default());
        let tell = |telemetry: &_, cache: &_| part_metrics::tokens(telemetry, issuer, cache);
        let Ok(cache) = self.part(|kept| &mut kept.tokens, (issuer.to_owned(), fingerprint), make, tell);
        cache
    }

    fn introspector(&self, spec: &introspection::Spec, at: &Path) -> Result<Arc<dyn Introspector>, Fault> {
        let (endpoint, auth) = (&spec.endpoint, &spec.client_auth);
        let proof = ClientProof::open(auth, endpoint, &at.key("clientAuth"), &|secret| self.secret(secret))?;
        // Nobody asks while policies are only checked.
        let Some(fetcher) = &self.fetcher else { return Ok(Arc::new(Unasked)) };
        let make = || Ok(Arc::new(HttpIntrospector::new(endpoint, proof, fetcher.runtime.clone())));
        let tell = |telemetry: &_, asker: &_| part_metrics::introspector(telemetry, endpoint, asker);
        let key = (endpoint.clone(), auth.clone());
        let introspector = self.part(|kept| &mut kept.introspectors, key, make, tell)?;
        Ok(introspector)
    }

    fn ledger(&self, _: &str, store: Option<&str>, at: &Path) -> Result<Arc<dyn Ledger>, Fault> {
        let Some(store) = store else { return Ok(Arc::clone(&self.memory) as Arc<dyn Ledger>) };
        Ok(match self.stores.find(store, at)? {
            Some(store) => Arc::new(Stored::new(store)),
            // Nobody asks while policies are only checked.
            None => Arc::new(Forgetful),
        })
    }

    fn answers(&self, endpoint: &str, fingerprint: u64) -> Arc<AnswerCache> {
        let make = || Ok::<_, Infallible>(Arc::default());
        let tell = |telemetry: &_, cache: &_| part_metrics::answers(telemetry, endpoint, cache);
        let Ok(cache) = self.part(|kept| &mut kept.answers, (endpoint.to_owned(), fingerprint), make, tell);
        cache
    }

    fn limiter(&self, name: &str, rate: &Rate) -> Arc<Limiter> {
        let make = || Ok::<_, Infallible>(Arc::new(Limiter::new(*rate, LIMITER_KEYS)));
        let tell = |telemetry: &_, limiter: &_| part_metrics::limiter(telemetry, name, limiter);
        let Ok(limiter) = self.part(|kept| &mut kept.limiters, (name.to_owned(), *rate), make, tell);
        limiter
    }

    fn quota(&self, name: &str, calendar: &Calendar) -> Arc<WindowCounter> {
        let (counter, new) = self.quotas.counter(name, calendar);
        if let (true, Some(telemetry)) = (new, &self.telemetry) {
            part_metrics::quota(telemetry, name, &counter);
        }
        counter
    }

    fn concurrency(&self, name: &str) -> Arc<OpenRequests> {
        let make = || Ok::<_, Infallible>(Arc::new(OpenRequests::new(concurrency::CAPACITY)));
        let tell = |telemetry: &_, open: &_| part_metrics::concurrency(telemetry, name, open);
        let Ok(open) = self.part(|kept| &mut kept.open_requests, name.to_owned(), make, tell);
        open
    }

    fn counters(&self, store: &str, at: &Path) -> Result<Arc<dyn SharedCounters>, Fault> {
        self.stores.counters(store, at)
    }

    fn scorer(&self, model: &str, at: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        let kept = self.kept();
        let attempt = kept.attempt;
        let found = kept.models.0.get(model).filter(|(_, used)| *used == attempt);
        found
            .and_then(|(model, _)| model.scorer())
            .ok_or_else(|| Fault::new(Code::REFERENCE, at.clone(), format!("model `{model}` is not loaded")))
    }
}

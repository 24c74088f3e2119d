//! What the gateway lends to a compilation, for one process that only measures.

use std::collections::HashMap;
use std::fmt;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, PoisonError};

use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::introspection::{self, AnswerCache};
use foregate_filters::introspector::Introspector;
use foregate_filters::jwt::key_set::KeySet;
use foregate_filters::jwt::{Jwks, TokenCache};
use foregate_filters::keys::Keys;
use foregate_filters::rate_limit::limiter::{CAPACITY, Limiter, Rate};
use foregate_filters::resources::Resources;
use foregate_filters::score::Scorer;
use foregate_inference::bundle::{Bundle, Cost};
use foregate_inference::scorer::ModelScorer;
use foregate_policy::compile::Materials;
use foregate_policy::documents::credentials::Credentials;
use foregate_policy::model::Model;
use foregate_policy::snapshot::CertificateFiles;

/// Keys of one issuer, models from their bundles, token caches that hold or do not.
pub struct Bench {
    pub keys: Arc<KeySet>,
    /// False: every token is verified anew.
    pub caches: bool,
    pub models: Mutex<HashMap<String, Arc<dyn Scorer>>>,
}

/// Keys that never change.
#[derive(Debug)]
struct Fixed(Arc<KeySet>);

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("caches", &self.caches).finish_non_exhaustive()
    }
}

impl Resources for Bench {
    fn keys(&self, _: &str, _: &Jwks, _: &Path) -> Result<Arc<dyn Keys>, Fault> {
        Ok(Arc::new(Fixed(Arc::clone(&self.keys))))
    }

    fn tokens(&self, _: &str, _: u64) -> Arc<TokenCache> {
        Arc::new(if self.caches { TokenCache::default() } else { TokenCache::new(1, 1) })
    }

    fn introspector(&self, _: &introspection::Spec, at: &Path) -> Result<Arc<dyn Introspector>, Fault> {
        Err(Fault::new(Code::SECRET, at.clone(), "nobody is asked about tokens here"))
    }

    fn answers(&self, _: &str, _: u64) -> Arc<AnswerCache> {
        Arc::default()
    }

    fn limiter(&self, _: &str, rate: &Rate) -> Arc<Limiter> {
        Arc::new(Limiter::new(*rate, CAPACITY))
    }

    fn scorer(&self, model: &str, at: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.get(model).cloned().ok_or_else(|| Fault::new(Code::REFERENCE, at.clone(), model))
    }
}

impl Materials for Bench {
    fn model(&self, model: &Model, spec: &Path) -> Result<(), Vec<Fault>> {
        let fault = |error: String| vec![Fault::new(Code::MODEL, model.bundle_at(0, spec), error)];
        let folder = model.versions.first().map_or(FilePath::new(""), |version| version.bundle.as_path());
        let mut bundle = Bundle::load(folder).map_err(|error| fault(error.to_string()))?;
        // On this thread in every build: nobody waits here for another.
        bundle.place(Cost::Inline);
        let scorer = ModelScorer::new(&model.name, bundle, 1);
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.insert(model.name.to_string(), Arc::new(scorer));
        Ok(())
    }

    fn certificate(&self, _: &CertificateFiles) -> Result<(), String> {
        Ok(())
    }

    fn authorities(&self, _: &FilePath) -> Result<(), String> {
        Ok(())
    }

    fn credentials(&self, _: &Credentials, _: &Path) -> Result<(), Fault> {
        Ok(())
    }
}

impl Keys for Fixed {
    fn current(&self) -> Option<Arc<KeySet>> {
        Some(Arc::clone(&self.0))
    }
}

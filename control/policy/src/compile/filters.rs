//! Long-lived parts as filters see them while they are built.

use std::fmt;
use std::sync::Arc;

use ahash::AHashSet;
use foregate_filters::consumers::Consumers;
use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::introspection::{self, AnswerCache};
use foregate_filters::introspector::Introspector;
use foregate_filters::jwt::{Jwks, TokenCache};
use foregate_filters::keys::Keys;
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::resources::Resources;
use foregate_filters::score::Scorer;

use crate::compile::attach::suggest;
use crate::compile::consumers::Registry;
use crate::compile::{Compilation, Materials};
use crate::document::Kind;

/// A fault that follows from one already told; never shown.
pub const TOLD: Code = Code(0);

/// The parts lent by the process, with models found by the documents first.
pub struct Lent<'a> {
    materials: &'a dyn Materials,
    /// Names of all `Model` documents.
    models: Vec<String>,
    broken: &'a AHashSet<String>,
    consumers: Registry,
    incomplete: bool,
}

impl fmt::Debug for Lent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").field("models", &self.models).finish_non_exhaustive()
    }
}

impl<'a> Lent<'a> {
    pub fn new(
        materials: &'a dyn Materials,
        work: &Compilation<'_>,
        broken: &'a AHashSet<String>,
        consumers: Registry,
    ) -> Self {
        let models = work.named(Kind::Model).map(|document| document.name.to_string()).collect();
        Self { materials, models, broken, consumers, incomplete: work.sources.incomplete }
    }
}

impl Lent<'_> {
    /// A number that changes with every consumer.
    pub fn consumers_fingerprint(&self) -> u64 {
        self.consumers.fingerprint()
    }
}

impl Resources for Lent<'_> {
    fn keys(&self, issuer: &str, spec: &Jwks, at: &Path) -> Result<Arc<dyn Keys>, Fault> {
        self.materials.keys(issuer, spec, at)
    }

    fn tokens(&self, issuer: &str, fingerprint: u64) -> Arc<TokenCache> {
        self.materials.tokens(issuer, fingerprint)
    }

    fn introspector(&self, spec: &introspection::Spec, at: &Path) -> Result<Arc<dyn Introspector>, Fault> {
        self.materials.introspector(spec, at)
    }

    fn answers(&self, endpoint: &str, fingerprint: u64) -> Arc<AnswerCache> {
        self.materials.answers(endpoint, fingerprint)
    }

    fn limiter(&self, name: &str, rate: &Rate) -> Arc<Limiter> {
        self.materials.limiter(name, rate)
    }

    fn consumers(&self, policy: &str) -> Arc<Consumers> {
        self.consumers.of(policy)
    }

    fn scorer(&self, model: &str, at: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        let declared = self.models.iter().any(|name| name == model);
        if self.broken.contains(model) || (!declared && self.incomplete) {
            return Err(Fault::new(TOLD, at.clone(), ""));
        }
        if !declared {
            let names: Vec<&str> = self.models.iter().map(String::as_str).collect();
            let message = format!("there is no Model named `{model}`");
            let help = suggest(model, &names, "there are");
            return Err(Fault::new(Code::REFERENCE, at.clone(), message).help(help));
        }
        // A document that is faulty itself was never loaded.
        self.materials.scorer(model, at).map_err(|fault| match fault.code {
            Code::REFERENCE => Fault::new(TOLD, at.clone(), ""),
            _ => fault,
        })
    }
}

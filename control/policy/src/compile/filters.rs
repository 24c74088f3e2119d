//! Long-lived parts as filters see them while they are built.

use std::fmt;
use std::sync::Arc;

use ahash::AHashSet;
use foregate_filters::consumers::Consumers;
use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::idempotency::ledger::Ledger;
use foregate_filters::introspection::{self, AnswerCache};
use foregate_filters::introspector::Introspector;
use foregate_filters::jwt::{Jwks, TokenCache};
use foregate_filters::keys::Keys;
use foregate_filters::rate_limit::calendar::Calendar;
use foregate_filters::rate_limit::concurrency::OpenRequests;
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::rate_limit::shared::SharedCounters;
use foregate_filters::rate_limit::windows::WindowCounter;
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
    /// Names of all `Store` documents.
    stores: Vec<String>,
    broken_stores: &'a AHashSet<String>,
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
        (broken, broken_stores): (&'a AHashSet<String>, &'a AHashSet<String>),
        consumers: Registry,
    ) -> Self {
        let named = |kind| work.named(kind).map(|document| document.name.to_string()).collect();
        let (models, stores) = (named(Kind::Model), named(Kind::Store));
        let incomplete = work.sources.incomplete;
        Self { materials, models, broken, stores, broken_stores, consumers, incomplete }
    }
}

impl Lent<'_> {
    /// A fault where no document has the whole name of a store.
    fn declared(&self, store: &str, at: &Path) -> Result<(), Fault> {
        let declared = self.stores.iter().any(|name| name == store);
        if self.broken_stores.contains(store) || (!declared && self.incomplete) {
            return Err(Fault::new(TOLD, at.clone(), ""));
        }
        if declared {
            return Ok(());
        }
        let names: Vec<&str> = self.stores.iter().map(String::as_str).collect();
        let message = format!("there is no Store named `{store}`");
        let help = suggest(store, &names, "there are");
        Err(Fault::new(Code::REFERENCE, at.clone(), message).help(help))
    }

    /// A number that changes with every consumer.
    pub fn consumers_fingerprint(&self) -> u64 {
        self.consumers.fingerprint()
    }
}

/// A document that is faulty itself was never made, and its fault has been told.
fn told(fault: Fault) -> Fault {
    if fault.code == Code::REFERENCE { Fault::new(TOLD, fault.at, "") } else { fault }
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

    fn quota(&self, name: &str, calendar: &Calendar) -> Arc<WindowCounter> {
        self.materials.quota(name, calendar)
    }

    fn concurrency(&self, name: &str) -> Arc<OpenRequests> {
        self.materials.concurrency(name)
    }

    fn counters(&self, store: &str, at: &Path) -> Result<Arc<dyn SharedCounters>, Fault> {
        self.declared(store, at)?;
        self.materials.counters(store, at).map_err(told)
    }

    fn consumers(&self, policy: &str) -> Arc<Consumers> {
        self.consumers.of(policy)
    }

    fn ledger(&self, policy: &str, store: Option<&str>, at: &Path) -> Result<Arc<dyn Ledger>, Fault> {
        // A policy uses the stores of its namespace.
        let name = store.map(|store| match policy.rsplit_once('/') {
            Some((namespace, _)) => format!("{namespace}/{store}"),
            None => store.to_owned(),
        });
        if let Some(name) = &name {
            self.declared(name, at)?;
        }
        self.materials.ledger("", name.as_deref(), at).map_err(told)
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

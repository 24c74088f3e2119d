//! What outlives a snapshot: keys, caches, counters, models, upstreams; carried over by name.

mod materials;
pub mod models;
mod resources;
mod rollouts;
mod shelf;
mod upstreams;

use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use foregate_filters::client_auth::ClientAuth;
use foregate_filters::introspection::AnswerCache;
use foregate_filters::jwt::TokenCache;
use foregate_filters::rate_limit::concurrency::OpenRequests;
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::secret::SecretRef;
use foregate_inference::pool::default_threads;
use foregate_inference::rollout::Rollout;
use foregate_inference::scorer::ModelScorer;
use foregate_policy::documents::credentials::Credentials;
use foregate_policy::model::Features;

use crate::dispatch::roster::Roster;
use crate::dispatch::upstream::UpstreamState;
use crate::features::LiveFeatures;
use crate::idempotency::memory::Memory;
use crate::identity::Identity;
use crate::keys::{Fetcher, IssuerKeys};
use crate::oauth::credential::Credential;
use crate::oauth::introspect::HttpIntrospector;
use crate::quotas::Quotas;
use crate::secrets::{LiveSecret, SecretError};
use crate::shared::models::{BundleKey, LoadedModel};
use crate::shared::rollouts::NamedRollout;
use crate::shared::shelf::Shelf;
use crate::sidecar::Sidecar;
use crate::store::kept::Stores;
use crate::telemetry::Telemetry;
use crate::trials::Trials;

/// Everything that is carried over.
#[derive(Debug, Default)]
struct Kept {
    /// Counts compilations; what the last good one did not ask for is let go.
    attempt: u64,
    keys: Shelf<(String, String), Arc<IssuerKeys>>,
    tokens: Shelf<(String, u64), Arc<TokenCache>>,
    /// By endpoint and all that decides how it is asked.
    introspectors: Shelf<(String, ClientAuth), Arc<HttpIntrospector>>,
    answers: Shelf<(String, u64), Arc<AnswerCache>>,
    credentials: Shelf<(Arc<str>, Credentials), Option<Arc<Credential>>>,
    limiters: Shelf<(String, Rate), Arc<Limiter>>,
    open_requests: Shelf<String, Arc<OpenRequests>>,
    /// By the state of their files.
    bundles: Shelf<BundleKey, Arc<ModelScorer>>,
    /// By what their bundles say.
    scorers: Shelf<BundleKey, Arc<ModelScorer>>,
    /// By model, and who plays which part; one that changes begins anew.
    rollouts: Shelf<(Arc<str>, Vec<u8>), Arc<NamedRollout>>,
    /// Rollouts that metrics know.
    measured: Vec<Weak<Rollout>>,
    models: Shelf<Arc<str>, LoadedModel>,
    /// By all that their documents say of them.
    features: Shelf<Features, Arc<LiveFeatures>>,
    /// The bytes of the file of authorities belong to the key: a changed file is another trust.
    upstreams: Shelf<(Arc<str>, Vec<u8>), Arc<UpstreamState>>,
    /// What is known about endpoints, by the name of the upstream, whatever else its document says.
    rosters: Shelf<Arc<str>, Arc<Roster>>,
}

/// The long-lived parts of one process.
#[derive(Debug)]
pub struct Shared {
    /// Absent where nothing may be fetched: when policies are only checked.
    fetcher: Option<Fetcher>,
    telemetry: Option<Arc<Telemetry>>,
    /// Of this workload; absent where the process has none, and when policies are only checked.
    identity: Option<Arc<Identity>>,
    /// True where policies are checked for another process.
    elsewhere: bool,
    /// Where this gateway stands.
    zone: Option<Arc<str>>,
    quotas: Arc<Quotas>,
    trials: Arc<Trials>,
    /// Absent where none is named, and when policies are only checked.
    sidecar: Option<Arc<Sidecar>>,
    /// Threads of each version of a model.
    model_threads: usize,
    kept: Mutex<Kept>,
    /// Models of the last good compilation; apart from the rest, which is held while bundles load.
    in_force: ArcSwap<Vec<LoadedModel>>,
    /// What was carried out, where no store keeps it.
    pub memory: Arc<Memory>,
    /// Apart from the rest: they are read while something else is being made.
    secrets: Mutex<(Shelf<SecretRef, Arc<LiveSecret>>, u64)>,
    stores: Arc<Stores>,
}

impl Shared {
    pub fn new(fetcher: Option<Fetcher>, telemetry: Option<Arc<Telemetry>>) -> Self {
        let elsewhere = telemetry.is_none();
        let (quotas, trials, kept, memory, secrets, stores) = Default::default();
        Self {
            fetcher,
            telemetry,
            identity: None,
            elsewhere,
            zone: None,
            quotas,
            trials,
            sidecar: None,
            model_threads: default_threads(),
            kept,
            in_force: ArcSwap::default(),
            memory,
            secrets,
            stores,
        }
    }

    /// The same with an identity of this workload.
    #[must_use]
    pub fn with_identity(self, identity: Option<Arc<Identity>>) -> Self {
        Self { identity, ..self }
    }

    /// The same in a zone.
    #[must_use]
    pub fn with_zone(self, zone: Option<Arc<str>>) -> Self {
        Self { zone, ..self }
    }

    /// The same with a sidecar that models may be placed in.
    #[must_use]
    pub fn with_sidecar(self, sidecar: Option<Arc<Sidecar>>) -> Self {
        Self { sidecar, ..self }
    }

    /// The same with so many threads for each version of a model that is too dear for the workers.
    #[must_use]
    pub fn with_model_threads(self, model_threads: usize) -> Self {
        Self { model_threads, ..self }
    }

    /// The same with quotas that outlive the process.
    #[must_use]
    pub fn with_quotas(self, quotas: Arc<Quotas>) -> Self {
        Self { quotas, ..self }
    }

    /// The same with what is remembered of models on trial.
    #[must_use]
    pub fn with_trials(self, trials: Trials) -> Self {
        Self { trials: Arc::new(trials), ..self }
    }

    /// The identity of this workload, where it has one.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of this name, made where there is none. `tell` makes known one that was made now.
    fn part<K: Eq + Hash, V: Clone, E>(
        &self,
        of: impl FnOnce(&mut Kept) -> &mut Shelf<K, V>,
        key: K,
        make: impl FnOnce() -> Result<V, E>,
        tell: impl FnOnce(&Telemetry, &V),
    ) -> Result<V, E> {
        let mut kept = self.kept();
        let attempt = kept.attempt;
        let (part, new) = of(&mut kept).take(key, attempt, make)?;
        drop(kept);
        if let (true, Some(telemetry)) = (new, &self.telemetry) {
            tell(telemetry, &part);
        }
        Ok(part)
    }

    /// A compilation begins: what it asks for from now on is in use.
    pub fn begin(&self) {
        let attempt = {
            let mut kept = self.kept();
            kept.attempt += 1;
            kept.attempt
        };
        self.secrets().1 = attempt;
        self.stores.begin();
    }

    fn secrets(&self) -> MutexGuard<'_, (Shelf<SecretRef, Arc<LiveSecret>>, u64)> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The secret that is referred to: read once, and again whenever [`Self::reload_keys`] is called.
    fn secret(&self, reference: &SecretRef) -> Result<Arc<LiveSecret>, SecretError> {
        let (known, attempt) = &mut *self.secrets();
        let open = || LiveSecret::open(reference).map(Arc::new);
        known.take(reference.clone(), *attempt, open).map(|(secret, _)| secret)
    }

    /// The compilation was published: what it did not ask for is let go.
    pub fn commit(&self) {
        let mut kept = self.kept();
        let attempt = kept.attempt;
        kept.keys.keep_only(attempt);
        kept.tokens.keep_only(attempt);
        kept.introspectors.keep_only(attempt);
        kept.answers.keep_only(attempt);
        kept.credentials.keep_only(attempt);
        kept.limiters.keep_only(attempt);
        kept.open_requests.keep_only(attempt);
        kept.bundles.keep_only(attempt);
        // Not by attempt: a bundle that was loaded before does not ask for its scorer again.
        let Kept { bundles, scorers, .. } = &mut *kept;
        scorers.0.retain(|_, (scorer, _)| bundles.0.values().any(|(used, _)| Arc::ptr_eq(used, scorer)));
        kept.rollouts.keep_only(attempt);
        kept.models.keep_only(attempt);
        kept.features.keep_only(attempt);
        self.models_in_force(&mut kept);
        let mut in_force = kept.models.all();
        in_force.sort_by(|a, b| a.name.cmp(&b.name));
        self.in_force.store(Arc::new(in_force));
        kept.upstreams.keep_only(attempt);
        kept.rosters.keep_only(attempt);
        for (upstream, _) in kept.upstreams.0.values() {
            upstream.roster.show(upstream);
        }
        drop(kept);
        self.quotas.sweep();
        self.secrets().0.keep_only(attempt);
        self.stores.commit();
    }

    /// The stores that gateways share.
    pub const fn stores(&self) -> &Arc<Stores> {
        &self.stores
    }

    /// Reads every file of keys and every secret anew; on a fault the old ones stay. Gives what went wrong.
    pub fn reload_keys(&self) -> Vec<String> {
        let keys = self.kept().keys.all();
        let secrets = self.secrets().0.all();
        let keys = keys.iter().filter_map(|keys| keys.reload().err()).map(|error| error.to_string());
        let secrets =
            secrets.iter().filter_map(|secret| secret.reload().err()).map(|error| error.to_string());
        keys.chain(secrets).collect()
    }

    /// The files that keys and secrets are read from.
    pub fn key_files(&self) -> Vec<PathBuf> {
        let keys = self.kept().keys.all();
        let files = keys.iter().filter_map(|keys| match &**keys {
            IssuerKeys::File(keys) => Some(keys.path().to_owned()),
            IssuerKeys::Fixed(_) | IssuerKeys::Url(_) => None,
        });
        let secrets = self.secrets().0.all();
        files.chain(secrets.iter().filter_map(|secret| secret.file().map(Into::into))).collect()
    }
}

//! What outlives a snapshot: keys, caches, counters, models, upstreams; carried over by name.

use std::collections::HashMap;
use std::hash::Hash;
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foregate_filters::client_auth::ClientAuth;
use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::introspection::{self, AnswerCache};
use foregate_filters::introspector::Introspector;
use foregate_filters::jwt::{Jwks, TokenCache};
use foregate_filters::keys::Keys;
use foregate_filters::rate_limit::limiter::{Limiter, Rate};
use foregate_filters::resources::Resources;
use foregate_filters::score::Scorer;
use foregate_filters::secret::SecretRef;
use foregate_inference::bundle::{Bundle, Cost};
use foregate_inference::scorer::ModelScorer;
use foregate_policy::compile::Materials;
use foregate_policy::documents::credentials::Credentials;
use foregate_policy::documents::model::Placement;
use foregate_policy::snapshot::{CertificateFiles, Model, Shown, Upstream};
use sha2::{Digest, Sha256};

use crate::clock;
use crate::discovery;
use crate::dispatch;
use crate::dispatch::roster::Roster;
use crate::dispatch::upstream::UpstreamState;
use crate::health;
use crate::identity::Identity;
use crate::identity::trust;
use crate::keys::Fetcher;
use crate::keys::IssuerKeys;
use crate::oauth::credential::Credential;
use crate::oauth::introspect::{HttpIntrospector, Unasked};
use crate::oauth::proof::ClientProof;
use crate::part_metrics;
use crate::secrets::{LiveSecret, SecretError};
use crate::telemetry::Telemetry;
use crate::tls::{self, TlsError};

/// Keys remembered by one limiter; the oldest fall out above it.
const LIMITER_KEYS: usize = 1_000_000;

/// Threads of one model, for scores too dear for the workers.
const MODEL_THREADS: usize = 1;

/// Parts by name, each with the attempt that last asked for it.
#[derive(Debug)]
struct Shelf<K, V>(HashMap<K, (V, u64)>);

/// What tells one scorer from another: the name of its model, where it runs, and the state of its bundle.
type ModelKey = (Arc<str>, Placement, Vec<u8>);

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
    models: Shelf<ModelKey, Arc<dyn Scorer>>,
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
    kept: Mutex<Kept>,
    /// Apart from the rest: they are read while something else is being made.
    secrets: Mutex<(Shelf<SecretRef, Arc<LiveSecret>>, u64)>,
}

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: Clone> Shelf<K, V> {
    /// The part of this name; made where there is none. True where it was made now.
    fn take<E>(&mut self, key: K, attempt: u64, make: impl FnOnce() -> Result<V, E>) -> Result<(V, bool), E> {
        if let Some((part, used)) = self.0.get_mut(&key) {
            *used = attempt;
            return Ok((part.clone(), false));
        }
        let part = make()?;
        self.0.insert(key, (part.clone(), attempt));
        Ok((part, true))
    }

    fn keep_only(&mut self, attempt: u64) {
        self.0.retain(|_, (_, used)| *used == attempt);
    }
}

impl Shared {
    pub fn new(fetcher: Option<Fetcher>, telemetry: Option<Arc<Telemetry>>) -> Self {
        let elsewhere = telemetry.is_none();
        let (kept, secrets) = Default::default();
        Self { fetcher, telemetry, identity: None, elsewhere, zone: None, kept, secrets }
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

    /// The identity of this workload, where it has one.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// Puts an upstream in the place of the one it renews.
    pub fn renewed(&self, old: &Arc<UpstreamState>, new: &Arc<UpstreamState>) {
        for (state, _) in self.kept().upstreams.0.values_mut() {
            if Arc::ptr_eq(state, old) {
                *state = Arc::clone(new);
            }
        }
        new.roster.show(new);
        self.watch(new);
    }

    /// Checks of its endpoints begin, where its document asks for some.
    fn watch(&self, upstream: &Arc<UpstreamState>) {
        if let Some(fetcher) = &self.fetcher {
            health::watch(upstream, &fetcher.runtime);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A compilation begins: what it asks for from now on is in use.
    pub fn begin(&self) {
        let attempt = {
            let mut kept = self.kept();
            kept.attempt += 1;
            kept.attempt
        };
        self.secrets().1 = attempt;
    }

    fn secrets(&self) -> std::sync::MutexGuard<'_, (Shelf<SecretRef, Arc<LiveSecret>>, u64)> {
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
        kept.models.keep_only(attempt);
        kept.upstreams.keep_only(attempt);
        kept.rosters.keep_only(attempt);
        for (upstream, _) in kept.upstreams.0.values() {
            upstream.roster.show(upstream);
        }
        drop(kept);
        self.secrets().0.keep_only(attempt);
    }

    /// Reads every file of keys and every secret anew; on a fault the old ones stay. Gives what went wrong.
    pub fn reload_keys(&self) -> Vec<String> {
        let all: Vec<Arc<IssuerKeys>> =
            self.kept().keys.0.values().map(|(keys, _)| Arc::clone(keys)).collect();
        let secrets: Vec<Arc<LiveSecret>> =
            self.secrets().0.0.values().map(|(secret, _)| Arc::clone(secret)).collect();
        let keys = all.iter().filter_map(|keys| keys.reload().err()).map(|error| error.to_string());
        let secrets =
            secrets.iter().filter_map(|secret| secret.reload().err()).map(|error| error.to_string());
        keys.chain(secrets).collect()
    }

    /// The files that keys and secrets are read from.
    pub fn key_files(&self) -> Vec<PathBuf> {
        let kept = self.kept();
        let files = kept.keys.0.values().filter_map(|(keys, _)| match &**keys {
            IssuerKeys::File(keys) => Some(keys.path().to_owned()),
            IssuerKeys::Fixed(_) | IssuerKeys::Url(_) => None,
        });
        let mut files: Vec<PathBuf> = files.collect();
        drop(kept);
        files.extend(self.secrets().0.0.values().filter_map(|(secret, _)| secret.file().map(Into::into)));
        files
    }

    /// The live state of an upstream: the old one while its document and authorities stay the same.
    ///
    /// # Errors
    /// Where its trusted authorities cannot be read.
    pub fn upstream(&self, spec: &Arc<Upstream>) -> Result<Arc<UpstreamState>, TlsError> {
        let authorities = spec.tls.as_ref().and_then(|tls| tls.ca_file.as_ref());
        let mut bytes = authorities.and_then(|file| std::fs::read(file).ok()).unwrap_or_default();
        if let Some(Shown::Certificate(files)) = spec.tls.as_ref().map(|tls| &tls.shown) {
            // A changed certificate is another identity; of the key itself nothing is kept.
            bytes.extend(std::fs::read(&files.certificate).unwrap_or_default());
            bytes.extend(Sha256::digest(std::fs::read(&files.key).unwrap_or_default()));
        }
        let credential = self.credential(spec);
        let identity = self.identity.as_ref().and_then(|identity| identity.current());
        let mark = identity.as_ref().map(|set| set.mark());
        let current = |state: &UpstreamState| {
            !state.uses_identity() || state.tls.as_ref().is_none_or(|tls| tls.identity == mark)
        };
        let mut kept = self.kept();
        let attempt = kept.attempt;
        let key = (Arc::clone(&spec.name), bytes);
        let make = || Ok::<_, TlsError>(Roster::new(Arc::clone(&spec.name), self.telemetry.as_ref()));
        let (roster, _) = kept.rosters.take(Arc::clone(&spec.name), attempt, make)?;
        if let Some((state, used)) = kept.upstreams.0.get_mut(&key)
            && state.spec == *spec
            && current(state)
        {
            *used = attempt;
            return Ok(Arc::clone(state));
        }
        let tls = spec
            .tls
            .as_ref()
            .map(|tls| dispatch::tls::config(tls, spec.protocol, identity.as_deref()))
            .transpose()?;
        let mut state = UpstreamState::new(Arc::clone(spec), tls, roster, self.zone.clone());
        state.credential = credential;
        let before = kept.upstreams.0.iter().filter(|((name, _), _)| *name == spec.name);
        if let Some((_, (before, _))) = before.max_by_key(|(_, (_, used))| *used) {
            state.sources.inherit(&before.sources);
            // What was learned of its limit stays true, and what is under way is counted on.
            if before.spec.concurrency == spec.concurrency {
                state.admission = Arc::clone(&before.admission);
            }
            state.catch_up(clock::monotonic());
        }
        let state = Arc::new(state);
        kept.upstreams.0.insert(key, (Arc::clone(&state), attempt));
        drop(kept);
        self.watch(&state);
        Ok(state)
    }

    /// What an upstream is shown: the old token while what is said of it stays the same.
    fn credential(&self, spec: &Upstream) -> Option<Arc<Credential>> {
        let said = spec.credentials.as_ref()?;
        let mut kept = self.kept();
        let attempt = kept.attempt;
        let runtime = self.fetcher.as_ref().map(|fetcher| &fetcher.runtime);
        let open = || {
            let made = Credential::open(said, &Path::default(), &|secret| self.secret(secret), runtime);
            made.map(|credential| credential.map(Arc::new))
        };
        // Faults were told when the policies were compiled: what is unfit since then is refused by requests.
        let (credential, new) =
            kept.credentials.take((Arc::clone(&spec.name), said.clone()), attempt, open).ok()?;
        drop(kept);
        if let (true, Some(telemetry), Some(credential)) = (new, &self.telemetry, &credential) {
            part_metrics::credential(telemetry, &spec.name, credential);
        }
        credential
    }
}

/// What tells one state of a bundle from another: its description, and size and time of every file, so
/// that a file damaged beside an unchanged description is found out at the reload, not at the next start.
fn identity(bundle: &FilePath) -> Vec<u8> {
    let mut identity = bundle.as_os_str().as_encoded_bytes().to_vec();
    identity.extend(std::fs::read(bundle.join("model.yaml")).unwrap_or_default());
    let mut files: Vec<_> = std::fs::read_dir(bundle).into_iter().flatten().flatten().collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    for file in files {
        let Ok(metadata) = std::fs::metadata(file.path()) else { continue };
        identity.extend(file.file_name().as_encoded_bytes());
        for number in [
            metadata.ino(),
            metadata.len(),
            metadata.mtime().cast_unsigned(),
            metadata.mtime_nsec().cast_unsigned(),
        ] {
            identity.extend(number.to_le_bytes());
        }
    }
    identity
}

impl Resources for Shared {
    fn keys(&self, issuer: &str, spec: &Jwks, at: &Path) -> Result<Arc<dyn Keys>, Fault> {
        let text = serde_json::to_string(spec).unwrap_or_default();
        let mut kept = self.kept();
        let attempt = kept.attempt;
        // Paths are absolute by now, or relative to the working directory: the base adds nothing.
        let open = || IssuerKeys::open(issuer, spec, FilePath::new(""), self.fetcher.as_ref()).map(Arc::new);
        let (keys, new) = kept
            .keys
            .take((issuer.to_owned(), text), attempt, open)
            .map_err(|error| Fault::new(Code::FILE, at.clone(), error.to_string()))?;
        drop(kept);
        if let (true, Some(telemetry)) = (new, &self.telemetry) {
            part_metrics::keys(telemetry, issuer, &keys);
        }
        Ok(keys.keys())
    }

    fn tokens(&self, issuer: &str, fingerprint: u64) -> Arc<TokenCache> {
        let mut kept = self.kept();
        let attempt = kept.attempt;
        let make = || Ok::<_, std::convert::Infallible>(Arc::new(TokenCache::default()));
        let Ok((cache, new)) = kept.tokens.take((issuer.to_owned(), fingerprint), attempt, make);
        drop(kept);
        if let (true, Some(telemetry)) = (new, &self.telemetry) {
            part_metrics::tokens(telemetry, issuer, &cache);
        }
        cache
    }

    fn introspector(&self, spec: &introspection::Spec, at: &Path) -> Result<Arc<dyn Introspector>, Fault> {
        let (auth, at) = (&spec.client_auth, at.key("clientAuth"));
        let proof = ClientProof::open(auth, &spec.endpoint, &at, &|secret| self.secret(secret))?;
        // Nobody asks while policies are only checked.
        let Some(fetcher) = &self.fetcher else { return Ok(Arc::new(Unasked)) };
        let mut kept = self.kept();
        let attempt = kept.attempt;
        let make = || {
            let introspector = HttpIntrospector::new(&spec.endpoint, proof, fetcher.runtime.clone());
            Ok::<_, Fault>(Arc::new(introspector))
        };
        let key = (spec.endpoint.clone(), auth.clone());
        let (introspector, new) = kept.introspectors.take(key, attempt, make)?;
        drop(kept);
        if let (true, Some(telemetry)) = (new, &self.telemetry) {
            part_metrics::introspector(telemetry, &spec.endpoint, &introspector);
        }
        Ok(introspector)
    }

    fn answers(&self, endpoint: &str, fingerprint: u64) -> Arc<AnswerCache> {
        let mut kept = self.kept();
        let attempt = kept.attempt;
        let make = || Ok::<_, std::convert::Infallible>(Arc::default());
        let Ok((cache, new)) = kept.answers.take((endpoint.to_owned(), fingerprint), attempt, make);
        drop(kept);
        if let (true, Some(telemetry)) = (new, &self.telemetry) {
            part_metrics::answers(telemetry, endpoint, &cache);
        }
        cache
    }

    fn limiter(&self, name: &str, rate: &Rate) -> Arc<Limiter> {
        let mut kept = self.kept();
        let attempt = kept.attempt;
        let make = || Ok::<_, std::convert::Infallible>(Arc::new(Limiter::new(*rate, LIMITER_KEYS)));
        let Ok((limiter, new)) = kept.limiters.take((name.to_owned(), *rate), attempt, make);
        drop(kept);
        if let (true, Some(telemetry)) = (new, &self.telemetry) {
            part_metrics::limiter(telemetry, name, &limiter);
        }
        limiter
    }

    fn scorer(&self, model: &str, at: &Path) -> Result<Arc<dyn Scorer>, Fault> {
        let kept = self.kept();
        let attempt = kept.attempt;
        let found = kept.models.0.iter().find(|((name, ..), (_, used))| **name == *model && *used == attempt);
        found
            .map(|(_, (scorer, _))| Arc::clone(scorer))
            .ok_or_else(|| Fault::new(Code::REFERENCE, at.clone(), format!("model `{model}` is not loaded")))
    }
}

impl Materials for Shared {
    fn unix(&self) -> Duration {
        clock::now().unix
    }

    fn model(&self, model: &Model, at: &Path) -> Result<(), Fault> {
        let Model { name, bundle, placement } = model;
        let key = (Arc::clone(name), *placement, identity(bundle));
        let mut kept = self.kept();
        let attempt = kept.attempt;
        let refused = |error: String| Fault::new(Code::MODEL, at.clone(), error);
        let load = || {
            let mut bundle = Bundle::load(bundle).map_err(|error| refused(error.to_string()))?;
            match placement {
                Placement::Auto => {}
                Placement::Inline => bundle.cost = Cost::Inline,
                Placement::Threads => bundle.cost = Cost::Threads,
            }
            let scorer =
                ModelScorer::new(name, bundle, MODEL_THREADS).map_err(|error| refused(error.to_string()))?;
            Ok(Arc::new(scorer) as Arc<dyn Scorer>)
        };
        kept.models.take(key, attempt, load).map(drop)
    }

    fn certificate(&self, files: &CertificateFiles) -> Result<(), String> {
        tls::certificate(files).map(drop).map_err(|error| error.to_string())
    }

    fn authorities(&self, file: &FilePath) -> Result<(), String> {
        dispatch::tls::authorities(file).map(drop).map_err(|error| error.to_string())
    }

    fn endpoints(&self, file: &FilePath) -> Result<(), String> {
        discovery::file::read(file).map(drop)
    }

    fn revocations(&self, file: &FilePath) -> Result<(), String> {
        // A file that is there and cannot be looked at must not pass for one that is not.
        if file.try_exists().is_ok_and(|there| !there) {
            return Ok(());
        }
        trust::check_revocations(file).map_err(|error| error.to_string())
    }

    fn workload(&self) -> Result<(), String> {
        if self.elsewhere || self.identity.is_some() {
            return Ok(());
        }
        Err("this process was given no identity of its workload".to_owned())
    }

    fn credentials(&self, said: &Credentials, at: &Path) -> Result<(), Fault> {
        Credential::open(said, at, &|secret| self.secret(secret), None).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path as FilePath;
    use std::sync::Arc;
    use std::time::Duration;

    use foregate_filters::fault::Path;
    use foregate_filters::resources::Resources;
    use foregate_filters::score::ScoreCall;
    use foregate_policy::compile::Materials;
    use foregate_policy::documents::model::Placement;
    use foregate_policy::snapshot::Model;

    use super::Shared;

    /// True where a lead padded to so many bytes is scored on the thread that asks.
    fn inline(shared: &Shared, placement: Placement, bytes: usize) -> bool {
        let folder =
            FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../inference-sidecar/bundles/lead-score");
        let model = Model { name: "lead-score".into(), bundle: folder, placement };
        shared.begin();
        shared.model(&model, &Path::default()).unwrap();
        let body = format!("{{\"Notes\":\"{}\"}}", "n".repeat(bytes)).into();
        let call = ScoreCall { body, reserved: Arc::default(), budget: Duration::from_secs(1) };
        let inline = shared.scorer("lead-score", &Path::default()).unwrap().score(&call).is_some();
        shared.commit();
        inline
    }

    #[test]
    fn a_model_runs_where_its_document_says_and_large_bodies_on_threads() {
        let shared = Shared::new(None, None);
        assert!(inline(&shared, Placement::Inline, 1 << 10));
        assert!(!inline(&shared, Placement::Inline, 32 << 10));
        assert!(!inline(&shared, Placement::Threads, 1 << 10));
        assert!(inline(&shared, Placement::Inline, 1 << 10), "a changed placement is another scorer");
    }
}

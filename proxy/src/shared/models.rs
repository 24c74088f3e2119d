//! Models: bundles loaded once, versions put together as their rollout says.

use std::os::unix::fs::MetadataExt;
use std::path::Path as FilePath;
use std::sync::Arc;

use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::score::Scorer;
use foregate_inference::bundle::error::BundleError;
use foregate_inference::bundle::{Bundle, Cost};
use foregate_inference::remote::{Contract, Remote};
use foregate_inference::rollout::Rollout;
use foregate_inference::scorer::ModelScorer;
use foregate_inference::store::{FeatureStore, StoreKey};
use foregate_policy::codes;
use foregate_policy::documents::model::Placement;
use foregate_policy::model::{Features, Model};

use crate::decision_log::keys::{KeyRef, PublicKey};
use crate::features::{self, LiveFeatures};
use crate::oauth::proof::secret_fault;
use crate::part_metrics;
use crate::shared::rollouts::{parts_of, start};
use crate::shared::{Kept, Shared};
use crate::sidecar::Sidecar;

/// Threads of one version, for scores too dear for the workers.
const MODEL_THREADS: usize = 1;

/// What tells one bundle from another: the model it belongs to, where it runs, and the state of its files.
pub(super) type BundleKey = (Arc<str>, Placement, Vec<u8>);

/// A model that filters may ask.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    pub name: Arc<str>,
    /// In document order; the name of the version where the document gives it one.
    pub versions: Vec<(Option<Arc<str>>, Arc<ModelScorer>)>,
    /// Absent where the document gives one bundle.
    pub rollout: Option<Arc<Rollout>>,
}

impl LoadedModel {
    /// What scores for it.
    pub fn scorer(&self) -> Option<Arc<dyn Scorer>> {
        match (&self.rollout, self.versions.first()) {
            (Some(rollout), _) => Some(Arc::clone(rollout) as Arc<dyn Scorer>),
            (None, Some((_, scorer))) => Some(Arc::clone(scorer) as Arc<dyn Scorer>),
            (None, None) => None,
        }
    }
}

/// Who may sign the bundles of a model.
#[derive(Debug)]
pub struct Signers(Vec<PublicKey>);

impl Signers {
    fn load(model: &Model, spec: &Path) -> Result<Self, Vec<Fault>> {
        let (mut keys, mut faults) = (Vec::new(), Vec::new());
        for (place, file) in model.signed_by.iter().enumerate() {
            match PublicKey::load(&KeyRef::File(file.clone())) {
                Ok(key) => keys.push(key),
                Err(error) => {
                    let at = spec.key("signedBy").index(place).key("file");
                    faults.push(Fault::new(Code::FILE, at, error.to_string()));
                }
            }
        }
        if faults.is_empty() { Ok(Self(keys)) } else { Err(faults) }
    }

    /// Those who have one of these keys; with none, nobody need have signed.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    fn ids(&self) -> impl Iterator<Item = u8> {
        self.0.iter().flat_map(|key| key.id().bytes())
    }

    /// True where nobody need have signed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True where one of them has made this signature.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.iter().any(|key| key.verifies(message, signature))
    }

    /// Loads a bundle that one of them has signed; any bundle where nobody is named.
    pub fn load_bundle(&self, folder: &FilePath) -> Result<Bundle, BundleError> {
        let signed = |message: &[u8], signature: &[u8]| self.verify(message, signature);
        Bundle::load_signed(folder, (!self.is_empty()).then_some(&signed))
    }
}

impl Shared {
    /// Loads every bundle of a model, and puts them together; gives every fault at once.
    pub(super) fn load_model(&self, model: &Model, spec: &Path) -> Result<(), Vec<Fault>> {
        let signers = Signers::load(model, spec)?;
        let store = model.features.as_ref().map(|said| self.features(said, spec)).transpose();
        let store = store.map_err(|fault| vec![fault])?.flatten();
        let mut kept = self.kept();
        let attempt = kept.attempt;
        let (mut faults, mut versions) = (Vec::new(), Vec::new());
        for (place, version) in model.versions.iter().enumerate() {
            let (sidecar, store) = (self.placed(model, spec)?, store.as_ref());
            let wanted = Wanted { model, signers: &signers, store, sidecar, place, spec };
            match wanted.load(&mut kept, &version.bundle) {
                Ok(scorer) => versions.push((version.name.clone(), scorer)),
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let rollout = model.rollout.as_ref().map(|rollout| {
            let make = || start(&model.name, rollout, &versions, spec, &self.trials).map(Arc::new);
            let key = (Arc::clone(&model.name), parts_of(rollout, &versions));
            kept.rollouts.take(key, attempt, make)
        });
        let rollout = rollout.transpose()?.map(|(named, _)| Arc::clone(&named.rollout));
        let loaded = LoadedModel { name: Arc::clone(&model.name), versions, rollout };
        kept.models.0.insert(Arc::clone(&model.name), (loaded, attempt));
        Ok(())
    }

    /// The compilation is in force: its rollouts are measured, and its stores kept current, from now on. What was refused
    /// has left no trace.
    pub(super) fn models_in_force(&self, kept: &mut Kept) {
        let Some(telemetry) = &self.telemetry else { return };
        kept.measured.retain(|rollout| rollout.strong_count() > 0);
        for named in kept.rollouts.all() {
            if kept.measured.iter().all(|known| known.as_ptr() != Arc::as_ptr(&named.rollout)) {
                kept.measured.push(Arc::downgrade(&named.rollout));
                part_metrics::rollout(telemetry, &named.rollout);
                named.tell_off();
            }
        }
        for model in kept.models.all() {
            for (version, scorer) in &model.versions {
                let version = version.as_deref().unwrap_or(&scorer.manifest().version);
                part_metrics::runs(telemetry, &model.name, version, scorer);
            }
        }
        let identities: Vec<_> =
            kept.rollouts.0.values().map(|(named, _)| Arc::clone(&named.identity)).collect();
        self.trials.keep_only(&identities);
        let runtime = self.fetcher.as_ref().map(|fetcher| &fetcher.runtime);
        for (live, _) in kept.features.0.values() {
            // A store that the compilation has named is there.
            let named = |store: &str| self.stores.find(store, &Path::default()).ok().flatten();
            let redis = live.said.stream.as_ref().and_then(|stream| named(&stream.store));
            if live.keep(redis, runtime) {
                part_metrics::features(telemetry, live);
            }
        }
    }

    /// The sidecar that a model is placed in. Where policies are checked for another process, the model is run here.
    fn placed(&self, model: &Model, spec: &Path) -> Result<Option<&Arc<Sidecar>>, Vec<Fault>> {
        if model.placement != Placement::Sidecar || self.elsewhere {
            return Ok(None);
        }
        let missing = || {
            let message = "the model is placed in a sidecar, and this process was told of none";
            let help = "start it with --inference-sidecar unix:/path.sock, or leave `placement` out";
            vec![Fault::new(codes::SIDECAR, spec.key("placement"), message).help(help)]
        };
        self.sidecar.as_ref().map(Some).ok_or_else(missing)
    }

    /// The feature store of a model, opened; `None` where secrets are not looked for.
    fn features(&self, said: &Features, spec: &Path) -> Result<Option<Arc<FeatureStore>>, Fault> {
        let Some(key) = &said.key else { return Ok(None) };
        let at = spec.key("featureStore");
        let (mut secrets, mut keys) = (Vec::new(), Vec::new());
        for (field, key) in [("key", Some(key)), ("nextKey", said.next_key.as_ref())] {
            let Some(key) = key else { continue };
            let secret = self.secret(key).map_err(|error| secret_fault(&at.key(field), &error))?;
            let key = StoreKey::parse(secret.current().expose());
            keys.push(key.map_err(|error| Fault::new(Code::SECRET, at.key(field), error.to_string()))?);
            secrets.push(secret);
        }
        let open = || {
            let store = features::open(&said.path, &keys).map_err(|fault| {
                let help = features::help(&fault.fault);
                Fault::new(Code::FEATURE_STORE, at.key("path"), fault.to_string()).help(help)
            })?;
            Ok::<_, Fault>(Arc::new(LiveFeatures::new(store, said.clone(), secrets)))
        };
        let mut kept = self.kept();
        // One that was made anew with other columns is another store.
        kept.features.0.retain(|known, (live, _)| known != said || !live.store.is_replaced());
        let attempt = kept.attempt;
        let (live, _) = kept.features.take(said.clone(), attempt, open)?;
        Ok(Some(Arc::clone(&live.store)))
    }

    /// The models of what is in force, by name. Waits for nothing.
    pub fn models(&self) -> Vec<LoadedModel> {
        self.in_force.load().to_vec()
    }
}

/// A version that is to be loaded.
struct Wanted<'a> {
    model: &'a Model,
    signers: &'a Signers,
    store: Option<&'a Arc<FeatureStore>>,
    sidecar: Option<&'a Arc<Sidecar>>,
    /// Of the version in the model.
    place: usize,
    spec: &'a Path,
}

impl Wanted<'_> {
    /// Loads a bundle whose files are others than before. One that says the same as before goes on as the same scorer:
    /// files that were touched are no other version.
    fn load(&self, kept: &mut Kept, folder: &FilePath) -> Result<Arc<ModelScorer>, Fault> {
        let Self { model, signers, .. } = self;
        let mut state: Vec<u8> = signers.ids().collect();
        // The same store as an object: what it is, and not where.
        let store = self.store.map_or(0, |store| Arc::as_ptr(store).addr());
        state.extend(store.to_le_bytes());
        state.push(model.features.is_some().into());
        let key = |state| (Arc::clone(&model.name), model.placement, state);
        let files = key([state.as_slice(), identity(folder).as_slice()].concat());
        let help = format!("the bundle is looked for in {}", folder.display());
        let refused = |error: String| Fault::new(Code::MODEL, self.at(), error).help(help.as_str());
        let (attempt, scorers) = (kept.attempt, &mut kept.scorers);
        let load = || {
            let mut bundle = signers.load_bundle(folder).map_err(|error| refused(error.to_string()))?;
            self.attach(&mut bundle)?;
            match model.placement {
                Placement::Auto | Placement::Sidecar => {}
                Placement::Inline => bundle.place(Cost::Inline),
                Placement::Threads => bundle.place(Cost::Threads),
            }
            let remote = self.sidecar.map(|sidecar| self.ask(sidecar, &bundle)).transpose()?;
            state.extend(folder.as_os_str().as_encoded_bytes());
            state.extend(format!("{:?}", bundle.manifest).into_bytes());
            let start = || {
                let scorer = ModelScorer::new(&model.name, bundle, MODEL_THREADS);
                Ok::<_, Fault>(Arc::new(match remote {
                    Some(remote) => scorer.with_remote(remote),
                    None => scorer,
                }))
            };
            scorers.take(key(state), attempt, start).map(|(scorer, _)| scorer)
        };
        kept.bundles.take(files, attempt, load).map(|(scorer, _)| scorer)
    }

    fn ask(&self, sidecar: &Arc<Sidecar>, bundle: &Bundle) -> Result<Arc<dyn Remote>, Fault> {
        let contract = Contract::of(bundle).ok_or_else(|| {
            let message = "a model that ranks is not asked of a sidecar: its items are found here";
            let help = "leave `placement` out, or say Threads";
            Fault::new(codes::SIDECAR, self.spec.key("placement"), message).help(help)
        })?;
        Ok(sidecar.target(contract))
    }

    fn at(&self) -> Path {
        self.model.bundle_at(self.place, self.spec)
    }

    /// Tells a bundle where its features are looked up.
    fn attach(&self, bundle: &mut Bundle) -> Result<(), Fault> {
        match (self.store, &self.model.features) {
            (Some(store), _) => bundle.attach(store).map_err(|error| {
                Fault::new(Code::FEATURE_STORE, self.spec.key("featureStore"), error.to_string())
            }),
            (None, None) if bundle.plan.looks_up() => {
                let message = "the bundle looks features up, and no store is named";
                let help = "add featureStore: { path: .., key: { file: .. } }";
                Err(Fault::new(Code::FEATURE_STORE, self.at(), message).help(help))
            }
            (None, _) => Ok(()),
        }
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

#[cfg(test)]
mod tests {
    use std::path::Path as FilePath;
    use std::sync::Arc;
    use std::time::Duration;

    use foregate_filters::fault::Path;
    use foregate_filters::resources::Resources;
    use foregate_filters::score::ScoreCall;
    use foregate_filters::secret::SecretRef;
    use foregate_inference::store::{FeatureStore, StoreKey};
    use foregate_policy::codes;
    use foregate_policy::compile::Materials;
    use foregate_policy::documents::model::{Gate, Placement};
    use foregate_policy::model::{Features, Guardrails, Model, Rollout, Version};

    use crate::shared::Shared;

    /// True where a lead padded to so many bytes is scored on the thread that asks.
    fn inline(shared: &Shared, placement: Placement, bytes: usize) -> bool {
        let folder =
            FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../inference-sidecar/bundles/lead-score");
        let versions = vec![Version { name: None, bundle: folder }];
        let (name, signed_by) = ("lead-score".into(), Vec::new());
        let model = Model { name, versions, rollout: None, placement, signed_by, features: None };
        shared.begin();
        shared.model(&model, &Path::default()).unwrap();
        let body = format!("{{\"Notes\":\"{}\"}}", "n".repeat(bytes)).into();
        let (now, budget) = (Duration::ZERO, Duration::from_secs(1));
        let call = ScoreCall { body, reserved: Arc::default(), budget, now, explain: false };
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

    #[test]
    fn what_is_in_force_is_told_while_bundles_load() {
        let shared = Arc::new(Shared::new(None, None));
        assert!(inline(&shared, Placement::Inline, 1 << 10));
        // As a publication holds it for as long as a bundle takes.
        let loading = shared.kept();
        let (send, told) = std::sync::mpsc::channel();
        let asked = Arc::clone(&shared);
        std::thread::spawn(move || send.send(asked.models().len()));
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(1));
        drop(loading);
    }

    /// A model of these bundles, the second on trial as canary and judged by its drift.
    fn on_trial(bundles: [&str; 2]) -> Model {
        let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../inference-sidecar/bundles");
        let version = |bundle: &str| Version { name: Some(bundle.into()), bundle: folder.join(bundle) };
        let guardrails = Guardrails {
            p99: None,
            error_share: None,
            disagreement: None,
            tolerance: 0.1,
            drift: Some(0.25),
            hold_off: None,
            min_records: 1_000,
        };
        let (canary, gate) = (Some((1, 1_000)), Gate::default());
        let rollout = Rollout { production: 0, canary, shadow: None, guardrails, previous: None, gate };
        let (name, versions) = ("m".into(), bundles.map(version).to_vec());
        Model {
            name,
            versions,
            rollout: Some(rollout),
            placement: Placement::Auto,
            signed_by: Vec::new(),
            features: None,
        }
    }

    /// Copies bundles, as one that replaces them does: the same bytes in other files.
    fn put(folder: &FilePath, bundles: [&str; 2]) {
        let shipped = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../inference-sidecar/bundles");
        for bundle in bundles {
            std::fs::create_dir_all(folder.join(bundle)).unwrap();
            for file in std::fs::read_dir(shipped.join(bundle)).unwrap().flatten() {
                let place = folder.join(bundle).join(file.file_name());
                let _ = std::fs::remove_file(&place);
                std::fs::copy(file.path(), place).unwrap();
            }
        }
    }

    #[test]
    fn a_rollout_goes_on_where_files_are_touched_or_its_gate_changes() {
        let folder = tempfile::tempdir().unwrap();
        let bundles = ["lead-score", "lead-score-logistic"];
        put(folder.path(), bundles);
        let mut model = on_trial(bundles);
        for (version, bundle) in model.versions.iter_mut().zip(bundles) {
            version.bundle = folder.path().join(bundle);
        }
        let shared = Shared::new(None, None);
        let publish = |model: &Model| {
            shared.begin();
            shared.model(model, &Path::default()).unwrap();
            shared.commit();
            shared.models().remove(0).rollout.unwrap()
        };
        let first = publish(&model);
        put(folder.path(), bundles);
        model.rollout.as_mut().unwrap().previous = Some(1);
        assert!(Arc::ptr_eq(&first, &publish(&model)), "nothing in it changed");
        assert!(Arc::ptr_eq(&first, &publish(&model)));
        model.rollout.as_mut().unwrap().canary = Some((1, 2_000));
        let second = publish(&model);
        assert!(!Arc::ptr_eq(&first, &second), "another share is another rollout");
        let manifest = folder.path().join("lead-score-logistic/model.yaml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        std::fs::write(&manifest, text.replacen("version:", "version: x # ", 1)).unwrap();
        assert!(!Arc::ptr_eq(&second, &publish(&model)), "another canary is tried anew");
    }

    #[test]
    fn a_store_that_was_made_anew_with_other_columns_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, secret) = (folder.path().join("features.redb"), folder.path().join("key"));
        std::fs::write(&secret, "0".repeat(64)).unwrap();
        let make = |column: &str| {
            let _ = std::fs::remove_file(&path);
            let key = StoreKey::parse(&[b'0'; 64]).unwrap();
            FeatureStore::create(&path, &key, &[column.to_owned()]).unwrap();
        };
        make("visits");
        let key = Some(SecretRef { file: Some(secret.display().to_string()), ..SecretRef::default() });
        let (inbox, next_key, stream) = Default::default();
        let said = Features { path: path.clone(), key, next_key, inbox, stream };
        let shared = Shared::new(None, None);
        shared.begin();
        let open = || shared.features(&said, &Path::default()).unwrap().unwrap();
        let first = open();
        assert!(Arc::ptr_eq(&first, &open()));
        make("spend");
        let second = open();
        assert_eq!((first.pin().column("spend"), second.pin().column("spend")), (None, Some(0)));
        assert!(Arc::ptr_eq(&second, &open()));
    }

    #[test]
    fn a_version_that_does_not_fit_or_has_nothing_to_tell_drift_by_is_refused_with_every_reason() {
        let shared = Shared::new(None, None);
        shared.begin();
        assert_eq!(shared.model(&on_trial(["lead-score", "lead-score-logistic"]), &Path::default()), Ok(()));
        // The same bundle without the population that it was trained on.
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), ["lead-score", "case-queue"]);
        let bundle = folder.path().join("case-queue");
        let manifest = bundle.join("model.yaml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        let (before, rest) = text.split_once(", reference: {").unwrap();
        let (_, after) = rest.split_once('}').unwrap();
        std::fs::write(&manifest, format!("{before}{after}")).unwrap();
        let untold = bundle.to_str().unwrap();
        let faults = shared.model(&on_trial(["lead-score", untold]), &Path::default()).unwrap_err();
        let told: Vec<_> = faults.iter().map(|fault| (fault.code, fault.at.to_string())).collect();
        let at = ["rollout.canary.version", "rollout.guardrails.drift"];
        assert_eq!(told, at.map(|at| (codes::MODEL_MISFIT, at.to_owned())), "{faults:?}");
    }
}

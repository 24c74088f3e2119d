//! Models: bundles loaded once, versions put together as their rollout says.

use std::os::unix::fs::MetadataExt;
use std::path::Path as FilePath;
use std::sync::Arc;

use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::score::Scorer;
use foregate_filters::units::TimeSpan;
use foregate_inference::bundle::error::BundleError;
use foregate_inference::bundle::{Bundle, Cost};
use foregate_inference::remote::{Contract, Remote};
use foregate_inference::rollout::trial::{Event, Guardrails, Tell};
use foregate_inference::rollout::{Parts, Rollout, Version, fit};
use foregate_inference::scorer::ModelScorer;
use foregate_inference::store::FeatureStore;
use foregate_policy::codes;
use foregate_policy::documents::model::Placement;
use foregate_policy::model::{self, Features, Model};
use log::Level;

use crate::decision_log::keys::{KeyRef, PublicKey};
use crate::features::{self, OpenError};
use crate::oauth::proof::secret_fault;
use crate::part_metrics;
use crate::shared::{Kept, Shared};
use crate::sidecar::Sidecar;
use crate::telemetry::event::event;

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

    /// Loads a bundle that one of them has signed; any bundle where nobody is named.
    pub fn load_bundle(&self, folder: &FilePath) -> Result<Bundle, BundleError> {
        let signed =
            |message: &[u8], signature: &[u8]| self.0.iter().any(|key| key.verifies(message, signature));
        Bundle::load_signed(folder, (!self.0.is_empty()).then_some(&signed))
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
        let (mut faults, mut versions, mut state) =
            (Vec::new(), Vec::new(), format!("{model:?}").into_bytes());
        for (place, version) in model.versions.iter().enumerate() {
            let mut identity = identity(&version.bundle);
            identity.extend(signers.ids());
            identity.extend(format!("{:?}", model.features).into_bytes());
            state.extend(&identity);
            let (sidecar, store) = (self.placed(model, spec)?, store.as_ref());
            let wanted = Wanted { model, signers: &signers, store, sidecar, place, spec };
            match wanted.load(&mut kept, &version.bundle, identity) {
                Ok(scorer) => versions.push((version.name.clone(), scorer)),
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let make = || {
            let rollout = model.rollout.as_ref().map(|rollout| start(&model.name, rollout, &versions, spec));
            let rollout = rollout.transpose()?.map(Arc::new);
            let (name, versions) = (Arc::clone(&model.name), versions.clone());
            Ok::<_, Vec<Fault>>(LoadedModel { name, versions, rollout })
        };
        let (loaded, new) = kept.models.take((Arc::clone(&model.name), state), attempt, make)?;
        drop(kept);
        if let (true, Some(telemetry), Some(rollout)) = (new, &self.telemetry, &loaded.rollout) {
            part_metrics::rollout(telemetry, rollout);
        }
        Ok(())
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
        let secret = self.secret(key).map_err(|error| secret_fault(&at.key("key"), &error))?;
        let open = || {
            let opened = features::open(&said.path, secret.current().expose());
            opened.map(Arc::new).map_err(|error| match error {
                OpenError::Key(error) => Fault::new(Code::SECRET, at.key("key"), error.to_string()),
                OpenError::Store(fault) => {
                    let help = "foregate features show tells what a store holds, and import makes one";
                    Fault::new(Code::FEATURE_STORE, at.key("path"), fault.to_string()).help(help)
                }
            })
        };
        let tell = |telemetry: &_, store: &_| {
            part_metrics::features(telemetry, store);
            features::keep(store, said.inbox.clone());
        };
        self.part(|kept| &mut kept.features, said.clone(), open, tell).map(Some)
    }

    /// The models of what is in force, by name.
    pub fn models(&self) -> Vec<LoadedModel> {
        self.kept().in_force.clone()
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
    fn load(&self, kept: &mut Kept, folder: &FilePath, identity: Vec<u8>) -> Result<Arc<ModelScorer>, Fault> {
        let Self { model, signers, .. } = self;
        let help = format!("the bundle is looked for in {}", folder.display());
        let refused = |error: String| Fault::new(Code::MODEL, self.at(), error).help(help.as_str());
        let load = || {
            let mut bundle = signers.load_bundle(folder).map_err(|error| refused(error.to_string()))?;
            self.attach(&mut bundle)?;
            match model.placement {
                Placement::Auto | Placement::Sidecar => {}
                Placement::Inline => bundle.place(Cost::Inline),
                Placement::Threads => bundle.place(Cost::Threads),
            }
            let remote = self.sidecar.map(|sidecar| self.ask(sidecar, &bundle)).transpose()?;
            let scorer = ModelScorer::new(&model.name, bundle, MODEL_THREADS)
                .map_err(|error| refused(error.to_string()))?;
            Ok(Arc::new(match remote {
                Some(remote) => scorer.with_remote(remote),
                None => scorer,
            }))
        };
        let (attempt, key) = (kept.attempt, (Arc::clone(&model.name), model.placement, identity));
        kept.bundles.take(key, attempt, load).map(|(scorer, _)| scorer)
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

/// Puts versions together; refuses those that cannot stand in for production.
fn start(
    name: &Arc<str>,
    rollout: &model::Rollout,
    versions: &[(Option<Arc<str>>, Arc<ModelScorer>)],
    spec: &Path,
) -> Result<Rollout, Vec<Fault>> {
    let at = spec.key("rollout");
    let version = |place: usize| {
        let (name, scorer) = versions.get(place)?;
        Some(Version { name: name.clone().unwrap_or_default(), scorer: Arc::clone(scorer) })
    };
    let missing = || vec![Fault::new(Code::REFERENCE, at.clone(), "there is no such version")];
    let production = version(rollout.production).ok_or_else(missing)?;
    let canary = rollout.canary.and_then(|(place, share)| Some((version(place)?, share)));
    let shadow = rollout.shadow.and_then(version);
    let mut faults = Vec::new();
    let tried = [("canary", canary.as_ref().map(|(canary, _)| canary)), ("shadow", shadow.as_ref())];
    for (role, tried) in tried.into_iter().filter_map(|(role, tried)| Some((role, tried?))) {
        let at_version = at.key(role).key("version");
        if let Err(misfit) = fit::check(production.scorer.manifest(), tried.scorer.manifest()) {
            let message = format!("`{}` cannot stand in for `{}`: {misfit}", tried.name, production.name);
            faults.push(Fault::new(codes::MODEL_MISFIT, at_version, message));
        }
        if rollout.guardrails.drift.is_some() && tried.scorer.reference().is_none() {
            let message =
                format!("the bundle of `{}` has no reference, so that no drift can be told", tried.name);
            let fault = Fault::new(codes::MODEL_MISFIT, at.key("guardrails").key("drift"), message);
            faults.push(fault.help("have training write one (files.reference), or remove `drift`"));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let parts = Parts { production, canary, shadow, guardrails: guardrails(&rollout.guardrails) };
    let model = Arc::clone(name);
    let tell: Tell = Arc::new(move |told| tell_of(&model, told));
    Rollout::new(name, parts, &tell).map_err(|error| vec![Fault::new(Code::MODEL, at, error.to_string())])
}

#[expect(clippy::cast_possible_truncation, reason = "scores are f32, and so is what they differ by")]
fn guardrails(said: &model::Guardrails) -> Guardrails {
    Guardrails {
        p99: said.p99,
        error_share: said.error_share,
        disagreement: said.disagreement,
        tolerance: said.tolerance as f32,
        drift: said.drift,
        hold_off: said.hold_off,
        min_records: said.min_records,
    }
}

/// One line for the operator.
fn tell_of(model: &Arc<str>, told: &Event) {
    let model = ("model", model.as_ref().into());
    match told {
        Event::TakenOff { role, version, breach, hold_off } => {
            let hold_off =
                hold_off.map_or("until the rollout changes".to_owned(), |time| TimeSpan(time).to_string());
            let mut fields = vec![
                model,
                ("version", version.as_ref().into()),
                ("role", role.name().into()),
                ("guardrail", breach.guardrail.name().into()),
                ("measured", breach.measured.into()),
                ("bound", breach.bound.into()),
                ("hold_off", hold_off.into()),
            ];
            fields.extend(breach.feature.as_ref().map(|feature| ("feature", feature.as_ref().into())));
            event(Level::Warn, "model version taken off", &fields);
        }
        Event::TriedAgain { role, version } => {
            let fields = [model, ("version", version.as_ref().into()), ("role", role.name().into())];
            event(Level::Info, "model version tried again", &fields);
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
    use foregate_policy::compile::Materials;
    use foregate_policy::documents::model::Placement;
    use foregate_policy::model::{Model, Version};

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
}

//! What documents refer to, opened and checked while they compile.

use std::os::unix::fs::MetadataExt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::score::Scorer;
use foregate_inference::bundle::{Bundle, Cost};
use foregate_inference::scorer::ModelScorer;
use foregate_inference::store::FeatureStore;
use foregate_policy::compile::Materials;
use foregate_policy::documents::credentials::Credentials;
use foregate_policy::documents::model::Placement;
use foregate_policy::redis_store::RedisStore;
use foregate_policy::snapshot::{CertificateFiles, Features, Model};

use crate::clock;
use crate::discovery;
use crate::dispatch;
use crate::features::{self, OpenError};
use crate::identity::trust;
use crate::oauth::credential::Credential;
use crate::oauth::proof::secret_fault;
use crate::part_metrics;
use crate::shared::Shared;
use crate::store::{self, Store};
use crate::tls;

/// Threads of one model, for scores too dear for the workers.
const MODEL_THREADS: usize = 1;

impl Materials for Shared {
    fn unix(&self) -> Duration {
        clock::now().unix
    }

    fn model(&self, model: &Model, at: &Path) -> Result<(), Fault> {
        let Model { name, bundle, placement, features } = model;
        let store = features.as_ref().map(|said| self.features(said, at)).transpose()?.flatten();
        let mut state = identity(bundle);
        state.extend(format!("{features:?}").into_bytes());
        let key = (Arc::clone(name), *placement, state);
        let mut kept = self.kept();
        let attempt = kept.attempt;
        let place = format!("the bundle is looked for in {}", bundle.display());
        let refused = |error: String| Fault::new(Code::MODEL, at.clone(), error).help(place.as_str());
        let load = || {
            let mut bundle = Bundle::load(bundle).map_err(|error| refused(error.to_string()))?;
            attach(&mut bundle, model, store.as_ref(), at)?;
            match placement {
                Placement::Auto => {}
                Placement::Inline => bundle.place(Cost::Inline),
                Placement::Threads => bundle.place(Cost::Threads),
            }
            let scorer =
                ModelScorer::new(name, bundle, MODEL_THREADS).map_err(|error| refused(error.to_string()))?;
            Ok(Arc::new(scorer) as Arc<dyn Scorer>)
        };
        kept.models.take(key, attempt, load).map(drop)
    }

    fn store(&self, spec: &Arc<RedisStore>, at: &Path) -> Result<(), Fault> {
        let password = spec.password.as_ref().map(|password| self.secret(password)).transpose();
        let password = password.map_err(|error| secret_fault(&at.key("password"), &error))?;
        let made = self.stores.note(spec, || {
            let fetcher = self.fetcher.as_ref()?;
            Some(Store::new(spec, password, self.identity.clone(), &fetcher.runtime))
        });
        if let (Some(telemetry), Some(store)) = (&self.telemetry, &made) {
            store::metrics::register(telemetry, store);
        }
        Ok(())
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

impl Shared {
    /// The feature store of a model, opened; `None` where secrets are not looked for.
    fn features(&self, said: &Features, at: &Path) -> Result<Option<Arc<FeatureStore>>, Fault> {
        let Some(key) = &said.key else { return Ok(None) };
        let at = beside(at, "featureStore");
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
}

/// A part of the `spec` that `at` leads into.
fn beside(at: &Path, part: &str) -> Path {
    Path(at.0.first().cloned().into_iter().collect()).key(part)
}

/// Tells a bundle where its features are looked up.
fn attach(
    bundle: &mut Bundle,
    model: &Model,
    store: Option<&Arc<FeatureStore>>,
    at: &Path,
) -> Result<(), Fault> {
    match (store, &model.features) {
        (Some(store), _) => bundle
            .attach(store)
            .map_err(|error| Fault::new(Code::FEATURE_STORE, beside(at, "featureStore"), error.to_string())),
        (None, None) if bundle.plan.looks_up() => {
            let message = "the bundle looks features up, and no store is named";
            let help = "add featureStore: { path: .., key: { file: .. } }";
            Err(Fault::new(Code::FEATURE_STORE, at.clone(), message).help(help))
        }
        (None, _) => Ok(()),
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
    use foregate_policy::snapshot::Model;

    use crate::shared::Shared;

    /// True where a lead padded to so many bytes is scored on the thread that asks.
    fn inline(shared: &Shared, placement: Placement, bytes: usize) -> bool {
        let folder =
            FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../inference-sidecar/bundles/lead-score");
        let model = Model { name: "lead-score".into(), bundle: folder, placement, features: None };
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

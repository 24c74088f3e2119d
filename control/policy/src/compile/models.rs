//! Models: versions found, the parts they play, the bundles behind them.

use std::path::Path as FilePath;
use std::time::Duration;

use ahash::AHashSet;
use foregate_filters::fault::{Code, Path, closest};
use foregate_filters::secret::SecretRef;
use foregate_filters::units::TimeSpan;

use crate::codes;
use crate::compile::Compilation;
use crate::compile::attach::suggest;
use crate::compile::stores::Stores;
use crate::compile::typed::{Typed, spec};
use crate::compile::upstreams::bounded;
use crate::diagnostic::Diagnostic;
use crate::document::{Kind, ObjectName};
use crate::documents::model::{self, FeatureStore, FeatureStream, Spec};
use crate::model::{Features, Guardrails, Model, Rollout, Stream, Version};

/// Difference of two scores that is no disagreement, where the document says none.
const TOLERANCE: f64 = 0.1;
/// Records that are judged together where the document does not say.
const MIN_RECORDS: u32 = 1_000;
/// Below so many records, chance moves the index of a population with many bins by more than 0.1.
const STEADY: u32 = 200;
const P99: (Duration, Duration) = (Duration::from_micros(1), Duration::from_secs(1));
const HOLD_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24 * 30));

/// Models that were loaded, and those that could not be.
#[derive(Debug, Default)]
pub struct Models {
    pub loaded: Vec<Model>,
    /// Their fault has been told.
    pub broken: AHashSet<String>,
}

impl Compilation<'_> {
    pub fn models(&mut self, stores: &Stores) -> Models {
        let mut models = Models::default();
        let declared = self.named(Kind::Store).map(|store| store.name.clone()).collect();
        let stores =
            Declared { stores: declared, broken: &stores.broken, incomplete: self.sources.incomplete };
        for typed in std::mem::take(&mut self.documents.models) {
            let before = self.faults.len();
            let secrets = self.sources.root.join("secrets");
            let (faults, warnings) = (&mut self.faults, &mut self.warnings);
            let mut reader = Reader { typed: &typed, stores: &stores, faults, warnings };
            let model = reader.read(&secrets);
            // Bundles are looked at whatever is wrong with the rollout: every fault is told at once.
            if let Err(faults) = self.materials.model(&model, &spec()) {
                let told = faults.into_iter().map(|fault| Diagnostic::from_fault(typed.document, fault));
                self.faults.extend(told);
            }
            if self.faults.len() == before {
                models.loaded.push(model);
            } else {
                models.broken.insert(typed.document.name.to_string());
            }
        }
        models
    }
}

/// The stores that a model may name.
struct Declared<'a> {
    stores: Vec<ObjectName>,
    /// Their fault has been told.
    broken: &'a AHashSet<String>,
    /// True where documents are missing that could not be read.
    incomplete: bool,
}

/// Reads one document.
struct Reader<'a> {
    typed: &'a Typed<'a, Spec>,
    stores: &'a Declared<'a>,
    faults: &'a mut Vec<Diagnostic>,
    warnings: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    /// `secrets` is the folder that secrets are referred to in.
    fn read(&mut self, secrets: &FilePath) -> Model {
        let Typed { document, spec: said } = self.typed;
        let folder = document.file.folder();
        self.check_shape();
        let named = said.versions.iter().map(|version| Version {
            name: Some(version.name.as_str().into()),
            bundle: folder.join(&version.bundle.path),
        });
        let alone =
            said.bundle.iter().map(|bundle| Version { name: None, bundle: folder.join(&bundle.path) });
        Model {
            name: document.name.to_string().into(),
            versions: if said.versions.is_empty() { alone.collect() } else { named.collect() },
            rollout: said.rollout.as_ref().and_then(|rollout| self.rollout(rollout)),
            placement: said.placement,
            signed_by: said.signed_by.iter().map(|key| folder.join(&key.file)).collect(),
            features: said.feature_store.as_ref().map(|said| self.features(said, secrets)),
        }
    }

    /// Without a key where something is wrong with that, which has been told.
    fn features(&mut self, said: &FeatureStore, secrets: &FilePath) -> Features {
        let (document, mut wrong) = (self.typed.document, Vec::new());
        let at = spec().key("featureStore");
        said.key.check(&at.key("key"), &mut wrong);
        if let Some(next) = &said.next_key {
            next.check(&at.key("nextKey"), &mut wrong);
        }
        let sound = wrong.is_empty();
        self.faults.extend(wrong.into_iter().map(|fault| Diagnostic::from_fault(document, fault)));
        let folder = document.file.folder();
        let anchored = |key: &SecretRef| {
            let mut key = key.clone();
            key.anchor(folder, secrets);
            key
        };
        let stream = said.stream.as_ref().and_then(|stream| self.stream(stream, &at.key("stream")));
        Features {
            path: folder.join(&said.path),
            key: sound.then(|| anchored(&said.key)),
            next_key: said.next_key.as_ref().filter(|_| sound).map(anchored),
            inbox: said.inbox.as_ref().map(|inbox| folder.join(inbox)),
            stream,
        }
    }

    /// `None` where there is no such store, or something is wrong with it, which has been told.
    fn stream(&mut self, said: &FeatureStream, at: &Path) -> Option<Stream> {
        let wanted = ObjectName::new(Some(&*self.typed.document.name.namespace), &said.store);
        let Declared { stores, broken, incomplete } = self.stores;
        if stores.contains(&wanted) {
            let store = wanted.to_string();
            let sound = !broken.contains(&store);
            return sound.then(|| Stream { store: store.into(), name: said.name.as_str().into() });
        }
        if !incomplete {
            let here = stores.iter().filter(|store| store.namespace == wanted.namespace);
            let names: Vec<&str> = here.map(|store| &*store.name).collect();
            let help = suggest(&said.store, &names, "there are");
            let message = format!("there is no Store named `{}` in this namespace", said.store);
            self.fault(&at.key("store"), Code::REFERENCE, message, &help);
        }
        None
    }

    fn fault(&mut self, at: &Path, code: Code, message: impl Into<String>, help: &str) {
        self.faults.push(Diagnostic::at(self.typed.document, at, code, message).help(help));
    }

    /// One bundle, or versions with a rollout; names that are used once.
    fn check_shape(&mut self) {
        let said = &self.typed.spec;
        let versions = spec().key("versions");
        match (&said.bundle, said.versions.is_empty(), &said.rollout) {
            (None, true, _) => {
                let help = "add bundle: { path: models/lead-score }, or versions and their rollout";
                self.fault(&spec(), codes::ROLLOUT, "the model has no bundle", help);
            }
            (Some(_), false, _) => {
                let help = "remove `bundle`, and name its folder as one of the versions";
                let message = "a model has either one bundle or versions";
                self.fault(&spec().key("bundle"), codes::ROLLOUT, message, help);
            }
            (Some(_), true, Some(_)) => {
                let help = "name the bundle as one of `versions`, or remove `rollout`";
                let message = "one bundle alone has no rollout";
                self.fault(&spec().key("rollout"), codes::ROLLOUT, message, help);
            }
            (None, false, None) => {
                let help = "add rollout: { production: .. } with the name of a version";
                self.fault(&versions, codes::ROLLOUT, "none of the versions is production", help);
            }
            _ => {}
        }
        for (place, version) in said.versions.iter().enumerate() {
            let (earlier, _) = said.versions.split_at(place);
            if earlier.iter().any(|other| other.name == version.name) {
                let message = format!("there is already a version called `{}`", version.name);
                let at = versions.index(place).key("name");
                self.fault(&at, codes::ROLLOUT, message, "give each version a name of its own");
            }
        }
    }

    /// `None` where something is wrong with it, which has been told.
    fn rollout(&mut self, said: &model::Rollout) -> Option<Rollout> {
        let before = self.faults.len();
        let at = spec().key("rollout");
        let production = self.version(&said.production, &at.key("production"));
        let previous = said.previous.as_ref().map(|previous| self.version(previous, &at.key("previous")));
        let canary = said.canary.as_ref().map(|canary| {
            let at = at.key("canary").key("version");
            (self.version(&canary.version, &at), hundredths(canary.percent), at)
        });
        let shadow = said.shadow.as_ref().map(|shadow| {
            let at = at.key("shadow").key("version");
            (self.version(&shadow.version, &at), at)
        });
        if let Some((version @ Some(_), _, at)) = &canary
            && *version == production
        {
            let help = "name another version, or remove `canary`";
            self.fault(at, codes::ROLLOUT, "the canary is the version in production", help);
        }
        if let Some((version @ Some(_), at)) = &shadow {
            let taken = if *version == production {
                Some("the shadow is the version in production")
            } else if canary.as_ref().is_some_and(|(canary, ..)| canary == version) {
                Some("the shadow is the canary, which is compared with production in any case")
            } else {
                None
            };
            if let Some(message) = taken {
                self.fault(at, codes::ROLLOUT, message, "name another version, or remove `shadow`");
            }
        }
        let guardrails = self.guardrails(said, &at);
        if self.faults.len() > before {
            return None;
        }
        Some(Rollout {
            production: production?,
            canary: canary.and_then(|(version, share, _)| Some((version?, share))),
            shadow: shadow.and_then(|(version, _)| version),
            guardrails,
            previous: previous.flatten(),
            gate: said.gate.clone().unwrap_or_default(),
        })
    }

    /// The place of the version of this name.
    fn version(&mut self, name: &str, at: &Path) -> Option<usize> {
        let versions = &self.typed.spec.versions;
        let found = versions.iter().position(|version| version.name == name);
        if found.is_none() && !versions.is_empty() {
            let names: Vec<&str> = versions.iter().map(|version| version.name.as_str()).collect();
            let help = match closest(name, names.iter().copied()) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("the versions are {}", names.join(", ")),
            };
            self.fault(at, Code::REFERENCE, format!("there is no version named `{name}`"), &help);
        }
        found
    }

    fn guardrails(&mut self, rollout: &model::Rollout, at: &Path) -> Guardrails {
        let none = model::Guardrails::default();
        let said = rollout.guardrails.as_ref().unwrap_or(&none);
        let document = self.typed.document;
        let faults = &mut *self.faults;
        let mut time = |said: Option<TimeSpan>, field: &str, bounds: (Duration, Duration)| {
            let at = at.key("guardrails").key(field);
            said.map(|span| bounded(document, Some(span), bounds.0, bounds, &at, faults))
        };
        let (p99, hold_off) = (time(said.p99, "p99", P99), time(said.hold_off, "holdOff", HOLD_OFF));
        let bounds = [said.error_share, said.disagreement, said.drift];
        if let Some(_) = &rollout.canary
            && said.p99.is_none()
            && bounds.iter().all(Option::is_none)
        {
            let message = "nothing takes this canary off by itself";
            let warning = Diagnostic::at(document, &at.key("canary"), codes::CANARY_UNGUARDED, message);
            let help = "add guardrails, such as { p99: 5ms, errorShare: 0.01, disagreement: 0.1 }";
            self.warnings.push(warning.help(help).warning());
        }
        let min_records = said.min_records.unwrap_or(MIN_RECORDS);
        if said.drift.is_some() && min_records < STEADY {
            let message = format!("the drift of {min_records} records is mostly chance");
            let at = at.key("guardrails").key("minRecords");
            let warning = Diagnostic::at(document, &at, codes::DRIFT_NOISY, message);
            self.warnings.push(warning.help("judge 1,000 records together").warning());
        }
        Guardrails {
            p99,
            error_share: said.error_share,
            disagreement: said.disagreement,
            tolerance: said.tolerance.unwrap_or(TOLERANCE),
            drift: said.drift,
            hold_off,
            min_records,
        }
    }
}

/// The schema keeps the percentage within 0.01 and 99.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 1 and 9,900")]
fn hundredths(percent: f64) -> u32 {
    (percent * 100.0).round() as u32
}

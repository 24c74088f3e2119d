//! `Model`: the versions of a model that policies may ask, and their rollout.

use std::collections::BTreeMap;

use foregate_filters::secret::SecretRef;
use foregate_filters::units::TimeSpan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::documents::LABEL;

/// A `Model` of `foregate.dev/v1alpha1`.
pub type Model = crate::documents::Resource<Spec>;

/// Either one `bundle`, which is production, or `versions` and their `rollout`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelSpec")]
pub struct Spec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Bundle>,
    /// Every version is loaded and checked, whether the rollout uses it or not: what goes back to it must not
    /// find it gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub versions: Vec<Version>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Where single records are scored.
    #[serde(default)]
    pub placement: Placement,
    /// Where features are looked up that are not in the record; the bundle says which, by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_store: Option<FeatureStore>,
    /// Public keys, one of which must have signed every bundle of the model: `bundle.sig` holds the Ed25519 signature
    /// of `model.yaml`, which holds the digests of all other files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub signed_by: Vec<KeyFile>,
}

/// Features by key: a file of sealed rows, read into memory. `foregate features import` makes one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FeatureStore {
    /// The file, relative to the policy file.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// What its values are sealed with: 32 bytes, as 64 hexadecimal digits or in base64.
    pub key: SecretRef,
    /// Opens the file where `key` does not: the key that `foregate features rekey` seals it with next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<SecretRef>,
    /// Folder from which updates are taken up, relative to the policy file: files that end in `.ndjson`, `.jsonl` or
    /// `.csv`. None are taken up where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub inbox: Option<String>,
    /// Stream from which updates are taken up as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<FeatureStream>,
}

/// A stream of updates in Redis. An entry has one field, `update`, which says what a line of an `.ndjson` file does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FeatureStream {
    /// The `Store` that has it, of this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub store: String,
    /// Its name: the key at the server is `PREFIX:stream:NAME`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._/-]+$"), length(min = 1, max = 128))]
    pub name: String,
}

/// A file with a public key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelKeyFile")]
pub struct KeyFile {
    /// Ed25519 in PEM, relative to the policy file.
    #[schemars(length(min = 1, max = 4096))]
    pub file: String,
}

/// One version of a model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelVersion")]
pub struct Version {
    /// What decisions, metrics and the rollout call it. A DNS label.
    #[schemars(regex(pattern = LABEL), length(max = 63))]
    pub name: String,
    pub bundle: Bundle,
}

/// Which version decides, and which are tried.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelRollout")]
pub struct Rollout {
    /// The version that decides.
    pub production: String,
    /// The version that was production before; `foregate model rollback` goes back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The version that decides for a part of the records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// The version that is asked once production has answered. It is compared and never used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// What takes a canary or a shadow off by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardrails: Option<Guardrails>,
    /// What `foregate model promote` asks of a version before it becomes production.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelCanary")]
pub struct Canary {
    pub version: String,
    /// Per cent of the bodies, 0.01 to 99. The `Id` of its first record decides about a body, so that a record
    /// meets the same version every time; without one, the bytes of the body decide.
    #[schemars(range(min = 0.01, max = 99.0))]
    pub percent: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelShadow")]
pub struct Shadow {
    pub version: String,
}

/// Bounds that a canary or a shadow must keep. Each is judged whenever `minRecords` were counted for it; a
/// version that breaks one is taken off, all traffic goes to production, and metric and log say why.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelGuardrails")]
pub struct Guardrails {
    /// Time that 99 of 100 calls must keep to, the wait for a thread included, up to 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<TimeSpan>,
    /// Largest part of the records that it fails on and production does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub error_share: Option<f64>,
    /// Largest part of the records about which it disagrees with production: by another class, or by more than
    /// `tolerance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub disagreement: Option<f64>,
    /// Difference of two scores that is none yet; 0.1 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub tolerance: Option<f64>,
    /// Largest population stability index of a feature or of the score, against the reference in the bundle of
    /// the version. Around 0.1 a population has moved, from 0.25 on it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 10.0))]
    pub drift: Option<f64>,
    /// Time until the version is tried again, 1s to 30 days; for good where absent. A publication that changes
    /// the rollout tries it again at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_off: Option<TimeSpan>,
    /// Records that are judged together; 1,000 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 20, max = 1_000_000))]
    pub min_records: Option<u32>,
}

/// What a version must fulfil to become production, besides its golden vectors and a fit to what is production.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelGate")]
pub struct Gate {
    /// Bounds of the metrics that the bundle claims, by name, such as `auc: { min: 0.68 }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, Threshold>,
    /// Time that 99 of 100 single scores must keep to on the machine that promotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<TimeSpan>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelThreshold")]
pub struct Threshold {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// Where a model scores single records. Bodies over 32 KiB, and collections that would take over
/// 200 us or the deadline, are scored on the model's threads wherever the model is placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "ModelPlacement")]
pub enum Placement {
    /// Measured when the bundle is loaded: inline where a score takes 50 us at most, else on threads.
    #[default]
    Auto,
    /// On the worker that serves the request. Other requests of that worker wait meanwhile.
    Inline,
    /// On threads of its own, with a bounded queue.
    Threads,
    /// In another process: the inference server that `foregate run --inference-sidecar` names, by the name and
    /// version of the bundle. The gateway reads the bundle as well: features, checks of answers and reasons stay
    /// with it. Models that rank cannot be placed there. `foregate check` and `test` score in process.
    Sidecar,
}

/// Where the bundle is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelBundle")]
pub struct Bundle {
    /// Folder of the bundle, relative to the policy file.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// Where `foregate model pull` gets it from. A gateway reads the folder and asks nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlflow: Option<Mlflow>,
}

/// A version of a model that is registered in `MLflow`, with the bundle as its artifact.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelMlflow")]
pub struct Mlflow {
    /// The tracking server, which must serve artifacts itself. Plain `http` beyond this host asks for `signedBy`.
    #[schemars(length(min = 1, max = 2048))]
    pub uri: String,
    /// The name it is registered under.
    #[schemars(length(min = 1, max = 256))]
    pub model: String,
    /// The alias of the version.
    #[schemars(length(min = 1, max = 256))]
    pub alias: String,
}

//! `Model`: a model bundle that policies may ask.

use foregate_filters::secret::SecretRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A `Model` of `foregate.dev/v1alpha1`.
pub type Model = crate::documents::Resource<Spec>;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelSpec")]
pub struct Spec {
    pub bundle: Bundle,
    /// Where single records are scored.
    #[serde(default)]
    pub placement: Placement,
    /// Where features are looked up that are not in the record; the bundle says which, by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_store: Option<FeatureStore>,
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
    /// Folder from which updates are taken up, relative to the policy file: files that end in `.ndjson`, `.jsonl` or
    /// `.csv`. None are taken up where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub inbox: Option<String>,
}

/// Where a model scores single records. Bodies over 32 KiB, and collections that would take over
/// 200 us or the deadline, go to the model's threads wherever the model is placed.
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
}

/// Where the bundle is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ModelBundle")]
pub struct Bundle {
    /// Folder of the bundle, relative to the policy file.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}

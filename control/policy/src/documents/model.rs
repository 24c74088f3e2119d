//! `Model`: a model bundle that policies may ask.

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

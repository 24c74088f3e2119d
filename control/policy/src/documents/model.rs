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

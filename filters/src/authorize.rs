//! Access rules: deny before allow, deny by default, refuse on error.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a rule refuses, or only tells that it would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    #[default]
    Enforce,
    Audit,
}

/// One access rule: exactly one of `allow` and `deny`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Names the rule in refusals, logs and metrics. Unique within the policy.
    pub name: String,
    /// CEL expression of type bool; true allows the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<String>,
    /// CEL expression of type bool; true refuses the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<String>,
    #[serde(default)]
    pub mode: Mode,
}

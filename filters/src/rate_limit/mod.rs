//! Limits requests per key by GCRA; tells callers how they stand.

pub mod limiter;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::authorize::Mode;
use crate::units::TimeSpan;

/// One rate limit of a policy.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Names the limit in refusals, headers, logs and metrics. Unique within the policy.
    pub name: String,
    /// CEL expression whose value is the key; requests with the same value share the limit.
    /// An empty string, null or absent value refuses: give the expression a default instead.
    pub key: String,
    /// Requests admitted per period, 1 to 1,000,000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: u32,
    /// Length of the period, 1ms to 24h.
    pub per: TimeSpan,
    /// Requests that may come at once; `limit` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
    /// CEL expression of type bool; the limit applies only where it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    #[serde(default)]
    pub mode: Mode,
}

//! `concurrency` of an `Upstream`: how much it is given at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use foregate_filters::units::TimeSpan;

/// Requests under way at one upstream, until their response heads are there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamConcurrency")]
pub struct Concurrency {
    /// Most at once, 1 to 1,000,000; 10,000 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: Option<u32>,
    /// What the limit never goes below by itself, 1 to `max`; 64 where absent, or `max` where that is less. A backend
    /// that works on few at once (a pool of workers) needs less: twice as many as it works on keep it busy, and
    /// whoever comes beyond that waits in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min: Option<u32>,
    /// False: the limit is `max`, whatever the response times; true where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<bool>,
    /// Requests over the limit that wait their turn.
    #[serde(default)]
    pub queue: Queue,
}

/// Who waits for a saturated upstream, and how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamQueue")]
pub struct Queue {
    /// Most that wait, 0 to 10,000; 128 where absent. With 0, whatever is over the limit is refused at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub size: Option<u32>,
    /// Longest wait before the refusal, 1ms to 10s; 50ms where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<TimeSpan>,
}

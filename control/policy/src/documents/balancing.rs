//! How an `Upstream` chooses among its endpoints, checks and spares them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use foregate_filters::units::TimeSpan;

use crate::documents::HEADER_NAME;

/// How one of several endpoints is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamLoadBalancing")]
pub struct LoadBalancing {
    #[serde(default)]
    pub policy: Algorithm,
    /// What Maglev hashes; the address of the client where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<HashOn>,
    /// Time in which an endpoint that is new or fit again comes to its full share, 1s to 1h; at once where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<TimeSpan>,
    /// Per cent of the endpoints that must be fit; where fewer are, all are used alike: the checks are then
    /// likelier to be wrong than the endpoints. 25 where absent, 0 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub panic_threshold: Option<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "UpstreamBalancingPolicy")]
pub enum Algorithm {
    /// The better of two at random by latency and outstanding requests; rises at once, decays in 10 s.
    #[default]
    PeakEwma,
    /// The better of two at random by outstanding requests.
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// Equal keys go to the same endpoint; where one leaves, few others move (Eisenbud et al. 2016).
    Maglev,
}

/// The key of a hash: one of the four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamHashOn")]
pub struct HashOn {
    /// A request header; requests without it go anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = HEADER_NAME), length(max = 256))]
    pub header: Option<String>,
    /// A cookie; requests without it go anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = HEADER_NAME), length(max = 128))]
    pub cookie: Option<String>,
    /// CEL expression whose value is the key, such as `jwt.org_id`; requests for which it has none go anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub expression: Option<String>,
    /// The address of the client, as `source.address` in rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<bool>,
}

/// Requests of one session go to one endpoint (GEP-1619).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamSessionPersistence")]
pub struct SessionPersistence {
    /// Name of the cookie or header; `foregate-session` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = HEADER_NAME), length(max = 128))]
    pub session_name: Option<String>,
    #[serde(default, rename = "type")]
    pub kind: SessionType,
    /// How long a client keeps the cookie, 1s to 8760h; until it closes where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<TimeSpan>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "UpstreamSessionType")]
pub enum SessionType {
    /// Set on the response to a client that sends none.
    #[default]
    Cookie,
    /// Told in the response to a client that sends none, for it to send back.
    Header,
}

/// Asks every endpoint again and again whether it is fit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamHealthCheck")]
pub struct HealthCheck {
    #[serde(rename = "type")]
    pub kind: CheckType,
    /// With type HTTP; `/` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"), length(max = 1024))]
    pub path: Option<String>,
    /// `Host` of the question, with type HTTP or GRPC; the host of the endpoint where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
    /// Statuses that mean fit, with type HTTP; 200 to 399 where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 100, max = 599)))]
    pub expected_statuses: Vec<u16>,
    /// `service` of grpc.health.v1, with type GRPC; that of the whole server where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub service: Option<String>,
    /// Between two questions, give or take a tenth, 50ms to 1h; 10s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<TimeSpan>,
    /// Time for one answer, 10ms to 1m; 1s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Good answers in a row that make an endpoint fit again; 2 where absent. The first of all counts at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_threshold: Option<u32>,
    /// Bad answers in a row that make an endpoint unfit; 3 where absent. The first of all counts at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_threshold: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "UpstreamHealthCheckType")]
pub enum CheckType {
    HTTP,
    /// A connection that stands, TLS included.
    TCP,
    GRPC,
}

/// Ejects endpoints that answer with errors. On by default; never the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamOutlierDetection")]
pub struct OutlierDetection {
    /// Statuses of 500 and above in a row (of gRPC: UNAVAILABLE) that eject; 5 where absent, 0 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub consecutive_errors: Option<u32>,
    /// Time out, doubled with every ejection that follows soon, 10ms to 1h; 30s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<TimeSpan>,
    /// Longest time out, up to 24h; 5m where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ejection_time: Option<TimeSpan>,
    /// Per cent of the endpoints that errors or `Retry-After` may take out; 50 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: Option<u8>,
}

/// Stops asking endpoints that cannot be reached, break off or are late; then one request tries again. On by
/// default where there are several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamCircuitBreaker")]
pub struct CircuitBreaker {
    /// Failures in a row that open the circuit; 5 where absent, 0 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub consecutive_failures: Option<u32>,
    /// Time until one request tries again, doubled with every failure, 10ms to 1h; 1s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_open_time: Option<TimeSpan>,
    /// Longest such time, up to 24h; 1m where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_open_time: Option<TimeSpan>,
}

/// How many retries there may be, whatever routes ask for (GEP-3388).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamRetryConstraint")]
pub struct RetryConstraint {
    #[serde(default)]
    pub budget: RetryBudget,
    #[serde(default)]
    pub min_retry_rate: MinRetryRate,
}

/// Retries in relation to requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamRetryBudget")]
pub struct RetryBudget {
    /// 20 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<u8>,
    /// Over which requests are counted, 1s to 1h; 10s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<TimeSpan>,
}

/// Retries that are allowed however few requests there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamMinRetryRate")]
pub struct MinRetryRate {
    /// 10 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub count: Option<u32>,
    /// 1s to 1h; 1s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<TimeSpan>,
}

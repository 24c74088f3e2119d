//! `Upstream`: endpoints, and how they are spoken to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use foregate_filters::org_quota;
use foregate_filters::units::TimeSpan;

use crate::documents::PRECISE_HOSTNAME;
use crate::documents::balancing::{
    CircuitBreaker, HealthCheck, LoadBalancing, OutlierDetection, RetryConstraint, SessionPersistence,
};
use crate::documents::concurrency::Concurrency;
use crate::documents::credentials::Credentials;
use crate::documents::endpoints::{Dns, Endpoint};
use crate::documents::gateway::SecretRef;

/// An `Upstream` of `foregate.dev/v1alpha1`.
pub type Upstream = crate::documents::Resource<Spec>;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamSpec")]
pub struct Spec {
    /// `host:port` each, or `{ address: "host:port", weight, zone, priority }`; may be absent beside `endpointsFile`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub endpoints: Vec<Endpoint>,
    /// A YAML file with `endpoints: [..]` of IP addresses, relative to the policy file, read again when it changes.
    /// In the policy folder its name ends otherwise than policies do, such as `crm.endpoints`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub endpoints_file: Option<String>,
    /// Addresses besides those of the endpoints by which redirected connections mean this upstream, such as those of a
    /// Service: `10.96.0.10:80`, `[fd00::10]:80`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 64)))]
    pub virtual_addresses: Vec<String>,
    /// In place of endpoints: where a redirected connection meant to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured: Option<Captured>,
    #[serde(default)]
    pub protocol: Protocol,
    /// Plain connections where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Unused connections kept per thread, 0 to 4096; 128 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4096))]
    pub max_idle_per_thread: Option<u32>,
    /// Tells every endpoint, before anything else, from where the client's connection comes. Connections are then
    /// of one client each: requests share none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyVersion>,
    /// What the gateway shows to the upstream; nothing where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// How many requests it is given at once; found out by response times where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// Set where a Salesforce org is behind it that counts its calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_quota: Option<org_quota::spec::Spec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_constraint: Option<RetryConstraint>,
    /// Every weakening of a safe default, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure: Option<Insecure>,
}

/// What is given up on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamInsecure")]
pub struct Insecure {
    /// Credentials are sent over plain connections: whoever sees them can use them.
    #[serde(default)]
    pub plain_credentials: bool,
}

/// Where redirected connections go on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Captured {
    /// The address and port that the client meant.
    Address,
    /// The port that the client meant, on loopback; only for routes whose parentRefs name that port.
    Loopback,
}

/// What is spoken to the endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "UpstreamProtocol")]
pub enum Protocol {
    #[default]
    Http1,
    /// With prior knowledge on plain connections, by ALPN on TLS.
    Http2,
    /// Connections are passed on unread: for `TCPRoute` and `TLSRoute`.
    Tcp,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary; for a `TLSRoute`, with the name that the client asked for.
    V2,
}

/// TLS to the endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamTls")]
pub struct Tls {
    pub mode: TlsMode,
    /// Name in SNI and in the certificate; the host of the endpoint where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PRECISE_HOSTNAME), length(max = 253))]
    pub server_name: Option<String>,
    /// PEM file of trusted authorities, relative to the policy file; those of the system where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub ca_file: Option<String>,
    /// SPIFFE ids of which the endpoint must prove one, and then no other name counts; `/*` at the end stands
    /// for every id below. We show the certificate of this workload. Only with mode Mutual.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 2050)))]
    pub peers: Vec<String>,
    /// The certificate that we show to endpoints without a SPIFFE id: a Secret with `tls.crt` and `tls.key`
    /// in the folder `secrets` beside the policies. Only with mode Mutual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<SecretRef>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "UpstreamTlsMode")]
pub enum TlsMode {
    /// The endpoint proves its name; we prove nothing.
    Simple,
    /// Both sides prove who they are.
    Mutual,
}

/// Deadlines of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamTimeouts")]
pub struct Timeouts {
    /// Until the connection stands, TLS included; 2s where absent, 1ms to 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<TimeSpan>,
    /// How long an unused connection is kept; 60s where absent, 1s to 1h. With protocol Tcp, how long a
    /// connection may carry nothing; 1h where absent, 1s to 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<TimeSpan>,
}

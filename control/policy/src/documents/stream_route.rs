//! `TCPRoute` and `TLSRoute`: which connections go where.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::documents::http_route::{BackendGroup, BackendKind, ParentRef};
use crate::documents::{HOSTNAME, LABEL};

/// A `TCPRoute` of `gateway.networking.k8s.io/v1`.
pub type TcpRoute = crate::documents::Resource<TcpSpec>;

/// A `TLSRoute` of `gateway.networking.k8s.io/v1`.
pub type TlsRoute = crate::documents::Resource<TlsSpec>;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "TCPRouteSpec")]
pub struct TcpSpec {
    /// Gateways this route attaches to: their listeners with protocol TCP.
    #[schemars(length(min = 1, max = 32))]
    pub parent_refs: Vec<ParentRef>,
    #[schemars(length(min = 1, max = 1))]
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "TLSRouteSpec")]
pub struct TlsSpec {
    /// Gateways this route attaches to: their listeners with protocol TLS.
    #[schemars(length(min = 1, max = 32))]
    pub parent_refs: Vec<ParentRef>,
    /// Names that clients ask for in TLS (RFC 6066, section 3), `*.` in front of a wildcard.
    #[schemars(length(min = 1, max = 1024), inner(regex(pattern = HOSTNAME), length(max = 253)))]
    pub hostnames: Vec<String>,
    #[schemars(length(min = 1, max = 1))]
    pub rules: Vec<Rule>,
}

/// Where the connections of a route go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "StreamRouteRule")]
pub struct Rule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = LABEL), length(max = 63))]
    pub name: Option<String>,
    /// One of them is chosen for each connection; where it cannot be reached, another.
    #[schemars(length(min = 1, max = 16))]
    pub backend_refs: Vec<BackendRef>,
}

/// Refers to an `Upstream` with `protocol: Tcp`, or, where the control plane knows them, to a `Service`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "StreamBackendRef")]
pub struct BackendRef {
    #[serde(default)]
    pub group: BackendGroup,
    #[serde(default)]
    pub kind: BackendKind,
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Where it is; the namespace of the route where absent. Another one needs a `ReferenceGrant` there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = LABEL), length(max = 63))]
    pub namespace: Option<String>,
    /// Of a `Service` alone, which must have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Its share of the connections, in relation to the sum of all weights; 1 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: Option<u32>,
}

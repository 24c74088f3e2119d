//! `ReferenceGrant`: who may refer to what in this namespace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::documents::LABEL;
use crate::documents::http_route::{BackendGroup, BackendKind, GatewayGroup};

/// A `ReferenceGrant` of `gateway.networking.k8s.io/v1`.
pub type ReferenceGrant = crate::documents::Resource<Spec>;

/// Each of `from` may refer to each of `to`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ReferenceGrantSpec")]
pub struct Spec {
    #[schemars(length(min = 1, max = 16))]
    pub from: Vec<From>,
    #[schemars(length(min = 1, max = 16))]
    pub to: Vec<To>,
}

/// Routes of a kind and namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ReferenceGrantFrom")]
pub struct From {
    pub group: GatewayGroup,
    pub kind: FromKind,
    #[schemars(regex(pattern = LABEL), length(min = 1, max = 63))]
    pub namespace: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "ReferenceGrantFromKind")]
pub enum FromKind {
    HTTPRoute,
    GRPCRoute,
    TCPRoute,
    TLSRoute,
}

/// Upstreams or Services of the namespace of the grant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ReferenceGrantTo")]
pub struct To {
    pub group: BackendGroup,
    pub kind: BackendKind,
    /// One of them; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
}

//! The documents people write: serde and schema types, no behaviour.

pub mod backend_tls;
pub mod balancing;
pub mod case;
pub mod concurrency;
pub mod consumer;
pub mod credentials;
pub mod endpoints;
pub mod gateway;
pub mod grpc_route;
pub mod http_route;
pub mod model;
pub mod policy;
pub mod reference_grant;
pub mod session;
pub mod store;
pub mod stream_route;
pub mod upstream;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A DNS label or subdomain as Kubernetes names its objects (RFC 1123).
pub(crate) const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A DNS label.
pub(crate) const LABEL: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A host name, with `*.` in front of a wildcard.
pub(crate) const HOSTNAME: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A host name without wildcard.
pub(crate) const PRECISE_HOSTNAME: &str = OBJECT_NAME;
/// A time in UTC, to the second (RFC 3339).
pub(crate) const INSTANT: &str = r"^20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z$";
/// A header name (RFC 9110, section 5.1).
pub(crate) const HEADER_NAME: &str = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$";

/// Who a document is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Unique among the documents of its kind and namespace.
    #[schemars(regex(pattern = OBJECT_NAME), length(max = 253))]
    pub name: String,
    /// `default` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = LABEL), length(max = 63))]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// One document: `S` is what its kind says.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resource<S> {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: S,
}

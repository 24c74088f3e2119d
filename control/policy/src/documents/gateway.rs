//! `Gateway`: addresses, ports and names that are served.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::documents::{HOSTNAME, OBJECT_NAME};

/// A `Gateway` of `gateway.networking.k8s.io/v1`.
pub type Gateway = crate::documents::Resource<Spec>;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GatewaySpec")]
pub struct Spec {
    /// Always `foregate`.
    pub gateway_class_name: ClassName,
    /// Addresses to listen on; all IPv4 addresses of the machine where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub addresses: Vec<Address>,
    #[schemars(length(min = 1, max = 64))]
    pub listeners: Vec<Listener>,
}

/// The class this gateway obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ClassName {
    #[serde(rename = "foregate")]
    Foregate,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GatewayAddress")]
pub struct Address {
    #[serde(rename = "type", default)]
    pub kind: AddressType,
    /// An IPv4 or IPv6 address.
    #[schemars(with = "String", extend("format" = "ip"))]
    pub value: IpAddr,
}

/// What an address is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum AddressType {
    #[default]
    IPAddress,
}

/// One name served on one port.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Unique within the Gateway; `sectionName` of an `HTTPRoute` refers to it.
    #[schemars(regex(pattern = OBJECT_NAME), length(max = 253))]
    pub name: String,
    /// The name served, `*.` in front of a wildcard; every name where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = HOSTNAME), length(max = 253))]
    pub hostname: Option<String>,
    #[schemars(range(min = 0, max = 65535))]
    pub port: u16,
    pub protocol: Protocol,
    /// How an HTTPS listener proves its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Which routes may attach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_routes: Option<AllowedRoutes>,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    HTTP,
    /// HTTP/1.1 and HTTP/2 by ALPN, on TLS.
    HTTPS,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ListenerTls")]
pub struct Tls {
    #[serde(default)]
    pub mode: TlsMode,
    /// Secrets with `tls.crt` and `tls.key`, found in the folder `secrets` beside the policies.
    #[schemars(length(min = 1, max = 64))]
    pub certificate_refs: Vec<SecretRef>,
}

/// What a listener does with TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TlsMode {
    #[default]
    Terminate,
}

/// Refers to a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Empty: the core group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(regex(pattern = "^$"))]
    pub group: String,
    #[serde(default)]
    pub kind: SecretKind,
    /// Name of the folder with `tls.crt` and `tls.key`.
    #[schemars(regex(pattern = OBJECT_NAME), length(max = 253))]
    pub name: String,
}

/// Kinds that hold certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum SecretKind {
    #[default]
    Secret,
}

/// Which routes may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedRoutes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<RouteNamespaces>,
}

/// From which namespaces routes may attach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteNamespaces {
    #[serde(default)]
    pub from: FromNamespaces,
}

/// A set of namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum FromNamespaces {
    /// The namespace of the Gateway.
    #[default]
    Same,
    /// Every namespace.
    All,
}

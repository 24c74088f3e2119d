//! `Gateway`: addresses, ports and names that are served.

use std::collections::BTreeMap;
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
    /// Certificates that clients must show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<GatewayTls>,
}

/// TLS of all HTTPS listeners.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayTls {
    pub frontend: Frontend,
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GatewayFrontendTls")]
pub struct Frontend {
    /// For every HTTPS listener whose port `perPort` does not name; listeners with the identity of this
    /// workload have rules of their own.
    pub default: FrontendTls,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub per_port: Vec<PortFrontend>,
}

/// TLS of the listeners on one port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GatewayPortFrontendTls")]
pub struct PortFrontend {
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    pub tls: FrontendTls,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FrontendTls {
    /// Clients need not show a certificate where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
}

/// Whom a client's certificate must be from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ClientValidation")]
pub struct Validation {
    /// Folders with `ca.crt`, and `ca.crl` where certificates are revoked, in `secrets` beside the policies.
    #[schemars(length(min = 1, max = 8))]
    pub ca_certificate_refs: Vec<AuthorityRef>,
    #[serde(default)]
    pub mode: ValidationMode,
}

/// What becomes of a client without a valid certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ValidationMode {
    /// Its handshake is refused.
    #[default]
    AllowValidOnly,
    /// It is served as nobody; only where a policy says `insecure: { clientCertificateOptional: true }`.
    AllowInsecureFallback,
}

/// Refers to trusted authorities.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorityRef {
    /// Empty: the core group.
    #[serde(default)]
    #[schemars(regex(pattern = "^$"))]
    pub group: String,
    pub kind: AuthorityKind,
    /// Name of the folder with `ca.crt`.
    #[schemars(regex(pattern = OBJECT_NAME), length(max = 253))]
    pub name: String,
}

/// Kinds that hold trusted authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum AuthorityKind {
    ConfigMap,
    Secret,
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
    /// Unique within the Gateway; `sectionName` of a route refers to it.
    #[schemars(regex(pattern = OBJECT_NAME), length(max = 253))]
    pub name: String,
    /// The name served, `*.` in front of a wildcard; every name where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = HOSTNAME), length(max = 253))]
    pub hostname: Option<String>,
    #[schemars(range(min = 0, max = 65535))]
    pub port: u16,
    pub protocol: Protocol,
    /// How an HTTPS or TLS listener proves its name.
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
    /// Anything on TLS: for `TLSRoute`.
    TLS,
    /// Anything: for `TCPRoute`.
    TCP,
    /// Connections to this workload that the kernel redirected (`foregate init`): mutual TLS with the identity of the
    /// workload. `port` of a parentRef is the port that they meant. For `HTTPRoute`, `GRPCRoute` and `TCPRoute`.
    #[serde(rename = "foregate.dev/Inbound")]
    Inbound,
    /// Connections of this workload's application that the kernel redirected, in the clear. `port` of a parentRef is
    /// the port that they meant; a `TCPRoute` takes those that meant an address of its upstreams.
    #[serde(rename = "foregate.dev/Outbound")]
    Outbound,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ListenerTls")]
pub struct Tls {
    #[serde(default)]
    pub mode: TlsMode,
    /// Secrets with `tls.crt` and `tls.key`, found in the folder `secrets` beside the policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub certificate_refs: Vec<SecretRef>,
    /// `foregate.dev/identity: workload` serves with the certificate of this workload instead, and asks
    /// every client for that of a workload of a trusted domain.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// What a listener does with TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TlsMode {
    #[default]
    Terminate,
    /// TLS goes to the upstream as it comes; only the name that the client asks for is read. Only with protocol TLS.
    Passthrough,
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

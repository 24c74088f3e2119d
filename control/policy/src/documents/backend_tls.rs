//! `BackendTLSPolicy`: how upstreams prove who they are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::documents::gateway::AuthorityRef;
use crate::documents::http_route::{ForegateGroup, UpstreamKind};
use crate::documents::{HOSTNAME, PRECISE_HOSTNAME};

/// A `BackendTLSPolicy` of `gateway.networking.k8s.io/v1`.
pub type BackendTlsPolicy = crate::documents::Resource<Spec>;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "BackendTLSPolicySpec")]
pub struct Spec {
    /// Upstreams that TLS is spoken to; they say nothing of `tls` themselves.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    pub validation: Validation,
}

/// Refers to an `Upstream` in the namespace of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "BackendTLSPolicyTargetRef")]
pub struct TargetRef {
    pub group: ForegateGroup,
    pub kind: UpstreamKind,
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What the certificate of an endpoint must be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "BackendTLSPolicyValidation")]
pub struct Validation {
    /// Folders with `ca.crt` in `secrets` beside the policies; either these or `wellKnownCACertificates`.
    #[serde(default, rename = "caCertificateRefs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub authorities: Vec<AuthorityRef>,
    /// The authorities that this system trusts.
    #[serde(default, rename = "wellKnownCACertificates", skip_serializing_if = "Option::is_none")]
    pub well_known: Option<WellKnown>,
    /// Name in SNI, and in the certificate unless `subjectAltNames` says otherwise.
    #[schemars(regex(pattern = PRECISE_HOSTNAME), length(min = 1, max = 253))]
    pub hostname: String,
    /// Of these the certificate must have one at least; `hostname` is then only asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub subject_alt_names: Vec<SubjectAltName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "WellKnownCACertificates")]
pub enum WellKnown {
    System,
}

/// A name in a certificate (RFC 5280, section 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubjectAltName {
    #[serde(rename = "type")]
    pub kind: SubjectAltNameType,
    /// With type Hostname; `*.` in front stands for one label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = HOSTNAME), length(min = 1, max = 253))]
    pub hostname: Option<String>,
    /// With type URI, such as `spiffe://example.org/ns/crm/sa/leads`; compared as it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub uri: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum SubjectAltNameType {
    Hostname,
    URI,
}

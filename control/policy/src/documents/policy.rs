//! `Policy`: what is required of requests on the targets it names.

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use foregate_filters::units::{ByteSize, TimeSpan};
use foregate_filters::{
    addresses, api_key, authorize, choose, enrich, fairness, idempotency, inject, introspection, jwt,
    org_quota, rate_limit, validate,
};

use crate::documents::INSTANT;
use crate::documents::http_route::GatewayGroup;

/// A `Policy` of `foregate.dev/v1alpha1`.
pub type Policy = crate::documents::Resource<Spec>;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "PolicySpec")]
pub struct Spec {
    /// What the policy applies to; nothing where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub target_refs: Vec<TargetRef>,
    /// `shadow`: run beside the policies in force, and only compared with them.
    #[serde(default, skip_serializing_if = "is_enforced")]
    pub mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<addresses::Spec>,
    /// Trusted issuers: a request needs a token of one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub jwt: Vec<jwt::Spec>,
    /// Authorization servers that are asked about tokens. With `jwt` beside it, they are asked about those that
    /// are no JWT of an issuer listed there. The first is asked about every token that names no issuer listed
    /// here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub introspection: Vec<introspection::Spec>,
    /// Clients known by key. Beside `jwt`, either suffices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<api_key::Spec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rate_limit: Vec<rate_limit::Spec>,
    /// What a key may use in a day or month of a time zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub quota: Vec<rate_limit::quota::Spec>,
    /// Requests that a key may have open at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub concurrency: Vec<rate_limit::concurrency::Spec>,
    /// Whose request it is where an upstream is saturated; all requests are of one tenant where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fairness: Option<fairness::Spec>,
    /// What requests, and the responses to them, must be like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validate: Option<validate::Spec>,
    /// Whose calls they are where the upstream is a Salesforce org that counts them (`orgQuota` of the `Upstream`); of
    /// nobody in particular where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_quota: Option<org_quota::spec::KeySpec>,
    /// Deny before allow; what no rule allows is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub authorize: Vec<authorize::Spec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub enrich: Vec<enrich::Spec>,
    /// Which backend gets a request, by what is known of it. Only in policies that target routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub choose: Vec<choose::Spec>,
    /// Faults on purpose: requests that everything else lets pass are delayed or refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub inject: Vec<inject::Spec>,
    /// Requests that carry a key are carried out once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<idempotency::spec::Spec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    /// Listeners whose connections come through load balancers that speak the PROXY protocol. Only in a policy
    /// that targets their Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Listeners that look at what is spoken to them. Only in a policy that targets their Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect: Option<Detect>,
    /// Every weakening of a safe default, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure: Option<Insecure>,
}

/// Whether a policy is obeyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PolicyMode")]
pub enum Mode {
    #[default]
    Enforce,
    Shadow,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_enforced(mode: &Mode) -> bool {
    *mode == Mode::Enforce
}

/// Refers to a route or a gateway in the namespace of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    pub group: GatewayGroup,
    pub kind: TargetKind,
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TargetKind {
    /// Every route attached to the gateway.
    Gateway,
    HTTPRoute,
    TCPRoute,
    TLSRoute,
    GRPCRoute,
}

/// Bounds of request bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Body {
    /// Largest body that is collected for filters; 1MiB where absent, at most 64MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<ByteSize>,
}

/// What a connection is, is told by its first bytes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Detect {
    /// Names of listeners with protocol TCP. HTTP, in the clear, goes to the `HTTPRoute`s attached to them,
    /// everything else to their `TCPRoute`. Listeners with protocol foregate.dev/Inbound or foregate.dev/Outbound
    /// look by themselves, where either could take a connection.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253)))]
    pub listeners: Vec<String>,
    /// Time for a client to speak first; 1s where absent, 10ms to 10s. Where the server speaks first, it is waited
    /// for that long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<TimeSpan>,
    /// Ports that redirected connections meant and on which nobody looks: they go to the `TCPRoute`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub opaque_ports: Vec<u16>,
}

/// Who says from where connections really come.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Networks of the load balancers. Connections from elsewhere are refused, and so are those that do not
    /// begin with a header of version 1 or 2.
    #[schemars(schema_with = "networks")]
    pub from: Vec<IpNet>,
    /// Names of the listeners; all of the Gateway where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub listeners: Vec<String>,
}

fn networks(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "minItems": 1, "maxItems": 256, "items": { "type": "string", "format": "cidr" } })
}

/// Switches that make a policy weaker than it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Insecure {
    /// True: requests need no rule that allows them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// Listeners with the identity of this workload take plain connections too, until a time such as
    /// `2027-01-31T00:00:00Z`: for a migration. Only in a policy that targets their Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = INSTANT))]
    pub plain_until: Option<String>,
    /// True: `mode: AllowInsecureFallback` may be used by the Gateway that the policy targets.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub client_certificate_optional: bool,
    /// Ports that redirected connections meant and on which listeners with protocol foregate.dev/Inbound take plain
    /// ones too, of nobody: for probes, and for what measures. Only in a policy that targets their Gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub plain_ports: Vec<u16>,
    /// True: what the application opens to addresses that no upstream of a route has is passed on as it is. Only in
    /// a policy that targets the Gateway of a listener with protocol foregate.dev/Outbound.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown_destinations: bool,
}

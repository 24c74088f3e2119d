//! `Case`: one request or connection, and the verdict it must get.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::documents::HEADER_NAME;

/// A `Case` of `foregate.dev/v1alpha1`, in files named `*.cases.yaml`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: Spec,
}

/// What a case shows, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "CaseMetadata")]
pub struct Metadata {
    /// A sentence: what is shown.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "CaseSpec")]
pub struct Spec {
    /// Either a request or a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// One that a `TCPRoute` or `TLSRoute` passes on unread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// Scores that stand in for the model, by name of the `enrich` rule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, f32>,
    pub expect: Expect,
}

/// The request.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "CaseRequest")]
pub struct Request {
    /// `GET` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Where absent, `https` if a listener serves the host so, else `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// `localhost` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port of the listener; that of the first one of the scheme that serves the host, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Where a redirected connection meant to go, such as `10.0.0.7:8080`: for listeners with protocol
    /// foregate.dev/Inbound or foregate.dev/Outbound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub destination: Option<SocketAddr>,
    /// Canonical path, and query.
    #[schemars(regex(pattern = "^/"))]
    pub path: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Address of the client; `127.0.0.1` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "ip"))]
    pub source: Option<IpAddr>,
    /// SPIFFE id that the certificate of the client proves; no certificate where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^spiffe://"), length(max = 2048))]
    pub peer: Option<String>,
    /// Sent this often at one moment, and the last verdict is compared: for limits. Once where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub times: Option<u16>,
    /// With `times`: those before the last are still open when it comes, for bounds of concurrency.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// A token to be signed and sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Name of a `Consumer`: a key of it is sent, where the route looks for keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// What the introspection endpoint answers, such as `{ active: true, scope: crm.read }`. Where absent, it
    /// does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introspection: Option<Map<String, Value>>,
    /// Any JSON value, or `{ file: path }` relative to the file of the case. A string is sent as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

/// The connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "CaseConnection")]
pub struct Connection {
    /// Name of the listener, or `<gateway>/<listener>`; the first that has a route for it, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub listener: Option<String>,
    /// Port of the listener; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Where a redirected connection meant to go, such as `10.0.0.7:5432`: for listeners with protocol
    /// foregate.dev/Inbound or foregate.dev/Outbound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub destination: Option<SocketAddr>,
    /// Name that the client asks for in TLS; none where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub server_name: Option<String>,
    /// Address of the client; `127.0.0.1` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "ip"))]
    pub source: Option<IpAddr>,
    /// SPIFFE id that the certificate of the client proves; no certificate where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^spiffe://"), length(max = 2048))]
    pub peer: Option<String>,
    /// Made this often at one moment, and the last verdict is compared: for limits. Once where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub times: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "CaseScheme")]
pub enum Scheme {
    Http,
    Https,
}

/// Claims to sign, and how. `exp` is in the future unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "CaseToken")]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// True: the token ran out an hour ago.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
    #[serde(default)]
    pub signed_by: SignedBy,
    /// The claims.
    #[serde(flatten)]
    pub claims: Map<String, Value>,
}

/// Whose key signs a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SignedBy {
    /// The issuer named in the claims.
    #[default]
    Issuer,
    /// Somebody whom nobody trusts.
    Other,
}

/// The verdict. What is not named is not compared.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "CaseExpect")]
pub struct Expect {
    /// Status of the refusal, redirect or answered preflight; where absent, the request must be forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub reply: Option<u16>,
    /// True: the connection must be refused; where absent, it must be passed on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// Name of the reason, such as `TokenInvalid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Name of the step, such as `identify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Name of the rule that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Name of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Name of the upstream that was chosen, or of one among those with a weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// What limits leave after the request, by name of the rule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
    /// Headers as the upstream gets them; `null` where it must not get one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("propertyNames" = { "pattern": HEADER_NAME }))]
    pub request_headers: BTreeMap<String, Option<String>>,
    /// Members that the JSON body must have as the upstream gets it, or the whole text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

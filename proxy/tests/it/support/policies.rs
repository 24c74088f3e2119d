//! Policy documents that most tests share.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde_json::Value;

/// The ports of all listeners, by `<gateway>/<listener>`.
pub fn ports(policies: &str) -> BTreeMap<String, u64> {
    let documents = policies.split("\n---").filter_map(|text| serde_saphyr::from_str::<Value>(text).ok());
    let gateways = documents.filter(|document| document["kind"] == "Gateway");
    let listeners = gateways.flat_map(|gateway| {
        let name = gateway["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let listeners = gateway["spec"]["listeners"].as_array().cloned().unwrap_or_default();
        listeners.into_iter().map(move |listener| (name.clone(), listener))
    });
    let named = |(gateway, listener): (String, Value)| {
        Some((format!("{gateway}/{}", listener["name"].as_str()?), listener["port"].as_u64()?))
    };
    listeners.filter_map(named).collect()
}

/// The names of all listeners, as `<gateway>/<listener>`.
pub fn listeners(policies: &str) -> Vec<String> {
    ports(policies).into_keys().collect()
}

/// How many sockets the listeners need: those with the same port share one.
pub fn sockets(policies: &str) -> usize {
    ports(policies).into_values().collect::<BTreeSet<_>>().len()
}

/// A gateway `edge` with one plain listener, `edge/http`.
pub const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners:
  - { name: http, protocol: HTTP, port: 8080 }
---";

/// A policy that lets everybody through to a route.
pub fn anonymous(route: &str) -> String {
    format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: {route}-anonymous }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: {route} }}]
  insecure: {{ anonymous: true }}
---"
    )
}

/// A route of the gateway `edge` with these rules (YAML, indented by two), open to everybody.
pub fn route(name: &str, rules: &str) -> String {
    closed_route(name, rules) + &anonymous(name)
}

/// A route of the gateway `edge` with these rules (YAML, indented by two), open to whom a policy lets.
pub fn closed_route(name: &str, rules: &str) -> String {
    let rules = rules.trim_end_matches('\n');
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {name} }}
spec:
  parentRefs: [{{ name: edge }}]
  rules:
{rules}
---"
    )
}

/// A route of the gateway `edge` from `/<name>` to an upstream, open to whom a policy lets.
pub fn route_below(name: &str, upstream: &str) -> String {
    closed_route(
        name,
        &format!(
            "  - name: rule
    matches: [{{ path: {{ type: PathPrefix, value: /{name} }} }}]
    backendRefs: [{{ group: foregate.dev, kind: Upstream, name: {upstream} }}]"
        ),
    )
}

/// A `GRPCRoute` of the gateway `edge` with these rules (YAML, indented by two), open to everybody.
pub fn grpc_route(name: &str, rules: &str) -> String {
    route(name, rules).replace("HTTPRoute", "GRPCRoute")
}

/// An upstream with one endpoint; `more` are further fields of its spec in flow style, such as
/// `protocol: Http2`.
pub fn upstream(name: &str, endpoint: impl Display, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: {{ name: {name} }}
spec: {{ endpoints: [\"{endpoint}\"]{comma}{more} }}
---"
    )
}

/// Everything to one HTTP/1.1 upstream, for everybody.
pub fn plain(endpoint: impl Display) -> String {
    to(endpoint, "")
}

/// Everything to one upstream, for everybody; `more` as in [`upstream`].
pub fn to(endpoint: impl Display, more: &str) -> String {
    let rules = "  - backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]";
    [GATEWAY, &route("all", rules), &upstream("crm", endpoint, more)].concat()
}

//! Gateway API as its own types read it, and as the policy language does.

use std::path::Path;

use foregate_policy::document::{Document, Kind};
use foregate_policy::documents::{
    backend_tls, gateway, grpc_route, http_route, reference_grant, stream_route,
};
use foregate_policy::load::{Sources, load_folder};
use gateway_api::{backendtlspolicies, experimental, gateways, referencegrants};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What is neither said nor a default of either: nothing.
fn lean(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().map(|(field, value)| (field, lean(value)));
            let kept = kept.filter(|(_, value)| !value.is_null() && *value != Value::Array(Vec::new()));
            Value::Object(
                kept.filter(|(_, value)| value.as_object().is_none_or(|fields| !fields.is_empty())).collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(lean).collect()),
        value => value,
    }
}

/// The fields of `here` that `there` says otherwise or not at all, where the document says them.
fn differences(said: &Value, ours: &Value, theirs: &Value, way: &str, told: &mut Vec<String>) {
    match (said, ours, theirs) {
        (Value::Object(said), Value::Object(ours), Value::Object(theirs)) => {
            for (field, value) in said {
                let none = Value::Null;
                let (one, other) = (ours.get(field).unwrap_or(&none), theirs.get(field).unwrap_or(&none));
                differences(value, one, other, &format!("{way}.{field}"), told);
            }
        }
        (Value::Array(said), Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, value) in said.iter().enumerate() {
                differences(value, &ours[index], &theirs[index], &format!("{way}[{index}]"), told);
            }
        }
        (_, one, other) if one == other => {}
        // What is a default and not said is left out by some.
        (said, Value::Null, other) if said == other => {}
        (said, one, other) => told.push(format!("{way}: {said} is {one} to us and {other} to them")),
    }
}

fn both<Ours, Theirs>(document: &Document) -> (Value, Value)
where
    Ours: DeserializeOwned + Serialize,
    Theirs: DeserializeOwned + Serialize,
{
    let spec = document.root.key("spec").unwrap().to_json();
    let place = format!("{}: {}", document.file.path.display(), document.name);
    let ours: Ours =
        serde_json::from_value(spec.clone()).unwrap_or_else(|error| panic!("{place}: ours: {error}"));
    let theirs: Theirs =
        serde_json::from_value(spec).unwrap_or_else(|error| panic!("{place}: theirs: {error}"));
    (lean(serde_json::to_value(ours).unwrap()), lean(serde_json::to_value(theirs).unwrap()))
}

fn read(document: &Document) -> Option<(Value, Value)> {
    Some(match document.kind {
        Kind::Gateway => both::<gateway::Spec, gateways::GatewaySpec>(document),
        // Retries and session persistence are of the experimental channel.
        Kind::HttpRoute => both::<http_route::Spec, experimental::httproutes::HttpRouteSpec>(document),
        Kind::GrpcRoute => both::<grpc_route::Spec, experimental::grpcroutes::GrpcRouteSpec>(document),
        Kind::TcpRoute => both::<stream_route::TcpSpec, experimental::tcproutes::TcpRouteSpec>(document),
        Kind::TlsRoute => both::<stream_route::TlsSpec, experimental::tlsroutes::TlsRouteSpec>(document),
        Kind::ReferenceGrant => both::<reference_grant::Spec, referencegrants::ReferenceGrantSpec>(document),
        Kind::BackendTlsPolicy => {
            both::<backend_tls::Spec, backendtlspolicies::BackendTlsPolicySpec>(document)
        }
        _ => return None,
    })
}

/// What no policy that is shipped says.
const MORE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: { name: crm, namespace: other }
spec:
  from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: crm }, { group: gateway.networking.k8s.io, kind: TCPRoute, namespace: crm }]
  to: [{ group: '', kind: Service, name: leads }, { group: foregate.dev, kind: Upstream }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: services, namespace: crm }
spec:
  parentRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge, namespace: crm, sectionName: https, port: 443 }]
  hostnames: ['*.crm.test']
  rules:
  - name: all
    matches: [{ path: { type: PathPrefix, value: /a }, headers: [{ type: Exact, name: x-a, value: b }], queryParams: [{ type: RegularExpression, name: q, value: 'a+' }], method: GET }]
    filters: [{ type: RequestMirror, requestMirror: { backendRef: { group: '', kind: Service, name: copy, namespace: other, port: 80 }, percent: 5 } }]
    backendRefs: [{ group: '', kind: Service, name: leads, namespace: other, port: 80, weight: 3 }, { name: more, port: 81 }]
    timeouts: { request: 10s, backendRequest: 2s }
    retry: { codes: [503], attempts: 2, backoff: 50ms }
    sessionPersistence: { sessionName: sid, type: Cookie, absoluteTimeout: 30s }
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: calls, namespace: crm }
spec:
  parentRefs: [{ name: edge }]
  rules: [{ matches: [{ method: { type: Exact, service: crm.v1.Leads, method: Get } }], backendRefs: [{ name: leads, port: 81 }] }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: { name: database, namespace: crm }
spec:
  parentRefs: [{ name: edge }]
  rules: [{ backendRefs: [{ kind: Service, name: database, namespace: other, port: 5432 }] }]
";

fn folders(folder: &Path, found: &mut Vec<Sources>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() && entry.file_name() != "secrets" {
            found.extend(load_folder(&entry.path()));
            folders(&entry.path(), found);
        }
    }
}

#[test]
fn documents_of_gateway_api_are_read_alike() {
    let mut all = Vec::new();
    let mut more = Sources::default();
    more.add("more.yaml".into(), MORE.to_owned());
    all.push(more);
    folders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies"), &mut all);
    let (mut seen, mut told) = (std::collections::BTreeMap::<&str, usize>::new(), Vec::new());
    for document in all.iter().flat_map(|sources| &sources.documents) {
        let Some((ours, theirs)) = read(document) else { continue };
        *seen.entry(document.kind.word()).or_default() += 1;
        let said = document.root.key("spec").unwrap().to_json();
        let place = format!("{}: {}", document.file.path.display(), document.name);
        differences(&said, &ours, &theirs, &place, &mut told);
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
    for kind in
        ["Gateway", "HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "ReferenceGrant", "BackendTLSPolicy"]
    {
        assert!(seen.contains_key(kind), "no {kind} in policies: {seen:?}");
    }
}

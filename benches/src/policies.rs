//! The policies that are measured, compiled as the gateway compiles them.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use foregate_policy::compile::{Materials, Options, compile};
use foregate_policy::load::Sources;
use foregate_policy::render::{Format, render};
use foregate_policy::route::Route;
use foregate_policy::snapshot::Snapshot;
use http::request;

/// The host that all routes serve.
pub const HOST: &str = "crm.example.com";
/// The port of the one listener.
pub const PORT: u16 = 8080;

/// Routes written into one file.
const ROUTES_A_FILE: usize = 1000;

/// A gateway and an upstream, for any route.
const BASE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners: [{ name: http, protocol: HTTP, port: 8080 }]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: crm }
spec: { endpoints: ["127.0.0.1:8081"] }
"#;

/// Requires nothing.
pub const ANONYMOUS: &str = "insecure: { anonymous: true }";
/// Only a token.
pub const TOKEN: &str = r#"
  insecure: { anonymous: true }
  jwt: [{ issuer: "https://idp.test", audiences: [crm], jwks: { file: jwks.json } }]"#;
/// A token, a limit for each organisation, an access rule.
pub const PROTECTED: &str = r#"
  jwt: [{ issuer: "https://idp.test", audiences: [crm], jwks: { file: jwks.json } }]
  rateLimit: [{ name: per-org, key: jwt.org, limit: 1000000, per: 1ms }]
  authorize: [{ name: writers, allow: '"crm.write" in jwt.scopes' }]"#;

/// A limit for each value of a header.
pub const LIMITED: &str = r#"
  insecure: { anonymous: true }
  rateLimit: [{ name: each, key: 'request.headers["x-request-id"]', limit: 1000000, per: 1ms }]"#;

/// Three limits of each organisation, taken together.
pub const COUNTED: &str = r#"
  insecure: { anonymous: true }
  rateLimit: [{ name: rate, key: 'request.headers["x-request-id"]', limit: 1000000, per: 1ms }]
  quota: [{ name: daily, key: 'request.headers["x-request-id"]', limit: 1000000000, per: Day, timeZone: Europe/Berlin }]
  concurrency: [{ name: open, key: 'request.headers["x-request-id"]', limit: 10 }]"#;

/// Scores a lead and writes the score into header and body.
pub fn scored(bundle: &str) -> String {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("inference-sidecar");
    let bundle = home.join("bundles").join(bundle);
    let enrich = "{ name: lead, model: lead-score, deadline: 50ms, onError: reject, \
                  set: { header: x-lead-score, body: /Lead_Score__c } }";
    format!(
        "insecure: {{ anonymous: true }}\n  enrich: [{enrich}]\n---\napiVersion: foregate.dev/v1alpha1\nkind: Model\n\
         metadata: {{ name: lead-score }}\nspec: {{ bundle: {{ path: {} }} }}",
        bundle.display()
    )
}

/// Compiles `routes` routes below `/services/data`, all under one policy.
pub fn snapshot(routes: usize, policy: &str, materials: &dyn Materials) -> Result<Snapshot> {
    let mut sources = Sources::default();
    let mut text = BASE.to_owned();
    for route in 0..routes {
        // A file is bounded.
        if route > 0 && route.is_multiple_of(ROUTES_A_FILE) {
            sources.add(format!("bench-{route}.yaml").into(), std::mem::take(&mut text));
        }
        write!(
            text,
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r{route} }}\nspec:\n  \
             parentRefs: [{{ name: edge }}]\n  hostnames: [{HOST}]\n  rules:\n  - matches: [{{ path: {{ type: PathPrefix, \
             value: /services/data/v{}.0/sobjects/T{route} }} }}]\n    \
             backendRefs: [{{ group: foregate.dev, kind: Upstream, name: crm }}]\n",
            60 + route % 4
        )?;
    }
    let target = "{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }";
    write!(
        text,
        "---\napiVersion: foregate.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: all }}\nspec:\n  \
         targetRefs: [{target}]\n  {policy}\n"
    )?;
    sources.add("bench.yaml".into(), text);
    compile(&sources, materials, Options::default())
        .map_err(|faults| anyhow!(render(&faults, Format::Human { color: false })))
}

/// The route of a request.
pub fn route(snapshot: &Snapshot, head: &request::Parts) -> Result<Arc<Route>> {
    match snapshot.routes.find(PORT, false, HOST, head) {
        Ok(route) => Ok(Arc::clone(route)),
        Err(miss) => bail!("no route: {miss:?}"),
    }
}

//! The filter CORS: preflights, marked responses, methods that other rules match.

use crate::gateway_api::{ROW, Row, World, answered, route_at, to};
use crate::support::policies;
use crate::support::process::served;

const APP: (&str, &str) = ("origin", "https://app.test");

fn filter(fields: &str, backend: &str) -> String {
    format!(
        "filters: [{{ type: CORS, cors: {{ {fields} }} }}], backendRefs: [{{ group: foregate.dev, kind: Upstream, name: {backend} }}]"
    )
}

#[tokio::test]
async fn preflights_are_answered_and_responses_marked() {
    let fields = "allowOrigins: ['https://app.test', 'http://*.dev.test:3000'], allowMethods: [GET, PUT], allowHeaders: [x-a, content-type], exposeHeaders: [x-backend], allowCredentials: true, maxAge: 60";
    let rules = format!("  - {{ {} }}\n", filter(fields, "one"));
    let world = World::new(&["one"], &[policies::GATEWAY, &policies::route("all", &rules)].concat()).await;
    let asks = ("access-control-request-method", "PUT");
    let preflight = answered("OPTIONS crm.test /a", 204);
    world
        .check(&[
            Row {
                send: &[APP, asks, ("access-control-request-headers", "x-a")],
                reply: &[
                    ("access-control-allow-origin", "https://app.test"),
                    ("access-control-allow-credentials", "true"),
                    ("access-control-allow-methods", "GET, PUT"),
                    ("access-control-allow-headers", "x-a, content-type"),
                    ("access-control-max-age", "60"),
                    ("vary", "origin"),
                    ("content-type", ""),
                ],
                ..preflight
            },
            Row {
                send: &[("origin", "http://a.b.dev.test:3000"), asks],
                reply: &[("access-control-allow-origin", "http://a.b.dev.test:3000")],
                ..preflight
            },
            Row {
                send: &[("origin", "https://evil.test"), asks],
                status: 403,
                reply: &[("access-control-allow-origin", ""), ("vary", "origin")],
                ..preflight
            },
            // No preflight: it goes on.
            Row {
                send: &[APP],
                seen: &[("method", "OPTIONS")],
                reply: &[("access-control-allow-origin", "https://app.test"), ("access-control-max-age", "")],
                ..to("OPTIONS crm.test /a", "one")
            },
            Row {
                send: &[APP],
                reply: &[
                    ("access-control-allow-origin", "https://app.test"),
                    ("access-control-allow-credentials", "true"),
                    ("access-control-expose-headers", "x-backend"),
                    ("access-control-allow-methods", ""),
                    ("vary", "origin"),
                ],
                ..to("GET crm.test /a", "one")
            },
            // Whoever is not allowed is served, and no script reads the answer.
            Row {
                send: &[("origin", "https://evil.test")],
                reply: &[("access-control-allow-origin", ""), ("vary", "origin")],
                ..to("GET crm.test /a", "one")
            },
            Row {
                reply: &[("access-control-allow-origin", ""), ("vary", "origin")],
                ..to("GET crm.test /a", "one")
            },
        ])
        .await;
    let answered = served("OPTIONS", 204, "all/0");
    world.gateway.wait_sample(&answered, |count| (count - 4.0).abs() < 0.5).await;
    let refused =
        "foregate_refusals_total{route=\"all/0\",step=\"guard\",reason=\"OriginDenied\",rule=\"cors\"}";
    world.gateway.wait_sample(refused, |count| (count - 2.0).abs() < 0.5).await;
    assert!(!world.gateway.metrics().await.contains("reason=\"Preflight\""));
}

#[tokio::test]
async fn everybody_may_read_what_is_open() {
    let all = "allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], exposeHeaders: ['*']";
    let rules = format!("  - {{ {} }}\n", filter(all, "one"));
    let world = World::new(&["one"], &[policies::GATEWAY, &policies::route("all", &rules)].concat()).await;
    let asks = ("access-control-request-method", "DELETE");
    world
        .check(&[
            Row {
                send: &[APP, asks, ("access-control-request-headers", "x-any")],
                reply: &[
                    ("access-control-allow-origin", "*"),
                    ("access-control-allow-methods", "*"),
                    ("access-control-allow-headers", "*"),
                    ("access-control-max-age", "5"),
                    ("access-control-allow-credentials", ""),
                    ("vary", ""),
                ],
                ..answered("OPTIONS crm.test /", 204)
            },
            Row {
                send: &[APP],
                reply: &[("access-control-allow-origin", "*"), ("access-control-expose-headers", "*")],
                ..to("GET crm.test /", "one")
            },
        ])
        .await;
}

#[tokio::test]
async fn a_preflight_finds_the_rule_of_the_method_that_it_asks_for() {
    let matching =
        |method: &str, rest: &str| format!("  - {{ matches: [{{ method: {method} }}], {rest} }}\n");
    let rules = [
        matching("PUT", &filter("allowOrigins: ['https://app.test'], allowMethods: [PUT]", "writes")),
        matching("GET", "backendRefs: [{ group: foregate.dev, kind: Upstream, name: reads }]"),
    ];
    let documents = [policies::GATEWAY, &route_at("all", "", &rules.concat())].concat();
    let world = World::new(&["reads", "writes"], &documents).await;
    let asks = |method: &'static str| [APP, ("access-control-request-method", method)];
    world
        .check(&[
            Row {
                ask: "OPTIONS crm.test /",
                send: &asks("PUT"),
                status: 204,
                reply: &[("access-control-allow-methods", "PUT")],
                ..ROW
            },
            Row { send: &asks("GET"), ..answered("OPTIONS crm.test /", 404) },
            Row { send: &[APP], ..answered("OPTIONS crm.test /", 404) },
            to("PUT crm.test /", "writes"),
            to("GET crm.test /", "reads"),
        ])
        .await;
}

#[tokio::test]
async fn a_flood_of_preflights_is_refused_so_that_scripts_can_read_why() {
    let rules = format!("  - {{ {} }}\n", filter("allowOrigins: ['https://app.test']", "one"));
    let few = "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: few }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: all }]
  rateLimit: [{ name: few, key: source.address, limit: 2, per: 1h }]
---";
    let documents = [policies::GATEWAY, &policies::route("all", &rules), few].concat();
    let world = World::new(&["one"], &documents).await;
    let asks = [APP, ("access-control-request-method", "GET")];
    let marked = [("access-control-allow-origin", "https://app.test")];
    // Asked by HTTP/1.1 and by HTTP/2: these are two.
    world.check(&[Row { send: &asks, ..answered("OPTIONS crm.test /", 204) }]).await;
    world
        .check(&[
            Row { send: &asks, reply: &marked, ..answered("OPTIONS crm.test /", 429) },
            Row { send: &[APP], reply: &marked, ..answered("GET crm.test /", 429) },
        ])
        .await;
}

#[tokio::test]
async fn a_preflight_needs_no_key_and_a_refusal_can_be_read() {
    let rules = format!("  - {{ {} }}\n", filter("allowOrigins: ['https://app.test']", "one"));
    let closed = "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: closed }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: all }]
  apiKey: {}
  authorize: [{ name: known, allow: 'true' }]
---";
    let documents = [policies::GATEWAY, &policies::route("all", &rules), closed].concat();
    let world = World::new(&["one"], &documents).await;
    world
        .check(&[
            Row {
                send: &[APP, ("access-control-request-method", "GET")],
                ..answered("OPTIONS crm.test /", 204)
            },
            Row {
                send: &[APP],
                reply: &[("access-control-allow-origin", "https://app.test")],
                ..answered("GET crm.test /", 401)
            },
        ])
        .await;
}

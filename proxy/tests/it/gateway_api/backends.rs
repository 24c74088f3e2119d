//! Backends: HTTP/1.1 and h2c, weights, and rules that choose by header, consumer or score.

use http::Method;

use crate::gateway_api::{Row, World, answered, route_at, rule, to};
use crate::support::client::Client;
use crate::support::consumers::known;
use crate::support::guarded::{bundle, golden, model, policy};
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, full};

const THREE: &str = "  - backendRefs:
    - { group: foregate.dev, kind: Upstream, name: usual }
    - { group: foregate.dev, kind: Upstream, name: fast, weight: 0 }
    - { group: foregate.dev, kind: Upstream, name: safe, weight: 0 }
";

/// A route that only the policy below opens.
fn closed(rules: &str) -> String {
    policies::route("all", rules).split_inclusive("---").next().unwrap().to_owned()
}

#[tokio::test]
async fn backends_speak_http1_or_http2_as_their_upstream_says() {
    let rules = ["h1", "h2"].map(|name| rule(&format!("matches: [{{ path: {{ value: /{name} }} }}]"), name));
    let documents = [policies::GATEWAY, &route_at("all", "", &rules.concat())].concat();
    let world = World::speaking(&[("h1", false), ("h2", true)], &documents).await;
    world
        .check(&[
            Row { seen: &[("host", "crm.test")], ..to("GET crm.test /h1", "h1") },
            Row { seen: &[("host", "crm.test")], ..to("GET crm.test /h2", "h2") },
        ])
        .await;
    assert_eq!(world.backend("h1").last().version, http::Version::HTTP_11);
    assert_eq!(world.backend("h2").last().version, http::Version::HTTP_2);
}

#[tokio::test]
async fn a_backend_of_another_namespace_is_reached_where_that_grants_it() {
    let granted = "
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: { name: far, namespace: other }
spec:
  from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default }]
  to: [{ group: foregate.dev, kind: Upstream, name: far }]
---";
    let rules = rule("", "far").replace("name: far", "name: far, namespace: other");
    let upstream = Upstream::answering("far").await;
    let far = policies::upstream("far", upstream.address, "");
    let far = far.replace("{ name: far }", "{ name: far, namespace: other }");
    let documents = [policies::GATEWAY, &policies::route("all", &rules), granted, &far].concat();
    let gateway = Foregate::start(&documents, Options::default()).await;
    assert_eq!(Client::http1(gateway.address("edge/http")).await.get("/").await.text(), "far");
}

#[tokio::test]
async fn a_choice_by_header_or_consumer_goes_before_the_weights() {
    let gold = known("gold");
    let plain = known("plain");
    let choices = "apiKey: {}
authorize: [{ name: known, allow: 'true' }]
choose:
- { name: asked, when: '\"x-lane\" in request.headers && request.headers[\"x-lane\"] == \"safe\"', backend: safe }
- { name: gold, when: 'has(consumer.metadata.tier) && consumer.metadata.tier == \"gold\"', backend: fast }
- { name: strict, when: 'request.path == \"/strict\" && request.headers[\"x-lane\"] == \"fast\"', backend: fast }
";
    let documents = [
        policies::GATEWAY,
        &closed(THREE),
        &policy("all", choices),
        &gold.document("", "metadata: { tier: gold }"),
        &plain.document("", ""),
    ];
    let world = World::new(&["usual", "fast", "safe"], &documents.concat()).await;
    let (gold, plain) = (("x-api-key", gold.key.as_str()), ("x-api-key", plain.key.as_str()));
    world
        .check(&[
            Row { send: &[plain], ..to("GET crm.test /", "usual") },
            Row { send: &[gold], ..to("GET crm.test /", "fast") },
            Row { send: &[gold, ("x-lane", "safe")], ..to("GET crm.test /", "safe") },
            Row { send: &[plain, ("x-lane", "other")], ..to("GET crm.test /strict", "usual") },
            // What cannot be decided is refused.
            Row { send: &[plain], ..answered("GET crm.test /strict", 403) },
        ])
        .await;
    let refused =
        "foregate_refusals_total{route=\"all/0\",step=\"decide\",reason=\"RuleError\",rule=\"strict\"}";
    world.gateway.wait_sample(refused, |count| (count - 2.0).abs() < 0.5).await;
}

#[tokio::test]
async fn a_score_chooses_the_backend() {
    let choices = "insecure: { anonymous: true }
enrich: [{ name: lead, model: lead-score, deadline: 900ms, set: { header: x-lead-score } }]
choose: [{ name: hot, when: 'enrich.lead.score > 0.5', backend: fast }]
";
    let documents = [
        policies::GATEWAY,
        &closed(THREE),
        &policy("all", choices),
        &model("lead-score", &bundle("lead-score")),
    ];
    let world = World::new(&["usual", "fast", "safe"], &documents.concat()).await;
    let mut client = Client::http1(world.gateway.address("edge/http")).await;
    let mut seen = [0, 0];
    for (record, score) in golden(&bundle("lead-score")) {
        // Too near to tell after rounding.
        if (score - 0.5).abs() < 1e-3 {
            continue;
        }
        let request = client.request(Method::POST.as_str(), "/").header("content-type", "application/json");
        let reply = client.send(request.body(full(record.to_string())).unwrap()).await;
        let wanted = if score > 0.5 { "fast" } else { "usual" };
        assert_eq!((reply.status, reply.header("x-backend")), (200, wanted), "{score}: {record}");
        seen[usize::from(score > 0.5)] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

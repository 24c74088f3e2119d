//! Limits over the wire: exact under concurrency, told to callers, kept through reloads.

use std::net::SocketAddr;

use futures_util::future::join_all;
use serde_json::json;

use crate::support::client::{Client, Reply};
use crate::support::guarded::{guarded, routes};
use crate::support::idp::Idp;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, empty};

/// Sends so many requests at once, on each of so many connections.
async fn storm(
    address: SocketAddr,
    target: &str,
    http2: bool,
    connections: usize,
    each: usize,
) -> Vec<Reply> {
    let replies = join_all((0..connections).map(async |_| {
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        let requests = (0..each).map(|_| client.request("GET", target).body(empty()).unwrap());
        client.send_all(requests.collect()).await
    }));
    replies.await.into_iter().flatten().collect()
}

fn count(replies: &[Reply], status: u16) -> usize {
    replies.iter().filter(|reply| reply.status == status).count()
}

#[tokio::test]
async fn a_thousand_requests_at_once_are_admitted_exactly_up_to_the_limit() {
    const LIMIT: usize = 137;
    let upstream = Upstream::answering("ok").await;
    let spec = |name: &str| {
        let limit = format!("{{ name: {name}, key: '\"all\"', limit: {LIMIT}, per: 24h }}");
        format!("insecure: {{ anonymous: true }}\nrateLimit: [{limit}]\n")
    };
    let (one, two) = (spec("storm1"), spec("storm2"));
    let policies = routes(upstream.address, &[("http1", &one), ("http2", &two)]);
    let gateway = Foregate::start(&policies, Options::default().args(&["--threads", "4"])).await;
    let address = gateway.address("edge/http");
    for (target, http2, connections, each) in [("/http1", false, 200, 5), ("/http2", true, 10, 100)] {
        let before = upstream.received().len();
        let replies = storm(address, target, http2, connections, each).await;
        assert_eq!((count(&replies, 200), count(&replies, 429)), (LIMIT, 1000 - LIMIT), "{target}");
        assert_eq!(upstream.received().len() - before, LIMIT, "{target}: what reached the upstream");
        let name = if http2 { "storm2" } else { "storm1" };
        for (admitted, requests) in [("true", LIMIT), ("false", 1000 - LIMIT)] {
            let series = format!("foregate_limit_decisions_total{{rule=\"{name}\",admitted=\"{admitted}\"}}");
            #[expect(clippy::cast_precision_loss, reason = "a thousand is exact")]
            gateway.wait_sample(&series, |value| (value - requests as f64).abs() < 0.5).await;
        }
    }
}

/// `r` and `t` of a `RateLimit` field.
fn standing(reply: &Reply) -> (u64, u64) {
    let field = reply.header("ratelimit");
    let number =
        |name: &str| field.split(';').find_map(|part| part.strip_prefix(name)?.parse().ok()).unwrap();
    (number("r="), number("t="))
}

#[tokio::test]
async fn callers_are_told_how_they_stand_and_when_to_come_back() {
    let upstream = Upstream::answering("ok").await;
    let limit = "{ name: per-client, key: source.address, limit: 3, per: 60s }";
    let spec = format!("insecure: {{ anonymous: true }}\nrateLimit: [{limit}]\n");
    let gateway = Foregate::start(&guarded(upstream.address, &spec), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for left in [2, 1, 0] {
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.header("ratelimit-policy")), (200, "\"per-client\";q=3;w=60"));
        let (remaining, time) = standing(&reply);
        assert_eq!(remaining, left);
        assert!(
            reply.header("ratelimit").starts_with("\"per-client\";") && (1..=60).contains(&time),
            "{reply:?}"
        );
        assert!(!reply.headers.contains_key("retry-after"));
    }
    let reply = client.get("/").await;
    assert_eq!((reply.status, reply.reason().as_str()), (429, "RateLimited"));
    let (remaining, time) = standing(&reply);
    assert!(remaining == 0 && (1..=20).contains(&time), "{reply:?}");
    assert_eq!(reply.header("retry-after"), time.to_string());
    assert_eq!(reply.header("ratelimit-policy"), "\"per-client\";q=3;w=60");
    let record = gateway.record(reply.decision()).await;
    assert_eq!((&record["foregate.step"], &record["foregate.rule"]), (&json!("guard"), &json!("per-client")));
    assert_eq!(record["foregate.limits"][0]["admitted"], false);
    assert_eq!(upstream.received().len(), 3);
}

#[tokio::test]
async fn claims_and_addresses_have_counters_of_their_own_at_their_own_step() {
    let (upstream, idp) = (Upstream::answering("ok").await, Idp::start().await);
    let spec = format!(
        "jwt:\n{}authorize: [{{ name: members, allow: 'has(jwt.org)' }}]
rateLimit:
- {{ name: per-org, key: jwt.org, limit: 2, per: 24h }}
- {{ name: flood, key: source.address, limit: 9, per: 24h }}\n",
        idp.by_url()
    );
    let gateway = Foregate::start(&guarded(upstream.address, &spec), Options::default()).await;
    gateway.wait_sample(&idp.series("foregate_jwks_keys"), |keys| keys >= 1.0).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let org = |name: &str| idp.sign(&json!({ "org": name }));
    // In the order of the steps: flood counts all, the token is looked at, access is asked, per-org counts.
    let calls = [
        (org("a"), 200, "", ""),
        (org("a"), 200, "", ""),
        (org("a"), 429, "admit", "per-org"),
        (org("b"), 200, "", ""),
        (idp.sign(&json!({ "org": 7 })), 200, "", ""),
        (idp.token("without org"), 403, "admit", "default"),
        (idp.sign(&json!({ "org": "b", "aud": "other" })), 401, "identify", idp.url()),
        (idp.sign(&json!({ "org": null, "exp": 1 })), 401, "identify", idp.url()),
        (org("b"), 200, "", ""),
        // The tenth: neither good nor bad tokens are looked at any more.
        (org("c"), 429, "guard", "flood"),
        ("no token".to_owned(), 429, "guard", "flood"),
    ];
    let mut passed = 0;
    for (number, (token, status, step, rule)) in calls.into_iter().enumerate() {
        let request = client.request("GET", "/").header("authorization", format!("Bearer {token}"));
        let reply = client.send_empty(request).await;
        assert_eq!(reply.status, status, "call {number}: {}", reply.text());
        passed += usize::from(status == 200);
        let record = gateway.record(reply.decision()).await;
        let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (text("foregate.step"), text("foregate.rule")),
            (step.to_owned(), rule.to_owned()),
            "call {number}"
        );
    }
    assert_eq!(upstream.received().len(), passed);
}

#[tokio::test]
async fn a_limit_counts_only_when_it_applies_and_only_tells_in_audit_mode() {
    let upstream = Upstream::answering("ok").await;
    let spec = "
insecure: { anonymous: true }
rateLimit:
- { name: writes, key: source.address, when: 'request.method == \"POST\"', limit: 1, per: 24h }
- { name: trial, key: source.address, limit: 2, per: 24h, mode: audit }
- { name: keyed, key: 'request.headers[\"x-key\"]', when: '\"x-key\" in request.headers', limit: 1, per: 24h }";
    let gateway = Foregate::start(&guarded(upstream.address, spec), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for (number, (method, key, status)) in [
        ("POST", None, 200),
        ("POST", None, 429),
        ("GET", None, 200),
        ("GET", None, 200),
        ("GET", Some("a"), 200),
        ("GET", Some("a"), 429),
        ("GET", Some("b"), 200),
        // A key without a value cannot be counted, so it refuses.
        ("GET", Some(""), 403),
    ]
    .into_iter()
    .enumerate()
    {
        let mut request = client.request(method, "/");
        if let Some(key) = key {
            request = request.header("x-key", key);
        }
        let reply = client.send_empty(request).await;
        assert_eq!(reply.status, status, "call {number}: {}", reply.text());
        assert!(!reply.header("ratelimit").contains("trial"), "nobody is told of a limit that binds nobody");
        // The second POST was refused before the trial: the third request that it sees is over it.
        let record = gateway.record(reply.decision()).await;
        let audited = record["foregate.audits"][0]["rule"] == "trial";
        assert_eq!(audited, number >= 3, "call {number}: {record}");
    }
    gateway
        .wait_sample("foregate_audits_total{route=\"all/rule\",rule=\"trial\"}", |audits| audits > 4.5)
        .await;
    let over = "foregate_limit_decisions_total{rule=\"trial\",admitted=\"false\"}";
    assert_eq!(gateway.sample(over).await, Some(5.0));
    assert_eq!(upstream.received().len(), 5);
}

#[tokio::test]
async fn counters_live_through_a_reload_and_a_new_rate_counts_anew() {
    let upstream = Upstream::answering("ok").await;
    let spec = |limit: u32, name: &str| {
        format!(
            "authorize: [{{ name: {name}, allow: 'true' }}]
rateLimit: [{{ name: total, key: '\"all\"', limit: {limit}, per: 24h }}]\n"
        )
    };
    let gateway = Foregate::start(&guarded(upstream.address, &spec(5, "before")), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for left in [4, 3, 2] {
        assert_eq!(standing(&client.get("/").await).0, left);
    }
    let reloads = "foregate_config_reloads_total{outcome=\"success\"}";
    gateway.write("policies.yaml", guarded(upstream.address, &spec(5, "after")));
    gateway.wait_sample(reloads, |reloads| reloads >= 2.0).await;
    assert_eq!([client.get("/").await, client.get("/").await].map(|reply| standing(&reply).0), [1, 0]);
    assert_eq!(client.get("/").await.status, 429);
    gateway.write("policies.yaml", guarded(upstream.address, &spec(7, "after")));
    gateway.wait_sample(reloads, |reloads| reloads >= 3.0).await;
    assert_eq!(standing(&client.get("/").await).0, 6);
    assert_eq!(upstream.received().len(), 6);
}

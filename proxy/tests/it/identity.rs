//! Tokens over the wire: who gets in, what upstreams learn, keys that come and go.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foregate::issuer::Issuer;
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::json;

use crate::support::client::{Client, Reply};
use crate::support::guarded::{guarded, routes};
use crate::support::idp::{Idp, assemble};
use crate::support::process::{Foregate, Options};
use crate::support::raw;
use crate::support::upstream::{Upstream, empty};
use crate::support::within;

const ANYBODY: &str = "authorize: [{ name: anybody, allow: 'true' }]\n";
const CLAIMS: &str = "claimsToHeaders: [{ claim: org.id, header: X-Org }, { claim: sub, header: x-user }]\n";

/// A policy for bearers of tokens of this issuer.
fn bearers(entry: &str) -> String {
    format!("jwt:\n{entry}{ANYBODY}")
}

/// Starts a gateway and waits until it has the keys of the issuer.
async fn with_keys(policies: &str, idp: &Idp) -> Foregate {
    let gateway = Foregate::start(policies, Options::default()).await;
    gateway.wait_sample(&idp.series("foregate_jwks_keys"), |keys| keys >= 1.0).await;
    gateway
}

async fn bearing(client: &mut Client, target: &str, token: &str) -> Reply {
    let request = client.request("GET", target).header("authorization", format!("Bearer {token}"));
    client.send_empty(request).await
}

#[tokio::test]
async fn claims_arrive_and_what_the_client_says_of_them_does_not() {
    let (upstream, idp) = (Upstream::answering("ok").await, Idp::start().await);
    let uri = format!("{{ uri: {}/jwks }}", idp.url());
    let inline = format!("{{ inline: '{}' }}", idp.issuer.jwks());
    let forwarding = format!("{CLAIMS}forward: true\n");
    let specs = [
        ("uri", bearers(&idp.trusted(&uri, CLAIMS))),
        ("discovery", bearers(&idp.trusted("{ discover: true }", CLAIMS))),
        ("inline", bearers(&idp.trusted(&inline, CLAIMS))),
        ("forward", bearers(&idp.trusted(&uri, &forwarding))),
    ];
    let specs: Vec<(&str, &str)> = specs.iter().map(|(name, spec)| (*name, spec.as_str())).collect();
    let gateway = Foregate::start(&routes(upstream.address, &specs), Options::default()).await;
    let token = idp.sign(&json!({ "sub": "uid:005", "org": { "id": "acme" } }));
    for (number, name) in ["uri", "discovery", "inline", "forward"].into_iter().enumerate() {
        // The names as no library writes them: several, in any case, with `_` for `-`.
        let response = raw::exchange(
            gateway.address("edge/http"),
            format!(
                "GET /{name} HTTP/1.1\r\nHost: crm.test\r\nauthorization: bEARER {token}\r\nX-ORG: evil\r\n\
                 x-org: evil\r\nx_Org: evil\r\nX_USER: evil\r\nx-user: evil\r\nx-other: kept\r\n\r\n"
            ),
        )
        .await
        .unwrap();
        assert_eq!(response.status, 200, "{name}: {response:?}");
        let seen = &upstream.received()[number];
        let org: Vec<_> = seen.headers.get_all("x-org").iter().collect();
        assert_eq!(org, ["acme"], "{name}");
        assert_eq!((seen.header("x-user"), seen.header("x-other")), ("uid:005", "kept"), "{name}");
        assert!(!seen.headers.contains_key("x_org") && !seen.headers.contains_key("x_user"), "{name}");
        let forwarded = seen.header("authorization");
        assert_eq!(forwarded, if name == "forward" { format!("bEARER {token}") } else { String::new() });
    }
    // Absent claims set no header, and the client's copy does not stand in for them.
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let request = client.request("GET", "/uri").header("x-org", "evil");
    let request = request.header("authorization", format!("Bearer {}", idp.token("plain")));
    let reply = client.send_empty(request).await;
    assert_eq!(reply.status, 200);
    assert!(!upstream.last().headers.contains_key("x-org"));
    let record = gateway.record(reply.decision()).await;
    assert_eq!(
        (&record["foregate.subject"], &record["foregate.issuer"]),
        (&json!("plain"), &json!(idp.url()))
    );
}

/// What is wrong with a request, its Authorization headers, and the text of the challenge's error.
fn refused_requests(idp: &Idp) -> Vec<(&'static str, Vec<String>, &'static str)> {
    let good = idp.token("somebody");
    let bearer = |token: String| vec![format!("Bearer {token}")];
    let now = foregate::clock::now().unix.as_secs();
    let claims = idp.claims(&json!({}));
    let jwk = idp.issuer.jwks()["keys"][0].clone();
    let kid = jwk["kid"].clone();
    let hmac = |secret: Vec<u8>| {
        let key = EncodingKey::from_secret(&secret);
        let header = json!({ "alg": "HS256", "typ": "JWT", "kid": kid });
        assemble(&header, &claims, |message| {
            jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap()
        })
    };
    let point: Vec<u8> = ["x", "y"]
        .iter()
        .flat_map(|name| URL_SAFE_NO_PAD.decode(jwk[*name].as_str().unwrap()).unwrap())
        .collect();
    let stranger = Issuer::new(idp.url()).unwrap();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let unsigned = |alg: &str| assemble(&json!({ "alg": alg, "kid": kid }), &claims, |_| String::new());
    let stolen = |alg: &str| assemble(&json!({ "alg": alg, "kid": kid }), &claims, |_| signature.to_owned());
    let invalid = "The token is not valid";
    vec![
        ("no token", vec![], ""),
        ("another scheme", vec!["Basic dXNlcjpwYXNz".to_owned()], ""),
        ("expired", bearer(idp.sign(&json!({ "exp": now - 31 }))), "The token has expired"),
        ("without exp", bearer(idp.sign(&json!({ "exp": null }))), invalid),
        ("not valid yet", bearer(idp.sign(&json!({ "nbf": now + 60 }))), invalid),
        ("another audience", bearer(idp.sign(&json!({ "aud": "other" }))), invalid),
        ("without audience", bearer(idp.sign(&json!({ "aud": null }))), invalid),
        ("another issuer", bearer(idp.sign(&json!({ "iss": "https://evil.test/" }))), invalid),
        ("the issuer with a slash", bearer(idp.sign(&json!({ "iss": format!("{}/", idp.url()) }))), invalid),
        ("a stranger's key", bearer(stranger.token(&claims).unwrap()), invalid),
        ("alg none", bearer(format!("{}AA", unsigned("none"))), invalid),
        ("alg none, no signature", bearer(unsigned("none")), invalid),
        ("alg nOnE with a signature", bearer(stolen("nOnE")), invalid),
        ("a signature under another header", bearer(stolen("ES256")), invalid),
        ("HS256 with the public key as JSON", bearer(hmac(jwk.to_string().into_bytes())), invalid),
        ("HS256 with the public point", bearer(hmac(point)), invalid),
        ("HS256 with nothing", bearer(hmac(Vec::new())), invalid),
        (
            "a changed signature",
            bearer(format!("{message}.{}", signature.chars().rev().collect::<String>())),
            invalid,
        ),
        ("two tokens", vec![format!("Bearer {good}"), format!("Bearer {good}")], invalid),
        ("two tokens in one", bearer(format!("{good}, Bearer {good}")), invalid),
        ("60 KiB", bearer(format!("{good}{}", "A".repeat(60 << 10))), invalid),
        ("garbage", bearer("garbage".to_owned()), invalid),
    ]
}

#[tokio::test]
async fn every_bad_token_is_refused_with_a_challenge_and_without_a_reason_to_learn_from() {
    let (upstream, idp) = (Upstream::answering("ok").await, Idp::start().await);
    let gateway = with_keys(&guarded(upstream.address, &bearers(&idp.by_url())), &idp).await;
    let address = gateway.address("edge/http");
    let mut clients = [Client::http1(address).await, Client::http2(address).await];
    // The token of the query is good, and counts for nothing (RFC 6750, section 2.3 is not supported).
    let target = format!("/?access_token={}", idp.token("query"));
    for (what, sent, told) in refused_requests(&idp) {
        for client in &mut clients {
            let mut request = client.request("GET", &target);
            for value in &sent {
                request = request.header("authorization", value);
            }
            let reply = client.send_empty(request).await;
            assert_eq!(reply.status, 401, "{what}");
            let error = format!(", error=\"invalid_token\", error_description=\"{told}\"");
            let error = if told.is_empty() { "" } else { &error };
            assert_eq!(
                reply.header("www-authenticate"),
                format!("Bearer realm=\"foregate\"{error}"),
                "{what}"
            );
            let body = reply.json();
            let members: Vec<&String> = body.as_object().unwrap().keys().collect();
            assert_eq!(members, ["type", "title", "status", "reason", "decision"], "{what}");
            let reason = if told.is_empty() { "TokenMissing" } else { "TokenInvalid" };
            assert_eq!(
                (reply.reason().as_str(), body["decision"].as_str()),
                (reason, Some(reply.decision()))
            );
            let record = gateway.record(reply.decision()).await;
            assert_eq!(
                (&record["foregate.step"], &record["foregate.reason"]),
                (&json!("identify"), &json!(reason))
            );
        }
    }
    // A head that large is not even a request.
    let huge = format!("Bearer {}", "A".repeat(128 << 10));
    let head = format!("GET / HTTP/1.1\r\nHost: crm.test\r\nAuthorization: {huge}\r\n\r\n");
    assert_eq!(raw::exchange(address, head).await.unwrap().status, 431);
    let reply = clients[1].send_empty(clients[1].request("GET", "/").header("authorization", huge)).await;
    assert_eq!(reply.status, 431);
    assert!(upstream.received().is_empty(), "a refused request reached the upstream");
    for client in &mut clients {
        assert_eq!(bearing(client, "/", &idp.token("good")).await.status, 200, "connections live on");
    }
}

#[tokio::test]
async fn unknown_kids_however_many_cost_the_issuer_two_fetches() {
    let (upstream, idp) = (Upstream::answering("ok").await, Idp::start().await);
    let gateway = with_keys(&guarded(upstream.address, &bearers(&idp.by_url())), &idp).await;
    assert_eq!(idp.fetches(), 1);
    // Answers are held until all hundred wait for the same one.
    idp.hold(true);
    let address = gateway.address("edge/http");
    let strangers = join_all((0..10).map(async |_| {
        let mut client = Client::http2(address).await;
        let requests = (0..10).map(|_| {
            let token = Issuer::new(idp.url()).unwrap().token(&idp.claims(&json!({}))).unwrap();
            let request = client.request("GET", "/").header("authorization", format!("Bearer {token}"));
            request.body(empty()).unwrap()
        });
        client.send_all(requests.collect()).await
    }));
    let release = async {
        gateway.wait_sample("http_server_active_requests", |requests| requests >= 100.0).await;
        idp.hold(false);
    };
    let (replies, ()) = tokio::join!(strangers, release);
    assert!(replies.iter().flatten().all(|reply| reply.status == 401));
    let fetches = idp.fetches();
    assert!((2..=3).contains(&fetches), "{fetches}: one at the start, one or two for all hundred");
    // More of them within the next seconds cost nothing more than that.
    let mut client = Client::http1(address).await;
    for _ in 0..20 {
        let token = Issuer::new(idp.url()).unwrap().token(&idp.claims(&json!({}))).unwrap();
        assert_eq!(bearing(&mut client, "/", &token).await.status, 401);
    }
    assert_eq!(idp.fetches(), 3);
    assert!(upstream.received().is_empty());
    assert_eq!(bearing(&mut client, "/", &idp.token("good")).await.status, 200);
}

#[tokio::test]
async fn an_issuer_that_comes_late_is_waited_for() {
    let (upstream, mut idp) = (Upstream::answering("ok").await, Idp::down().await);
    let gateway =
        Foregate::start(&guarded(upstream.address, &bearers(&idp.by_url())), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let token = idp.token("early");
    let reply = bearing(&mut client, "/", &token).await;
    assert_eq!((reply.status, reply.reason().as_str()), (503, "KeysUnavailable"));
    assert_eq!(reply.header("retry-after"), "5");
    assert!(!reply.headers.contains_key("www-authenticate"), "the token may well be good");
    assert!(upstream.received().is_empty());
    idp.serve().await;
    within("the keys to be fetched", async {
        while bearing(&mut client, "/", &token).await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test]
async fn old_keys_go_on_while_the_issuer_is_down_and_their_age_tells() {
    let (upstream, mut idp) = (Upstream::answering("ok").await, Idp::start().await);
    let gateway = with_keys(&guarded(upstream.address, &bearers(&idp.by_url())), &idp).await;
    idp.stop().await;
    let age = idp.series("foregate_jwks_age_seconds");
    let before = gateway.sample(&age).await.unwrap();
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for number in 0..20 {
        let token = idp.token(&format!("fresh-{number}"));
        assert_eq!(bearing(&mut client, "/", &token).await.status, 200);
    }
    // A kid that nobody knows makes the gateway ask, in vain; the keys it has stay good.
    let stranger = Issuer::new(idp.url()).unwrap().token(&idp.claims(&json!({}))).unwrap();
    assert_eq!(bearing(&mut client, "/", &stranger).await.status, 401);
    gateway.wait_sample(&idp.series("foregate_jwks_fetches_failed_total"), |failed| failed >= 1.0).await;
    assert_eq!(bearing(&mut client, "/", &idp.token("after")).await.status, 200);
    gateway.wait_sample(&age, |now| now > before + 0.2).await;
    assert_eq!(upstream.received().len(), 21);
}

/// Sends fresh tokens of one issuer until told to stop; gives the number of requests, all of which passed.
async fn pass_with_fresh_tokens(address: SocketAddr, idp: &Idp, http2: bool, stop: &AtomicBool) -> usize {
    let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
    let mut pace = tokio::time::interval(Duration::from_millis(3));
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let reply = bearing(&mut client, "/", &idp.token(&format!("{sent}"))).await;
        assert_eq!(reply.status, 200, "request {sent} of {}: {}", idp.url(), reply.text());
        sent += 1;
    }
    sent
}

#[tokio::test]
async fn keys_rotate_under_load_and_no_request_fails() {
    let upstream = Upstream::answering("ok").await;
    let idps = [Idp::start().await, Idp::start().await, Idp::start().await];
    let entries: String = idps.iter().map(Idp::by_url).collect();
    let gateway = with_keys(&guarded(upstream.address, &bearers(&entries)), &idps[0]).await;
    for idp in &idps[1..] {
        gateway.wait_sample(&idp.series("foregate_jwks_keys"), |keys| keys >= 1.0).await;
    }
    let (address, stop) = (gateway.address("edge/http"), AtomicBool::new(false));
    let clients = idps.iter().flat_map(|idp| [false, true, true].map(|http2| (idp, http2)));
    let load = join_all(clients.map(|(idp, http2)| pass_with_fresh_tokens(address, idp, http2, &stop)));
    let rotations = async {
        // Twice in a row: nobody waits for the ten seconds between fetches in the long run.
        for round in 2..4 {
            for idp in &idps {
                idp.issuer.rotate().unwrap();
                let series = idp.series("foregate_jwks_fetches_succeeded_total");
                gateway.wait_sample(&series, |fetches| fetches >= f64::from(round)).await;
                let more = upstream.received().len() + 30;
                upstream.wait_received(more).await;
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (sent, ()) = tokio::join!(load, rotations);
    assert_eq!(sent.iter().sum::<usize>(), upstream.received().len());
    for idp in &idps {
        assert_eq!(idp.fetches(), 3, "one at the start and one for each rotation");
    }
}

#[tokio::test]
async fn keys_in_a_file_are_read_again_wherever_the_file_lies() {
    let (upstream, idp) = (Upstream::answering("ok").await, Idp::down().await);
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path().join("jwks.json");
    let keys = || idp.issuer.jwks().to_string();
    std::fs::write(&outside, keys()).unwrap();
    let inside = bearers(&idp.trusted("{ file: keys/jwks.json }", ""));
    let outer = bearers(&idp.trusted(&format!("{{ file: {} }}", outside.display()), ""));
    let policies = routes(upstream.address, &[("inside", &inside), ("outside", &outer)]);
    let gateway = Foregate::start(&policies, Options::default().file("keys/jwks.json", keys())).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let old = idp.token("old");
    for target in ["/inside", "/outside"] {
        assert_eq!(bearing(&mut client, target, &old).await.status, 200);
        // Two rotations: the key of the old token is withdrawn.
        idp.issuer.rotate().unwrap();
        idp.issuer.rotate().unwrap();
        let new = idp.token("new");
        assert_eq!(bearing(&mut client, target, &new).await.status, 401, "not before the file changes");
        if target == "/inside" {
            gateway.write("keys/jwks.json", keys());
        } else {
            std::fs::write(&outside, keys()).unwrap();
        }
        within("the new keys", async {
            while bearing(&mut client, target, &new).await.status != 200 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(bearing(&mut client, target, &old).await.status, 401, "remembered, but withdrawn");
    }
}

#[tokio::test]
async fn an_issuer_that_no_policy_trusts_any_more_is_left_alone() {
    let (upstream, idp, other) = (Upstream::answering("ok").await, Idp::start().await, Idp::start().await);
    let both = guarded(upstream.address, &bearers(&[idp.by_url(), other.by_url()].concat()));
    let gateway = with_keys(&both, &other).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(bearing(&mut client, "/", &other.token("before")).await.status, 200);
    gateway.write("policies.yaml", guarded(upstream.address, &bearers(&idp.by_url())));
    let series = other.series("foregate_jwks_keys");
    within("the keys to be let go", async {
        while gateway.sample(&series).await.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(bearing(&mut client, "/", &other.token("after")).await.status, 401);
    assert_eq!(bearing(&mut client, "/", &idp.token("still")).await.status, 200);
}

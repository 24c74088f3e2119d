//! Identities of a control plane: joined, renewed, rotated under load, kept without it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::control::plane::ControlPlane;
use crate::mtls::MESH;
use crate::support::client::Client;
use crate::support::guarded::guarded;
use crate::support::policies::{self, GATEWAY};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::Upstream;
use crate::support::within;

const RENEWED: &str = "certificate received";

fn options(args: &[String]) -> Options {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    Options::default().args(&words)
}

/// Two gateways with mutual TLS between them: requests to `edge/http` of the first pass both.
struct Pair {
    front: Foregate,
    back: Foregate,
    _upstream: Upstream,
}

impl Pair {
    async fn start(control: &ControlPlane) -> Self {
        let upstream = Upstream::answering("hello").await;
        let rule = "authorize: [{ name: front, allow: 'peer.id == \"spiffe://mesh.test/ns/crm/sa/front\"' }]";
        let text = guarded(upstream.address, rule).replace(GATEWAY, MESH);
        let back = Foregate::start(&text, options(&control.args(&control.token("ns/crm/sa/back")))).await;
        let peers = "tls: { mode: Mutual, peers: [\"spiffe://mesh.test/ns/crm/sa/back\"] }";
        let text = policies::to(back.address("edge/mesh"), peers);
        let front = Foregate::start(&text, options(&control.args(&control.token("ns/crm/sa/front")))).await;
        Self { front, back, _upstream: upstream }
    }

    /// Sends one request through both.
    async fn passes(&self) {
        let reply = Client::http1(self.front.address("edge/http")).await.get("/").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
    }

    /// Sends requests until told to stop; gives their number, all of which passed.
    async fn load(&self, stop: &AtomicBool) -> usize {
        let mut sent = 0;
        let mut client = Client::http1(self.front.address("edge/http")).await;
        while !stop.load(Ordering::Relaxed) {
            let reply = client.get("/").await;
            assert_eq!(reply.status, 200, "request {sent}: {}", reply.text());
            sent += 1;
            if reply.header("connection") == "close" {
                client = Client::http1(self.front.address("edge/http")).await;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        sent
    }

    /// Waits until both have had so many certificates.
    async fn received(&self, count: usize) {
        for gateway in [&self.front, &self.back] {
            let fits = |event: &Value| event["event.name"] == RENEWED;
            gateway.events().wait_count("certificates", count, fits).await;
        }
    }
}

fn received(gateway: &Foregate) -> usize {
    gateway.events().all().iter().filter(|event| event["event.name"] == RENEWED).count()
}

async fn identity(gateway: &Foregate) -> Value {
    let (_, page) = gateway.admin_page("/config").await;
    serde_json::from_str::<Value>(&page).unwrap()["identity"].clone()
}

#[tokio::test]
async fn issuer_and_root_rotate_under_load_and_no_request_fails() {
    let control = ControlPlane::start("lifetime: 12s, overlap: 3s").await;
    let pair = Pair::start(&control).await;
    let status = identity(&pair.back).await;
    assert_eq!(status["spiffe_id"], "spiffe://mesh.test/ns/crm/sa/back");
    let stop = AtomicBool::new(false);
    let rotation = async {
        control.command(&["authority", "rotate"], &[]);
        control.event("issuer changed").await;
        // Both show certificates of the new issuer, and then the old root goes.
        let before = received(&pair.front).max(received(&pair.back));
        pair.received(before + 2).await;
        control.events("bundle changed", 3).await;
        let after = received(&pair.front).max(received(&pair.back));
        pair.received(after + 1).await;
        stop.store(true, Ordering::Relaxed);
    };
    let loads = async { tokio::join!(pair.load(&stop), pair.load(&stop)) };
    let ((one, two), ()) = tokio::join!(loads, rotation);
    assert!(one > 100 && two > 100, "{one} {two}");
    for gateway in [&pair.front, &pair.back] {
        assert!(identity(gateway).await["failure"].is_null());
    }
}

#[tokio::test]
async fn identities_go_on_while_the_control_plane_is_gone_and_are_renewed_when_it_is_back() {
    let mut control = ControlPlane::start("lifetime: 24s").await;
    let pair = Pair::start(&control).await;
    pair.passes().await;
    let due = |gateway: &Foregate| {
        let events = gateway.events().all();
        let received = events.iter().find(|event| event["event.name"] == RENEWED);
        received.unwrap()["renewed"].as_str().unwrap().to_owned()
    };
    control.kill();
    let refused = |event: &Value| event["event.name"] == "identity not renewed";
    for gateway in [&pair.front, &pair.back] {
        // Told at once, as the stream of roots has ended.
        gateway.events().wait("the fault", refused).await;
        assert!(identity(gateway).await["failure"].is_string());
    }
    let stop = AtomicBool::new(false);
    let restart = async {
        for gateway in [&pair.front, &pair.back] {
            let due = due(gateway);
            let late = |event: &Value| refused(event) && event["timestamp"].as_str().unwrap() > due.as_str();
            gateway.events().wait("a renewal that is due and fails", late).await;
        }
        control.restart().await;
        pair.received(2).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (sent, ()) = tokio::join!(pair.load(&stop), restart);
    assert!(sent > 100, "{sent}");
    pair.passes().await;
    let healed = async {
        while !identity(&pair.back).await["failure"].is_null() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("no fault", healed).await;
}

#[tokio::test]
async fn a_gateway_starts_without_the_control_plane_from_what_it_kept() {
    let mut control = ControlPlane::start("lifetime: 1h").await;
    let upstream = Upstream::answering("hello").await;
    let text = policies::to(upstream.address, "");
    let state = tempfile::tempdir().unwrap();
    let mut args = control.args(&control.token("ns/crm/sa/front"));
    args.extend(["--state-dir".to_owned(), state.path().display().to_string()]);
    let mut first = Foregate::start(&text, options(&args)).await;
    let before = identity(&first).await;
    first.terminate();
    assert!(first.exit().await.success());
    control.kill();
    let second = Foregate::start(&text, options(&args)).await;
    let after = identity(&second).await;
    assert_eq!(after["spiffe_id"], "spiffe://mesh.test/ns/crm/sa/front");
    assert_eq!(after["expires"], before["expires"]);
    let said = second.events().text();
    assert!(!said.contains("PRIVATE") && !said.contains("fgj."), "{said}");
    // The token is used up, and not needed.
    control.restart().await;
    let healed = async {
        while !identity(&second).await["failure"].is_null() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("no fault", healed).await;
}

#[tokio::test]
async fn a_gateway_proves_itself_with_its_token_and_says_what_to_do_once_that_is_none() {
    let control = ControlPlane::start_with("lifetime: 6s", "identity: { reattest: 6s }").await;
    let text = policies::to(crate::support::unused_address().await, "");
    let token = control.token("ns/crm/sa/front");
    let gateway = Foregate::start(&text, options(&control.args(&token))).await;
    let begun = identity(&gateway).await["attested"].as_str().unwrap().to_owned();
    // The token is used up: the certificate is renewed with itself.
    let events = gateway.events();
    let untaken =
        events.wait("a word about the token", |event| event["event.name"] == "token not taken").await;
    assert!(untaken["help"].as_str().unwrap().contains("--control-token"), "{untaken}");
    let by =
        |proof: &'static str| move |event: &Value| event["event.name"] == RENEWED && event["proof"] == proof;
    let renewed = events.wait("a renewal", by("certificate")).await;
    assert_eq!(renewed["attested"], begun.as_str(), "the same proof as before");
    // And then not any more.
    let said = |event: &Value| {
        event["event.name"] == "identity not renewed" && event["error"].as_str().unwrap().contains("reattest")
    };
    events.wait("what to do", said).await;
    let failure = identity(&gateway).await["failure"].as_str().unwrap_or_default().to_owned();
    assert!(failure.contains("identity.reattest") && failure.contains("--control-token"), "{failure}");
    assert!(failure.contains("nor was the token taken") && failure.contains("not valid"), "{failure}");
    // Once the certificate was not taken, the token was shown beside it again, though it had been refused.
    let beside = |event: &Value| {
        event["event.name"] == "certificate refused"
            && event["proof"] == "join token"
            && event["spiffe_id"].is_string()
    };
    control.lines().wait_count("the token shown again", 2, beside).await;
    let told = |event: &&Value| event["event.name"] == "token not taken";
    assert_eq!(gateway.events().all().iter().filter(told).count(), 1, "the same again is told once");
    // A new one mends it, from now on with the token each time, which uses none of it up.
    control.token_of("ns/crm/sa/front", &["--uses", "2"]);
    let tokens = gateway.events().all().iter().filter(|event| by("token")(event)).count();
    gateway.events().wait_count("certificates", tokens + 3, by("token")).await;
    let status = identity(&gateway).await;
    assert!(status["failure"].is_null() && status["attested"].as_str().unwrap() > begun.as_str(), "{status}");
    let attested = gateway.sample("foregate_identity_attested_timestamp_seconds").await;
    assert!(attested.is_some_and(|at| at > 1.7e9), "{attested:?}");
    let until = gateway.sample("foregate_identity_attested_until_timestamp_seconds").await;
    assert!(until.zip(attested).is_some_and(|(until, at)| until >= at + 6.0), "{until:?} {attested:?}");
}

#[tokio::test]
async fn a_withdrawn_gateway_is_not_told_to_mend_its_token_and_does_not_ask_as_a_stranger() {
    let mut control = ControlPlane::start("lifetime: 8s").await;
    let text = policies::to(crate::support::unused_address().await, "");
    let token = control.token_of("ns/crm/sa/front", &["--uses", "2"]);
    let gateway = Foregate::start(&text, options(&control.args(&token))).await;
    assert_eq!(identity(&gateway).await["spiffe_id"], "spiffe://mesh.test/ns/crm/sa/front");
    control.kill();
    control.restart_with("identity: { withdrawn: ['spiffe://mesh.test/ns/crm/sa/front'] }\n").await;
    let untaken = |event: &Value| {
        let said = event["error"].as_str().unwrap_or_default();
        event["event.name"] == "token not taken" && said.contains("identity.withdrawn")
    };
    let untaken = gateway.events().wait("why the token is not taken", untaken).await;
    assert!(untaken["help"].is_null(), "{untaken}");
    // With the second renewal, all that the first one asked has been answered.
    let refused = |event: &Value| event["event.name"] == "certificate refused";
    let renewal = |event: &Value| refused(event) && event["proof"] == "certificate";
    let second = control.lines().wait_count("two renewals", 2, renewal).await.remove(1);
    let all = control.lines().all();
    let before: Vec<&Value> =
        all.iter().filter(|event| refused(event)).take_while(|event| **event != second).collect();
    assert!(before.len() >= 2, "with the token and without: {before:?}");
    assert!(before.iter().all(|event| event["spiffe_id"].is_string()), "{before:?}");
}

#[tokio::test]
async fn what_the_control_plane_is_must_be_said_whole() {
    let text = policies::to(crate::support::unused_address().await, "");
    for (args, want) in [
        (vec!["--identity", "control"], "--control <https://HOST:PORT>"),
        (vec!["--control", "https://localhost:1"], "--control-ca <FILE>"),
        (vec!["--control", "localhost:1", "--control-ca", "a"], "is not https://HOST:PORT"),
        (vec!["--control-token", "a"], "--control <https://HOST:PORT>"),
    ] {
        let (status, said) = Foregate::refused(&text, Options::default().args(&args)).await;
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains(want), "{args:?}: {said}");
    }
}

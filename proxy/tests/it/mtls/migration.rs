//! Mesh listeners that take plain connections for a while.

use std::net::SocketAddr;
use std::time::Duration;

use foregate::clock;

use crate::mtls::{MESH, identified, status};
use crate::support::client::{Client, HOST};
use crate::support::policies::{anonymous, route, upstream};
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::Upstream;
use crate::support::within;
use crate::support::workloads::{Domain, Folder};

/// A time so many seconds from now, as policies have it.
fn later(seconds: u64) -> String {
    let time = clock::now().unix + Duration::from_secs(seconds);
    let output = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{}", time.as_secs()), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Sends bytes that get no answer in HTTP; an alert of TLS is none.
async fn unanswered(address: SocketAddr, bytes: &str) {
    let mut client = RawClient::connect(address).await;
    client.send(bytes).await;
    let answer = client.rest().await;
    assert!(!answer.starts_with(b"HTTP"), "{:?}", String::from_utf8_lossy(&answer));
}

/// One mesh listener open to everybody, and one policy of its gateway.
fn policies(backend: &Upstream, insecure: &str) -> String {
    let rules = "  - backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]";
    let policy = format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: migration }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }}]
  insecure: {insecure}
---"
    );
    [MESH, &route("all", rules), &upstream("crm", backend.address, ""), &policy].concat()
}

#[tokio::test]
async fn plain_connections_are_taken_until_the_time_named_and_counted() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let backend = Upstream::answering("hello").await;
    let until = later(15);
    let text = policies(&backend, &format!("{{ plainUntil: \"{until}\" }}"));
    let options = identified(&folder).args(&["--drain-notice", "8s"]);
    let gateway = Foregate::start(&text, options).await;
    let warning = gateway.event("policy warning").await;
    assert!(warning["diagnostic"].to_string().contains("FG0620"), "{warning}");
    let address = gateway.address("edge/mesh");
    let mut plain = Client::http1(address).await;
    let reply = plain.get("/").await;
    assert_eq!(reply.status, 200);
    let record = gateway.record(reply.decision()).await;
    assert_eq!((&record["url.scheme"], &record["foregate.peer"]), (&"http".into(), &serde_json::Value::Null));
    assert_eq!(Client::http2(address).await.get("/").await.status, 200);
    let svid = domain.svid("/web");
    assert_eq!(status(address, &svid.client(&["http/1.1"])).await, Some(200));
    let stranger = Domain::new("mesh.test").svid("/web");
    assert_eq!(status(address, &stranger.client(&["http/1.1"])).await, None, "bad is not plain");
    let series = "foregate_plain_connections_total{client=\"127.0.0.1\"}";
    assert_eq!(gateway.sample(series).await, Some(2.0));

    // After the time: those that are open are told to go, and nobody else comes in.
    within("the announced end", async { while plain.get("/").await.header("connection") != "close" {} })
        .await;
    let _ = plain.ended().await;
    unanswered(address, &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    assert_eq!(status(address, &svid.client(&["http/1.1"])).await, Some(200));
    assert_eq!(gateway.sample(series).await, Some(2.0));
}

#[tokio::test]
async fn the_leave_to_speak_plain_ends_with_its_policy() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let backend = Upstream::answering("hello").await;
    let text = policies(&backend, "{ plainUntil: \"2099-01-01T00:00:00Z\" }");
    let gateway = Foregate::start(&text, identified(&folder).args(&["--drain-notice", "1s"])).await;
    let mut plain = Client::http1(gateway.address("edge/mesh")).await;
    assert_eq!(plain.get("/").await.status, 200);
    gateway.write("policies.yaml", policies(&backend, "{ anonymous: true }").replace(&anonymous("all"), ""));
    gateway.event("policies published").await;
    let _ = plain.ended().await;
}

#[tokio::test]
async fn without_the_switch_nobody_speaks_plain() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let backend = Upstream::answering("hello").await;
    for text in [
        policies(&backend, "{ plainUntil: \"2021-01-01T00:00:00Z\" }"),
        policies(&backend, "{ anonymous: true }").replace(&anonymous("all"), ""),
    ] {
        let gateway = Foregate::start(&text, identified(&folder)).await;
        let address = gateway.address("edge/mesh");
        for bytes in
            [format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()]
        {
            unanswered(address, &bytes).await;
        }
    }
    assert!(backend.received().is_empty());
    let (_, text) = Foregate::refused(
        &policies(&backend, "{ plainUntil: \"2027-02-30T00:00:00Z\" }"),
        Options::default().args(&["--identity", &folder.origin()]),
    )
    .await;
    assert!(text.contains("2027-02-30"), "{text}");
}

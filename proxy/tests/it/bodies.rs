//! Request bodies: asked for, collected within bounds, spliced, or refused.

use http::Request;
use http_body_util::BodyExt;

use crate::support::client::Client;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::{self, RawClient};
use crate::support::upstream::{Body, Upstream, fed, full};

/// The bound of collected bodies where a policy says nothing else.
const BOUND: usize = 1 << 20;

/// A policy that scores leads, so that bodies are collected.
fn scored(upstream: &Upstream) -> String {
    let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/../inference-sidecar/bundles/lead-score");
    format!(
        "{}
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: {{ name: lead-score }}
spec: {{ bundle: {{ path: {bundle} }} }}
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: scores }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: all }}]
  insecure: {{ anonymous: true }}
  enrich:
  - name: lead
    model: lead-score
    deadline: 1s
    onError: continue
    default: 0.24
    set: {{ header: x-lead-score, body: /Lead_Score__c }}
",
        policies::plain(upstream.address).replace(&policies::anonymous("all"), "")
    )
}

/// A lead of exactly so many bytes.
fn lead(bytes: usize) -> Vec<u8> {
    let (start, end) = (r#"{"LastName":"Okafor","Country":"US","Description":""#, r#""}"#);
    let filler = bytes - start.len() - end.len();
    [start.as_bytes(), &vec![b'x'; filler], end.as_bytes()].concat()
}

fn posting(client: &Client, body: Body) -> Request<Body> {
    client.request("POST", "/lead").header("content-type", "application/json").body(body).unwrap()
}

#[tokio::test]
async fn a_body_up_to_the_bound_is_scored_and_keeps_every_byte() {
    let upstream = Upstream::answering("created").await;
    let gateway = Foregate::start(&scored(&upstream), Options::default()).await;
    for http2 in [false, true] {
        for announced in [true, false] {
            let address = gateway.address("edge/http");
            let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
            let sent = lead(BOUND);
            let body = if announced {
                full(sent.clone())
            } else {
                let (feed, body) = fed();
                let pieces: Vec<_> = sent.chunks(100_000).map(<[u8]>::to_vec).collect();
                tokio::spawn(async move {
                    for piece in pieces {
                        feed.data(piece).await;
                    }
                });
                body
            };
            let reply = client.send(posting(&client, body)).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let received = upstream.last();
            let length = received.body.len();
            assert_eq!(received.header("content-length"), length.to_string());
            assert!(!received.headers.contains_key("transfer-encoding"));
            let value: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
            assert_eq!(received.header("x-lead-score-status"), "scored");
            let score = value["Lead_Score__c"].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&score), "{score}");
            // What was spliced in is one member; all other bytes are as they were sent.
            let written = String::from_utf8_lossy(&received.body[..64]).into_owned();
            let end = written.find(',').unwrap() + 1;
            assert_eq!(received.body[end..], sent[1..], "{written}");
            let record = gateway.record(reply.decision()).await;
            assert_eq!(record["foregate.bytes_received"], BOUND);
        }
    }
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused_announced_or_not() {
    let upstream = Upstream::answering("created").await;
    let gateway = Foregate::start(&scored(&upstream), Options::default()).await;
    for http2 in [false, true] {
        for (bytes, announced) in
            [(BOUND + 1, true), (2 * BOUND, true), (BOUND + 1, false), (2 * BOUND, false)]
        {
            let address = gateway.address("edge/http");
            let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
            let body =
                if announced { full(lead(bytes)) } else { full(lead(bytes)).map_frame(|f| f).boxed_unsync() };
            let reply = client.send(posting(&client, body)).await;
            assert_eq!((reply.status, reply.reason().as_str()), (413, "BodyTooLarge"), "{bytes} {announced}");
        }
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn the_rest_of_a_refused_body_is_never_taken_for_a_request() {
    let upstream = Upstream::answering("created").await;
    let gateway = Foregate::start(&scored(&upstream), Options::default()).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".repeat(60_000);
    let announced = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        smuggled.len()
    );
    let chunked =
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", smuggled.len());
    for head in [announced, chunked] {
        let mut client = RawClient::connect(gateway.address("edge/http")).await;
        client.send(&head).await;
        client.send(&smuggled).await;
        // A client that writes while it is refused may meet the close before it reads the answer.
        if let Some(reply) = client.response().await {
            assert_eq!(reply.status, 413, "{}", reply.head);
        }
        let rest = client.rest().await;
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn a_body_is_asked_for_only_where_it_is_wanted() {
    let upstream = Upstream::answering("created").await;
    let streaming = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let collecting = Foregate::start(&scored(&upstream), Options::default()).await;
    for gateway in [&streaming, &collecting] {
        let mut client = RawClient::connect(gateway.address("edge/http")).await;
        client.send("POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
        assert_eq!(client.response().await.unwrap().status, 100);
        client.send("{}").await;
        let reply = client.response().await.unwrap();
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"created"[..]));
        assert!(!upstream.last().headers.contains_key("expect"), "the gateway has answered it");
    }
    let seen = upstream.received().len();
    for (head, status) in [
        (
            format!(
                "POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
                2 * BOUND
            ),
            413,
        ),
        (
            "POST /a%2fb HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n".to_owned(),
            400,
        ),
        ("POST /a HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\n".to_owned(), 417),
    ] {
        let reply = raw::exchange(collecting.address("edge/http"), &head).await.unwrap();
        assert_eq!(reply.status, status, "no 100 comes first: {head}");
    }
    assert_eq!(upstream.received().len(), seen);
}

#[tokio::test]
async fn a_foreign_client_that_waits_to_be_asked_is_asked() {
    let upstream = Upstream::answering("created").await;
    let gateway = Foregate::start(&scored(&upstream), Options::default()).await;
    let url = format!("http://{}/lead", gateway.address("edge/http"));
    let output = tokio::task::spawn_blocking(move || {
        // Waits a minute to be asked before it sends unasked: longer than it may take.
        let args = ["-sv", "--max-time", "20", "--expect100-timeout", "60", "-H", "Expect: 100-continue"];
        std::process::Command::new("curl")
            .args(args)
            .args(["-d", "{\"LastName\":\"Lee\"}", &url])
            .output()
            .unwrap()
    });
    let output = output.await.unwrap();
    assert_eq!(output.stdout, b"created", "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("HTTP/1.1 100 Continue"), "{output:?}");
}

#[tokio::test]
async fn a_body_that_filters_wait_for_has_a_deadline() {
    let upstream = Upstream::answering("created").await;
    let gateway =
        Foregate::start(&scored(&upstream), Options::default().args(&["--body-timeout", "1s"])).await;
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    client.send("POST /lead HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{\"LastName\":").await;
    let reply = client.response().await.unwrap();
    assert_eq!(reply.status, 408);
    assert!(client.rest().await.is_empty(), "the connection ends: where its body ends is not known");

    let mut client = Client::http2(gateway.address("edge/http")).await;
    let (feed, body) = fed();
    let request = posting(&client, body);
    assert!(feed.data("{").await);
    let reply = client.send(request).await;
    assert_eq!((reply.status, reply.reason().as_str()), (408, "BodyTimeout"));
    drop(feed);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn half_a_body_never_reaches_the_backend() {
    let upstream = Upstream::answering("created").await;
    let gateway = Foregate::start(&scored(&upstream), Options::default()).await;
    for (name, request) in [
        (
            "length",
            "POST / HTTP/1.1\r\nHost: a\r\nX-Request-Id: length\r\nContent-Length: 20\r\n\r\n{\"LastName\"",
        ),
        (
            "chunks",
            "POST / HTTP/1.1\r\nHost: a\r\nX-Request-Id: chunks\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        ),
        (
            "broken",
            "POST / HTTP/1.1\r\nHost: a\r\nX-Request-Id: broken\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n",
        ),
    ] {
        let mut client = RawClient::connect(gateway.address("edge/http")).await;
        client.send(request).await;
        client.finish().await;
        if let Some(reply) = client.response().await {
            assert_eq!(reply.status, 400, "{name}");
        }
        assert!(client.rest().await.is_empty());
        let record = gateway.access_log().wait(name, |line| line["foregate.request_id"] == name).await;
        let told = record["foregate.reason"] == "BodyMalformed" || record["foregate.end"] == "client_gone";
        assert!(told, "{record}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_body_that_is_not_json_follows_the_route() {
    let upstream = Upstream::answering("created").await;
    let gateway = Foregate::start(&scored(&upstream), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for sent in ["LastName=Okafor", "{\"LastName\":", "[", "\u{feff}{}"] {
        let request = client.request("POST", "/").header("content-type", "application/json");
        assert_eq!(client.send(request.body(full(sent)).unwrap()).await.status, 200);
        let received = upstream.last();
        assert_eq!(received.body, sent, "untouched");
        assert_eq!(received.header("content-length"), sent.len().to_string());
        assert_eq!(received.header("x-lead-score"), "0.24");
        assert!(received.header("x-lead-score-status").starts_with("default"), "{sent}");
    }
    // Nothing to score, nothing to send: a request without a body stays one.
    assert_eq!(client.get("/").await.status, 200);
    let received = upstream.last();
    assert!(received.body.is_empty() && !received.headers.contains_key("content-length"));
}

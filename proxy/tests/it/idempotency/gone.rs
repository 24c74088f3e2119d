//! Clients that leave, upstreams that break off: what was begun comes to an end.

use std::sync::{Arc, Mutex};

use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{once, order, replayed, start};
use crate::support::client::{Client, connect};
use crate::support::gate::Gate;
use crate::support::guarded::guarded;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Body, Feed, Upstream, fed};
use crate::support::within;

const KEPT: &str = "foregate_idempotency_answers_total{end=\"kept\"}";

async fn client(gateway: &Foregate, http2: bool) -> Client {
    let address = gateway.address("edge/http");
    if http2 { Client::http2(address).await } else { Client::http1(address).await }
}

/// Sends a request, and leaves once it is at the upstream.
async fn leave(gateway: &Foregate, upstream: &Upstream, http2: bool) {
    let address = gateway.address("edge/http");
    if http2 {
        let mut leaver = Client::http2(address).await;
        let request = order(&leaver, "k", "{}");
        tokio::select! {
            answer = leaver.exchange(request) => panic!("{answer:?}"),
            () = upstream.wait_received(1) => {}
        }
        leaver.abort().await;
        return;
    }
    let mut stream = connect(address).await;
    let head = "POST /orders?v=1 HTTP/1.1\r\nHost: crm.test\r\nIdempotency-Key: k\r\nX-Org: a\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(head.as_bytes()).await.unwrap();
    upstream.wait_received(1).await;
    stream.shutdown().await.unwrap();
    // The gateway has seen it leave once it ends the connection itself.
    let mut rest = Vec::new();
    let _ = within("the end of the connection", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_finds_it_when_it_comes_again() {
    for http2 in [false, true] {
        let gate = Gate::closed();
        let upstream = gate.upstream(201, "made").await;
        let (gateway, _) = start(&upstream, &once("")).await;
        leave(&gateway, &upstream, http2).await;
        let mut other = client(&gateway, http2).await;
        let early = other.send(order(&other, "k", "{}")).await;
        assert_eq!(early.status, 409, "it is still being carried out");
        gate.open();
        gateway.wait_sample(KEPT, |kept| kept > 0.5).await;
        let again = other.send(order(&other, "k", "{}")).await;
        assert_eq!((again.status, again.text().as_str(), replayed(&again)), (201, "made", true));
        assert_eq!(upstream.received().len(), 1, "http2: {http2}");
    }
}

/// Answers with a body that the test feeds.
async fn feeding() -> (Feed, Upstream) {
    let (feed, body) = fed();
    let body = Arc::new(Mutex::new(Some(body)));
    let upstream = Upstream::start(move |_| {
        let body = body.lock().unwrap().take();
        async move { Response::new(body.expect("one request")) }
    })
    .await;
    (feed, upstream)
}

#[tokio::test]
async fn an_answer_is_read_out_for_those_who_come_again() {
    for http2 in [false, true] {
        let (feed, upstream) = feeding().await;
        let (gateway, _) = start(&upstream, &once("")).await;
        let mut leaver = client(&gateway, http2).await;
        let response = leaver.exchange(order(&leaver, "k", "{}")).await.unwrap();
        feed.data("one ").await;
        drop(response);
        leaver.abort().await;
        feed.data("two ").await;
        feed.data("three").await;
        drop(feed);
        gateway.wait_sample(KEPT, |kept| kept > 0.5).await;
        let mut other = client(&gateway, http2).await;
        let again = other.send(order(&other, "k", "{}")).await;
        assert_eq!((again.text().as_str(), replayed(&again)), ("one two three", true), "http2: {http2}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_given_again_nor_is_the_request_carried_out() {
    let (feed, upstream) = feeding().await;
    let (gateway, mut client) = start(&upstream, &once("")).await;
    let response = client.exchange(order(&client, "k", "{}")).await.unwrap();
    feed.data("half").await;
    feed.fail().await;
    let read = http_body_util::BodyExt::collect(response.into_body()).await;
    assert!(read.is_err());
    gateway.wait_sample("foregate_idempotency_answers_total{end=\"spent\"}", |spent| spent > 0.5).await;
    let mut other = Client::http1(gateway.address("edge/http")).await;
    let again = other.send(order(&other, "k", "{}")).await;
    assert_eq!((again.status, again.reason().as_str()), (409, "IdempotencyAnswerGone"));
    assert_eq!(upstream.received().len(), 1);
}

/// The one request that was sent has no answer: no repeat is carried out, and another payload is another's.
async fn is_spent(client: &mut Client, upstream: &Upstream) {
    for _ in 0..3 {
        let again = client.send(order(client, "k", "{}")).await;
        assert_eq!((again.status, again.reason().as_str()), (409, "IdempotencyAnswerGone"));
    }
    let other = client.send(order(client, "k", "{ }")).await;
    assert_eq!((other.status, other.reason().as_str()), (422, "IdempotencyKeyReused"));
    assert_eq!(upstream.received().len(), 1);
}

fn breaks_off() -> Response<Body> {
    panic!("broken off by the test")
}

/// Policies whose route waits for so long.
fn waiting(text: &str, time: &str) -> String {
    let rule = "  - name: rule\n";
    assert!(text.contains(rule));
    text.replace(rule, &format!("{rule}    timeouts: {{ request: {time} }}\n"))
}

#[tokio::test]
async fn an_upstream_that_breaks_off_before_its_answer_may_have_done_it() {
    for retry in ["", "    retry: { attempts: 3, codes: [502, 504] }\n"] {
        let upstream = Upstream::start(|_| async { breaks_off() }).await;
        let text = guarded(upstream.address, &once(""))
            .replace("  - name: rule\n", &format!("  - name: rule\n{retry}"));
        let gateway = Foregate::start(&text, Options::default()).await;
        let mut client = client(&gateway, false).await;
        let first = client.send(order(&client, "k", "{}")).await;
        assert_eq!((first.status, first.reason().as_str()), (502, "UpstreamReset"));
        is_spent(&mut client, &upstream).await;
        assert_eq!(gateway.sample("foregate_idempotency_answers_total{end=\"spent\"}").await, Some(1.0));
    }
}

#[tokio::test]
async fn an_upstream_that_is_late_may_have_done_it() {
    let upstream = Upstream::start(|_| std::future::pending()).await;
    let gateway =
        Foregate::start(&waiting(&guarded(upstream.address, &once("")), "300ms"), Options::default()).await;
    let mut client = client(&gateway, false).await;
    let first = client.send(order(&client, "k", "{}")).await;
    assert_eq!((first.status, first.reason().as_str()), (504, "UpstreamTimeout"));
    is_spent(&mut client, &upstream).await;
}

#[tokio::test]
async fn what_was_never_sent_frees_the_key_however_late_it_is() {
    // It takes connections, and says nothing in TLS.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let text = guarded(format_args!("{address}"), &once(""));
    let text = waiting(&text, "300ms");
    let tls = format!("endpoints: [\"{address}\"], tls: {{ mode: Simple }}");
    let plain = format!("endpoints: [\"{address}\"]");
    assert!(text.contains(&plain));
    let gateway = Foregate::start(&text.replace(&plain, &tls), Options::default()).await;
    let mut client = client(&gateway, false).await;
    for _ in 0..2 {
        let reply = client.send(order(&client, "k", "{}")).await;
        assert_eq!((reply.status, reply.reason().as_str()), (504, "UpstreamTimeout"));
    }
    assert_eq!(gateway.sample("foregate_idempotency_memory_keys").await, Some(0.0));
}

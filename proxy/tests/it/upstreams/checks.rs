//! Active checks of each kind: who fails them gets no requests, until they pass again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::net::TcpListener;

use super::{documents, endpoints, unused_address, wait_state};
use crate::support::client::Client;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Body, Received, Speak, Upstream, fed, full};

const TIMES: &str = "interval: 50ms, timeout: 500ms, healthyThreshold: 2, unhealthyThreshold: 2";

/// An upstream that answers checks with what is told, and everything else with its name.
async fn told(
    name: &'static str,
    speak: Speak,
    answer: Arc<AtomicU16>,
    check: fn(&Received, u16) -> Option<Response<Body>>,
) -> Upstream {
    Upstream::speaking(speak, move |request| {
        let answer = check(&request, answer.load(Ordering::SeqCst));
        async move { answer.unwrap_or_else(|| Response::new(full(name))) }
    })
    .await
}

fn http(request: &Received, status: u16) -> Option<Response<Body>> {
    let check = request.uri.path() == "/healthz" && request.header("user-agent").starts_with("foregate/");
    check.then(|| Response::builder().status(status).body(full("")).unwrap())
}

/// `status` is the serving status.
fn grpc(request: &Received, status: u16) -> Option<Response<Body>> {
    if request.uri.path() != "/grpc.health.v1.Health/Check" {
        return None;
    }
    assert_eq!(&request.body[..], b"\0\0\0\0\x05\x0a\x03crm");
    let (feed, body) = fed();
    tokio::spawn(async move {
        let message = [0, 0, 0, 0, 2, 8, u8::try_from(status).unwrap()];
        feed.data(Bytes::copy_from_slice(&message)).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        feed.trailers(trailers).await;
    });
    Some(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

async fn all_go_to(client: &mut Client, name: &str) {
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), name);
    }
}

#[tokio::test]
async fn http_and_grpc_checks_decide_who_gets_requests() {
    type Answer = fn(&Received, u16) -> Option<Response<Body>>;
    let kinds: [(&str, &str, Speak, Answer, [u16; 2]); 2] = [
        ("type: HTTP, path: /healthz", "Http1", Speak::Http1, http, [204, 500]),
        ("type: GRPC, service: crm", "Http2", Speak::Http2, grpc, [1, 2]),
    ];
    for (kind, protocol, speak, answer, [good, bad]) in kinds {
        let (one, other) = (Arc::new(AtomicU16::new(bad)), Arc::new(AtomicU16::new(good)));
        let first = told("first", speak.clone(), Arc::clone(&one), answer).await;
        let second = told("second", speak, Arc::clone(&other), answer).await;
        let spec = format!(
            "{}, protocol: {protocol}, healthCheck: {{ {kind}, {TIMES} }}, loadBalancing: {{ policy: RoundRobin }}",
            endpoints(&[first.address, second.address])
        );
        let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        wait_state(&gateway, first.address, "unfit").await;
        let event = gateway.event("endpoint unfit").await;
        assert_eq!(event["endpoint"], first.address.to_string());
        all_go_to(&mut client, "second").await;
        one.store(good, Ordering::SeqCst);
        wait_state(&gateway, first.address, "fit").await;
        other.store(bad, Ordering::SeqCst);
        wait_state(&gateway, second.address, "unfit").await;
        all_go_to(&mut client, "first").await;
        let unfit = "foregate_upstream_endpoints{upstream=\"crm\",state=\"unfit\"}";
        assert_eq!(gateway.sample(unfit).await, Some(1.0));
    }
}

#[tokio::test]
async fn a_connection_is_enough_for_tcp() {
    let good = Upstream::answering("good").await;
    let dead = unused_address().await;
    let spec = format!("{}, healthCheck: {{ type: TCP, {TIMES} }}", endpoints(&[dead, good.address]));
    let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
    wait_state(&gateway, dead, "unfit").await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    all_go_to(&mut client, "good").await;
    let _listener = TcpListener::bind(dead).await.unwrap();
    wait_state(&gateway, dead, "fit").await;
}

#[tokio::test]
async fn statuses_are_those_that_are_expected() {
    let answer = Arc::new(AtomicU16::new(404));
    let one = told("one", Speak::Http1, Arc::clone(&answer), http).await;
    let other = Upstream::answering("other").await;
    let check =
        format!("healthCheck: {{ type: HTTP, path: /healthz, expectedStatuses: [404, 200], {TIMES} }}");
    let spec = format!("{}, {check}", endpoints(&[one.address, other.address]));
    let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
    one.wait_received(3).await;
    wait_state(&gateway, one.address, "fit").await;
    answer.store(204, Ordering::SeqCst);
    wait_state(&gateway, one.address, "unfit").await;
}

#[tokio::test]
async fn checks_follow_policies() {
    let answer = Arc::new(AtomicU16::new(500));
    let one = told("one", Speak::Http1, answer, http).await;
    let other = Upstream::answering("other").await;
    let both = endpoints(&[one.address, other.address]);
    let check = format!("healthCheck: {{ type: HTTP, path: /healthz, {TIMES} }}");
    let gateway = Foregate::start(&documents("", &format!("{both}, {check}")), Options::default()).await;
    wait_state(&gateway, one.address, "unfit").await;
    gateway.publish(&documents("", &both)).await;
    wait_state(&gateway, one.address, "fit").await;
    // Not shown so alone: it counts as fit.
    let fit = format!("foregate_endpoint_fit{{upstream=\"crm\",endpoint=\"{}\"}}", one.address);
    gateway.wait_sample(&fit, |value| value > 0.5).await;
    gateway.publish(&documents("", &format!("{both}, {check}"))).await;
    wait_state(&gateway, one.address, "unfit").await;
}

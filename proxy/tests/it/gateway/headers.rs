//! Headers that the gateway removes, replaces or passes on.

use http::{HeaderValue, Response};

use crate::support::client::Client;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw;
use crate::support::upstream::{Received, Upstream, full};

async fn received(headers: &str, more_policies: &str) -> Received {
    let upstream = Upstream::answering("hello").await;
    let policies = format!("{}{more_policies}", policies::plain(upstream.address));
    let gateway = Foregate::start(&policies, Options::default()).await;
    let request = format!("GET / HTTP/1.1\r\nHost: crm.test:8080\r\n{headers}\r\n");
    let reply = raw::exchange(gateway.address("edge/http"), request).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.head);
    upstream.last()
}

fn names(received: &Received) -> Vec<&str> {
    received.headers.keys().map(http::HeaderName::as_str).collect()
}

#[tokio::test]
async fn what_concerns_one_connection_goes_no_further() {
    let received = received(
        "Connection: keep-alive, X-Hop , te\r\nConnection: x-other\r\nX-Hop: 1\r\nX-Other: 1\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic Zm9v\r\nTE: gzip\r\nUpgrade: h2c\r\n\
         X-End-To-End: 1\r\n",
        "",
    )
    .await;
    for name in [
        "connection",
        "x-hop",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
    ] {
        assert!(!received.headers.contains_key(name), "{name}");
    }
    assert_eq!(received.header("x-end-to-end"), "1");
}

#[tokio::test]
async fn connection_cannot_take_away_what_a_message_needs() {
    let received = received("Connection: host, content-length, x-forwarded-for\r\n", "").await;
    assert_eq!(received.header("host"), "crm.test:8080");
    assert_eq!(received.header("x-forwarded-for"), "127.0.0.1");
}

#[tokio::test]
async fn headers_of_the_gateway_cannot_be_forged() {
    let received = received(
        "X-Foregate-Decision: forged\r\nx_foregate_decision: forged\r\nX-Foregate_Principal: forged\r\n\
         X-Foregate-Anything: forged\r\nX-Foregated: kept\r\n",
        "",
    )
    .await;
    assert!(!received.headers.values().any(|value| value == "forged"), "{:?}", names(&received));
    assert_eq!(received.header("x-foregated"), "kept");
}

#[tokio::test]
async fn an_unknown_client_cannot_say_whom_it_speaks_for() {
    let received = received(
        "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nX_Forwarded_For: 10.0.0.3\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\nX_Forwarded_Host: evil.test\r\n\
         Forwarded: for=10.0.0.4\r\nX-Real-IP: 10.0.0.5\r\n",
        "",
    )
    .await;
    let all: Vec<_> = received.headers.get_all("x-forwarded-for").iter().collect();
    assert_eq!(all, ["127.0.0.1"]);
    assert_eq!(received.header("x-forwarded-proto"), "http");
    assert_eq!(received.header("x-forwarded-host"), "crm.test:8080");
    for name in ["forwarded", "x_forwarded_for", "x_forwarded_host"] {
        assert!(!received.headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_may_say_whom_it_speaks_for() {
    let trust = "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: trust }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  addresses: { trustedProxies: [127.0.0.0/8] }
";
    let received = received("X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n", trust).await;
    assert_eq!(received.header("x-forwarded-for"), "203.0.113.9, 127.0.0.1");
    assert_eq!(received.header("x-forwarded-proto"), "https");
}

#[tokio::test]
async fn requests_and_traces_keep_their_names() {
    let named = received(
        "X-Request-Id: order-7\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
         tracestate: vendor=1\r\n",
        "",
    )
    .await;
    assert_eq!(named.header("x-request-id"), "order-7");
    let parent = named.header("traceparent");
    assert!(
        parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && parent.ends_with("-01"),
        "{parent}"
    );
    assert!(!parent.contains("00f067aa0ba902b7"), "the gateway is a span of its own: {parent}");
    assert_eq!(named.header("tracestate"), "vendor=1");

    let unnamed =
        received("X-Request-Id: a b\r\ntraceparent: nonsense\r\ntracestate: vendor=1\r\n", "").await;
    assert_eq!(unnamed.header("x-request-id").len(), 36, "a new id, not the malformed one");
    assert_eq!(unnamed.header("traceparent").len(), 55);
    assert!(!unnamed.headers.contains_key("tracestate"), "a state without its parent says nothing");
}

#[tokio::test]
async fn cookies_that_http2_split_are_one_header_for_http1() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let request = client.request("GET", "/").header("cookie", "a=1").header("cookie", "b=2");
    assert_eq!(client.send_empty(request).await.status, 200);
    let cookies: Vec<_> = upstream.last().headers.get_all("cookie").iter().cloned().collect();
    assert_eq!(cookies, ["a=1; b=2"]);
}

#[tokio::test]
async fn responses_lose_what_concerns_one_connection() {
    let upstream = Upstream::raw(|mut stream, _| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut request = [0; 4096];
        while matches!(stream.read(&mut request).await, Ok(bytes) if bytes > 0) {
            let _ = stream
                .write_all(
                    b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                      Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Foregate-Decision: forged\r\n\
                      X-End-To-End: 1\r\nContent-Length: 2\r\n\r\nok",
                )
                .await;
        }
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    for http2 in [false, true] {
        let address = gateway.address("edge/http");
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
        for name in ["connection", "x-hop", "keep-alive", "proxy-authenticate", "upgrade"] {
            assert!(!reply.headers.contains_key(name), "{name}");
        }
        assert_eq!(reply.header("x-end-to-end"), "1");
        assert_eq!(reply.headers.get_all("x-foregate-decision").iter().count(), 1);
        assert_ne!(reply.decision(), "forged");
    }
}

#[tokio::test]
async fn header_values_of_any_bytes_pass_both_ways() {
    let upstream = Upstream::start(|received: Received| async move {
        let mut response = Response::new(full(""));
        let value = received.headers.get("x-bytes").cloned();
        response.headers_mut().insert("x-bytes", value.unwrap_or(HeaderValue::from_static("absent")));
        response
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let value = HeaderValue::from_bytes(b"\xe9\xff \t!").unwrap();
    let reply = client.send_empty(client.request("GET", "/").header("x-bytes", &value)).await;
    assert_eq!(reply.headers["x-bytes"], value);
}

//! Versions of HTTP on both sides, connections that serve again, and what is recorded.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, Version};

use crate::support::client::{Client, Reply};
use crate::support::policies;
use crate::support::process::{Foregate, Options, served};
use crate::support::raw;
use crate::support::upstream::{Received, Speak, Upstream, empty, fed, full};

/// One pool of upstream connections, so that they can be counted.
fn one_thread() -> Options {
    Options::default().args(&["--threads", "1"])
}

/// Answers with what was received, then with trailers.
async fn with_trailers(received: Received) -> Response<crate::support::upstream::Body> {
    let (feed, body) = fed();
    let sum = received.trailers.as_ref().and_then(|trailers| trailers.get("x-sum")).cloned();
    tokio::spawn(async move {
        feed.data(received.body).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-echoed", sum.unwrap_or(HeaderValue::from_static("none")));
        feed.trailers(trailers).await;
    });
    let mut response = Response::new(body);
    response.headers_mut().insert("trailer", HeaderValue::from_static("x-echoed"));
    response
}

#[tokio::test]
async fn every_pair_of_versions_carries_heads_bodies_and_trailers_both_ways() {
    for (up, more) in [(Version::HTTP_11, ""), (Version::HTTP_2, "protocol: Http2")] {
        let speak = if up == Version::HTTP_2 { Speak::Http2 } else { Speak::Http1 };
        let upstream = Upstream::speaking(speak, with_trailers).await;
        let gateway = Foregate::start(&policies::to(upstream.address, more), Options::default()).await;
        for down in [Version::HTTP_11, Version::HTTP_2] {
            let address = gateway.address("edge/http");
            let mut client = if down == Version::HTTP_2 {
                Client::http2(address).await
            } else {
                Client::http1(address).await
            };
            let (feed, body) = fed();
            let request =
                client.request("POST", "/a/b?c=d").header("te", "trailers").header("trailer", "x-sum");
            let sent = tokio::spawn(async move {
                feed.data("first ").await;
                feed.data("second").await;
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", HeaderValue::from_static("42"));
                feed.trailers(trailers).await;
            });
            let reply = client.send(request.body(body).unwrap()).await;
            sent.await.unwrap();
            let told = format!("{down:?} to {up:?}");
            assert_eq!((reply.status, reply.text().as_str()), (200, "first second"), "{told}");
            assert_eq!(reply.trailers.unwrap()["x-echoed"], "42", "{told}");
            let received = upstream.last();
            assert_eq!(received.version, up, "{told}");
            assert_eq!(received.uri.path_and_query().unwrap().as_str(), "/a/b?c=d", "{told}");
            assert_eq!(received.method, "POST", "{told}");
            let host = received.uri.authority().map_or(received.header("host"), http::uri::Authority::as_str);
            assert_eq!(host, "crm.test", "{told}");
            assert_eq!(received.trailers.unwrap()["x-sum"], "42", "{told}");
        }
    }
}

#[tokio::test]
async fn a_request_is_recorded_and_counted_under_the_decision_that_its_response_names() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let request = client.request("POST", "/a/%7Eb?secret=1").header("x-request-id", "order-7");
    let reply = client.send(request.body(full("four")).unwrap()).await;
    let record = gateway.record(reply.decision()).await;
    for (field, want) in [
        ("foregate.request_id", "order-7"),
        ("http.request.method", "POST"),
        ("url.scheme", "http"),
        ("url.path", "/a/~b"),
        ("server.address", "crm.test"),
        ("http.route", "all/0"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
        ("foregate.listener", "edge/http"),
        ("foregate.end", "complete"),
        ("foregate.upstream", "crm"),
        ("foregate.endpoint", upstream.address.to_string().as_str()),
    ] {
        assert_eq!(record[field], want, "{field}");
    }
    for (field, want) in
        [("http.response.status_code", 200), ("foregate.bytes_received", 4), ("foregate.bytes_sent", 5)]
    {
        assert_eq!(record[field], want, "{field}");
    }
    assert!(!record.to_string().contains("secret"), "{record}");
    gateway.wait_sample(&served("POST", 200, "all/0"), |count| count >= 1.0).await;
}

#[tokio::test]
async fn a_refusal_is_a_problem_document_and_is_found_by_its_decision() {
    let upstream = Upstream::answering("hello").await;
    let rules = "  - matches: [{ path: { value: /only } }]
    backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]";
    let documents =
        [policies::GATEWAY, &policies::route("all", rules), &policies::upstream("crm", upstream.address, "")];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let reply = client.get("/elsewhere").await;
    assert_eq!((reply.status, reply.reason().as_str()), (404, "RouteNotFound"));
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.json()["decision"], reply.decision());
    let record = gateway.record(reply.decision()).await;
    assert_eq!(record["foregate.reason"], "RouteNotFound");
    assert_eq!(record["foregate.step"], "route");
    assert_eq!(record["http.response.status_code"], 404);
    let (status, page) = gateway.admin_page(&format!("/decisions/{}", reply.decision())).await;
    assert_eq!(status, 200);
    let mut told: serde_json::Value = serde_json::from_str(&page).unwrap();
    for more in ["foregate.steps", "foregate.advice"] {
        assert!(told.as_object_mut().unwrap().remove(more).is_some(), "{more} in {page}");
    }
    assert_eq!(told, record, "the rest is what the log has");
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn both_sides_connections_serve_again() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), one_thread()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.status, 200);
        // A body of the client's own must not stand in the way of the next request.
        assert_eq!(client.post("/", vec![b'x'; 100_000]).await.status, 200);
        assert!(client.ready().await);
    }
    assert_eq!(upstream.received().len(), 10);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn one_http2_connection_carries_many_requests_at_once() {
    let (release, released) = tokio::sync::watch::channel(false);
    let upstream = Upstream::speaking(Speak::Http2, move |_| {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            Response::new(full("hello"))
        }
    })
    .await;
    let policies = policies::to(upstream.address, "protocol: Http2");
    let gateway = Foregate::start(&policies, one_thread()).await;
    // The first request opens the connection; all others come while it is under way.
    let address = gateway.address("edge/http");
    let first = tokio::spawn(async move { Client::http1(address).await.get("/").await.status });
    upstream.wait_received(1).await;
    let others: Vec<_> = (0..20)
        .map(|_| tokio::spawn(async move { Client::http2(address).await.get("/").await.status }))
        .collect();
    upstream.wait_received(21).await;
    release.send_replace(true);
    assert_eq!(first.await.unwrap(), 200);
    for other in others {
        assert_eq!(other.await.unwrap(), 200);
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn responses_without_a_body_stay_without_one() {
    let upstream = Upstream::start(|received: Received| async move {
        let response = match received.uri.path() {
            "/204" => Response::builder().status(204).body(empty()),
            "/304" => Response::builder().status(304).header("etag", "\"a\"").body(empty()),
            _ => Response::builder().header("content-length", "5").body(full("hello")),
        };
        response.unwrap()
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), one_thread()).await;
    let address = gateway.address("edge/http");
    for http2 in [false, true] {
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        let head = client.send_empty(client.request("HEAD", "/")).await;
        assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "5", 0));
        let none = client.get("/204").await;
        assert_eq!((none.status, none.body.len()), (204, 0));
        let same = client.get("/304").await;
        assert_eq!((same.status, same.header("etag")), (304, "\"a\""));
        assert_eq!(client.get("/").await.text(), "hello");
    }
    // One byte too many after any of these would have broken the connection.
    assert_eq!(upstream.connections(), 1);
    let mut raw = raw::RawClient::connect(address).await;
    raw.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /204 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(raw.head().await.unwrap().status, 200);
    let none = raw.response().await.unwrap();
    assert_eq!(
        (none.status, none.header("content-length"), none.header("transfer-encoding")),
        (204, None, None)
    );
    assert_eq!(raw.response().await.unwrap().body, b"hello");
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() {
    let upstream =
        Upstream::start(
            |received: Received| async move { Response::new(full(received.uri.path().to_owned())) },
        )
        .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = raw::RawClient::connect(gateway.address("edge/http")).await;
    for number in 0..10 {
        client.send(format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")).await;
    }
    for number in 0..10 {
        assert_eq!(client.response().await.unwrap().body, format!("/{number}").into_bytes());
    }
    assert_eq!(upstream.received().len(), 10);
    assert!(upstream.received().iter().all(|received| received.body == Bytes::from_static(b"abc")));
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_an_answer_it_understands() {
    let upstream = Upstream::start(|_| async {
        let (feed, body) = fed();
        tokio::spawn(async move {
            feed.data("hel").await;
            feed.data("lo").await;
        });
        Response::new(body)
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let reply =
        raw::exchange(gateway.address("edge/http"), "GET / HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"hello"[..]));
    assert_eq!(reply.header("transfer-encoding"), None);
}

#[tokio::test]
async fn a_foreign_client_is_served_in_both_versions() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let url = format!("http://{}/curl", gateway.address("edge/http"));
        let output = tokio::task::spawn_blocking(move || {
            let args = ["-s", "--max-time", "20", version, "-d", "body", "-w", " %{http_version}", &url];
            std::process::Command::new("curl").args(args).output().unwrap()
        });
        let output = output.await.unwrap();
        let want = if version == "--http1.1" { "hello 1.1" } else { "hello 2" };
        assert_eq!(String::from_utf8_lossy(&output.stdout), want, "{output:?}");
        assert_eq!(upstream.last().body, "body");
    }
}

#[tokio::test]
async fn an_upstream_of_http_1_0_is_understood() {
    let upstream = Upstream::raw(|mut stream, _| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold").await;
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = raw::RawClient::connect(gateway.address("edge/http")).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let reply = client.response().await.unwrap();
        assert!(reply.head.starts_with("HTTP/1.1 200"), "{}", reply.head);
        assert_eq!((reply.body.as_slice(), reply.complete), (&b"old"[..], true));
    }
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let reply: Reply = client.get("/").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "old"));
}

//! What is tried again, what never is, and how much of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{documents, endpoints};
use crate::support::client::Client;
use crate::support::process::{Foregate, Options};
use crate::support::raw;
use crate::support::upstream::{Body, Upstream, empty, fed, full};

fn status(status: u16) -> Response<Body> {
    Response::builder().status(status).body(empty()).unwrap()
}

/// Two upstreams that answer with a status, and remember what they were asked.
async fn two(answer: u16) -> [Upstream; 2] {
    [
        Upstream::start(move |_| async move { status(answer) }).await,
        Upstream::start(move |_| async move { status(answer) }).await,
    ]
}

fn count(upstreams: &[Upstream]) -> usize {
    upstreams.iter().map(|upstream| upstream.received().len()).sum()
}

fn spec(upstreams: &[Upstream], more: &str) -> String {
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    // Errors stay where they are: retries alone are looked at.
    format!("{}, outlierDetection: {{ consecutiveErrors: 0 }}{more}", endpoints(&addresses))
}

#[tokio::test]
async fn statuses_are_tried_again_on_another_endpoint_and_unsafe_methods_never() {
    let upstreams = two(503).await;
    let rule = "retry: { codes: [503], attempts: 1 }";
    let gateway = Foregate::start(&documents(rule, &spec(&upstreams, "")), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for (method, attempts) in [
        ("GET", 2),
        ("HEAD", 2),
        ("OPTIONS", 2),
        ("PUT", 2),
        ("DELETE", 2),
        ("POST", 1),
        ("PATCH", 1),
        ("LOCK", 1),
    ] {
        upstreams.iter().for_each(Upstream::forget);
        let reply = client.send_empty(client.request(method, "/")).await;
        assert_eq!(reply.status, 503, "{method}");
        assert_eq!(count(&upstreams), attempts, "{method}");
        assert!(
            upstreams.iter().all(|upstream| upstream.received().len() <= 1),
            "{method}: another endpoint"
        );
    }
    // A body that passes by cannot be repeated.
    upstreams.iter().for_each(Upstream::forget);
    let request = client.request("PUT", "/").body(full("body")).unwrap();
    assert_eq!((client.send(request).await.status, count(&upstreams)), (503, 1));
    // Other statuses are answers.
    let upstreams = two(502).await;
    let gateway = Foregate::start(&documents(rule, &spec(&upstreams, "")), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!((client.get("/").await.status, count(&upstreams)), (502, 1));
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_tried_again_where_nothing_is_said() {
    let broken = || async {
        Upstream::raw(|mut stream, _| async move {
            let _ = stream.read(&mut [0; 4096]).await;
        })
        .await
    };
    for (method, attempts) in [("GET", 2), ("POST", 1)] {
        let upstreams = [broken().await, broken().await];
        let gateway = Foregate::start(&documents("", &spec(&upstreams, "")), Options::default()).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let reply = client.send_empty(client.request(method, "/")).await;
        assert_eq!((reply.status, reply.reason().as_str()), (502, "UpstreamReset"), "{method}");
        let connections: usize = upstreams.iter().map(Upstream::connections).sum();
        assert_eq!(connections, attempts, "{method}");
    }
    let good = Upstream::answering("good").await;
    let bad = broken().await;
    let gateway =
        Foregate::start(&documents("", &endpoints(&[good.address, bad.address])), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "good");
    }
}

#[tokio::test]
async fn a_response_that_has_begun_is_reset_and_not_tried_again() {
    let half = || async {
        Upstream::raw(|mut stream, _| async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
        })
        .await
    };
    let upstreams = [half().await, half().await];
    let rule = "retry: { codes: [500, 502, 503, 504], attempts: 3 }";
    let gateway = Foregate::start(&documents(rule, &spec(&upstreams, "")), Options::default()).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let reply = raw::exchange(gateway.address("edge/http"), request).await.unwrap();
    assert_eq!((reply.status, reply.complete), (200, false));
    let connections: usize = upstreams.iter().map(Upstream::connections).sum();
    assert_eq!(connections, 1);
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_not_tried_again() {
    let garbled = || async {
        Upstream::raw(|mut stream, _| async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        })
        .await
    };
    let upstreams = [garbled().await, garbled().await];
    let gateway =
        Foregate::start(&documents("retry: { attempts: 3 }", &spec(&upstreams, "")), Options::default())
            .await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/").await;
    assert_eq!((reply.status, reply.reason().as_str()), (502, "UpstreamMalformed"));
    assert_eq!(upstreams.iter().map(Upstream::connections).sum::<usize>(), 1);
}

#[tokio::test]
async fn each_attempt_has_its_time_and_all_together_theirs() {
    let silent = Upstream::start(|_| std::future::pending()).await;
    let good = Upstream::answering("good").await;
    let rule = "timeouts: { request: 20s, backendRequest: 200ms }, retry: { attempts: 1 }";
    let spec = endpoints(&[silent.address, good.address]);
    let gateway = Foregate::start(&documents(rule, &spec), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    while silent.received().is_empty() {
        assert_eq!(client.get("/").await.text(), "good");
    }
    // What may not be repeated has one attempt, and 504 after it.
    let upstreams = [
        Upstream::start(|_| std::future::pending()).await,
        Upstream::start(|_| std::future::pending()).await,
    ];
    let addresses = [upstreams[0].address, upstreams[1].address];
    let gateway = Foregate::start(&documents(rule, &endpoints(&addresses)), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.post("/", "body").await;
    assert_eq!((reply.status, reply.reason().as_str(), count(&upstreams)), (504, "UpstreamTimeout", 1));
    let reply = client.get("/").await;
    assert_eq!((reply.status, reply.reason().as_str(), count(&upstreams)), (504, "UpstreamTimeout", 3));
    // The time of the request ends attempts of whatever number.
    let rule = "timeouts: { request: 500ms, backendRequest: 200ms }, retry: { attempts: 10 }";
    let gateway = Foregate::start(&documents(rule, &endpoints(&addresses)), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let before = count(&upstreams);
    assert_eq!(client.get("/").await.status, 504);
    assert!((2..=3).contains(&(count(&upstreams) - before)), "{}", count(&upstreams) - before);
}

#[tokio::test]
async fn an_outage_is_not_made_worse_than_the_budget_allows() {
    let upstreams = two(503).await;
    let rule = "retry: { codes: [503], attempts: 10 }";
    let more = ", retryConstraint: { budget: { percent: 20, interval: 1h }, minRetryRate: { count: 5, interval: 1h } }";
    let gateway = Foregate::start(&documents(rule, &spec(&upstreams, more)), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..500 {
        assert_eq!(client.get("/").await.status, 503);
    }
    let attempts = count(&upstreams);
    assert!((590..=605).contains(&attempts), "{attempts} attempts for 500 requests");
    let retries = gateway.sample("foregate_upstream_retries_total{upstream=\"crm\"}").await.unwrap();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let seen = (attempts - 500) as f64;
    assert!((retries - seen).abs() < 0.5, "{retries} {seen}");
    let refused = "foregate_upstream_retries_refused_total{upstream=\"crm\"}";
    assert!(gateway.sample(refused).await.unwrap() > 300.0);
}

#[tokio::test]
async fn a_client_that_is_told_to_wait_is_told() {
    let limited = || async {
        Upstream::start(|_| async {
            Response::builder().status(429).header("retry-after", "7").body(empty()).unwrap()
        })
        .await
    };
    let upstreams = [limited().await, limited().await];
    let gateway =
        Foregate::start(&documents("retry: { codes: [429] }", &spec(&upstreams, "")), Options::default())
            .await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/").await;
    assert_eq!((reply.status, reply.header("retry-after"), count(&upstreams)), (429, "7", 1));
}

#[tokio::test]
async fn a_retry_waits_as_long_as_the_route_says() {
    let seen = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&seen);
    let upstream = Upstream::start(move |_| {
        let first = told.fetch_add(1, Ordering::SeqCst) == 0;
        async move { status(if first { 503 } else { 200 }) }
    })
    .await;
    // One endpoint: tried again all the same.
    let rule = "retry: { codes: [503], backoff: 400ms }";
    let gateway =
        Foregate::start(&documents(rule, &endpoints(&[upstream.address])), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let started = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    assert_eq!(client.get("/").await.status, 200);
    let took = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().saturating_sub(started);
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_stream_that_was_answered_early_goes_on() {
    // The response begins before the request has ended: nothing of it is ever sent twice.
    let early = || async {
        Upstream::streaming(
            crate::support::upstream::Speak::Http2,
            |request: http::Request<hyper::body::Incoming>| async move {
                let (feed, body) = fed();
                tokio::spawn(async move {
                    use http_body_util::BodyExt;
                    let all = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
                    feed.data(all.unwrap_or_default()).await;
                });
                Ok(Response::new(body))
            },
        )
        .await
    };
    let upstreams = [early().await, early().await];
    let gateway = Foregate::start(
        &documents("retry: { codes: [500] }", &spec(&upstreams, ", protocol: Http2")),
        Options::default(),
    )
    .await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let (feed, body) = fed();
    let response = client.exchange(client.request("POST", "/").body(body).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    feed.data("all of it").await;
    drop(feed);
    assert_eq!(crate::support::client::Reply::read(response).await.unwrap().text(), "all of it");
}

#[tokio::test]
async fn an_answer_that_is_tried_again_gives_its_connection_back() {
    const SMALL: usize = 1_000;
    const LARGE: usize = 1_000_000;
    for (size, connections) in [(SMALL, 1), (LARGE, 4)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let upstream = Upstream::start(move |_| {
            let last = asked.fetch_add(1, Ordering::SeqCst) % 4 == 3;
            async move {
                let status = if last { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                Response::builder().status(status).body(full(vec![b'x'; size])).unwrap()
            }
        })
        .await;
        // Time enough for what nobody wants to be read.
        let rule = "retry: { codes: [503], attempts: 3, backoff: 300ms }";
        let options = Options::default().args(&["--decision-sample", "1/1"]);
        let gateway = Foregate::start(&documents(rule, &endpoints(&[upstream.address])), options).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.body.len()), (200, size));
        let record = gateway.access_log().wait("a record", |line| line["url.path"] == "/").await;
        assert_eq!(record["foregate.attempts"], 4);
        let (_, page) = gateway.admin_page(&format!("/decisions/{}", reply.decision())).await;
        assert!(page.contains("attempts"), "{page}");
        assert_eq!(upstream.connections(), connections, "with {size} bytes");
    }
}

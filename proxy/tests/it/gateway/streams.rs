//! Bodies that pass by: events one by one, and large bodies in little memory.

use http::Response;
use http_body_util::BodyExt;

use crate::support::client::{Client, Reply};
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Speak, Upstream, fed, full, zeros};
use crate::support::within;

/// Large beside every buffer on the way.
const LARGE: usize = 64 << 20;

/// What the gateway may need for a few streams at once, buffers of both sides included.
const GROWTH: u64 = 20 << 20;

#[tokio::test]
async fn events_pass_one_by_one() {
    // One permit an event: the next one is written only after the client has seen the last.
    let (next, permits) = tokio::sync::mpsc::channel::<()>(1);
    let permits = std::sync::Arc::new(tokio::sync::Mutex::new(permits));
    let upstream = Upstream::start(move |_| {
        let permits = std::sync::Arc::clone(&permits);
        async move {
            let (feed, body) = fed();
            tokio::spawn(async move {
                let mut permits = permits.lock().await;
                for number in 0..5 {
                    feed.data(format!("data: {number}\n\n")).await;
                    permits.recv().await;
                }
            });
            Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
        }
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    for http2 in [false, true] {
        let address = gateway.address("edge/http");
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        let response =
            client.exchange(client.request("GET", "/events").body(full("")).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut body = response.into_body();
        for number in 0..5 {
            let event = within("an event", body.frame()).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(event, format!("data: {number}\n\n"));
            next.send(()).await.unwrap();
        }
        assert!(within("the end", body.collect()).await.unwrap().to_bytes().is_empty());
    }
}

/// Counts what it is sent, and answers with the count and as many zeros.
async fn counting(speak: Speak) -> Upstream {
    Upstream::streaming(speak, |request| async move {
        let mut body = request.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.into_data().map_or(0, |data| data.len());
        }
        Ok(Response::builder().header("x-counted", bytes.to_string()).body(zeros(bytes)).unwrap())
    })
    .await
}

#[tokio::test]
async fn large_bodies_pass_in_little_memory() {
    for (http2, more) in [(false, ""), (true, "protocol: Http2")] {
        let speak = if http2 { Speak::Http2 } else { Speak::Http1 };
        let upstream = counting(speak).await;
        let gateway = Foregate::start(&policies::to(upstream.address, more), Options::default()).await;
        let address = gateway.address("edge/http");
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        // Buffers of the first request are there before memory is measured.
        assert_eq!(client.post("/", vec![0; 1 << 20]).await.body.len(), 1 << 20);
        let (before, _) = gateway.memory();
        let response =
            client.exchange(client.request("POST", "/").body(zeros(LARGE)).unwrap()).await.unwrap();
        assert_eq!(response.headers()["x-counted"], LARGE.to_string());
        let decision = response.headers()["x-foregate-decision"].to_str().unwrap().to_owned();
        let mut body = response.into_body();
        let mut bytes = 0;
        while let Some(frame) = within("more of the body", body.frame()).await {
            bytes += frame.unwrap().into_data().map_or(0, |data| data.len());
        }
        assert_eq!(bytes, LARGE);
        let (_, peak) = gateway.memory();
        assert!(peak < before + GROWTH, "{before} bytes before, {peak} at most");
        let record = gateway.record(&decision).await;
        assert_eq!(record["foregate.bytes_received"], LARGE);
        assert_eq!(record["foregate.bytes_sent"], LARGE);
    }
}

#[tokio::test]
async fn a_slow_reader_holds_its_upstream_back() {
    // Says how much it could write before it had to wait.
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&written);
    let upstream = Upstream::start(move |_| {
        let count = std::sync::Arc::clone(&count);
        async move {
            let (feed, body) = fed();
            tokio::spawn(async move {
                while feed.data(vec![b'x'; 64 << 10]).await
                    && count.fetch_add(64 << 10, std::sync::atomic::Ordering::SeqCst) < LARGE
                {
                }
            });
            Response::new(body)
        }
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let (before, _) = gateway.memory();
    let mut slow = Client::http2(gateway.address("edge/http")).await;
    let response = slow.exchange(slow.request("GET", "/").body(full("")).unwrap()).await.unwrap();
    // Others are served while one does not read: its connection is not theirs.
    for _ in 0..50 {
        let mut other = Client::http1(gateway.address("edge/http")).await;
        let first = other.exchange(other.request("GET", "/").body(full("")).unwrap()).await.unwrap();
        assert_eq!(first.status(), 200);
        other.abort().await;
    }
    let (_, peak) = gateway.memory();
    assert!(peak < before + GROWTH, "{before} bytes before, {peak} at most");
    drop(response);
    slow.abort().await;
}

#[tokio::test]
async fn a_client_that_breaks_off_its_body_is_not_answered_with_success() {
    let upstream = counting(Speak::Http1).await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let (feed, body) = fed();
    let request = client.request("POST", "/").header("x-request-id", "broken-off").body(body).unwrap();
    let sending = tokio::spawn(async move {
        let outcome = client.exchange(request).await;
        (client, outcome)
    });
    assert!(feed.data("half").await);
    feed.fail().await;
    let (client, outcome) = sending.await.unwrap();
    assert!(outcome.is_err(), "{outcome:?}");
    client.abort().await;
    let line =
        gateway.access_log().wait("a record", |line| line["foregate.request_id"] == "broken-off").await;
    assert_ne!(line["http.response.status_code"], 200, "{line}");
    // The gateway and its upstream go on.
    let reply: Reply = Client::http1(gateway.address("edge/http")).await.post("/", "four").await;
    assert_eq!(reply.header("x-counted"), "4");
}

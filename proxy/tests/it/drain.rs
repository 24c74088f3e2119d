//! The end of the process: announced, awaited, and forced only at its deadline.

use std::net::SocketAddr;
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::support::client::{Client, Reply};
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::{Upstream, fed, full};
use crate::support::within;
use crate::upgrade::{echo, handshake, masked};

/// Answers `/slow` once it is released, everything else at once.
async fn releasable() -> (watch::Sender<bool>, Upstream) {
    let (release, released) = watch::channel(false);
    let upstream = Upstream::start(move |received| {
        let mut released = released.clone();
        async move {
            if received.uri.path() == "/slow" {
                let _ = released.wait_for(|released| *released).await;
            }
            Response::new(full("done"))
        }
    })
    .await;
    (release, upstream)
}

/// Waits until nobody listens on an address any more.
async fn refused(address: SocketAddr) {
    within("the listener to close", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_under_way_finishes_and_nothing_new_begins() {
    let (release, upstream) = releasable().await;
    let options = Options::default().args(&["--drain-timeout", "25s", "--drain-notice", "2s"]);
    let mut gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let address = gateway.address("edge/http");
    let mut idle = Client::http1(address).await;
    let reply = idle.get("/").await;
    assert_eq!((reply.status, reply.header("connection")), (200, ""));
    let mut idle_http2 = Client::http2(address).await;
    assert_eq!(idle_http2.get("/").await.status, 200);
    let slow: Vec<_> = [false, true]
        .map(|http2| {
            tokio::spawn(async move {
                let mut client =
                    if http2 { Client::http2(address).await } else { Client::http1(address).await };
                let reply = client.get("/slow").await;
                (client, reply)
            })
        })
        .into();
    upstream.wait_received(4).await;

    gateway.terminate();
    gateway.event("drain started").await;
    gateway.wait_status("/readyz", 503).await;
    assert_eq!(gateway.admin_page("/readyz").await.1, "draining\n");
    assert_eq!(gateway.admin_page("/livez").await.0, 200);
    refused(address).await;
    // Whoever comes again is served, and told to go.
    let reply = idle.get("/").await;
    assert_eq!((reply.status, reply.header("connection")), (200, "close"));
    let _ = idle.ended().await;
    // GOAWAY: nothing is under way, so the connection ends.
    let _ = idle_http2.ended().await;

    release.send_replace(true);
    for slow in slow {
        let (mut client, reply) = slow.await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "done"));
        let _ = client.ended().await;
    }
    let ended = gateway.event("drain ended").await;
    assert_eq!(ended["complete"], true);
    assert!(gateway.exit().await.success());
    // The last records are written before the end.
    let lines = gateway.access_log().all();
    assert_eq!(lines.iter().filter(|line| line["url.path"] == "/slow").count(), 2);
    assert!(lines.iter().all(|line| line["foregate.end"] == "complete"), "{lines:?}");
}

#[tokio::test]
async fn a_body_under_way_arrives_whole() {
    let (pieces, pieces_to_come) = tokio::sync::mpsc::channel::<&'static str>(1);
    let pieces_to_come = std::sync::Arc::new(tokio::sync::Mutex::new(pieces_to_come));
    let upstream = Upstream::start(move |_| {
        let pieces = std::sync::Arc::clone(&pieces_to_come);
        async move {
            let (feed, body) = fed();
            tokio::spawn(async move {
                while let Some(piece) = pieces.lock().await.recv().await {
                    feed.data(piece).await;
                }
            });
            Response::new(body)
        }
    })
    .await;
    let options = Options::default().args(&["--drain-timeout", "25s", "--drain-notice", "0s"]);
    let mut gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    pieces.send("first, ").await.unwrap();
    let response = client.exchange(client.request("GET", "/").body(full("")).unwrap()).await.unwrap();
    let mut body = response.into_body();
    let first = within("the first piece", body.frame()).await.unwrap().unwrap().into_data().unwrap();
    gateway.terminate();
    refused(gateway.address("edge/http")).await;
    pieces.send("second").await.unwrap();
    drop(pieces);
    let rest = within("the rest", body.collect()).await.unwrap().to_bytes();
    assert_eq!([first, rest].concat(), b"first, second");
    assert!(gateway.exit().await.success());
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let (_release, upstream) = releasable().await;
    let options = Options::default().args(&["--drain-timeout", "1s", "--drain-notice", "0s"]);
    let mut gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let address = gateway.address("edge/http");
    let stuck = tokio::spawn(async move {
        let mut client = Client::http1(address).await;
        let response = client.exchange(client.request("GET", "/slow").body(full("")).unwrap()).await?;
        Reply::read(response).await
    });
    upstream.wait_received(1).await;
    gateway.terminate();
    let ended = gateway.event("drain ended").await;
    assert_eq!(ended["complete"], false);
    gateway.exit().await;
    assert!(stuck.await.unwrap().is_err(), "cut off, not answered");
}

#[tokio::test]
async fn a_websocket_goes_on_and_is_told_before_the_deadline() {
    let upstream = Upstream::raw(|stream, _| echo(stream)).await;
    let options = Options::default().args(&["--drain-timeout", "3s", "--drain-notice", "0s"]);
    let mut gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    client.send(handshake("")).await;
    let reply = client.head().await.unwrap();
    assert_eq!((reply.status, client.bytes(4).await.as_slice()), (101, &[0x81, 2, b'h', b'i'][..]));
    gateway.terminate();
    refused(gateway.address("edge/http")).await;
    // What is open goes on.
    client.send(masked(0x81, b"still here")).await;
    assert_eq!(client.bytes(12).await[2..], *b"still here");
    // 1001: going away (RFC 6455, section 7.4.1).
    assert_eq!(client.bytes(4).await, [0x88, 0x0a, 0x03, 0xe9]);
    assert_eq!(client.bytes(8).await, b"shutdown");
    client.send(masked(0x88, &[3, 0xe9])).await;
    client.finish().await;
    assert_eq!(gateway.event("drain ended").await["complete"], true);
    assert!(gateway.exit().await.success());
    let record = gateway.record(reply.header("x-foregate-decision").unwrap()).await;
    assert_eq!(record["foregate.end"], "drained");
}

#[tokio::test]
async fn a_request_that_comes_during_the_drain_reaches_its_upstream() {
    // The upstream is called anew: a drain closes what comes in, not what goes out.
    let upstream = Upstream::answering("hello").await;
    let options = Options::default().args(&["--drain-timeout", "25s", "--drain-notice", "10s"]);
    let mut gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n").await;
    gateway.wait_sample(r#"foregate_connections_open{listener="edge/http"}"#, |count| count >= 1.0).await;
    gateway.terminate();
    refused(gateway.address("edge/http")).await;
    assert_eq!(upstream.connections(), 0);
    client.send("\r\nhello").await;
    let reply = client.response().await.unwrap();
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert_eq!((upstream.connections(), upstream.last().body.as_ref()), (1, &b"hello"[..]));
    drop(client);
    assert!(gateway.exit().await.success());
}

#[tokio::test]
async fn an_interrupt_does_not_wait() {
    let (_release, upstream) = releasable().await;
    let options = Options::default().args(&["--drain-timeout", "1h", "--drain-notice", "1h"]);
    let policies = policies::plain(upstream.address);
    for terminate_first in [false, true] {
        let mut gateway = Foregate::start(&policies, options.clone()).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        assert_eq!(client.get("/").await.status, 200);
        if terminate_first {
            gateway.terminate();
            gateway.event("drain started").await;
        }
        gateway.signal("INT");
        gateway.exit().await;
        let _ = client.ended().await;
    }
}

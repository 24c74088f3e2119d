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
use crate::support::upstream::{Upstream, fed, full};
use crate::support::within;

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

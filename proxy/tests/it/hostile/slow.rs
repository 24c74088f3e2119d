//! Clients that take their time: heads, idle connections, and what they hold.

use std::time::Duration;

use crate::hostile::still_serves;
use crate::support::client::Client;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::Upstream;

#[tokio::test]
async fn a_head_must_be_there_in_time_however_many_bytes_come() {
    let upstream = Upstream::answering("hello").await;
    let options = Options::default().args(&["--head-timeout", "1s", "--idle-timeout", "1h"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let address = gateway.address("edge/http");
    // One stops in the middle, one as the second request of a connection, one drips on and on.
    let mut stopped = RawClient::connect(address).await;
    stopped.send("GET / HTTP/1.1\r\nHost: a\r\nX-A: ").await;
    let mut second = RawClient::connect(address).await;
    second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(second.response().await.unwrap().status, 200);
    second.send("GET / HT").await;
    let mut dripping = RawClient::connect(address).await;
    dripping.send("GET / HTTP/1.1\r\nHost: a\r\nX-A: ").await;
    let reply = {
        let mut drops = tokio::time::interval(Duration::from_millis(50));
        let mut count = 0;
        loop {
            tokio::select! {
                reply = dripping.head() => break reply,
                _ = drops.tick() => {}
            }
            count += 1;
            assert!(count < 200, "bytes keep the head alive");
            dripping.send("x").await;
        }
    };
    assert_eq!(reply.unwrap().status, 408);
    for mut client in [stopped, second] {
        assert_eq!(client.response().await.unwrap().status, 408);
        assert!(client.rest().await.is_empty());
    }
    assert_eq!(upstream.received().len(), 1);
    still_serves(&gateway).await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let upstream = Upstream::answering("hello").await;
    let options = Options::default().args(&["--idle-timeout", "1s", "--head-timeout", "1h"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let address = gateway.address("edge/http");
    let mut silent = RawClient::connect(address).await;
    let mut served = RawClient::connect(address).await;
    served.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(served.response().await.unwrap().status, 200);
    let mut http2 = Client::http2(address).await;
    assert_eq!(http2.get("/").await.status, 200);
    for client in [&mut silent, &mut served] {
        assert!(client.rest().await.is_empty(), "closed without a word");
    }
    let _ = http2.ended().await;
    gateway.wait_sample(r#"foregate_connections_open{listener="edge/http"}"#, |count| count == 0.0).await;
}

#[tokio::test]
async fn connections_over_the_bound_wait_and_are_served_in_turn() {
    let upstream = Upstream::answering("hello").await;
    let options = Options::default().args(&["--max-connections", "2"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let address = gateway.address("edge/http");
    let mut first = Client::http1(address).await;
    let mut second = Client::http1(address).await;
    assert_eq!((first.get("/").await.status, second.get("/").await.status), (200, 200));
    let mut third = RawClient::connect(address).await;
    third.send("GET /third HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // The others go on while the third waits in the kernel.
    for _ in 0..20 {
        assert_eq!(first.get("/").await.status, 200);
    }
    assert!(upstream.received().iter().all(|received| received.uri != "/third"));
    first.abort().await;
    assert_eq!(third.response().await.unwrap().status, 200);
}

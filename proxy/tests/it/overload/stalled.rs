//! Clients that take nothing of what they asked for, and tunnels that are silent.

use std::time::Duration;

use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hostile::http2::{END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, fields, frame, start};
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::{Upstream, fed, zeros};
use crate::support::within;
use crate::upgrade::{echo, handshake, masked};

const PING: u8 = 6;

/// `SETTINGS_INITIAL_WINDOW_SIZE` of nothing (RFC 9113, section 6.5.2).
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];

#[tokio::test]
async fn a_stream_whose_client_takes_nothing_ends_and_the_connection_goes_on() {
    let upstream = Upstream::start(|_| async { Response::new(zeros(1 << 20)) }).await;
    let options = Options::default().args(&["--idle-timeout", "1s"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let mut stream = start(gateway.address("edge/http")).await;
    let head = fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]);
    let bytes =
        [frame(SETTINGS, 0, 0, &NO_WINDOW), frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)].concat();
    stream.write_all(&bytes).await.unwrap();
    let (mut reset, mut answered) = (false, false);
    within("the reset of the stream", async {
        while !(reset && answered) {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut payload).await.unwrap();
            match (head[3], head[4]) {
                (RST_STREAM, _) => {
                    reset = true;
                    // The connection lives on: it answers a ping.
                    stream.write_all(&frame(PING, 0, 0, b"are you?")).await.unwrap();
                }
                (PING, 1) => answered = true,
                _ => {}
            }
        }
    })
    .await;
    gateway.wait_sample("http_server_active_requests", |count| count == 0.0).await;
    assert_eq!(gateway.sample("foregate_http2_streams_stalled_total").await, Some(1.0));
}

#[tokio::test]
async fn an_upstream_that_is_slow_is_no_client_that_takes_nothing() {
    let upstream = Upstream::start(|_| async {
        let (feed, body) = fed();
        tokio::spawn(async move {
            for _ in 0..4 {
                feed.data("piece").await;
                // Longer than a client may take nothing.
                tokio::time::sleep(Duration::from_millis(1_300)).await;
            }
        });
        Response::new(body)
    })
    .await;
    let options = Options::default().args(&["--idle-timeout", "1s"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let mut client = crate::support::client::Client::http2(gateway.address("edge/http")).await;
    assert_eq!(client.get("/").await.text(), "piece".repeat(4));
}

#[tokio::test]
async fn a_silent_websocket_is_closed_and_one_that_speaks_is_not() {
    let upstream = Upstream::raw(|stream, _| echo(stream)).await;
    let options = Options::default().args(&["--tunnel-timeout", "1s"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    client.send(handshake("")).await;
    let reply = client.head().await.unwrap();
    assert_eq!(reply.status, 101);
    assert_eq!(client.bytes(4).await, [0x81, 2, b'h', b'i']);
    // Ten frames over twice the time that it may be silent.
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    for _ in 0..10 {
        ticks.tick().await;
        client.send(masked(0x81, b"here")).await;
        assert_eq!(client.bytes(6).await, b"\x81\x04here");
    }
    // 1001, going away.
    assert_eq!(client.bytes(8).await, b"\x88\x06\x03\xe9idle");
    let record = gateway.record(reply.header("x-foregate-decision").unwrap()).await;
    assert_eq!(record["foregate.end"], "idle", "{record}");
}

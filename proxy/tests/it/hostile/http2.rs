//! HTTP/2 frames that no well-behaved client sends.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hostile::still_serves;
use crate::support::client::connect;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::Upstream;
use crate::support::within;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// How a stream, or its connection, ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// First byte of the header block: 0x88 is status 200 (RFC 7541, appendix A).
    Answered(u8),
    Reset,
    ConnectionEnded,
}

/// One frame (RFC 9113, section 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Header fields as literals that are not indexed (RFC 7541, section 6.2.2).
pub(crate) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

pub(crate) async fn start(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address).await;
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    stream
}

/// Reads frames until stream 1 is answered or reset, or the connection ends.
pub(super) async fn outcome(stream: &mut TcpStream) -> Outcome {
    within("an outcome", async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return Outcome::ConnectionEnded;
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if stream.read_exact(&mut payload).await.is_err() {
                return Outcome::ConnectionEnded;
            }
            match (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]])) {
                (HEADERS, 1) => return Outcome::Answered(payload[0]),
                (RST_STREAM, 1) => return Outcome::Reset,
                (GOAWAY, _) => return Outcome::ConnectionEnded,
                _ => {}
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_preface_that_comes_byte_by_byte_is_one() {
    let upstream = Upstream::answering("ok").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut stream = connect(gateway.address("edge/http")).await;
    stream.set_nodelay(true).unwrap();
    let (first, rest) = PREFACE.split_at(1);
    stream.write_all(first).await.unwrap();
    // Once another connection has been served, this one's first byte has been looked at.
    still_serves(&gateway).await;
    stream.write_all(rest).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let mut head = [0; 9];
    within("settings", stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[3], SETTINGS);
    let mut post = RawClient::connect(gateway.address("edge/http")).await;
    post.send("P").await;
    still_serves(&gateway).await;
    post.send("OST / HTTP/1.1\r\nhost: crm.example\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(post.response().await.unwrap().status, 200);
}

#[tokio::test]
async fn heads_that_http2_forbids_reach_no_backend() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let good = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let with = |more: &[(&'static str, &'static str)]| [&good[..], more].concat();
    let without = |name: &str| good.iter().copied().filter(|field| field.0 != name).collect::<Vec<_>>();
    let replaced = |name: &str, value: &'static str| {
        good.iter().map(|field| if field.0 == name { (field.0, value) } else { *field }).collect::<Vec<_>>()
    };
    for head in [
        with(&[("connection", "close")]),
        with(&[("connection", "x-a"), ("x-a", "1")]),
        with(&[("keep-alive", "5")]),
        with(&[("proxy-connection", "keep-alive")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("upgrade", "websocket")]),
        with(&[("te", "gzip")]),
        with(&[("X-Upper", "1")]),
        with(&[("x a", "1")]),
        with(&[("x-a", "1\r\nx-b: 2")]),
        with(&[("x-a", "1\0")]),
        with(&[("", "1")]),
        with(&[("host", "b")]),
        with(&[("host", "a"), ("host", "a")]),
        with(&[("content-length", "3")]),
        with(&[("content-length", "0"), ("content-length", "1")]),
        with(&[("content-length", "+0")]),
        with(&[(":path", "/b")]),
        with(&[(":status", "200")]),
        with(&[(":unknown", "1")]),
        [&[("x-a", "1")], &good[..]].concat(),
        without(":method"),
        without(":path"),
        without(":scheme"),
        without(":authority"),
        replaced(":path", ""),
        replaced(":path", "a"),
        replaced(":path", "*"),
        replaced(":path", "/a b"),
        replaced(":path", "/a%2fb"),
        replaced(":path", "/a/..;/b"),
        replaced(":path", "http://b/"),
        replaced(":authority", ""),
        replaced(":authority", "user@a"),
        replaced(":authority", "a b"),
        replaced(":authority", "a/b"),
        replaced(":method", "TRACE"),
        replaced(":method", "G T"),
        replaced(":method", ""),
        vec![(":method", "CONNECT"), (":authority", "a:443")],
        vec![
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
        ],
    ] {
        let mut stream = start(gateway.address("edge/http")).await;
        let block = frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&head));
        stream.write_all(&block).await.unwrap();
        let outcome = outcome(&mut stream).await;
        assert_ne!(outcome, Outcome::Answered(0x88), "{head:?}");
        assert!(upstream.received().is_empty(), "{head:?}: {:?}", upstream.received());
    }
    still_serves(&gateway).await;
}

#[tokio::test]
async fn bodies_that_are_not_as_long_as_announced_are_no_requests() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    for (announced, sent) in [("5", "abc"), ("2", "abc")] {
        let mut stream = start(gateway.address("edge/http")).await;
        let head = fields(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
            ("content-length", announced),
        ]);
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &head)).await.unwrap();
        stream.write_all(&frame(DATA, END_STREAM, 1, sent.as_bytes())).await.unwrap();
        assert_ne!(outcome(&mut stream).await, Outcome::Answered(0x88), "{announced}");
        assert!(upstream.received().is_empty(), "{announced}");
    }
    still_serves(&gateway).await;
}

#[tokio::test]
async fn floods_of_frames_end_their_connection_only() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let head = fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]);
    let (before, _) = gateway.memory();

    // Streams opened and reset at once (CVE-2023-44487).
    let mut resets = start(gateway.address("edge/http")).await;
    let mut flood = Vec::new();
    for stream in (1..20_001).step_by(2) {
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &head));
        flood.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    // A head that goes on and on (CVE-2024-27316).
    let mut endless = start(gateway.address("edge/http")).await;
    let more = fields(&[("x-filler", &"x".repeat(100))]).repeat(100);
    let mut chain = frame(HEADERS, END_STREAM, 1, &head);
    for _ in 0..2_000 {
        chain.extend(frame(CONTINUATION, 0, 1, &more));
    }
    for (stream, bytes) in [(&mut resets, flood), (&mut endless, chain)] {
        let (mut read, mut write) = stream.split();
        let sending = async {
            let _ = write.write_all(&bytes).await;
        };
        let reading = async {
            let mut sink = vec![0; 64 << 10];
            while matches!(read.read(&mut sink).await, Ok(bytes) if bytes > 0) {}
        };
        // The other side ends the connection: reading comes to an end.
        within("the end of a flood", async { tokio::join!(sending, reading) }).await;
    }
    let (_, peak) = gateway.memory();
    assert!(peak < before + (20 << 20), "{before} bytes before, {peak} at most");
    gateway.wait_sample("http_server_active_requests", |count| count == 0.0).await;
    still_serves(&gateway).await;
}

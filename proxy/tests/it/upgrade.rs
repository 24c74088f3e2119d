//! Switched protocols: WebSocket passes, and nothing else slips through.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::{self, RawClient};
use crate::support::upstream::{Speak, Upstream, full};

/// Key and accept of the example in RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) fn handshake(more: &str) -> String {
    format!(
        "GET /socket HTTP/1.1\r\nHost: crm.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
    )
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut seen).await, Ok(bytes) if bytes > 0) {
            break;
        }
    }
    String::from_utf8(seen).unwrap().to_ascii_lowercase()
}

/// One frame: its first byte and its payload, unmasked. Payloads of up to 125 bytes.
async fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.ok()?;
    assert_eq!(head[1] & 0x80, 0x80, "clients mask");
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await.ok()?;
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    stream.read_exact(&mut payload).await.ok()?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Some((head[0], payload))
}

/// A frame as a client sends it.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap()];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Greets, then echoes every frame until it has echoed a close.
pub(crate) async fn echo(mut stream: TcpStream) {
    let head = read_head(&mut stream).await;
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    // The greeting comes with the head: it must not be lost between codec and tunnel.
    let _ = stream.write_all(&[answer.as_bytes(), &[0x81, 2], b"hi"].concat()).await;
    while let Some((first, payload)) = read_frame(&mut stream).await {
        let frame = [&[first, u8::try_from(payload.len()).unwrap()], &payload[..]].concat();
        let _ = stream.write_all(&frame).await;
        if first == 0x88 {
            return;
        }
    }
}

#[tokio::test]
async fn a_websocket_passes_frames_both_ways_until_it_is_closed() {
    let upstream = Upstream::raw(|stream, _| echo(stream)).await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    // The first frame follows at once, before the answer is there.
    client.send([handshake("").as_bytes(), &masked(0x81, b"early")].concat()).await;
    let reply = client.head().await.unwrap();
    assert_eq!(reply.status, 101);
    assert_eq!(reply.header("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(reply.header("upgrade"), Some("websocket"));
    assert!(reply.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!(client.bytes(4).await, [0x81, 2, b'h', b'i']);
    assert_eq!(client.bytes(7).await, b"\x81\x05early");
    for text in ["one", "two", "three"] {
        client.send(masked(0x81, text.as_bytes())).await;
        assert_eq!(client.bytes(2 + text.len()).await[2..], *text.as_bytes());
    }
    client.send(masked(0x88, &[3, 0xe8])).await;
    assert_eq!(client.rest().await, [0x88, 2, 3, 0xe8], "the close comes back, then the end");
    client.finish().await;
    let record = gateway.record(reply.header("x-foregate-decision").unwrap()).await;
    assert_eq!(
        (&record["http.response.status_code"], &record["foregate.end"]),
        (&101.into(), &"complete".into())
    );
    assert_eq!(record["foregate.bytes_received"], 6 * 5 + 5 + 3 + 3 + 5 + 2, "five masked frames");
}

#[tokio::test]
async fn the_end_of_a_client_ends_its_tunnel() {
    let (told, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::raw(move |stream, _| {
        let told = told.clone();
        async move {
            echo(stream).await;
            let _ = told.send(());
        }
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    client.send(handshake("")).await;
    assert_eq!(client.head().await.unwrap().status, 101);
    drop(client);
    crate::support::within("the upstream to learn of it", ended.recv()).await.unwrap();
    gateway.wait_sample("http_server_active_requests", |count| count == 0.0).await;
    gateway.wait_sample(r#"foregate_connections_open{listener="edge/http"}"#, |count| count == 0.0).await;
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_malformed() {
    let upstream = Upstream::raw(|mut stream, _| async move {
        let _ = read_head(&mut stream).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = stream.write_all(answer).await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    for http2 in [false, true] {
        let address = gateway.address("edge/http");
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.reason().as_str()), (502, "UpstreamMalformed"));
    }
}

#[tokio::test]
async fn an_upstream_may_decline() {
    let upstream =
        Upstream::start(|_| async { http::Response::builder().status(403).body(full("no")).unwrap() }).await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let reply = raw::exchange(gateway.address("edge/http"), handshake("")).await.unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (403, &b"no"[..]));
    assert_eq!(upstream.last().header("upgrade"), "websocket");
}

#[tokio::test]
async fn only_websocket_is_switched_to() {
    // HTTP/2 in a tunnel would carry requests past every policy.
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    for protocol in ["h2c", "HTTP/2.0", "TLS/1.0", "h2c, websocket", "foo"] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\n\
             HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
        );
        let reply = raw::exchange(gateway.address("edge/http"), request).await.unwrap();
        assert_eq!(reply.status, 200, "{protocol}: the wish may be ignored");
        let received = upstream.last();
        for name in ["connection", "upgrade", "http2-settings"] {
            assert!(!received.headers.contains_key(name), "{protocol}: {name}");
        }
    }
}

#[tokio::test]
async fn an_upgrade_without_its_connection_header_is_none() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let request = handshake("").replace("Connection: keep-alive, Upgrade\r\n", "");
    let reply = raw::exchange(gateway.address("edge/http"), request).await.unwrap();
    assert_eq!(reply.status, 200);
    assert!(!upstream.last().headers.contains_key("upgrade"));
}

#[tokio::test]
async fn http2_upstreams_are_not_asked_to_switch() {
    let upstream = Upstream::speaking(Speak::Http2, |_| async { http::Response::new(full("hello")) }).await;
    let gateway =
        Foregate::start(&policies::to(upstream.address, "protocol: Http2"), Options::default()).await;
    let reply = raw::exchange(gateway.address("edge/http"), handshake("")).await.unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"hello"[..]));
}

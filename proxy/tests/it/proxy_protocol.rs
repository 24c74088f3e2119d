//! The PROXY protocol, in and out: whose connection it is.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::streams::{OPEN, TCP, gateway, policy, route, upstream};
use crate::support::client::{Client, connect};
use crate::support::guarded::guarded;
use crate::support::process::{Foregate, Options};
use crate::support::raw::{self, RawClient};
use crate::support::upstream::Upstream;
use crate::support::within;

/// Load balancers of these networks say who connects.
fn expects(from: &str) -> String {
    policy("Gateway", "edge", &format!("proxyProtocol: {{ from: [{from}] }}"))
}

/// Everything to one upstream, for clients in 192.0.2.0/24 behind a load balancer on this machine.
fn behind(upstream: &Upstream) -> String {
    let said = "addresses: { allow: [192.0.2.0/24, '2001:db8::/32'] }\ninsecure: { anonymous: true }";
    guarded(upstream.address, said) + &expects("127.0.0.0/8")
}

const GET: &str = "GET / HTTP/1.1\r\nHost: crm.test\r\nConnection: close\r\n\r\n";

/// A header of version 2 with these addresses and a TLV.
fn binary(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x12".to_vec();
    header.extend(source);
    header.extend([10, 0, 0, 9, 0x30, 0x39, 0x01, 0xbb, 0x02, 0, 3, b'a', b'.', b'b']);
    header
}

#[tokio::test]
async fn the_client_is_who_the_load_balancer_says() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&behind(&upstream), Options::default()).await;
    let address = gateway.address("edge/http");
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec();
    for (header, client, status) in [
        (b"PROXY TCP4 192.0.2.7 10.0.0.9 12345 443\r\n".to_vec(), "192.0.2.7", 200),
        (b"PROXY TCP6 2001:db8::7 2001:db8::9 12345 443\r\n".to_vec(), "2001:db8::7", 200),
        (binary([192, 0, 2, 8]), "192.0.2.8", 200),
        (b"PROXY TCP4 198.51.100.1 10.0.0.9 12345 443\r\n".to_vec(), "198.51.100.1", 403),
        // A health check of the load balancer itself.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", 403),
        (local, "127.0.0.1", 403),
    ] {
        let reply = raw::exchange(address, [&header[..], GET.as_bytes()].concat()).await.unwrap();
        assert_eq!(reply.status, status, "{:?}", String::from_utf8_lossy(&header));
        let record = gateway.record(reply.header("x-foregate-decision").unwrap()).await;
        assert_eq!(record["client.address"], client);
        if status == 200 {
            assert_eq!(upstream.last().header("x-forwarded-for"), client);
        }
    }
    // HTTP/2 with prior knowledge behind the header, and a header in two parts.
    let mut stream = connect(address).await;
    stream.write_all(b"PROXY TCP4 192.0").await.unwrap();
    stream.flush().await.unwrap();
    stream.write_all(b".2.9 10.0.0.9 12345 443\r\n").await.unwrap();
    let mut client = Client::over(stream, true, "http").await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(upstream.last().header("x-forwarded-for"), "192.0.2.9");
}

#[tokio::test]
async fn a_connection_without_its_header_is_not_served() {
    let upstream = Upstream::answering("hello").await;
    let options = Options::default().args(&["--head-timeout", "1s"]);
    let gateway = Foregate::start(&behind(&upstream), options.clone()).await;
    let address = gateway.address("edge/http");
    for bytes in [
        GET.as_bytes(),
        b"PROXY TCP4 192.0.2.7 10.0.0.9 12345\r\nGET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ] {
        let mut client = connect(address).await;
        client.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = within("the end", client.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
    let malformed = "foregate_proxy_protocol_refused_total{reason=\"malformed\"}";
    gateway.wait_sample(malformed, |count| count >= 4.0).await;
    // Half a header, and silence.
    let mut client = RawClient::connect(address).await;
    client.send("PROXY TCP4 192.0.2.7 ").await;
    assert!(client.rest().await.is_empty());
    let incomplete = "foregate_proxy_protocol_refused_total{reason=\"incomplete\"}";
    gateway.wait_sample(incomplete, |count| count >= 1.0).await;
    assert!(upstream.received().is_empty());

    let elsewhere = guarded(upstream.address, "insecure: { anonymous: true }") + &expects("10.0.0.0/8");
    let gateway = Foregate::start(&elsewhere, options).await;
    let header = format!("PROXY TCP4 192.0.2.7 10.0.0.9 12345 443\r\n{GET}");
    assert!(raw::exchange(gateway.address("edge/http"), header).await.is_none(), "no load balancer of ours");
    let untrusted = "foregate_proxy_protocol_refused_total{reason=\"untrusted\"}";
    gateway.wait_sample(untrusted, |count| count >= 1.0).await;
    assert!(upstream.received().is_empty());
}

/// Tells the header of every connection, and answers one request after another on it.
async fn told() -> (Upstream, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::raw(move |mut stream, _| {
        let tell = tell.clone();
        async move {
            let mut line = Vec::new();
            let mut byte = [0];
            while !line.ends_with(b"\r\n") && matches!(stream.read(&mut byte).await, Ok(1)) {
                line.push(byte[0]);
            }
            let _ = tell.send(String::from_utf8_lossy(&line).trim_end().to_owned());
            let mut seen = Vec::new();
            while matches!(stream.read(&mut byte).await, Ok(1)) {
                seen.push(byte[0]);
                if seen.ends_with(b"\r\n\r\n") {
                    seen.clear();
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        }
    })
    .await;
    (upstream, told)
}

async fn next(told: &mut tokio::sync::mpsc::UnboundedReceiver<String>) -> String {
    within("a header", told.recv()).await.unwrap()
}

#[tokio::test]
async fn upstreams_of_requests_are_told_whose_connection_it_is() {
    let (upstream, mut told) = told().await;
    let policies = crate::support::policies::to(upstream.address, "proxyProtocol: V1");
    let gateway = Foregate::start(&policies, Options::default()).await;
    let address = gateway.address("edge/http");
    let mut local: Vec<SocketAddr> = Vec::new();
    for _ in 0..2 {
        let stream = connect(address).await;
        local.push(stream.local_addr().unwrap());
        let mut client = Client::over(stream, false, "http").await;
        // A connection is that of one client: none is shared, and none is kept.
        for _ in 0..2 {
            assert_eq!(client.get("/").await.text(), "ok");
            let client = local.last().unwrap();
            let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}", client.port(), address.port());
            assert_eq!(next(&mut told).await, expected);
        }
    }
    assert_eq!(upstream.connections(), 4);
    // Whom a load balancer before us named is named on.
    let policies = policies + &expects("127.0.0.0/8");
    let gateway = Foregate::start(&policies, Options::default()).await;
    let header = format!("PROXY TCP4 192.0.2.7 10.0.0.9 12345 443\r\n{GET}");
    let reply = raw::exchange(gateway.address("edge/http"), header).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(next(&mut told).await, "PROXY TCP4 192.0.2.7 10.0.0.9 12345 443");
}

#[tokio::test]
async fn upstreams_of_connections_are_told_too() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = Upstream::raw(move |mut stream, _| {
        let tell = tell.clone();
        async move {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).await;
            let _ = tell.send(all);
        }
    })
    .await;
    let documents = [
        gateway(&[TCP]),
        route("TCPRoute", "db", "", &[("db", 1)]),
        policy("TCPRoute", "db", OPEN),
        upstream("db", server.address, ", proxyProtocol: V2"),
        expects("127.0.0.0/8"),
    ];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    let mut client = connect(gateway.address("edge/tcp")).await;
    client.write_all(&[&binary([192, 0, 2, 8])[..], b"hello"].concat()).await.unwrap();
    client.shutdown().await.unwrap();
    let seen = within("the bytes", told.recv()).await.unwrap();
    // The same ends, without what the load balancer said besides.
    let expected = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..], &binary([192, 0, 2, 8])[16..28], b"hello"];
    assert_eq!(seen, expected.concat());
    let record = gateway.access_log().wait("a record", |line| line["foregate.route"] == "db/0").await;
    assert_eq!(record["client.address"], "192.0.2.8");
}

//! Malformed and ambiguous HTTP/1.1 heads, byte by byte.

use crate::hostile::still_serves;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::Upstream;

/// Sends every head; each must get one of its statuses or, where 0 is among them, just a close. No backend
/// may see a request.
async fn refused(cases: &[(&str, Vec<u8>, &[u16])]) {
    let upstream = Upstream::answering("hello").await;
    // Heads that look unfinished are refused when their time is over.
    let options = Options::default().args(&["--head-timeout", "1s"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let mut wrong = Vec::new();
    for (name, bytes, statuses) in cases {
        let mut client = RawClient::connect(gateway.address("edge/http")).await;
        client.send(bytes).await;
        let status = client.response().await.map_or(0, |response| response.status);
        if !statuses.contains(&status) {
            wrong.push(format!("{name}: {status}, not {statuses:?}"));
        }
        if let Some(received) = upstream.received().last() {
            panic!("{name} reached the backend: {received:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    still_serves(&gateway).await;
}

fn head(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

#[tokio::test]
async fn heads_that_two_parsers_could_read_in_two_ways() {
    let get = |rest: &str| head(&format!("GET / HTTP/1.1\r\n{rest}\r\n"));
    let post = |rest: &str| head(&format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}\r\nabc"));
    refused(&[
        ("no Host", get(""), &[400]),
        ("an empty Host", get("Host:\r\n"), &[400]),
        ("two Hosts", get("Host: a\r\nHost: b\r\n"), &[400]),
        ("the same Host twice", get("Host: a\r\nHost: a\r\n"), &[400]),
        ("two Hosts in one", get("Host: a, b\r\n"), &[400]),
        ("a Host with a path", get("Host: a/b\r\n"), &[400]),
        ("a Host with a user", get("Host: user@a\r\n"), &[400]),
        ("a Host with a space", get("Host: a b\r\n"), &[400]),
        ("a Host with a large port", get("Host: a:99999\r\n"), &[400]),
        ("a Host with an empty port", get("Host: a:\r\n"), &[400]),
        ("a Host with an escape", get("Host: a%2eb\r\n"), &[400]),
        ("an absolute target against Host", head("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"), &[400]),
        ("an absolute target without Host", head("GET http://b/ HTTP/1.1\r\n\r\n"), &[400]),
        ("two lengths", post("Content-Length: 3\r\nContent-Length: 4\r\n"), &[400]),
        ("two lengths in one", post("Content-Length: 3, 3\r\n"), &[400]),
        ("a length with a sign", post("Content-Length: +3\r\n"), &[400]),
        ("a negative length", post("Content-Length: -3\r\n"), &[400]),
        ("a hexadecimal length", post("Content-Length: 0x3\r\n"), &[400]),
        ("an empty length", post("Content-Length:\r\n"), &[400]),
        ("a length beyond numbers", post("Content-Length: 99999999999999999999999\r\n"), &[400]),
        ("a coding that is not chunked", post("Transfer-Encoding: gzip\r\n"), &[400]),
        ("a coding before chunked", post("Transfer-Encoding: gzip, chunked\r\n"), &[400]),
        ("a coding after chunked", post("Transfer-Encoding: chunked, gzip\r\n"), &[400]),
        ("identity", post("Transfer-Encoding: identity\r\n"), &[400]),
        ("chunked twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), &[400]),
        ("chunked, chunked", post("Transfer-Encoding: chunked, chunked\r\n"), &[400]),
        ("almost chunked", post("Transfer-Encoding: xchunked\r\n"), &[400]),
        ("chunked with a vertical tab", post("Transfer-Encoding: \x0bchunked\r\n"), &[400]),
        (
            "chunks in HTTP/1.0",
            head("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        ("a folded line", get("Host: a\r\nX-A: 1\r\n folded\r\n"), &[400]),
        ("a folded first line", get(" Host: a\r\nHost: a\r\n"), &[400]),
        ("a space before the colon", get("Host : a\r\n"), &[400]),
        ("a space in a name", get("Host: a\r\nX A: 1\r\n"), &[400]),
        ("no colon", get("Host: a\r\nX-A\r\n"), &[400]),
        ("no name", get("Host: a\r\n: 1\r\n"), &[400]),
        ("a bare CR in a value", get("Host: a\r\nX-A: 1\rX-B: 2\r\n"), &[400]),
        ("a NUL in a value", get("Host: a\r\nX-A: 1\0\r\n"), &[400]),
        ("a NUL in a name", get("Host: a\r\nX\0A: 1\r\n"), &[400]),
    ])
    .await;
}

#[tokio::test]
async fn request_lines_that_are_none() {
    let line = |text: &str| head(&format!("{text}\r\nHost: a\r\n\r\n"));
    refused(&[
        ("a tunnel", head("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), &[405]),
        ("an echo of what proxies add", line("TRACE / HTTP/1.1"), &[405]),
        ("no target", line("GET HTTP/1.1"), &[400]),
        ("two spaces", line("GET  / HTTP/1.1"), &[400]),
        ("more than a target", line("GET / / HTTP/1.1"), &[400]),
        ("HTTP/0.9", head("GET /\r\n"), &[400]),
        ("HTTP/2.0", line("GET / HTTP/2.0"), &[0, 400, 505]),
        ("HTTP/1.2", line("GET / HTTP/1.2"), &[0, 400, 505]),
        ("http in small letters", line("GET / http/1.1"), &[400]),
        ("no method", line(" / HTTP/1.1"), &[400]),
        ("a method with a bracket", line("G(T / HTTP/1.1"), &[400]),
        ("a NUL in the target", line("GET /\0 HTTP/1.1"), &[400]),
        ("a tab in the target", line("GET /\ta HTTP/1.1"), &[400]),
        ("a bare CR in the target", line("GET /\ra HTTP/1.1"), &[400]),
        ("an asterisk", line("OPTIONS * HTTP/1.1"), &[400]),
        ("a target without a slash", line("GET a HTTP/1.1"), &[400]),
        ("another scheme", line("GET ftp://b/ HTTP/1.1"), &[400]),
    ])
    .await;
}

#[tokio::test]
async fn paths_that_backends_read_in_other_ways() {
    let cases = [
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a%5Cb",
        "/a\\b",
        "/a%00",
        "/a%00.json",
        "/%zz",
        "/%",
        "/%2",
        "/%u0041",
        "/a/..;/b",
        "/a/.;/b",
        "/a/..;x=1/b",
        "/a/%2e%2e;/b",
        "/..",
        "/../a",
        "/a/../../b",
        "/%2e%2e/a",
        "/a/%2e%2e/%2E./b",
    ];
    let cases: Vec<(&str, Vec<u8>, &[u16])> = cases
        .iter()
        .map(|path| (*path, head(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")), &[400][..]))
        .collect();
    refused(&cases).await;
}

#[tokio::test]
async fn heads_without_end() {
    let many = |count: usize| "X-A: 1\r\n".repeat(count);
    let get = |rest: &str| head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{rest}\r\n"));
    // Not a byte more than the bound, so that all of it is read.
    let full = |start: &str| format!("{start}{}", "x".repeat((64 << 10) - start.len())).into_bytes();
    refused(&[
        ("a value as long as the bound", full("GET / HTTP/1.1\r\nHost: a\r\nX: "), &[431]),
        ("a name as long as the bound", full("GET / HTTP/1.1\r\nHost: a\r\nX"), &[431]),
        ("a target as long as the bound", full("GET /"), &[431]),
        ("a method as long as the bound", full("X"), &[431]),
        ("too many headers", get(&many(101)), &[431]),
        // What is left unread when the connection is closed may take the answer with it.
        ("a long value", get(&format!("X: {}\r\n", "x".repeat(200_000))), &[0, 431]),
        ("very many headers", get(&many(100_000)), &[0, 431]),
        ("a line without end", vec![b'x'; 200_000], &[0, 431]),
    ])
    .await;
}

#[tokio::test]
async fn a_length_beside_chunks_is_void_and_ends_the_connection() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    for lengths in [
        "Content-Length: 30\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 30\r\n",
    ] {
        let mut client = RawClient::connect(gateway.address("edge/http")).await;
        let first = format!("POST /chunks HTTP/1.1\r\nHost: a\r\n{lengths}\r\n3\r\nabc\r\n0\r\n\r\n");
        client.send(format!("{first}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let reply = client.response().await.unwrap();
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")), "{lengths}");
        assert!(client.rest().await.is_empty(), "{lengths}");
        let received = upstream.last();
        assert_eq!((received.uri.path(), &received.body[..]), ("/chunks", &b"abc"[..]), "{lengths}");
        assert!(!received.headers.contains_key("content-length"), "{lengths}");
    }
    assert_eq!(upstream.received().len(), 2);
}

#[tokio::test]
async fn the_same_length_twice_is_passed_on_once() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n";
    client.send(format!("{head}abc")).await;
    assert_eq!(client.response().await.unwrap().status, 200);
    let received = upstream.last();
    let lengths: Vec<_> = received.headers.get_all("content-length").iter().collect();
    assert_eq!(lengths, ["3"]);
    assert_eq!(received.body, "abc");
}

#[tokio::test]
async fn bytes_that_are_no_http() {
    refused(&[
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(40), &[0, 400]),
        ("zeros", vec![0; 1_000], &[0, 400]),
        ("ones", vec![0xff; 1_000], &[0, 400]),
        ("SSH", head("SSH-2.0-OpenSSH_9.2\r\n\r\n"), &[0, 400]),
        ("almost HTTP/2", head("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"), &[0, 400, 505]),
    ])
    .await;
}

#[tokio::test]
async fn chunks_that_are_none_never_make_a_whole_request() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    for chunks in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabc\r\n",
        "",
    ] {
        let mut client = RawClient::connect(gateway.address("edge/http")).await;
        client
            .send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"))
            .await;
        client.finish().await;
        let status = client.response().await.map_or(0, |response| response.status);
        assert!(matches!(status, 0 | 400 | 502), "{chunks:?}: {status}");
        assert!(upstream.received().is_empty(), "{chunks:?}");
    }
    still_serves(&gateway).await;
}

#[tokio::test]
async fn whoever_is_refused_cannot_go_on_with_the_rest_of_the_bytes() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    for first in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n folded\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        let mut client = RawClient::connect(gateway.address("edge/http")).await;
        client.send(format!("{first}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(client.response().await.unwrap().status, 400, "{first}");
        let rest = client.rest().await;
        assert!(rest.is_empty(), "{first}: {}", String::from_utf8_lossy(&rest));
    }
    assert!(upstream.received().is_empty());
}

//! Upstreams that are dead, silent, garbled, or break off.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gateway::routing::unused_address;
use crate::support::client::{Client, Reply, connect};
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw;
use crate::support::upstream::{Speak, Upstream, fed, full};

/// Reads the head of one request; false at the end of the connection.
async fn read_head(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read_buf(&mut seen).await {
            Ok(bytes) if bytes > 0 => {}
            _ => return false,
        }
    }
    true
}

/// A gateway whose one route has these timeouts.
async fn bounded(upstream: &Upstream, timeouts: &str) -> Foregate {
    let rules = format!(
        "  - timeouts: {timeouts}
    backendRefs: [{{ group: foregate.dev, kind: Upstream, name: crm }}]"
    );
    let documents = [
        policies::GATEWAY,
        &policies::route("all", &rules),
        &policies::upstream("crm", upstream.address, ""),
    ];
    Foregate::start(&documents.concat(), Options::default()).await
}

/// An upstream that reads a head, says this, and closes.
async fn saying(bytes: &'static [u8]) -> Upstream {
    Upstream::raw(move |mut stream, _| async move {
        if read_head(&mut stream).await {
            let _ = stream.write_all(bytes).await;
        }
    })
    .await
}

async fn refusal(gateway: &Foregate, reply: &Reply) -> (u16, String, String) {
    let record = gateway.record(reply.decision()).await;
    assert_eq!(record["foregate.step"], "dispatch", "{record}");
    assert_eq!(record["foregate.reason"], reply.reason(), "{record}");
    (reply.status, reply.reason(), record["foregate.rule"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_dead_upstream_is_unreachable() {
    for more in ["", "protocol: Http2"] {
        let gateway = Foregate::start(&policies::to(unused_address().await, more), Options::default()).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        for _ in 0..2 {
            let reply = client.get("/").await;
            let want = (503, "UpstreamUnreachable".to_owned(), "crm".to_owned());
            assert_eq!(refusal(&gateway, &reply).await, want);
        }
    }
}

#[tokio::test]
async fn a_silent_upstream_is_not_waited_for_longer_than_the_route_says() {
    let upstream = Upstream::raw(|mut stream, _| async move { while read_head(&mut stream).await {} }).await;
    for timeouts in ["{ request: 300ms }", "{ request: 20s, backendRequest: 300ms }"] {
        let gateway = bounded(&upstream, timeouts).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let reply = client.get("/").await;
        assert_eq!(refusal(&gateway, &reply).await, (504, "UpstreamTimeout".to_owned(), String::new()));
        assert!(client.ready().await, "the client's connection goes on");
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_speak_http_or_breaks_off_is_told_apart() {
    for (reason, bytes) in [
        ("UpstreamMalformed", &b"SSH-2.0-OpenSSH_9.2\r\n"[..]),
        ("UpstreamMalformed", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ("UpstreamMalformed", b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na"),
        ("UpstreamMalformed", b"HTTP/1.1 200 OK\r\nBroken Header: x\r\n\r\n"),
        ("UpstreamReset", b"HTTP/1.1 200 OK\r\nUnfinis"),
        ("UpstreamMalformed", b"HTTP/1.1 99999 OK\r\n\r\n"),
        ("UpstreamReset", b""),
    ] {
        let upstream = saying(bytes).await;
        let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let reply = client.post("/", "body").await;
        let want = (502, reason.to_owned(), "crm".to_owned());
        assert_eq!(refusal(&gateway, &reply).await, want, "{}", String::from_utf8_lossy(bytes));
        assert_eq!(upstream.connections(), 1, "a request that may have had effects is not sent again");
    }
}

#[tokio::test]
async fn an_endless_response_head_is_malformed() {
    let upstream = Upstream::raw(|mut stream, _| async move {
        let _ = read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
        while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/").await;
    assert_eq!((reply.status, reply.reason().as_str()), (502, "UpstreamMalformed"));
}

#[tokio::test]
async fn an_upstream_that_breaks_off_never_looks_complete() {
    for (bytes, told) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"[..], "length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "chunks"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n", "last chunk"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalfXX", "broken chunks"),
    ] {
        let upstream = saying(bytes).await;
        let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
        let address = gateway.address("edge/http");
        // The head may be lost with the rest: then the client sees no answer at all.
        for version in ["1.1", "1.0"] {
            let name = format!("{told}-{version}").replace(' ', "-");
            let request = format!("GET / HTTP/{version}\r\nHost: a\r\nX-Request-Id: {name}\r\n\r\n");
            let mut client = raw::RawClient::connect(address).await;
            client.send(request).await;
            if version == "1.1"
                && let Some(reply) = client.response().await
            {
                assert_eq!((reply.status, reply.complete), (200, false), "{told}");
            }
            let record = gateway.access_log().wait(&name, |line| line["foregate.request_id"] == name).await;
            assert_eq!(record["foregate.end"], "upstream_broke", "{told}");
        }
        let mut client = Client::http2(address).await;
        let request = client.request("GET", "/").header("x-request-id", "http2").body(full("")).unwrap();
        if let Ok(response) = client.exchange(request).await {
            let outcome = Reply::read(response).await;
            assert!(outcome.is_err(), "{told}: {outcome:?}");
        }
        let record = gateway.access_log().wait("http2", |line| line["foregate.request_id"] == "http2").await;
        assert_eq!(record["foregate.end"], "upstream_broke", "{told}");
    }
}

#[tokio::test]
async fn an_http2_upstream_that_resets_never_looks_complete() {
    let (release, released) = tokio::sync::watch::channel(false);
    let upstream = Upstream::speaking(Speak::Http2, move |_| {
        let mut released = released.clone();
        async move {
            let (feed, body) = fed();
            tokio::spawn(async move {
                feed.data("half").await;
                let _ = released.wait_for(|released| *released).await;
                feed.fail().await;
            });
            http::Response::new(body)
        }
    })
    .await;
    let gateway =
        Foregate::start(&policies::to(upstream.address, "protocol: Http2"), Options::default()).await;
    let mut client = raw::RawClient::connect(gateway.address("edge/http")).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert_eq!(client.bytes(9).await, b"4\r\nhalf\r\n");
    release.send_replace(true);
    assert_eq!(client.rest().await, b"", "no last chunk");
    let record = gateway.record(head.header("x-foregate-decision").unwrap()).await;
    assert_eq!(record["foregate.end"], "upstream_broke");
}

#[tokio::test]
async fn a_response_that_takes_longer_than_the_route_allows_breaks_off() {
    let upstream = Upstream::raw(|mut stream, _| async move {
        let _ = read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
        // Until the gateway gives up.
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let gateway = bounded(&upstream, "{ request: 400ms }").await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let reply = raw::exchange(gateway.address("edge/http"), request).await.unwrap();
    assert_eq!((reply.status, reply.complete), (200, false));
    let record = gateway.record(reply.header("x-foregate-decision").unwrap()).await;
    assert_eq!(record["foregate.end"], "late");
}

#[tokio::test]
async fn a_response_that_always_has_more_ends_in_time_too() {
    let upstream = Upstream::raw(|mut stream, _| async move {
        let _ = read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await;
        let piece = vec![b'x'; 64 << 10];
        while stream.write_all(&piece).await.is_ok() {}
    })
    .await;
    let gateway = bounded(&upstream, "{ request: 400ms }").await;
    let mut client = connect(gateway.address("edge/http")).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut piece = vec![0; 64 << 10];
    let ends = async {
        // It takes less than there is, and has other things to do in between.
        while client.read(&mut piece).await.is_ok_and(|bytes| bytes > 0) {
            gateway.sample("http_server_active_requests").await;
        }
    };
    crate::support::within("the end of the response", ends).await;
    gateway.wait_sample("http_server_active_requests", |count| count == 0.0).await;
}

#[tokio::test]
async fn a_connection_whose_upstream_says_farewell_is_not_kept() {
    let upstream = Upstream::raw(|mut stream, _| async move {
        let _ = read_head(&mut stream).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        let _ = stream.write_all(answer).await;
        // Until the gateway has let go of it.
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let count = |state: &str| format!("foregate_upstream_connections{{upstream=\"crm\",state=\"{state}\"}}");
    for number in 1..=3 {
        assert_eq!(client.get("/").await.text(), "ok");
        gateway.wait_sample(&count("open"), |held| held == 0.0).await;
        assert_eq!((gateway.sample(&count("idle")).await, upstream.connections()), (Some(0.0), number));
    }
}

#[tokio::test]
async fn an_upstream_that_closes_between_requests_loses_none() {
    // Closes every connection as soon as its answer is out, without saying so.
    let upstream = Upstream::raw(|mut stream, _| async move {
        if read_head(&mut stream).await {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let gateway =
        Foregate::start(&policies::plain(upstream.address), Options::default().args(&["--threads", "1"]))
            .await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for number in 0..100 {
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"), "request {number}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_dies_under_a_repeatable_request_costs_nothing() {
    // Keeps the first connection until it has read a second request on it, and then closes it unanswered.
    let upstream = Upstream::raw(|mut stream, number| async move {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        if number == 0 {
            let _ = read_head(&mut stream).await;
            let _ = stream.write_all(answer).await;
            let _ = read_head(&mut stream).await;
            return;
        }
        while read_head(&mut stream).await {
            let _ = stream.write_all(answer).await;
        }
    })
    .await;
    let gateway =
        Foregate::start(&policies::plain(upstream.address), Options::default().args(&["--threads", "1"]))
            .await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(client.get("/").await.status, 200);
    // Only a connection that was idle for a while is suspected of its end: there is no fact to wait for but time.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let reply = client.get("/").await;
    assert_eq!((reply.status, upstream.connections()), (200, 2));
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_still_sends() {
    let upstream = Upstream::raw(|mut stream, _| async move {
        let _ = read_head(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .await;
        let _ = stream.shutdown().await;
        while matches!(stream.read(&mut [0; 1024]).await, Ok(bytes) if bytes > 0) {}
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = raw::RawClient::connect(gateway.address("edge/http")).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nstart").await;
    let reply = client.response().await.unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (403, &b"no"[..]));
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_upstream_request_with_it() {
    let (told, mut gone) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |_| {
        let told = told.clone();
        async move {
            let (feed, body) = fed();
            tokio::spawn(async move {
                feed.data("first").await;
                feed.dropped().await;
                let _ = told.send(());
            });
            http::Response::new(body)
        }
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    for http2 in [false, true] {
        let address = gateway.address("edge/http");
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        let response = client.exchange(client.request("GET", "/").body(full("")).unwrap()).await.unwrap();
        let decision = response.headers()["x-foregate-decision"].to_str().unwrap().to_owned();
        client.abort().await;
        drop(response);
        let record = gateway.record(&decision).await;
        assert_eq!(record["foregate.end"], "client_gone", "{record}");
        crate::support::within("the upstream to learn of it", gone.recv()).await.unwrap();
    }
    gateway.wait_sample("http_server_active_requests", |count| count == 0.0).await;
}

#[tokio::test]
async fn a_kept_connection_that_its_upstream_closes_is_let_go_at_once() {
    let (close, closes) = tokio::sync::watch::channel(false);
    let upstream = Upstream::raw(move |mut stream, _| {
        let mut closes = closes.clone();
        async move {
            let _ = read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            let _ = closes.wait_for(|close| *close).await;
        }
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(client.get("/").await.text(), "ok");
    let count = |state: &str| format!("foregate_upstream_connections{{upstream=\"crm\",state=\"{state}\"}}");
    for state in ["open", "idle"] {
        gateway.wait_sample(&count(state), |held| (held - 1.0).abs() < 0.5).await;
    }
    // Nothing is asked of the gateway meanwhile: it learns of the end by itself.
    close.send(true).unwrap();
    for state in ["open", "idle"] {
        gateway.wait_sample(&count(state), |held| held == 0.0).await;
    }
}

#[tokio::test]
async fn a_body_goes_on_to_its_upstream_while_its_client_takes_nothing_of_the_answer() {
    const BYTES: usize = 48 << 20;
    let upstream = Upstream::raw(|mut stream, _| async move {
        let _ = read_head(&mut stream).await;
        let (mut reads, mut writes) = stream.split();
        let answers = async {
            let _ = writes
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n").as_bytes())
                .await;
            let _ = writes.write_all(&vec![b'x'; BYTES]).await;
        };
        let takes = async {
            let mut piece = vec![0; 65_536];
            while matches!(reads.read(&mut piece).await, Ok(bytes) if bytes > 0) {}
        };
        tokio::select! {
            () = answers => {}
            () = takes => {}
        }
    })
    .await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = raw::RawClient::connect(gateway.address("edge/http")).await;
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n")).await;
    let head = client.head().await.unwrap();
    assert_eq!(head.status, 200);
    for _ in 0..48 {
        client.send(vec![b'y'; BYTES / 48]).await;
    }
    assert_eq!(client.bytes(BYTES).await.len(), BYTES);
}

//! Connections that are passed on unread: TCP, TLS passed through, TLS terminated.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::mtls::identified;
use crate::support::certificates::Authority;
use crate::support::client::{Client, connect, shown, tls};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::Upstream;
use crate::support::within;
use crate::support::workloads::{Domain, Folder};

/// A gateway `edge` with these listeners in flow style.
pub(crate) fn gateway(listeners: &[&str]) -> String {
    let listeners = listeners.iter().fold(String::new(), |all, listener| all + "  - " + listener + "\n");
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge }}
spec:
  gatewayClassName: foregate
  listeners:
{listeners}---"
    )
}

pub(crate) const TCP: &str = "{ name: tcp, protocol: TCP, port: 5432 }";

/// A route to these upstreams, each with its weight; `more` is further spec, such as `hostnames: [..]`.
pub(crate) fn route(kind: &str, name: &str, more: &str, upstreams: &[(&str, u32)]) -> String {
    let backends: Vec<String> = upstreams
        .iter()
        .map(|(name, weight)| {
            format!("{{ group: foregate.dev, kind: Upstream, name: {name}, weight: {weight} }}")
        })
        .collect();
    let backends = backends.join(", ");
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{ name: {name} }}
spec: {{ parentRefs: [{{ name: edge }}], {more}rules: [{{ backendRefs: [{backends}] }}] }}
---"
    )
}

pub(crate) fn policy(kind: &str, name: &str, said: &str) -> String {
    format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: {name}-policy }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: {kind}, name: {name} }}]
  {said}
---"
    )
}

pub(crate) const OPEN: &str = "insecure: { anonymous: true }";

pub(crate) fn upstream(name: &str, endpoint: impl Display, more: &str) -> String {
    crate::support::policies::upstream(name, endpoint, &format!("protocol: Tcp{more}"))
}

/// Everything on one TCP port to one endpoint, for those whom a policy lets in.
pub(crate) fn tcp(endpoint: impl Display, more: &str, said: &str) -> String {
    [
        gateway(&[TCP]),
        route("TCPRoute", "db", "", &[("db", 1)]),
        policy("TCPRoute", "db", said),
        upstream("db", endpoint, more),
    ]
    .concat()
}

/// Says its name, then gives back what it gets, and says how much it was once the client has closed.
pub(crate) async fn parrot(name: &'static str) -> Upstream {
    Upstream::raw(move |stream, _| async move {
        let _ = talk(stream, name).await;
    })
    .await
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, name: &str) -> io::Result<()> {
    stream.write_all(format!("{name}:").as_bytes()).await?;
    let (mut buffer, mut count) = (vec![0; 4096], 0);
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        count += read;
        stream.write_all(&buffer[..read]).await?;
    }
    stream.write_all(format!("={count}").as_bytes()).await?;
    stream.shutdown().await
}

/// Says something, closes, and reads all that comes back.
pub(crate) async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    within("the end of the answer", stream.read_to_end(&mut answer)).await?;
    Ok(String::from_utf8(answer).unwrap())
}

/// Fails where the connection is broken off, which may be before it is seen to stand.
async fn call(address: SocketAddr, text: &str) -> io::Result<String> {
    let mut stream = within("a connection", TcpStream::connect(address)).await?;
    say(&mut stream, text).await
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_end_closes_on_its_own() {
    let upstream = parrot("db").await;
    let gateway = Foregate::start(&tcp(upstream.address, "", OPEN), Options::default()).await;
    let address = gateway.address("edge/tcp");
    assert_eq!(call(address, "hello").await.unwrap(), "db:hello=5");
    // More than any buffer holds.
    let long = "x".repeat(3_000_000);
    let (mut read, mut write) = connect(address).await.into_split();
    let sent = long.clone();
    let sending = tokio::spawn(async move {
        write.write_all(sent.as_bytes()).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut answer = String::new();
    within("all of it", read.read_to_string(&mut answer)).await.unwrap();
    sending.await.unwrap();
    assert_eq!(answer.len(), long.len() + "db:=3000000".len());
    assert!(answer.ends_with("=3000000"));
    let record = gateway.access_log().wait("a record", |line| line["foregate.bytes_received"] == 5).await;
    assert_eq!(record["foregate.route"], "db/0");
    assert_eq!(record["network.transport"], "tcp");
    assert_eq!(record["foregate.bytes_sent"], 10);
    assert_eq!(record["foregate.end"], "complete");
    assert_eq!(record["foregate.upstream"], "db");
    assert_eq!(record["client.address"], "127.0.0.1");
    assert!(record["http.request.method"].is_null() && record["url.path"].is_null(), "{record}");
    let series = |end| format!("foregate_stream_connections_total{{route=\"db/0\",end=\"{end}\"}}");
    gateway.wait_sample(&series("complete"), |count| count >= 2.0).await;
    let bytes = gateway.sample("foregate_stream_bytes_total{route=\"db/0\",direction=\"received\"}").await;
    assert_eq!(bytes, Some(3_000_005.0));
    gateway.wait_sample(r#"foregate_connections_open{listener="edge/tcp"}"#, |count| count == 0.0).await;
}

#[tokio::test]
async fn who_is_not_let_in_reaches_nothing() {
    let upstream = parrot("db").await;
    for (said, reason) in [
        ("authorize: [{ name: nobody, allow: 'source.address == \"192.0.2.1\"' }]", "AccessDenied"),
        ("addresses: { deny: [127.0.0.0/8] }\n  authorize: [{ name: all, allow: 'true' }]", "AddressDenied"),
    ] {
        let gateway = Foregate::start(&tcp(upstream.address, "", said), Options::default()).await;
        let answer = call(gateway.address("edge/tcp"), "hello").await.unwrap_or_default();
        assert_eq!(answer, "", "{reason}");
        let record = gateway.access_log().wait("a record", |line| line["foregate.route"] == "db/0").await;
        assert_eq!(record["foregate.reason"], reason);
        // Why it was refused can be explained, as for a request.
        let id = record["foregate.decision"].as_str().unwrap();
        let (status, page) = gateway.admin_page(&format!("/decisions/{id}")).await;
        assert!(status == 200 && page.contains("policies.yaml"), "{page}");
        let refused = "foregate_stream_connections_total{route=\"db/0\",end=\"refused\"}";
        gateway.wait_sample(refused, |count| count >= 1.0).await;
    }
    assert_eq!(upstream.connections(), 0);
    let limited = "authorize: [{ name: all, allow: 'true' }]\n  rateLimit: [{ name: few, key: source.address, limit: 2, per: 1h }]";
    let gateway = Foregate::start(&tcp(upstream.address, "", limited), Options::default()).await;
    let address = gateway.address("edge/tcp");
    for _ in 0..2 {
        assert_eq!(call(address, "a").await.unwrap(), "db:a=1");
    }
    assert_eq!(call(address, "a").await.unwrap_or_default(), "", "connections are counted");
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_passed_over() {
    let upstream = parrot("alive").await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let endpoints = format!("{closed}\", \"{}", upstream.address);
    let gateway = Foregate::start(&tcp(endpoints, "", OPEN), Options::default()).await;
    for _ in 0..6 {
        assert_eq!(call(gateway.address("edge/tcp"), "x").await.unwrap(), "alive:x=1");
    }
    // A backend none of whose endpoints can be reached; one of weight 0 is never used.
    let documents = [
        self::gateway(&[TCP]),
        route("TCPRoute", "db", "", &[("dead", 1000), ("db", 1), ("unused", 0)]),
        policy("TCPRoute", "db", OPEN),
        self::upstream("dead", closed, ""),
        self::upstream("db", upstream.address, ""),
        self::upstream("unused", closed, ""),
    ];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    for _ in 0..4 {
        assert_eq!(call(gateway.address("edge/tcp"), "x").await.unwrap(), "alive:x=1");
    }
    let gateway = Foregate::start(&tcp(closed, "", OPEN), Options::default()).await;
    assert_eq!(call(gateway.address("edge/tcp"), "x").await.unwrap_or_default(), "");
    let record = gateway.access_log().wait("a record", |line| line["foregate.upstream"] == "db").await;
    assert_eq!(record["foregate.reason"], "UpstreamUnreachable");
}

#[tokio::test]
async fn weights_share_out_connections() {
    let (one, two) = (parrot("one").await, parrot("two").await);
    let documents = [
        gateway(&[TCP]),
        route("TCPRoute", "db", "", &[("one", 3), ("two", 1)]),
        policy("TCPRoute", "db", OPEN),
        upstream("one", one.address, ""),
        upstream("two", two.address, ""),
    ];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    let mut first = 0;
    for _ in 0..200 {
        first += usize::from(call(gateway.address("edge/tcp"), "").await.unwrap().starts_with("one"));
    }
    assert!((110..190).contains(&first), "{first} of 200, of which 150 were expected");
}

#[tokio::test]
async fn silence_ends_a_connection_and_breaks_it_off() {
    let upstream = parrot("db").await;
    let policies = tcp(upstream.address, ", timeouts: { idle: 1s }", OPEN);
    let gateway = Foregate::start(&policies, Options::default()).await;
    let mut client = connect(gateway.address("edge/tcp")).await;
    let mut greeting = [0; 3];
    within("the greeting", client.read_exact(&mut greeting)).await.unwrap();
    // Neither side says a word: what was there is not passed off as the whole.
    let ended = within("the end", client.read(&mut [0])).await;
    assert_eq!(ended.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    let record = gateway.access_log().wait("a record", |line| line["foregate.route"] == "db/0").await;
    assert_eq!(record["foregate.end"], "idle");
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_broken_off_towards_the_client() {
    let upstream = Upstream::raw(|mut stream, _| async move {
        let _ = stream.write_all(b"half of ").await;
        let _ = stream.read(&mut [0]).await;
        let _ = stream.set_zero_linger();
    })
    .await;
    let gateway = Foregate::start(&tcp(upstream.address, "", OPEN), Options::default()).await;
    let mut client = connect(gateway.address("edge/tcp")).await;
    within("the first half", client.read_exact(&mut [0; 8])).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let ended = within("the end", client.read(&mut [0])).await;
    assert_eq!(ended.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    let record = gateway.access_log().wait("a record", |line| line["foregate.route"] == "db/0").await;
    assert_eq!(record["foregate.end"], "upstream_broke");
}

#[tokio::test]
async fn open_connections_obey_new_policies() {
    let upstream = parrot("db").await;
    let policies = tcp(upstream.address, "", "authorize: [{ name: all, allow: 'true' }]");
    let gateway = Foregate::start(&policies, Options::default()).await;
    let mut client = connect(gateway.address("edge/tcp")).await;
    within("the greeting", client.read_exact(&mut [0; 3])).await.unwrap();
    // What changes nothing about it leaves it alone.
    gateway.publish(&policies.replace("name: all", "name: everybody")).await;
    client.write_all(b"still").await.unwrap();
    within("an echo", client.read_exact(&mut [0; 5])).await.unwrap();
    gateway.publish(&policies.replace("'true'", "'false'")).await;
    let ended = within("the end", client.read(&mut [0])).await;
    assert_eq!(ended.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    let record = gateway.access_log().wait("a record", |line| line["foregate.end"] == "revoked").await;
    assert_eq!(record["foregate.reason"], "AccessDenied");
}

#[tokio::test]
async fn a_drain_waits_for_connections_until_its_deadline() {
    let upstream = parrot("db").await;
    let options = Options::default().args(&["--drain-timeout", "20s", "--drain-notice", "0s"]);
    let mut gateway = Foregate::start(&tcp(upstream.address, "", OPEN), options).await;
    let mut client = connect(gateway.address("edge/tcp")).await;
    within("the greeting", client.read_exact(&mut [0; 3])).await.unwrap();
    gateway.terminate();
    gateway.event("drain started").await;
    within("the listener to close", async {
        while TcpStream::connect(gateway.address("edge/tcp")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(say(&mut client, "goodbye").await.unwrap(), "goodbye=7");
    assert_eq!(gateway.event("drain ended").await["complete"], true);
    assert!(gateway.exit().await.success());

    let options = Options::default().args(&["--drain-timeout", "1s", "--drain-notice", "0s"]);
    let mut gateway = Foregate::start(&tcp(upstream.address, "", OPEN), options).await;
    let mut client = connect(gateway.address("edge/tcp")).await;
    within("the greeting", client.read_exact(&mut [0; 3])).await.unwrap();
    gateway.terminate();
    // Broken off just before the deadline, so that it is recorded, and nobody takes it for whole.
    let ended = within("the end", client.read(&mut [0])).await;
    assert_eq!(ended.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    gateway.exit().await;
    let record = gateway.access_log().wait("a record", |line| line["foregate.route"] == "db/0").await;
    assert_eq!(record["foregate.end"], "drained");
}

/// A server that speaks TLS and then is a parrot.
pub(crate) async fn tls_parrot(authority: &Authority, name: &'static str) -> Upstream {
    let acceptor = TlsAcceptor::from(authority.leaf(&[name]).server(&[]));
    Upstream::raw(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = talk(stream, name).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn tls_is_passed_through_by_the_name_asked_for() {
    let authority = Authority::new();
    let (a, b) = (tls_parrot(&authority, "a.test").await, tls_parrot(&authority, "x.b.test").await);
    let documents = [
        gateway(&["{ name: tls, protocol: TLS, port: 8443, tls: { mode: Passthrough } }"]),
        route("TLSRoute", "a", "hostnames: [a.test], ", &[("a", 1)]),
        route("TLSRoute", "b", "hostnames: ['*.b.test'], ", &[("b", 1)]),
        policy("TLSRoute", "a", r#"authorize: [{ name: named, allow: 'request.host == "a.test"' }]"#),
        policy("TLSRoute", "b", OPEN),
        upstream("a", a.address, ""),
        upstream("b", b.address, ""),
    ];
    let options = Options::default().args(&["--head-timeout", "1s"]);
    let gateway = Foregate::start(&documents.concat(), options).await;
    let address = gateway.address("edge/tls");
    let config = authority.client(&[]);
    for (asked, upstream) in [("a.test", "a.test"), ("A.TEST", "a.test"), ("x.b.test", "x.b.test")] {
        let mut stream = tls(address, asked, &config).await.unwrap();
        // The certificate is the upstream's: TLS ends there.
        assert!(!shown(&stream).is_empty());
        assert_eq!(say(&mut stream, "hello").await.unwrap(), format!("{upstream}:hello=5"), "{asked}");
    }
    let record =
        gateway.access_log().wait("a record", |line| line["tls.client.server_name"] == "x.b.test").await;
    assert_eq!(record["foregate.route"], "b/0");
    for asked in ["c.test", "b.test", "127.0.0.1"] {
        assert!(tls(address, asked, &config).await.is_err(), "{asked}");
    }
    let record =
        gateway.access_log().wait("a record", |line| line["tls.client.server_name"] == "c.test").await;
    assert_eq!(record["foregate.reason"], "RouteNotFound");
    // What is no TLS, and what never comes whole, is closed.
    for hello in [&b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut client = connect(address).await;
        client.write_all(hello).await.unwrap();
        let mut rest = Vec::new();
        let _ = within("the end", client.read_to_end(&mut rest)).await;
        assert!(rest.is_empty());
    }
    assert_eq!((a.connections(), b.connections()), (2, 1));
}

#[tokio::test]
async fn a_first_message_in_parts_is_read_whole() {
    let authority = Authority::new();
    let a = tls_parrot(&authority, "a.test").await;
    let documents = [
        gateway(&["{ name: tls, protocol: TLS, port: 8443, tls: { mode: Passthrough } }"]),
        route("TLSRoute", "a", "hostnames: [a.test], ", &[("a", 1)]),
        policy("TLSRoute", "a", OPEN),
        upstream("a", a.address, ""),
    ];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    // A relay that hands every byte on alone.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (slow, address) = (relay.local_addr().unwrap(), gateway.address("edge/tls"));
    tokio::spawn(async move {
        let (client, _) = relay.accept().await.unwrap();
        let upstream = connect(address).await;
        upstream.set_nodelay(true).unwrap();
        let (mut from, mut to) = client.into_split();
        let (mut back, mut forth) = upstream.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut back, &mut to).await });
        let mut byte = [0];
        while matches!(from.read(&mut byte).await, Ok(1)) {
            forth.write_all(&byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        let _ = forth.shutdown().await;
    });
    let mut stream = tls(slow, "a.test", &authority.client(&[])).await.unwrap();
    assert_eq!(say(&mut stream, "hello").await.unwrap(), "a.test:hello=5");
}

#[tokio::test]
async fn tls_ends_here_beside_what_is_passed_through() {
    let authority = Authority::new();
    let (plain, through) = (parrot("plain").await, tls_parrot(&authority, "through.test").await);
    let documents = [
        gateway(&[
            "{ name: ends, protocol: TLS, port: 8443, hostname: ends.test, tls: { certificateRefs: [{ name: ends }] } }",
            "{ name: through, protocol: TLS, port: 8443, hostname: through.test, tls: { mode: Passthrough } }",
        ]),
        route("TLSRoute", "ends", "hostnames: [ends.test], ", &[("plain", 1)]),
        route("TLSRoute", "through", "hostnames: [through.test], ", &[("through", 1)]),
        policy("TLSRoute", "ends", OPEN),
        policy("TLSRoute", "through", OPEN),
        upstream("plain", plain.address, ""),
        upstream("through", through.address, ""),
    ];
    let leaf = authority.leaf(&["ends.test"]);
    let options = Options::default()
        .file("secrets/ends/tls.crt", leaf.certificate.as_str())
        .file("secrets/ends/tls.key", leaf.key.as_str());
    let gateway = Foregate::start(&documents.concat(), options).await;
    let address = gateway.address("edge/ends");
    // Whatever is spoken inside is agreed on by nobody here.
    for alpn in [&[][..], &["postgresql"], &["h2"]] {
        let mut stream = tls(address, "ends.test", &authority.client(alpn)).await.unwrap();
        assert_eq!(shown(&stream), leaf.der());
        assert_eq!(say(&mut stream, "hello").await.unwrap(), "plain:hello=5", "{alpn:?}");
    }
    let mut stream = tls(address, "through.test", &authority.client(&[])).await.unwrap();
    assert_eq!(say(&mut stream, "hello").await.unwrap(), "through.test:hello=5");
    let record = gateway.access_log().wait("a record", |line| line["foregate.route"] == "ends/0").await;
    assert_eq!(record["network.protocol.name"], "tls");
}

#[tokio::test]
async fn one_port_takes_requests_and_everything_else() {
    let authority = Authority::new();
    let (db, web) = (parrot("db").await, Upstream::answering("hello").await);
    let through = tls_parrot(&authority, "a.test").await;
    let documents = |upstream: SocketAddr| {
        [
            gateway(&[TCP]),
            policy("Gateway", "edge", "detect: { listeners: [tcp], within: 300ms }"),
            route("TCPRoute", "db", "", &[("db", 1)]),
            policy("TCPRoute", "db", OPEN),
            self::upstream("db", upstream, ""),
            route("HTTPRoute", "web", "", &[("web", 1)]),
            policy("HTTPRoute", "web", r#"authorize: [{ name: readers, allow: 'request.method == "GET"' }]"#),
            crate::support::policies::upstream("web", web.address, ""),
        ]
        .concat()
    };
    let gateway = Foregate::start(&documents(db.address), Options::default()).await;
    let address = gateway.address("edge/tcp");
    for http2 in [false, true] {
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        assert_eq!(client.get("/").await.text(), "hello");
        assert_eq!(client.post("/", "x").await.status, 403, "the policy of requests holds");
    }
    // The first bytes one by one.
    let mut slow = connect(address).await;
    slow.set_nodelay(true).unwrap();
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" {
        slow.write_all(&[*byte]).await.unwrap();
    }
    let mut answer = String::new();
    within("an answer", slow.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Whatever else is said first, and a server that speaks first.
    assert_eq!(call(address, "SELECT 1").await.unwrap(), "db:SELECT 1=8");
    let mut silent = connect(address).await;
    within("the greeting", silent.read_exact(&mut [0; 3])).await.unwrap();
    assert_eq!(say(&mut silent, "x").await.unwrap(), "x=1");
    let gateway = Foregate::start(&documents(through.address), Options::default()).await;
    let mut stream = tls(gateway.address("edge/tcp"), "a.test", &authority.client(&[])).await.unwrap();
    assert_eq!(say(&mut stream, "hello").await.unwrap(), "a.test:hello=5");
    let record = gateway.access_log().wait("a record", |line| line["foregate.route"] == "db/0").await;
    assert_eq!(record["tls.client.server_name"], "a.test");
}

#[tokio::test]
async fn workloads_prove_themselves_on_both_sides() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/ns/edge/sa/gateway"), &domain);
    let acceptor = TlsAcceptor::from(domain.svid("/ns/db/sa/postgres").server(&[], &[&domain]));
    let upstream = Upstream::raw(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = talk(stream, "postgres").await;
            }
        }
    })
    .await;
    let documents = [
        gateway(&[
            "{ name: mesh, protocol: TLS, port: 15432, tls: { options: { foregate.dev/identity: workload } } }",
        ]),
        route("TLSRoute", "db", "hostnames: [db.test], ", &[("db", 1)]),
        policy("TLSRoute", "db", r#"authorize: [{ name: web, allow: 'peer.serviceAccount == "web"' }]"#),
        self::upstream(
            "db",
            upstream.address,
            ", tls: { mode: Mutual, peers: [\"spiffe://mesh.test/ns/db/sa/postgres\"] }",
        ),
    ];
    let gateway = Foregate::start(&documents.concat(), identified(&folder)).await;
    let address = gateway.address("edge/mesh");
    let web = domain.svid("/ns/crm/sa/web").client(&[]);
    let mut stream = tls(address, "db.test", &web).await.unwrap();
    assert_eq!(say(&mut stream, "hello").await.unwrap(), "postgres:hello=5");
    let record = gateway.access_log().wait("a record", |line| line["foregate.end"] == "complete").await;
    assert_eq!(record["foregate.peer"], "spiffe://mesh.test/ns/crm/sa/web");
    let other = domain.svid("/ns/crm/sa/batch").client(&[]);
    let mut stream = tls(address, "db.test", &other).await.unwrap();
    assert_eq!(say(&mut stream, "hello").await.unwrap_or_default(), "");
    let record =
        gateway.access_log().wait("a record", |line| line["foregate.reason"] == "AccessDenied").await;
    assert_eq!(record["foregate.peer"], "spiffe://mesh.test/ns/crm/sa/batch");
    let nobody = crate::support::workloads::client(None, &[], &crate::support::workloads::VERSIONS);
    if let Ok(mut stream) = tls(address, "db.test", &nobody).await {
        assert_eq!(say(&mut stream, "hello").await.unwrap_or_default(), "");
    }
    assert_eq!(upstream.connections(), 1);
}

//! Bounds of connections, streams and requests: of a client, a listener, a connection.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::client::Client;
use crate::support::gate::Gate;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::Upstream;
use crate::support::within;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Connects from another address of this machine.
async fn from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    within("a connection", socket.connect(to)).await.unwrap()
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let upstream = Upstream::answering("hello").await;
    let options = Options::default().args(&["--client-connections", "2"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let address = gateway.address("edge/http");
    let mut first = Client::http1(address).await;
    let mut second = Client::http2(address).await;
    assert_eq!((first.get("/").await.status, second.get("/").await.status), (200, 200));
    for _ in 0..3 {
        let mut third = RawClient::connect(address).await;
        assert!(third.rest().await.is_empty(), "closed without a word");
    }
    // Others are not held up.
    let mut other = from([127, 0, 0, 2], address).await;
    other.write_all(GET.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    within("an answer", other.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(gateway.sample("foregate_connections_refused_total").await, Some(3.0));
    // Whoever leaves makes room.
    first.abort().await;
    gateway
        .wait_sample("foregate_connections_open{listener=\"edge/http\"}", |count| (count - 2.0).abs() < 0.5)
        .await;
    assert_eq!(Client::http1(address).await.get("/").await.status, 200);
}

#[tokio::test]
async fn a_full_listener_holds_up_no_other() {
    let upstream = Upstream::answering("hello").await;
    let policies = policies::plain(upstream.address).replace(
        "  - { name: http, protocol: HTTP, port: 8080 }",
        "  - { name: http, protocol: HTTP, port: 8080 }\n  - { name: inner, protocol: HTTP, port: 8081 }",
    );
    let options = Options::default().args(&["--listener-connections", "edge/http=1"]);
    let gateway = Foregate::start(&policies, options).await;
    let mut first = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(first.get("/").await.status, 200);
    let mut second = RawClient::connect(gateway.address("edge/http")).await;
    second.send(GET.replace("GET /", "GET /second")).await;
    for _ in 0..5 {
        let mut inner = Client::http1(gateway.address("edge/inner")).await;
        assert_eq!(inner.get("/").await.status, 200);
    }
    assert!(upstream.received().iter().all(|received| received.uri != "/second"));
    first.abort().await;
    assert_eq!(second.response().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_connection_that_has_brought_its_requests_is_asked_to_end() {
    let upstream = Upstream::answering("hello").await;
    let options = Options::default().args(&["--max-requests-per-connection", "3"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let mut http1 = Client::http1(gateway.address("edge/http")).await;
    for last in [false, false, true] {
        let reply = http1.get("/").await;
        assert_eq!((reply.status, reply.header("connection")), (200, if last { "close" } else { "" }));
    }
    http1.ended().await.unwrap();
    let mut http2 = Client::http2(gateway.address("edge/http")).await;
    for _ in 0..3 {
        assert_eq!(http2.get("/").await.status, 200);
    }
    http2.ended().await.unwrap();
    assert_eq!(upstream.received().len(), 6);
}

#[tokio::test]
async fn streams_over_the_bound_wait_at_their_client() {
    let gate = Gate::closed();
    let upstream = gate.upstream(200, "done").await;
    let options = Options::default().args(&["--max-streams", "3"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    // Once an answer has come, the client knows the bound.
    gate.open();
    assert_eq!(client.get("/").await.status, 200);
    gate.close();
    upstream.forget();
    let requests: Vec<_> =
        (0..8).map(|_| client.request("GET", "/").body(crate::support::upstream::empty()).unwrap()).collect();
    let sending = client.send_all(requests);
    let looking = async {
        upstream.wait_received(4).await;
        gateway.wait_sample("http_server_active_requests", |count| (count - 3.0).abs() < 0.5).await;
        let received = upstream.received().len();
        gate.open();
        received
    };
    let (replies, received) = tokio::join!(sending, looking);
    assert_eq!(received, 3);
    assert!(replies.iter().all(|reply| reply.status == 200));
}

#[tokio::test]
async fn an_idle_connection_gives_its_buffers_back_and_loses_nothing() {
    let upstream = Upstream::answering("hello").await;
    let options = Options::default().args(&["--idle-timeout", "15s"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let resting = "foregate_connections_resting";
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    // The second request has begun when the first is answered, and is left at that.
    client.send([GET, "GET /second HT"].concat()).await;
    assert_eq!(client.response().await.unwrap().status, 200);
    gateway.wait_sample(resting, |count| (count - 1.0).abs() < 0.5).await;
    client.send("TP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(upstream.last().uri, "/second");
    gateway.wait_sample(resting, |count| (count - 1.0).abs() < 0.5).await;
    // Woken by a body that comes later than its head, and by the end of the client.
    client.send("POST /third HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n").await;
    client.send("body").await;
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!((upstream.last().uri.path(), &upstream.last().body[..]), ("/third", &b"body"[..]));
    gateway.wait_sample(resting, |count| (count - 1.0).abs() < 0.5).await;
    drop(client);
    gateway.wait_sample("foregate_connections_open{listener=\"edge/http\"}", |count| count == 0.0).await;
    assert_eq!(gateway.sample(resting).await, Some(0.0));
}

/// Connections that a test can open without asking for more files.
const MANY: u64 = 400;

/// What they may cost each: the promise of the project for a half-open one.
const HALF_OPEN: u64 = 12 << 10;

#[tokio::test]
async fn connections_that_wait_cost_little() {
    let upstream = Upstream::answering("hello").await;
    let options = Options::default().args(&["--threads", "1", "--idle-timeout", "15s"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let address = gateway.address("edge/http");
    let open = "foregate_connections_open{listener=\"edge/http\"}";
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let all = |count: f64| (count - MANY as f64).abs() < 0.5;
    assert_eq!(Client::http1(address).await.get("/").await.status, 200);
    gateway.wait_sample(open, |count| count == 0.0).await;
    let (before, _) = gateway.memory();
    let mut half = Vec::new();
    for number in 0..MANY {
        let mut client = RawClient::connect(address).await;
        client.send(if number % 2 == 0 { "" } else { &GET[..GET.len() / 2] }).await;
        half.push(client);
    }
    gateway.wait_sample(open, all).await;
    let (now, _) = gateway.memory();
    assert!(
        now < before + MANY * HALF_OPEN,
        "{before} bytes before, {now} with {MANY} half-open connections"
    );
    // They go on to be served, and to rest.
    for (number, client) in half.iter_mut().enumerate() {
        client.send(if number % 2 == 0 { GET } else { &GET[GET.len() / 2..] }).await;
        assert_eq!(client.response().await.unwrap().status, 200);
    }
    gateway.wait_sample("foregate_connections_resting", all).await;
    assert_eq!(upstream.received().len(), 1 + half.len());
}

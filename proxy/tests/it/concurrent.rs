//! Bounds of open requests: held until body or tunnel ends, however that comes about.

use http::Response;
use tokio::sync::mpsc;

use crate::support::client::{Client, Reply};
use crate::support::guarded::guarded;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::{Feed, Upstream, empty, fed};
use crate::support::within;
use crate::upgrade::{echo, handshake};

const TWO: &str =
    "insecure: { anonymous: true }\nconcurrency: [{ name: few, key: source.address, limit: 2 }]\n";

/// Answers every request with a body that the test feeds.
async fn feeding() -> (Upstream, mpsc::UnboundedReceiver<Feed>) {
    let (sender, feeds) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |_| {
        let (feed, body) = fed();
        sender.send(feed).unwrap();
        async move { Response::new(body) }
    })
    .await;
    (upstream, feeds)
}

async fn series(gateway: &Foregate) -> String {
    let page = gateway.metrics().await;
    let line = page.lines().find(|line| line.starts_with("foregate_limit_open_requests{"));
    line.and_then(|line| line.split_once(' ')).unwrap().0.to_owned()
}

async fn open_now(gateway: &Foregate, count: f64) {
    gateway.wait_sample(&series(gateway).await, |open| (open - count).abs() < 0.5).await;
}

#[tokio::test]
async fn requests_are_open_until_their_bodies_end_or_their_clients_leave() {
    let (upstream, mut feeds) = feeding().await;
    let gateway = Foregate::start(&guarded(upstream.address, TWO), Options::default()).await;
    let address = gateway.address("edge/http");
    for http2 in [false, true] {
        let connect =
            async || if http2 { Client::http2(address).await } else { Client::http1(address).await };
        let (mut one, mut two, mut three) = (connect().await, connect().await, connect().await);
        let request = |client: &Client| client.request("GET", "/").body(empty()).unwrap();
        let first = one.exchange(request(&one)).await.unwrap();
        let second = two.exchange(request(&two)).await.unwrap();
        let (feed, _other) = (feeds.recv().await.unwrap(), feeds.recv().await.unwrap());
        open_now(&gateway, 2.0).await;
        let refused = three.get("/").await;
        assert_eq!((refused.status, refused.reason().as_str()), (429, "ConcurrencyLimited"));
        assert_eq!(refused.header("retry-after"), "", "nobody knows when");
        let record = gateway.record(refused.decision()).await;
        assert_eq!(record["foregate.limits"][0]["kind"], "concurrency");
        // The body ends.
        assert!(feed.data("done").await);
        drop(feed);
        assert_eq!(Reply::read(first).await.unwrap().text(), "done");
        open_now(&gateway, 1.0).await;
        // A client leaves in the middle.
        drop(second);
        two.abort().await;
        open_now(&gateway, 0.0).await;
        drop((one, three));
    }
}

#[tokio::test]
async fn a_tunnel_is_open_until_it_ends() {
    let upstream = Upstream::raw(|stream, _| echo(stream)).await;
    let gateway = Foregate::start(&guarded(upstream.address, TWO), Options::default()).await;
    let address = gateway.address("edge/http");
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        let mut client = RawClient::connect(address).await;
        client.send(handshake("")).await;
        assert_eq!(client.head().await.unwrap().status, 101);
        tunnels.push(client);
    }
    open_now(&gateway, 2.0).await;
    let mut third = RawClient::connect(address).await;
    third.send(handshake("")).await;
    assert_eq!(within("the refusal", third.head()).await.unwrap().status, 429);
    drop(tunnels);
    open_now(&gateway, 0.0).await;
}

#[tokio::test]
async fn what_fails_and_what_is_refused_is_not_left_open() {
    let address = crate::support::unused_address().await;
    let spec = format!("{TWO}authorize: [{{ name: closed, deny: 'request.path == \"/closed\"' }}]\n");
    let gateway = Foregate::start(&guarded(address, &spec), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for (path, status) in [("/", 503), ("/closed", 403), ("/", 503), ("/closed", 403)] {
        assert_eq!(client.get(path).await.status, status);
    }
    open_now(&gateway, 0.0).await;
}

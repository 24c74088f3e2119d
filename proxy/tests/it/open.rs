//! What is open when policies change: asked again, ended where it is no longer allowed.

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::client::Client;
use crate::support::consumers::known;
use crate::support::guarded::routes;
use crate::support::idp::Idp;
use crate::support::process::{Foregate, Options, served};
use crate::support::raw::RawClient;
use crate::support::upstream::{Feed, Upstream, empty, fed};
use crate::support::within;
use crate::upgrade::{echo, handshake, masked};

const OPEN: &str = "authorize: [{ name: all, allow: 'true' }]";
const CLOSED: &str = "authorize: [{ name: all, allow: 'true' }, { name: closed, deny: 'true' }]";

/// Answers every request with a body that the test feeds; gives the path with it.
async fn feeding() -> (Upstream, mpsc::UnboundedReceiver<(String, Feed)>) {
    let (sender, feeds) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request| {
        let (feed, body) = fed();
        sender.send((request.uri.path().to_owned(), feed)).unwrap();
        async move { Response::builder().header("content-type", "text/event-stream").body(body).unwrap() }
    })
    .await;
    (upstream, feeds)
}

/// A response that stays open.
struct Stream {
    client: Client,
    body: Incoming,
    feed: Feed,
    decision: String,
}

impl Stream {
    async fn open(
        mut client: Client,
        feeds: &mut mpsc::UnboundedReceiver<(String, Feed)>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Self {
        let mut request = client.request("GET", path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = client.exchange(request.body(empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let decision = response.headers()["x-foregate-decision"].to_str().unwrap().to_owned();
        let (asked, feed) = within("the request", feeds.recv()).await.unwrap();
        assert_eq!(asked, path);
        let mut this = Self { client, body: response.into_body(), feed, decision };
        this.flows().await;
        this
    }

    /// Passes one more event.
    async fn flows(&mut self) {
        assert!(self.feed.data("data: x\n\n").await, "the upstream is no longer read");
        let event = within("an event", self.body.frame()).await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(event, Bytes::from("data: x\n\n"));
    }

    /// The response breaks off, so that half of it does not look whole; gives its record.
    async fn breaks(mut self, gateway: &Foregate) -> Value {
        let end = within("the end of the stream", self.body.frame()).await;
        assert!(end.is_some_and(|frame| frame.is_err()), "it must not end as if it were whole");
        self.feed.dropped().await;
        let record = gateway.record(&self.decision).await;
        assert_eq!(
            (&record["foregate.end"], &record["http.response.status_code"]),
            (&"revoked".into(), &200.into())
        );
        drop(self.client);
        record
    }
}

#[tokio::test]
async fn a_websocket_that_is_no_longer_allowed_is_closed_with_a_reason_and_others_stay() {
    let upstream = Upstream::raw(|stream, _| echo(stream)).await;
    let text = |first: &str| routes(upstream.address, &[("first", first), ("second", OPEN)]);
    let gateway = Foregate::start(&text(OPEN), Options::default()).await;
    let open = async |path: &str| {
        let mut client = RawClient::connect(gateway.address("edge/http")).await;
        client.send(handshake("").replace("/socket", path)).await;
        let reply = client.head().await.unwrap();
        assert_eq!(reply.status, 101);
        assert_eq!(client.bytes(4).await, [0x81, 2, b'h', b'i']);
        (client, reply.header("x-foregate-decision").unwrap().to_owned())
    };
    let ((mut first, decision), (mut second, _)) = (open("/first").await, open("/second").await);
    let still = async |client: &mut RawClient| {
        client.send(masked(0x81, b"still")).await;
        assert_eq!(client.bytes(7).await, b"\x81\x05still");
    };
    gateway.publish(&(text(OPEN) + "\n# nothing changes\n")).await;
    still(&mut first).await;
    gateway.publish(&text(CLOSED)).await;
    // 1008: policy violation (RFC 6455, section 7.4.1).
    assert_eq!(first.rest().await, b"\x88\x09\x03\xf0revoked");
    still(&mut second).await;
    let record = gateway.record(&decision).await;
    let facts = ["foregate.end", "foregate.step", "foregate.reason", "foregate.rule"]
        .map(|name| record[name].clone());
    assert_eq!(json!(facts), json!(["revoked", "admit", "AccessDenied", "closed"]));
    assert_eq!(record["http.response.status_code"], 101);
    let series = r#"foregate_revocations_total{route="first/rule",reason="AccessDenied"}"#;
    gateway.wait_sample(series, |count| (count - 1.0).abs() < 0.5).await;
    assert!(gateway.sample(&served("GET", 403, "first/rule")).await.is_none());
}

#[tokio::test]
async fn streams_end_where_their_policy_denies_and_stay_where_nothing_changes() {
    let (upstream, mut feeds) = feeding().await;
    let limited = "rateLimit: [{ name: once, key: request.path, limit: 1, per: 24h, burst: 4 }]\n";
    let text =
        |first: &str| routes(upstream.address, &[("first", &format!("{limited}{first}")), ("second", OPEN)]);
    let gateway = Foregate::start(&text(OPEN), Options::default()).await;
    let address = gateway.address("edge/http");
    let mut doomed = Vec::new();
    let mut others = Vec::new();
    for http2 in [false, true] {
        for accept in [&[("accept", "text/event-stream")][..], &[]] {
            let client =
                async || if http2 { Client::http2(address).await } else { Client::http1(address).await };
            doomed.push(Stream::open(client().await, &mut feeds, "/first", accept).await);
            others.push(Stream::open(client().await, &mut feeds, "/second", accept).await);
        }
    }
    // Asked again, and not counted again: the limit of the day is used up.
    for number in 0..2 {
        gateway.publish(&format!("{}\n# {number}\n", text(OPEN))).await;
        for stream in doomed.iter_mut().chain(&mut others) {
            stream.flows().await;
        }
    }
    gateway.publish(&text(CLOSED)).await;
    for stream in doomed {
        let record = stream.breaks(&gateway).await;
        assert_eq!(record["foregate.reason"], "AccessDenied", "{record}");
        assert_eq!(record["foregate.bytes_sent"], 3 * 9);
    }
    for stream in &mut others {
        stream.flows().await;
    }
    // A silent stream learns of it as well as one that flows; a route that is gone ends what it served.
    gateway.publish(&routes(upstream.address, &[("first", OPEN)])).await;
    for (number, stream) in others.into_iter().enumerate() {
        // Of every second one no head was kept.
        let reason = ["RouteNotFound", "AccessDenied"][number % 2];
        assert_eq!(stream.breaks(&gateway).await["foregate.reason"], reason);
    }
    gateway.wait_sample("http_server_active_requests", |count| count == 0.0).await;
}

#[tokio::test]
async fn the_streams_of_a_removed_consumer_and_of_a_distrusted_issuer_end() {
    let (upstream, mut feeds) = feeding().await;
    let (stays, goes) = (known("stays"), known("goes"));
    let (idp, other) = (Idp::start().await, Idp::start().await);
    let trusted = |issuers: &[&Idp]| {
        let issuers: String = issuers.iter().map(|idp| idp.by_url()).collect();
        format!("jwt:\n{issuers}authorize: [{{ name: any, allow: 'jwt.subject != \"\"' }}]")
    };
    let keyed = "apiKey: {}\nauthorize: [{ name: any, allow: 'consumer.name != \"\"' }]";
    let text = |issuers: &[&Idp], more: &str| {
        routes(upstream.address, &[("keys", keyed), ("tokens", &trusted(issuers))])
            + &stays.document("", "")
            + more
    };
    let gateway = Foregate::start(&text(&[&idp, &other], &goes.document("", "")), Options::default()).await;
    let address = gateway.address("edge/http");
    let accept = ("accept", "text/event-stream");
    let (mut kept, mut doomed) = (Vec::new(), Vec::new());
    for http2 in [false, true] {
        let client = async || if http2 { Client::http2(address).await } else { Client::http1(address).await };
        for (consumer, streams) in [(&stays, &mut kept), (&goes, &mut doomed)] {
            let headers = [accept, ("x-api-key", &consumer.key)];
            streams.push(Stream::open(client().await, &mut feeds, "/keys", &headers).await);
        }
        for (issuer, streams) in [(&idp, &mut kept), (&other, &mut doomed)] {
            let token = format!("Bearer {}", issuer.token("ada"));
            let headers = [accept, ("authorization", token.as_str())];
            streams.push(Stream::open(client().await, &mut feeds, "/tokens", &headers).await);
        }
    }
    gateway.publish(&text(&[&idp], "")).await;
    let mut reasons = Vec::new();
    for stream in doomed {
        let record = stream.breaks(&gateway).await;
        reasons.push(format!("{} {}", record["foregate.reason"], record["foregate.detail"]));
    }
    let expected = [
        r#""KeyInvalid" "no key of any consumer begins so""#,
        r#""TokenInvalid" "`iss` names no configured issuer""#,
    ];
    assert_eq!(reasons, [expected, expected].concat());
    for stream in &mut kept {
        stream.flows().await;
    }
}

#[tokio::test]
async fn the_streams_of_a_withdrawn_key_end_with_the_fetch_that_finds_it_gone() {
    let (upstream, mut feeds) = feeding().await;
    let idp = Idp::start().await;
    let policy = format!("jwt:\n{}authorize: [{{ name: any, allow: 'jwt.subject != \"\"' }}]", idp.by_url());
    let gateway = Foregate::start(&routes(upstream.address, &[("a", &policy)]), Options::default()).await;
    let address = gateway.address("edge/http");
    let open = async |token: &str, feeds: &mut _| {
        let token = format!("Bearer {token}");
        let headers = [("accept", "text/event-stream"), ("authorization", token.as_str())];
        Stream::open(Client::http1(address).await, feeds, "/a", &headers).await
    };
    let withdrawn = open(&idp.token("ada"), &mut feeds).await;
    // The issuer keeps the key before the current one: the first key goes with the second rotation.
    idp.issuer.rotate().unwrap();
    let mut kept = open(&idp.token("ada"), &mut feeds).await;
    idp.issuer.rotate().unwrap();
    let mut newest = open(&idp.token("ada"), &mut feeds).await;
    assert_eq!(withdrawn.breaks(&gateway).await["foregate.reason"], "TokenInvalid");
    kept.flows().await;
    newest.flows().await;
}

#[tokio::test]
async fn other_streams_of_a_connection_go_on() {
    let (upstream, mut feeds) = feeding().await;
    let text = |first: &str| routes(upstream.address, &[("first", first), ("second", OPEN)]);
    let gateway = Foregate::start(&text(OPEN), Options::default()).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let mut bodies = Vec::new();
    for path in ["/first", "/second"] {
        let request = client.request("GET", path).header("accept", "text/event-stream");
        let response = client.exchange(request.body(empty()).unwrap()).await.unwrap();
        let (_, feed) = within("the request", feeds.recv()).await.unwrap();
        bodies.push((response.into_body(), feed));
    }
    gateway.publish(&text(CLOSED)).await;
    let (mut second, feed) = bodies.pop().unwrap();
    let (mut first, _feed) = bodies.pop().unwrap();
    assert!(within("the reset", first.frame()).await.is_some_and(|frame| frame.is_err()));
    assert!(feed.data("more").await);
    let event = within("an event", second.frame()).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(event, "more");
    // And new requests are served on it.
    assert_eq!(client.get("/first").await.status, 403);
}

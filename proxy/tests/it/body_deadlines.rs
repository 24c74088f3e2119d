//! Request bodies that stop coming once their answer has begun.

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::support::client::Client;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::{Body, Feed, Speak, Upstream, fed, full};
use crate::support::within;

/// Answers at once, gives back every piece that comes, and tells how the request body ended.
async fn echo(speak: Speak) -> (Upstream, mpsc::UnboundedReceiver<bool>) {
    let (tell, told) = mpsc::unbounded_channel();
    let upstream = Upstream::streaming(speak, move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            let (feed, body) = fed();
            tokio::spawn(async move {
                let mut incoming = request.into_body();
                let whole = loop {
                    match incoming.frame().await {
                        None => break true,
                        Some(Err(_)) => break false,
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) if !data.is_empty() => drop(feed.data(data).await),
                            Ok(_) | Err(_) => {}
                        },
                    }
                };
                let _ = tell.send(whole);
            });
            Ok(Response::new(body))
        }
    })
    .await;
    (upstream, told)
}

async fn piece(body: &mut Incoming) -> Option<String> {
    loop {
        let frame = within("a piece or the end", body.frame()).await?.ok()?;
        let data = frame.into_data().ok()?;
        if !data.is_empty() {
            return Some(String::from_utf8_lossy(&data).into_owned());
        }
    }
}

/// Sends the first piece of a body, and gets it back.
async fn begin(client: &mut Client, target: &str, kind: &str) -> (Feed, Incoming) {
    let (feed, body) = fed();
    let request = client.request("POST", target).header("content-type", kind);
    let request: Request<Body> = request.header("te", "trailers").body(body).unwrap();
    let (response, sent) = tokio::join!(client.exchange(request), feed.data("one"));
    assert!(sent);
    let mut body = response.unwrap().into_body();
    assert_eq!(piece(&mut body).await.as_deref(), Some("one"));
    (feed, body)
}

#[tokio::test]
async fn a_body_that_stops_coming_is_ended_by_name() {
    for (http2, speak) in [(false, Speak::Http1), (true, Speak::Http2), (true, Speak::Http1)] {
        let protocol = if matches!(speak, Speak::Http2) { "protocol: Http2" } else { "" };
        let (upstream, mut told) = echo(speak).await;
        let documents = [
            policies::GATEWAY,
            &policies::route("all", "  - backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]"),
            &policies::upstream("crm", upstream.address, protocol),
        ];
        let options = Options::default().args(&["--body-timeout", "1s"]);
        let gateway = Foregate::start(&documents.concat(), options).await;
        let address = gateway.address("edge/http");
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        let (feed, mut body) = begin(&mut client, "/slow", "text/plain").await;
        assert!(piece(&mut body).await.is_none(), "what was there is not the whole");
        feed.dropped().await;
        assert_eq!(within("the upstream to learn of it", told.recv()).await, Some(false));
        let record = gateway.access_log().wait("a record", |line| line["url.path"] == "/slow").await;
        assert_eq!(
            (&record["foregate.reason"], &record["foregate.end"]),
            (&"BodyTimeout".into(), &"idle".into())
        );
        if http2 {
            // Only the stream ended.
            assert!(client.ready().await);
        }
    }
}

#[tokio::test]
async fn a_body_that_stops_coming_after_the_whole_answer_ends_its_connections() {
    let upstream = Upstream::streaming(Speak::Http1, |request: Request<Incoming>| async move {
        // Read on, as servers do that want to keep their connection.
        tokio::spawn(request.into_body().collect());
        Ok(Response::new(full("early")))
    })
    .await;
    let options = Options::default().args(&["--body-timeout", "1s", "--idle-timeout", "1h"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nhalf").await;
    let reply = client.response().await.unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"early"[..]));
    assert!(client.rest().await.is_empty(), "and then the end");
}

#[tokio::test]
async fn streams_may_be_silent_for_as_long_as_tunnels() {
    let (upstream, mut told) = echo(Speak::Http2).await;
    let backend = "backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]";
    let rules = format!(
        "  - {{ matches: [{{ path: {{ value: /open }} }}], timeouts: {{ request: 0s }}, {backend} }}
  - {backend}"
    );
    let documents = [
        policies::GATEWAY,
        &policies::route("all", &rules),
        &policies::upstream("crm", upstream.address, "protocol: Http2"),
    ]
    .concat();
    let options = Options::default().args(&["--body-timeout", "1s", "--tunnel-timeout", "5m"]);
    let gateway = Foregate::start(&documents, options).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let (call, mut of_call) = begin(&mut client, "/crm.v1.Leads/Chat", "application/grpc").await;
    let (open, mut of_open) = begin(&mut client, "/open", "text/plain").await;
    for _ in 0..2 {
        // Begun later, and ended for being silent.
        let (_feed, mut slow) = begin(&mut client, "/slow", "text/plain").await;
        assert!(piece(&mut slow).await.is_none());
        assert_eq!(within("the upstream to learn of it", told.recv()).await, Some(false));
    }
    for (feed, body) in [(call, &mut of_call), (open, &mut of_open)] {
        assert!(feed.data("two").await);
        assert_eq!(piece(body).await.as_deref(), Some("two"));
        drop(feed);
        assert_eq!(piece(body).await, None);
    }

    let options = Options::default().args(&["--body-timeout", "5m", "--tunnel-timeout", "1s"]);
    let gateway = Foregate::start(&documents, options).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let (_feed, body) = begin(&mut client, "/crm.v1.Leads/Chat", "application/grpc").await;
    let end = within("the end of the call", body.collect()).await.unwrap();
    assert_eq!(end.trailers().unwrap()["grpc-status"], "4", "a call is told by its status");
    let record = gateway.access_log().wait("a record", |line| line["foregate.end"] == "idle").await;
    assert_eq!(record["foregate.reason"], "BodyTimeout");
}

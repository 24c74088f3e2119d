//! Identity that clients make up: on other routes, in trailers; and who is blamed.

use http::Response;

use crate::support::client::Client;
use crate::support::guarded::routes;
use crate::support::idp::Idp;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::{self, RawClient};
use crate::support::upstream::{Upstream, full, zeros};

/// Two routes to one service: only the first sets `x-user`.
async fn two_routes(upstream: &Upstream, idp: &Idp) -> Foregate {
    let issuer = idp.trusted("{ discover: true }", "claimsToHeaders: [{ claim: sub, header: x-user }]");
    let open = "insecure: { anonymous: true }".to_owned();
    let guarded = format!("jwt:\n{issuer}\nauthorize:\n- {{ name: any, allow: 'true' }}");
    let specs = [("users", guarded.as_str()), ("open", open.as_str())];
    Foregate::start(&routes(upstream.address, &specs), Options::default()).await
}

#[tokio::test]
async fn a_header_that_one_route_sets_is_forged_on_none() {
    let upstream = Upstream::answering("hello").await;
    let idp = Idp::start().await;
    let gateway = two_routes(&upstream, &idp).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let request = client.request("GET", "/open").header("x-user", "admin").header("x_user", "admin");
    assert_eq!(client.send_empty(request).await.status, 200);
    let received = upstream.last();
    assert!(!received.headers.values().any(|value| value == "admin"), "{:?}", received.headers);
}

#[tokio::test]
async fn trailers_do_not_pose_as_headers() {
    let upstream = Upstream::answering("hello").await;
    let idp = Idp::start().await;
    let gateway = two_routes(&upstream, &idp).await;
    let reply = raw::exchange(
        gateway.address("edge/http"),
        "POST /open HTTP/1.1\r\nHost: crm.test\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-user, authorization, x-kept\r\n\r\n\
         2\r\nhi\r\n0\r\nx-user: admin\r\nauthorization: Bearer x\r\nx-kept: 1\r\n\r\n",
    )
    .await
    .unwrap();
    assert_eq!(reply.status, 200);
    let trailers = upstream.last().trailers.unwrap_or_default();
    assert!(!trailers.contains_key("x-user") && !trailers.contains_key("authorization"), "{trailers:?}");
    assert_eq!(trailers.get("x-kept").map(http::HeaderValue::as_bytes), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_refused_head_has_a_length_and_no_body() {
    let upstream = Upstream::answering("hello").await;
    let idp = Idp::start().await;
    let gateway = two_routes(&upstream, &idp).await;
    for http2 in [false, true] {
        let address = gateway.address("edge/http");
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        let request = client.request("HEAD", "/users");
        let reply = client.send_empty(request).await;
        assert_eq!((reply.status, reply.text()), (401, String::new()));
        assert!(reply.header("content-length").parse::<u64>().unwrap() > 0);
        let record = gateway.record(reply.decision()).await;
        assert_eq!(record["foregate.end"], "complete");
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn a_client_whose_body_breaks_is_blamed_itself() {
    let upstream = Upstream::start(|_| async { Response::new(full("late")) }).await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    client
        .send("POST / HTTP/1.1\r\nHost: crm.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n")
        .await;
    let record = gateway.access_log().wait("the record", |line| line["http.route"] == "all/0").await;
    assert_eq!(
        (&record["http.response.status_code"], &record["foregate.reason"]),
        (&400.into(), &"BodyMalformed".into())
    );
    assert!(upstream.received().is_empty());
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_let_go() {
    let upstream = Upstream::start(|_| async { Response::new(zeros(64 << 20)) }).await;
    let options = Options::default().args(&["--idle-timeout", "1s"]);
    let gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    client.send("GET / HTTP/1.1\r\nHost: crm.test\r\n\r\n").await;
    // Nothing is read: the gateway gives up by itself, and says so in the record.
    let gone = |line: &serde_json::Value| line["foregate.end"] == "client_gone";
    let record = gateway.access_log().wait("the record of a stalled client", gone).await;
    assert_eq!(record["http.response.status_code"], 200);
    drop(client);
}

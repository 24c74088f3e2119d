//! Requests with keys over the wire: carried out once, whoever asks however often.

mod concurrent;
mod gone;
mod salesforce;
mod shared;

use http::{Request, Response};

use crate::support::client::{Client, Reply};
use crate::support::guarded::guarded;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Body, Upstream, full, zeros};

/// The policy of a route whose keys are those of an org that the client names.
fn once(more: &str) -> String {
    format!("insecure: {{ anonymous: true }}\nidempotency: {{ scope: 'request.headers[\"x-org\"]'{more} }}\n")
}

fn order(client: &Client, key: &str, body: &str) -> Request<Body> {
    let request = client.request("POST", "/orders?v=1").header("idempotency-key", key).header("x-org", "a");
    request.body(full(body.to_owned())).unwrap()
}

/// Answers with the number of the request.
async fn counting() -> Upstream {
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    Upstream::start(move |_| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            Response::builder()
                .status(201)
                .header("content-type", "application/json")
                .header("location", format!("/orders/{number}"))
                .header("set-cookie", "sid=1")
                .body(full(format!("{{\"number\":{number}}}")))
                .unwrap()
        }
    })
    .await
}

async fn start(upstream: &Upstream, policy: &str) -> (Foregate, Client) {
    let gateway = Foregate::start(&guarded(upstream.address, policy), Options::default()).await;
    let client = Client::http1(gateway.address("edge/http")).await;
    (gateway, client)
}

fn replayed(reply: &Reply) -> bool {
    reply.header("idempotency-replayed") == "true"
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_and_another_payload_is_refused() {
    let upstream = counting().await;
    let (gateway, mut client) = start(&upstream, &once("")).await;
    let first = client.send(order(&client, "\"k-1\"", "{}")).await;
    assert_eq!((first.status, first.text().as_str(), replayed(&first)), (201, "{\"number\":0}", false));
    assert_eq!(first.header("set-cookie"), "sid=1");
    let again = client.send(order(&client, "k-1", "{}")).await;
    assert_eq!((again.status, again.body == first.body, replayed(&again)), (201, true, true));
    assert_eq!((again.header("location"), again.header("content-type")), ("/orders/0", "application/json"));
    assert!(!again.headers.contains_key("set-cookie"), "a cookie is of the first caller");
    assert_ne!(again.decision(), first.decision());
    let other = client.send(order(&client, "k-1", "{ }")).await;
    assert_eq!((other.status, other.reason().as_str()), (422, "IdempotencyKeyReused"));
    let new = client.send(order(&client, "k-2", "{}")).await;
    assert_eq!((new.status, new.text().as_str()), (201, "{\"number\":1}"));
    let missing = client.post("/orders", "{}").await;
    assert_eq!((missing.status, missing.reason().as_str()), (400, "IdempotencyKeyMissing"));
    assert_eq!(upstream.received().len(), 2);
    assert_eq!(upstream.last().header("idempotency-key"), "k-2");
    for (reply, word) in [(&first, "first"), (&again, "replayed")] {
        assert_eq!(gateway.record(reply.decision()).await["foregate.idempotency"], word);
    }
    let record = gateway.record(other.decision()).await;
    assert_eq!(
        (&record["foregate.step"], &record["foregate.rule"]),
        (&"decide".into(), &"idempotency".into())
    );
    let series = |outcome: &str| format!("foregate_idempotency_requests_total{{outcome=\"{outcome}\"}}");
    assert_eq!(gateway.sample(&series("first")).await, Some(2.0));
    assert_eq!(gateway.sample(&series("replayed")).await, Some(1.0));
    assert_eq!(gateway.sample("foregate_idempotency_memory_keys").await, Some(2.0));
}

#[tokio::test]
async fn methods_that_are_not_concerned_stream_past() {
    let upstream = Upstream::answering("ok").await;
    let (_gateway, mut client) = start(&upstream, &once("")).await;
    // Larger than what is collected of a body.
    let request = client.request("PUT", "/blob").body(zeros(3 << 20)).unwrap();
    assert_eq!(client.send(request).await.status, 200);
    assert_eq!(upstream.last().body.len(), 3 << 20);
    assert_eq!(client.get("/").await.status, 200);
    let request = client.request("POST", "/blob").header("idempotency-key", "k").header("x-org", "a");
    assert_eq!(client.send(request.body(zeros(3 << 20)).unwrap()).await.status, 413);
}

/// Answers the first request so, and all others with 200.
async fn first(status: u16, body: &'static str) -> Upstream {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    Upstream::start(move |_| {
        let number = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (status, body) = if number == 0 { (status, body) } else { (200, "later") };
        async move { Response::builder().status(status).body(full(body)).unwrap() }
    })
    .await
}

#[tokio::test]
async fn only_final_answers_are_kept() {
    for (status, more, again) in [
        (400, "", 400),
        (204, "", 204),
        (429, "", 200),
        (500, "", 200),
        (503, "", 200),
        (500, ", keepErrors: true", 500),
    ] {
        let upstream = first(status, "").await;
        let (_gateway, mut client) = start(&upstream, &once(more)).await;
        assert_eq!(client.send(order(&client, "k", "{}")).await.status, status);
        let second = client.send(order(&client, "k", "{}")).await;
        assert_eq!((second.status, replayed(&second)), (again, again == status), "{status}{more}");
        let third = client.send(order(&client, "k", "{}")).await;
        assert_eq!((third.status, replayed(&third)), (again, true), "{status}{more}");
    }
}

#[tokio::test]
async fn what_the_gateway_itself_answers_frees_the_key() {
    let nobody = crate::support::unused_address().await;
    let gateway = Foregate::start(&guarded(nobody, &once("")), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..3 {
        let reply = client.send(order(&client, "k", "{}")).await;
        assert_eq!((reply.status, reply.reason().as_str()), (503, "UpstreamUnreachable"));
    }
    assert_eq!(gateway.sample("foregate_idempotency_memory_keys").await, Some(0.0));
}

#[tokio::test]
async fn an_answer_that_is_too_large_passes_and_is_not_given_again() {
    let upstream = Upstream::start(|_| async { Response::new(zeros(5_000)) }).await;
    let (gateway, mut client) = start(&upstream, &once(", maxResponse: 4KiB")).await;
    assert_eq!(client.send(order(&client, "k", "{}")).await.body.len(), 5_000);
    let again = client.send(order(&client, "k", "{}")).await;
    assert_eq!((again.status, again.reason().as_str()), (409, "IdempotencyAnswerGone"));
    assert_eq!(upstream.received().len(), 1);
    assert_eq!(gateway.sample("foregate_idempotency_answers_total{end=\"spent\"}").await, Some(1.0));
}

#[tokio::test]
async fn kept_answers_live_through_a_reload() {
    let upstream = counting().await;
    let (gateway, mut client) = start(&upstream, &once("")).await;
    assert_eq!(client.send(order(&client, "k", "{}")).await.status, 201);
    gateway.publish(&guarded(upstream.address, &once(", keep: 1h"))).await;
    assert!(replayed(&client.send(order(&client, "k", "{}")).await));
    assert_eq!(upstream.received().len(), 1);
}

const ORDERS: &str = "openapi: 3.1.0
info: { title: orders, version: '1' }
paths:
  /orders:
    post:
      requestBody: { required: true, content: { application/json: { schema: { type: object } } } }
      responses:
        '201': { description: one, content: { application/json: { schema: { type: object, required: [number] } } } }
";

#[tokio::test]
async fn an_answer_held_to_a_contract_is_kept_and_an_unfit_one_causes_no_second_run() {
    let checked =
        "validate: { openapi: { file: orders.yaml, responses: enforce, undeclaredQuery: continue } }\n";
    for (contract, first, again) in [
        (ORDERS.to_owned(), (201, ""), (201, "")),
        (ORDERS.replace("[number]", "[id]"), (502, "ResponseInvalid"), (409, "IdempotencyAnswerGone")),
    ] {
        let upstream = counting().await;
        let text = guarded(upstream.address, &(once("") + checked));
        let gateway = Foregate::start(&text, Options::default().file("orders.yaml", contract)).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        for (repeat, (status, reason)) in [(false, first), (true, again)] {
            let mut request = order(&client, "k-1", "{}");
            request.headers_mut().insert("content-type", "application/json".parse().unwrap());
            let reply = client.send(request).await;
            assert_eq!(reply.status, status, "{reply:?}");
            assert!(reason.is_empty() || reply.reason() == reason, "{reply:?}");
            assert_eq!(replayed(&reply), repeat && status == 201, "{reply:?}");
        }
        assert_eq!(upstream.received().len(), 1);
    }
}

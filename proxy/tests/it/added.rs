//! What the gateway adds to a request: its own work, and nobody's wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::sync::Semaphore;

use crate::support::client::{Client, Reply};
use crate::support::guarded::{bundle, guarded, model};
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, fed, full};
use crate::support::within;

/// How long somebody keeps the gateway waiting, which is what these tests are about.
const WAIT: Duration = Duration::from_millis(300);

const CONTRACT: &str = include_str!("../../../policies/contracts/crm.yaml");

/// Seconds that were added to all requests, and those that they took, once so many are counted.
struct Took {
    added: f64,
    total: f64,
}

impl Took {
    /// Of requests of one method, all answered with 200.
    async fn of(gateway: &Foregate, method: &str, requests: f64) -> Self {
        let labels = format!(
            "http_request_method=\"{method}\",http_response_status_code=\"200\",http_route=\"all/rule\""
        );
        let added = |what: &str| format!("foregate_added_duration_seconds_{what}{{route=\"all/rule\"}}");
        let total = |what: &str| format!("http_server_request_duration_seconds_{what}{{{labels}}}");
        for count in [added("count"), total("count")] {
            gateway.wait_sample(&count, |count| (count - requests).abs() < 0.5).await;
        }
        let sum = async |series: String| gateway.sample(&series).await.unwrap();
        Self { added: sum(added("sum")).await, total: sum(total("sum")).await }
    }

    /// None of so many waits is in what was added: however slow this machine is, they are in the rest, and one that was
    /// added would be missing there. Half of one is for what of it was over before the gateway saw the request.
    #[track_caller]
    fn waited(&self, waits: f64) {
        let Self { added, total } = self;
        assert!(*added > 0.0, "{added} s of {total} s");
        assert!(total - added > (waits - 0.5) * WAIT.as_secs_f64(), "{added} s of {total} s");
    }
}

#[tokio::test]
async fn waiting_for_the_upstream_is_not_added() {
    let open = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&open);
    let upstream = Upstream::start(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            Response::new(full("ok"))
        }
    })
    .await;
    // One request at a time: the second waits for its place, then for its answer.
    let concurrency = "concurrency: { max: 1, adaptive: false, queue: { size: 1, wait: 10s } }";
    let rules = "  - name: rule\n    backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]\n";
    let documents = [
        policies::GATEWAY,
        &policies::route("all", rules),
        &policies::upstream("crm", upstream.address, concurrency),
    ];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let requests = ["/a", "/b"].map(|path| client.request("GET", path).body(full("")).unwrap());
    let replies = tokio::spawn(async move { client.send_all(requests.into()).await });
    gateway.wait_sample("foregate_upstream_requests_waiting{upstream=\"crm\"}", |count| count > 0.5).await;
    tokio::time::sleep(WAIT).await;
    open.add_permits(2);
    assert!(replies.await.unwrap().iter().all(|reply| reply.status == 200));
    // One waits for its answer, the other for its place.
    Took::of(&gateway, "GET", 2.0).await.waited(2.0);
}

#[tokio::test]
async fn waiting_for_the_body_of_the_client_and_on_purpose_is_not_added() {
    let upstream = Upstream::answering("ok").await;
    let spec = format!(
        "insecure: {{ anonymous: true }}
inject: [{{ name: late, when: 'true', delay: {}ms }}]
enrich: [{{ name: lead, model: lead-score, deadline: 900ms, set: {{ header: X-Lead-Score }}, onError: continue, default: 0.1 }}]\n",
        WAIT.as_millis()
    );
    let documents = guarded(upstream.address, &spec) + &model("lead-score", &bundle("lead-score"));
    let gateway = Foregate::start(&documents, Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let (feed, body) = fed();
    let request = client.request("POST", "/").header("content-type", "application/json").body(body).unwrap();
    let reply =
        tokio::spawn(async move { Reply::read(client.exchange(request).await.unwrap()).await.unwrap() });
    assert!(feed.data(Bytes::from_static(b"{")).await);
    gateway.wait_sample("http_server_active_requests", |count| count > 0.5).await;
    tokio::time::sleep(WAIT).await;
    assert!(feed.data(Bytes::from_static(b"}")).await);
    drop(feed);
    assert_eq!(reply.await.unwrap().status, 200);
    Took::of(&gateway, "POST", 1.0).await.waited(2.0);
}

/// What one request took whose response comes in two parts, and is read against a contract or not.
async fn responding(responses: &str) -> Took {
    let (feed, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let upstream = Upstream::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Response::builder().header("content-type", "application/json").body(body).unwrap() }
    })
    .await;
    let spec = format!(
        "insecure: {{ anonymous: true }}
validate: {{ openapi: {{ file: crm.yaml{responses} }} }}\n"
    );
    let options = Options::default().file("crm.yaml", CONTRACT);
    let gateway = Foregate::start(&guarded(upstream.address, &spec), options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = tokio::spawn(async move { client.get("/sobjects/Lead").await });
    within("the request", upstream.wait_received(1)).await;
    assert!(feed.data(Bytes::from_static(b"[")).await);
    tokio::time::sleep(WAIT).await;
    // Much to be read against the contract.
    let lead = br#"{"LastName":"Okafor"},"#.repeat(30_000);
    assert!(feed.data([&lead[..], br#"{"LastName":"Last"}]"#].concat()).await);
    drop(feed);
    let reply = reply.await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    Took::of(&gateway, "GET", 1.0).await
}

#[tokio::test]
async fn work_on_the_response_is_added_and_waiting_for_its_body_is_not() {
    let read = responding(", responses: enforce").await;
    read.waited(1.0);
    // The least of some: a pause of this machine can only add to it.
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        least = least.min(responding("").await.added);
    }
    assert!(read.added > least, "{} s, and without the response {least} s", read.added);
}

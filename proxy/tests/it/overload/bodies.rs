//! Collected bodies are bounded together, not only each.

use crate::support::client::Client;
use crate::support::guarded::{bundle, guarded, model};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, fed};

const SPEC: &str = "insecure: { anonymous: true }
enrich: [{ name: lead, model: lead-score, deadline: 900ms, onError: continue, default: 0.2, set: { header: X-Lead-Score } }]";

#[tokio::test]
async fn bodies_that_would_be_too_large_together_are_refused_and_make_room_when_they_go() {
    let upstream = Upstream::answering("created").await;
    let policies = [guarded(upstream.address, SPEC), model("lead-score", &bundle("lead-score"))].concat();
    let options = Options::default().args(&["--max-body-memory", "100KiB"]);
    let gateway = Foregate::start(&policies, options).await;
    let address = gateway.address("edge/http");
    // One that does not end holds what it has sent, and not what it has announced.
    let mut holder = Client::http2(address).await;
    let (feed, body) = fed();
    let request = holder.request("POST", "/").header("content-length", "1000000").body(body).unwrap();
    let holding = tokio::spawn(async move {
        let _ = holder.exchange(request).await;
    });
    assert!(feed.data(vec![b'x'; 60_000]).await);
    let held = "foregate_bodies_held_bytes";
    gateway.wait_sample(held, |bytes| (bytes - 60_000.0).abs() < 0.5).await;
    let mut client = Client::http1(address).await;
    let refused = client.post("/", vec![b'x'; 50_000]).await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "BodyMemoryExhausted"));
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(client.post("/", vec![b'x'; 30_000]).await.status, 200);
    assert_eq!(gateway.sample("foregate_bodies_refused_total").await, Some(1.0));
    drop(feed);
    holding.abort();
    let _ = holding.await;
    gateway.wait_sample(held, |bytes| bytes == 0.0).await;
    assert_eq!(client.post("/", vec![b'x'; 50_000]).await.status, 200);
}

//! Standard error that nobody reads keeps neither a request nor the end waiting.

use std::fmt::Write;

use http::Response;

use crate::support::client::Client;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, empty};
use crate::support::within;

const DROPPED: &str = "foregate_events_dropped_total";
const FAILED: &str = "foregate_config_reloads_total{outcome=\"failure\"}";

/// Policies with so many faults that telling them once takes about as much as a pipe holds.
fn faulty() -> String {
    (0..500).fold(policies::GATEWAY.to_owned(), |mut text, number| {
        let rule =
            format!("  - backendRefs: [{{ group: foregate.dev, kind: Upstream, name: nowhere-{number} }}]");
        write!(text, "{}", policies::closed_route(&format!("route-{number}"), &rule)).unwrap();
        text
    })
}

#[tokio::test]
async fn a_reader_that_stalls_costs_events_and_keeps_nobody_waiting() {
    let good = Upstream::answering("good").await;
    let bad = Upstream::start(|_| async { Response::builder().status(500).body(empty()).unwrap() }).await;
    // Each turn of the endpoint is told by the worker, of which there is one.
    let spec = "loadBalancing: { policy: RoundRobin }, \
                outlierDetection: { consecutiveErrors: 1, baseEjectionTime: 1s }";
    let documents = policies::to(format!("{}\", \"{}", bad.address, good.address), spec);
    let options = Options::default().args(&["--threads", "1", "--drain-notice", "0s"]);
    let mut gateway = Foregate::start(&documents, options).await;
    assert_eq!(gateway.sample(DROPPED).await, Some(0.0));

    let events = gateway.events().clone();
    let stalled = events.stall();
    gateway.write("policies.yaml", faulty());
    gateway.wait_sample(FAILED, |count| count >= 1.0).await;
    for turn in 0.. {
        if gateway.sample(DROPPED).await.unwrap() > 0.0 {
            break;
        }
        assert!(turn < 100, "nothing was dropped");
        let before = gateway.sample(FAILED).await.unwrap();
        gateway.signal("HUP");
        gateway.wait_sample(FAILED, |count| count > before).await;
    }

    let mut client = Client::http1(gateway.address("edge/http")).await;
    let mut errors = 0;
    for _ in 0..20 {
        let status = within("an answer", client.get("/")).await.status;
        assert!(matches!(status, 200 | 500), "{status}");
        errors += u32::from(status == 500);
    }
    assert!(errors >= 1);
    assert!(gateway.sample("foregate_upstream_ejections_total{upstream=\"crm\"}").await.unwrap() >= 1.0);

    // It waits a moment for its last events, and ends without them.
    gateway.terminate();
    assert!(gateway.gone().await.success());
    drop(stalled);
    events.ended().await;
    let last = events.all().pop().unwrap();
    assert_ne!(last["event.name"], "drain ended", "{last}");
}

#[tokio::test]
async fn what_was_told_is_written_before_the_process_ends_and_in_order() {
    let upstream = Upstream::answering("ok").await;
    let options = Options::default().args(&["--drain-notice", "0s"]);
    let mut gateway = Foregate::start(&policies::plain(upstream.address), options).await;
    gateway.terminate();
    assert!(gateway.exit().await.success());
    let events = gateway.events().all();
    let names: Vec<&str> = events.iter().filter_map(|event| event["event.name"].as_str()).collect();
    let place =
        |name: &str| names.iter().position(|it| *it == name).unwrap_or_else(|| panic!("{name}: {names:?}"));
    assert!(place("admin listening") < place("drain started"), "{names:?}");
    assert!(place("drain started") < place("drain ended"), "{names:?}");
}

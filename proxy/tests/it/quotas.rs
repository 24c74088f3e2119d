//! Quotas over the wire: what they count, and that they outlive the process.

use std::fs;
use std::path::Path;

use crate::support::client::Client;
use crate::support::guarded::guarded;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::Upstream;

/// A zone in which no day ends while a test runs: in one of these two it is between one and 23 o'clock.
fn zone() -> &'static str {
    let unix = foregate::clock::now().unix.as_secs();
    if (1..23).contains(&(unix / 3_600 % 24)) { "UTC" } else { "Etc/GMT-6" }
}

fn quota(limit: u32, more: &str) -> String {
    let zone = zone();
    format!(
        "insecure: {{ anonymous: true }}\nquota: [{{ name: daily, key: 'request.headers[\"x-org\"]', limit: {limit}, per: Day, timeZone: {zone}{more} }}]\n"
    )
}

async fn start(policies: &str, state: &Path) -> Foregate {
    let state = state.to_str().unwrap();
    Foregate::start(policies, Options::default().args(&["--state-dir", state, "--state-interval", "100ms"]))
        .await
}

async fn ask(client: &mut Client, org: &str) -> (u16, String) {
    let reply = client.send_empty(client.request("GET", "/").header("x-org", org)).await;
    (reply.status, reply.header("ratelimit").split(";t=").next().unwrap_or_default().to_owned())
}

const WRITTEN: &str = "foregate_quota_state_writes_succeeded_total";

#[tokio::test]
async fn a_quota_is_used_up_and_goes_on_in_the_next_process() {
    let (upstream, state) = (Upstream::answering("ok").await, tempfile::tempdir().unwrap());
    let policies = guarded(upstream.address, &quota(3, ""));
    let mut gateway = start(&policies, state.path()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for left in ["\"daily\";r=2", "\"daily\";r=1"] {
        assert_eq!(ask(&mut client, "acme").await, (200, left.to_owned()));
    }
    drop(client);
    // In order: what was used is written at the end.
    gateway.terminate();
    assert!(gateway.exit().await.success());
    let gateway = start(&policies, state.path()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(ask(&mut client, "acme").await, (200, "\"daily\";r=0".to_owned()));
    assert_eq!(ask(&mut client, "globex").await, (200, "\"daily\";r=2".to_owned()));
    let reply = client.send_empty(client.request("GET", "/").header("x-org", "acme")).await;
    assert_eq!((reply.status, reply.reason().as_str()), (429, "QuotaExceeded"));
    let wait: u64 = reply.header("retry-after").parse().unwrap();
    assert!((3_600..=86_400).contains(&wait), "{wait}");
    let record = gateway.record(reply.decision()).await;
    assert_eq!(record["foregate.limits"][0]["kind"], "quota", "{record}");
    assert_eq!(upstream.received().len(), 4);
}

#[tokio::test]
async fn a_crash_loses_no_more_than_the_last_interval() {
    let (upstream, state) = (Upstream::answering("ok").await, tempfile::tempdir().unwrap());
    let policies = guarded(upstream.address, &quota(5, ""));
    let mut gateway = start(&policies, state.path()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let before = gateway.sample(WRITTEN).await.unwrap();
    assert_eq!(ask(&mut client, "acme").await.0, 200);
    assert_eq!(ask(&mut client, "acme").await.0, 200);
    // The second write that is seen to begin after both has both.
    gateway.wait_sample(WRITTEN, |writes| writes > before).await;
    let seen = gateway.sample(WRITTEN).await.unwrap();
    assert_eq!(ask(&mut client, "acme").await.0, 200);
    gateway.wait_sample(WRITTEN, |writes| writes > seen).await;
    gateway.signal("KILL");
    gateway.exit().await;
    let gateway = start(&policies, state.path()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(ask(&mut client, "acme").await, (200, "\"daily\";r=1".to_owned()));
}

#[tokio::test]
async fn a_damaged_state_is_told_of_and_set_aside() {
    let (upstream, state) = (Upstream::answering("ok").await, tempfile::tempdir().unwrap());
    fs::write(state.path().join("quotas.state"), "what is this?").unwrap();
    let gateway = start(&guarded(upstream.address, &quota(1, "")), state.path()).await;
    let event = gateway.event("quotas begin anew: their file is refused and set aside").await;
    let aside = event["file"].as_str().unwrap();
    assert_eq!(fs::read_to_string(aside).unwrap(), "what is this?");
    assert_eq!(gateway.sample("foregate_quota_state_set_aside_total").await, Some(1.0));
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!([ask(&mut client, "acme").await.0, ask(&mut client, "acme").await.0], [200, 429]);
}

#[tokio::test]
async fn a_cost_is_counted_on_the_body_and_what_a_quota_refuses_costs_the_rate_nothing() {
    let upstream = Upstream::answering("ok").await;
    let rate =
        "rateLimit: [{ name: rate, key: '\"all\"', limit: 100, per: 24h, cost: request.body.records }]\n";
    let policies = guarded(upstream.address, &format!("{}{rate}", quota(10, ", cost: request.body.records")));
    let gateway = Foregate::start(&policies, Options::default()).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let batch = |records: usize| {
        let records = vec!["{}"; records].join(",");
        format!("{{\"allOrNone\":false,\"records\":[{records}]}}")
    };
    for (records, status, rate, daily) in [
        (7, 200, "\"rate\";r=93", "\"daily\";r=3"),
        (4, 429, "", "\"daily\";r=3"),
        (3, 200, "\"rate\";r=90", "\"daily\";r=0"),
    ] {
        let request =
            client.request("POST", "/").header("x-org", "acme").header("content-type", "application/json");
        let reply = client.send(request.body(crate::support::upstream::full(batch(records))).unwrap()).await;
        assert_eq!(reply.status, status, "{}", reply.text());
        let told: Vec<&str> =
            reply.headers.get_all("ratelimit").iter().map(|it| it.to_str().unwrap()).collect();
        let all = [rate, daily].into_iter().filter(|it| !it.is_empty());
        assert!(all.clone().count() == told.len(), "{told:?}");
        assert!(all.zip(&told).all(|(wanted, is)| is.starts_with(wanted)), "{told:?}");
    }
    let bodies = upstream.received().iter().map(|request| request.body.len()).collect::<Vec<_>>();
    assert_eq!(bodies, [batch(7).len(), batch(3).len()]);
}

//! Updates of a feature store by a stream of a real Redis.

use serde_json::json;

use super::Scoring;
use super::stored::{Kept, lead, specs};
use crate::support::guarded::{bundle, model};
use crate::support::redis::Redis;
use crate::support::within;

const KEY: &str = "test:stream:features";

fn policies(kept: &Kept, redis: &Redis) -> String {
    let store = format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Store
metadata: {{ name: redis }}
spec: {{ redis: {{ addresses: ['{}'], timeout: 5s, prefix: test }} }}
---",
        redis.address
    );
    kept.model_with(&kept.path("key"), ", stream: { store: redis, name: features }")
        + &model("lead-score-logistic", &bundle("lead-score-logistic"))
        + &store
}

fn add(redis: &Redis, update: &str) -> String {
    redis.ask(&["XADD", KEY, "*", "update", update])
}

/// The score of a lead of this account.
async fn score(scoring: &mut Scoring, account: &str) -> String {
    let seen = scoring.pass("/stored", lead(&json!({ "AccountId": account }))).await;
    seen.header("x-lead-score").to_owned()
}

async fn until(scoring: &mut Scoring, account: &str, expected: &str) {
    within(account, async { while score(scoring, account).await != expected {} }).await;
}

fn series(kept: &Kept, name: &str) -> String {
    format!("foregate_feature_stream_{name}{{store=\"{}\"}}", kept.text("features.redb"))
}

#[tokio::test]
async fn rows_come_by_a_stream_and_what_is_no_update_is_told_counted_and_passed() {
    let (kept, mut redis) = (Kept::new(), Redis::start(&[]).await);
    // Added before anybody reads.
    add(&redis, r#"{"key":"001D","features":{"pricing_views":3}}"#);
    let models = policies(&kept, &redis);
    let specs = specs();
    let specs = specs.each_ref().map(|(name, spec)| (*name, spec.as_str()));
    let mut scoring = Scoring::with(&specs, &models).await;
    let plain = |views: serde_json::Value| lead(&json!({ "Pricing_Page_Views__c": views }));
    let known = scoring.pass("/plain", plain(json!(3))).await.header("x-lead-score").to_owned();
    let unknown = scoring.pass("/plain", plain(json!(null))).await.header("x-lead-score").to_owned();
    until(&mut scoring, "001D", &known).await;
    scoring.gateway.wait_sample(&series(&kept, "age_seconds"), |age| (0.0..60.0).contains(&age)).await;
    // Deleted by key; what is older than that does not bring it back.
    assert_eq!(score(&mut scoring, "001A").await, known);
    add(&redis, r#"{"key":"001A","delete":true}"#);
    until(&mut scoring, "001A", &unknown).await;
    add(&redis, r#"{"key":"001A","features":{"pricing_views":3},"at":"2020-01-01T00:00:00Z"}"#);
    // What is no update.
    add(&redis, r#"{"key":"001B","features":{"pricing_views":"hunter2"}}"#);
    add(&redis, r#"{"key":"001B","features":{"nothing":1}}"#);
    let _: String = redis.ask(&["XADD", KEY, "*", "update", "{}", "more", "1"]);
    add(&redis, &format!("{{\"key\":\"{}\"}}", "a".repeat(70_000)));
    add(&redis, r#"{"key":"001E","features":{"pricing_views":3}}"#);
    until(&mut scoring, "001E", &known).await;
    assert_eq!(score(&mut scoring, "001A").await, unknown);
    scoring.gateway.wait_sample(&series(&kept, "refused_total"), |count| (count - 4.0).abs() < 0.5).await;
    let told = scoring.gateway.event("feature entries refused").await;
    assert_eq!(told["stream"], "features");
    assert!(!scoring.gateway.events().text().contains("hunter2"));
    // Some are trimmed before they can be read: all of it happens at once.
    let script = "for i = 1, 3 do redis.call('XADD', KEYS[1], '*', 'update', ARGV[1]) end \
                  redis.call('XADD', KEYS[1], '*', 'update', ARGV[2]) return redis.call('XTRIM', KEYS[1], 'MAXLEN', 1)";
    let (trimmed, newest) = (
        r#"{"key":"001G","features":{"pricing_views":3}}"#,
        r#"{"key":"001F","features":{"pricing_views":3}}"#,
    );
    let _: u64 = redis.ask(&["EVAL", script, "1", KEY, trimmed, newest]);
    until(&mut scoring, "001F", &known).await;
    scoring.gateway.wait_sample(&series(&kept, "lost_total"), |count| (count - 3.0).abs() < 0.5).await;
    let told = scoring.gateway.event("feature entries lost").await;
    assert_eq!(told["entries"], 3);
    assert_eq!(score(&mut scoring, "001G").await, unknown);
    // The server fails, and comes back with nothing.
    redis.kill();
    scoring.gateway.event("feature stream not read").await;
    redis.restart().await;
    add(&redis, r#"{"key":"001H","features":{"pricing_views":3}}"#);
    until(&mut scoring, "001H", &known).await;
    scoring.gateway.event("feature stream made anew").await;
    // The next process goes on behind what was read.
    drop(scoring);
    let mut scoring = Scoring::with(&specs, &models).await;
    scoring.gateway.wait_sample(&series(&kept, "age_seconds"), |age| (0.0..60.0).contains(&age)).await;
    assert_eq!(scoring.gateway.sample(&series(&kept, "entries_total")).await, Some(0.0));
    assert_eq!(score(&mut scoring, "001H").await, known);
}

#[tokio::test]
async fn a_key_that_is_no_stream_is_told_and_harms_nothing_else() {
    let (kept, redis) = (Kept::new(), Redis::start(&[]).await);
    let _: String = redis.ask(&["SET", KEY, "1"]);
    let specs = specs();
    let specs = specs.each_ref().map(|(name, spec)| (*name, spec.as_str()));
    let mut scoring = Scoring::with(&specs, &policies(&kept, &redis)).await;
    let told = scoring.gateway.event("feature stream not read").await;
    assert!(told["error"].as_str().is_some_and(|error| !error.is_empty()), "{told}");
    let before = score(&mut scoring, "001D").await;
    kept.drop_in("1.csv", "key,pricing_views\n001D,3\n");
    within("the dropped row", async { while score(&mut scoring, "001D").await == before {} }).await;
    let known = score(&mut scoring, "001D").await;
    let _: u64 = redis.ask(&["DEL", KEY]);
    add(&redis, r#"{"key":"001E","features":{"pricing_views":3}}"#);
    until(&mut scoring, "001E", &known).await;
}

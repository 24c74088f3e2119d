//! A feature store that others write and seal anew, and publications that are refused.

use serde_json::json;

use super::Scoring;
use super::stored::{Kept, lead, specs};
use crate::support::command::foregate;
use crate::support::guarded::{bundle, model, routes};
use crate::support::within;

async fn score(scoring: &mut Scoring, account: &str) -> String {
    let seen = scoring.pass("/stored", lead(&json!({ "AccountId": account }))).await;
    seen.header("x-lead-score").to_owned()
}

/// Drops a row of an account that is not known, and waits until it is scored as 001A is.
async fn take_up(kept: &Kept, scoring: &mut Scoring, account: &str) {
    let known = score(scoring, "001A").await;
    assert_ne!(score(scoring, account).await, known);
    kept.drop_in(&format!("{account}.csv"), &format!("key,pricing_views\n{account},3\n"));
    within(account, async { while score(scoring, account).await != known {} }).await;
}

#[tokio::test]
async fn the_key_of_a_store_changes_while_requests_look_up_in_it() {
    let kept = Kept::new();
    let logistic = model("lead-score-logistic", &bundle("lead-score-logistic"));
    foregate(&["features", "key", &kept.text("next")]).is(0, &[], &[]);
    let both = format!(", nextKey: {{ file: {} }}", kept.text("next"));
    let specs = specs();
    let specs = specs.each_ref().map(|(name, spec)| (*name, spec.as_str()));
    let models = kept.model_with(&kept.path("key"), &both) + &logistic;
    let mut scoring = Scoring::with(&specs, &models).await;
    take_up(&kept, &mut scoring, "001D").await;
    let next = format!("file:{}", kept.text("next"));
    within("the new key", async {
        // Refused while the gateway itself is writing.
        while kept.features(&["rekey", "--new-key", &next], &[]).code != 0 {}
    })
    .await;
    kept.features(&["show"], &[]).is(1, &[], &["was made with another key"]);
    take_up(&kept, &mut scoring, "001E").await;
    // Now the new one takes the place of the old one.
    let alone = kept.model_with(&kept.path("next"), "") + &logistic;
    scoring.gateway.publish(&(routes(scoring.upstream.address, &specs) + &alone)).await;
    take_up(&kept, &mut scoring, "001F").await;
    // The other way: the file of the key is replaced, a while after the store was sealed with what will be in it.
    foregate(&["features", "key", &kept.text("third")]).is(0, &[], &[]);
    std::fs::rename(kept.path("next"), kept.path("key")).unwrap();
    let third = format!("file:{}", kept.text("third"));
    let named = kept.model_with(&kept.path("key"), "") + &logistic;
    scoring.gateway.publish(&(routes(scoring.upstream.address, &specs) + &named)).await;
    within("the third key", async { while kept.features(&["rekey", "--new-key", &third], &[]).code != 0 {} })
        .await;
    let told = scoring.gateway.event("feature store not kept").await;
    assert!(told["error"].as_str().unwrap().contains("was made with another key"), "{told}");
    assert_eq!(score(&mut scoring, "001E").await, score(&mut scoring, "001A").await);
    std::fs::rename(kept.path("third"), kept.path("key")).unwrap();
    scoring.gateway.signal("HUP");
    take_up(&kept, &mut scoring, "001G").await;
}

#[tokio::test]
async fn a_gateway_starts_while_another_process_writes_the_store() {
    let kept = Kept::new();
    let models = kept.model_with(&kept.path("key"), "")
        + &model("lead-score-logistic", &bundle("lead-score-logistic"));
    let specs = specs();
    let specs = specs.each_ref().map(|(name, spec)| (*name, spec.as_str()));
    // What an import holds from its first row to its last.
    let held = std::fs::File::open(kept.path("features.redb.lock")).unwrap();
    held.lock().unwrap();
    let mut scoring = Scoring::with(&specs, &models).await;
    let known = score(&mut scoring, "001A").await;
    assert_ne!(known, score(&mut scoring, "001D").await, "the rows of before serve");
    kept.drop_in("1.csv", "key,pricing_views\n001D,3\n");
    within("the file to be taken", async {
        while !kept.path("inbox/taken/1.csv").is_file() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_ne!(known, score(&mut scoring, "001D").await);
    drop(held);
    within("the row", async { while score(&mut scoring, "001D").await != known {} }).await;
    assert!(!scoring.gateway.events().text().contains("feature store not kept"));
}

#[tokio::test]
async fn a_publication_that_is_refused_leaves_no_trace_of_its_models() {
    let kept = Kept::new();
    let logistic = model("lead-score-logistic", &bundle("lead-score-logistic"));
    let specs = specs();
    let plain = [(specs[1].0, specs[1].1.as_str())];
    let scoring = Scoring::with(&plain, &logistic).await;
    kept.drop_in("1.csv", "key,pricing_views\n001D,3\n");
    let tried = format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: {{ name: tried }}
spec:
  versions:
  - {{ name: v1, bundle: {{ path: {} }} }}
  - {{ name: v2, bundle: {{ path: {} }} }}
  rollout: {{ production: v1, canary: {{ version: v2, percent: 10 }} }}
---",
        bundle("lead-score").display(),
        bundle("lead-score-logistic").display()
    );
    let models = logistic + &kept.model_with(&kept.path("key"), "") + &tried;
    let good = routes(scoring.upstream.address, &plain) + &models;
    let refused = "foregate_config_reloads_total{outcome=\"failure\"}";
    scoring.gateway.write("policies.yaml", good.replace("percent: 10", "percent: 100"));
    scoring.gateway.wait_sample(refused, |count| count > 0.5).await;
    // Every model loads, and a route names an upstream that is not there.
    scoring.gateway.write("policies.yaml", good.replace("name: crm }]", "name: crn }]"));
    scoring.gateway.wait_sample(refused, |count| count > 1.5).await;
    let of_store = format!("foregate_feature_store_rows{{store=\"{}\"}}", kept.text("features.redb"));
    let of_rollout = "foregate_model_canary_percent{model=\"tried\"}";
    assert_eq!(scoring.gateway.sample(&of_store).await, None);
    assert_eq!(scoring.gateway.sample(of_rollout).await, None);
    assert!(kept.path("inbox/1.csv").is_file());
    // What was loaded for it is measured and kept once it is in force.
    scoring.gateway.publish(&good).await;
    scoring.gateway.wait_sample(of_rollout, |percent| (percent - 10.0).abs() < 0.01).await;
    scoring.gateway.wait_sample(&of_store, |rows| (rows - 4.0).abs() < 0.5).await;
}

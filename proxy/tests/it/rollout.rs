//! Canaries and shadows over the wire, and what becomes of those that misbehave.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use foregate::decision_log::keys::SigningKey;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::client::{Client, Reply};
use crate::support::guarded::{bundle, copy_bundle, golden, guarded, sha256};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, full};
use crate::support::within;

const SCORED: &str = "insecure: { anonymous: true }
enrich: [{ name: lead, model: lead-score, deadline: 900ms, set: { header: X-Lead-Score, body: /Lead_Score__c } }]\n";

/// A model of these versions, with what its rollout says.
fn model(versions: &[(&str, &Path)], rollout: &str) -> String {
    let versions = versions
        .iter()
        .map(|(name, bundle)| format!("  - {{ name: {name}, bundle: {{ path: {} }} }}\n", bundle.display()));
    let versions: String = versions.collect();
    format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: {{ name: lead-score }}
spec:
  versions:
{versions}  rollout: {{ {rollout} }}
---"
    )
}

/// A gateway that scores leads with these versions.
struct Stand {
    upstream: Upstream,
    gateway: Foregate,
}

impl Stand {
    async fn start(models: &str) -> Self {
        Self::with(models, Options::default()).await
    }

    async fn with(models: &str, options: Options) -> Self {
        let upstream = Upstream::answering("ok").await;
        let policies = guarded(upstream.address, SCORED) + models;
        let gateway = Foregate::start(&policies, options).await;
        Self { upstream, gateway }
    }

    async fn publish(&self, models: &str) {
        self.gateway.publish(&(guarded(self.upstream.address, SCORED) + models)).await;
    }

    async fn client(&self) -> Client {
        Client::http1(self.gateway.address("edge/http")).await
    }

    /// What the record of a reply says of its score.
    async fn fact(&self, reply: &Reply) -> Value {
        self.gateway.record(reply.decision()).await["foregate.scores"][0].clone()
    }

    /// Posts leads from several connections at once until this is there, and tells how many; every one must pass.
    async fn load<T>(
        &self,
        lead: impl Fn(usize) -> Value,
        mut there: impl AsyncFnMut(usize) -> Option<T>,
    ) -> (T, usize) {
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(self.client().await);
        }
        let mut sent = 0;
        loop {
            let round =
                clients.iter_mut().enumerate().map(|(place, client)| post(client, lead(sent + place)));
            for reply in join_all(round).await {
                assert_eq!(reply.status, 200, "after {sent}: {}", reply.text());
            }
            sent += clients.len();
            if let Some(found) = there(sent).await {
                return (found, sent);
            }
            assert!(sent < 20_000, "it never came");
        }
    }

    /// The same until the event of this name is told.
    async fn load_until(&self, event: &str, lead: impl Fn(usize) -> Value) -> (Value, usize) {
        let told = || self.gateway.events().all().into_iter().find(|told| told["event.name"] == event);
        self.load(lead, async |_| told()).await
    }

    async fn page(&self) -> Value {
        let (status, page) = self.gateway.admin_page("/models").await;
        assert_eq!(status, 200);
        let page: Value = serde_json::from_str(&page).unwrap();
        page[0].clone()
    }
}

async fn post(client: &mut Client, lead: Value) -> Reply {
    let request = client.request("POST", "/leads").header("content-type", "application/json");
    client.send(request.body(full(lead.to_string())).unwrap()).await
}

fn lead(number: usize) -> Value {
    json!({ "Id": format!("00Q5g00000a{number:04}"), "Website_Visits__c": number % 20, "Country": "US" })
}

/// The versions of a page, with the part each plays.
fn roles(page: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    page["versions"].as_array().unwrap().iter().map(|it| (text(&it["version"]), text(&it["role"]))).collect()
}

#[tokio::test]
async fn a_canary_has_its_share_of_the_records_and_each_record_its_version() {
    let (trees, logistic) = (bundle("lead-score"), bundle("lead-score-logistic"));
    let versions = [("v1", trees.as_path()), ("v2", logistic.as_path())];
    let stand = Stand::start(&model(&versions, "production: v1, canary: { version: v2, percent: 20 }")).await;
    let mut client = stand.client().await;
    let mut by_version: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for round in 0..2 {
        for number in 0..150 {
            let mut lead = lead(number);
            lead["LastName"] = format!("in round {round}").into();
            let reply = post(&mut client, lead).await;
            assert_eq!(reply.status, 200);
            let fact = stand.fact(&reply).await;
            assert_eq!((&fact["model"], &fact["outcome"]), (&json!("lead-score"), &json!("scored")));
            by_version.entry(fact["version"].as_str().unwrap().to_owned()).or_default().insert(number);
        }
    }
    let (first, second) = (&by_version["v1"], &by_version["v2"]);
    assert!(first.is_disjoint(second) && first.len() + second.len() == 150, "a record met both versions");
    assert!((15..48).contains(&second.len()), "{} of 150 are no fifth", second.len());
    // Each version gives its own scores: those of its golden vectors.
    let mut seen = BTreeSet::new();
    for (number, (record, of_trees)) in golden(&trees).into_iter().enumerate() {
        let of_logistic = golden(&logistic)[number].1;
        let reply = post(&mut client, record).await;
        let fact = stand.fact(&reply).await;
        let score = fact["scores"][0].as_f64().unwrap();
        let expected = if fact["version"] == "v1" { of_trees } else { of_logistic };
        assert!((score - expected).abs() < 1e-4, "{number}: {fact} for {expected}");
        seen.insert(fact["version"].as_str().unwrap().to_owned());
    }
    assert!(seen.contains("v1"));
    let series = "foregate_model_canary_percent{model=\"lead-score\"}";
    assert_eq!(stand.gateway.sample(series).await, Some(20.0));
}

#[tokio::test]
async fn a_canary_that_fails_is_taken_off_and_no_request_fails() {
    let folder = tempfile::tempdir().unwrap();
    let country = "pointer: /Country, type: string, default: '',";
    copy_bundle(
        &bundle("lead-score-logistic"),
        folder.path(),
        |manifest| manifest.replace(country, "pointer: /Country, type: string,"),
        |record| record["Country"].is_string(),
    );
    let trees = bundle("lead-score");
    let versions = [("v1", trees.as_path()), ("v2", folder.path())];
    let guardrails = "guardrails: { errorShare: 0.2, minRecords: 50 }";
    let canary = format!("production: v1, canary: {{ version: v2, percent: 50 }}, {guardrails}");
    let stand = Stand::start(&model(&versions, &canary)).await;
    let without = |number: usize| {
        let mut lead = lead(number);
        lead.as_object_mut().unwrap().remove("Country");
        lead
    };
    let (told, sent) = stand.load_until("model version taken off", without).await;
    assert_eq!((&told["model"], &told["version"]), (&json!("lead-score"), &json!("v2")));
    assert_eq!((&told["role"], &told["guardrail"]), (&json!("canary"), &json!("errorShare")));
    assert!(told["measured"].as_f64().unwrap() > 0.99 && told["bound"] == 0.2, "{told}");
    assert!((50..400).contains(&sent), "{sent}");
    let of = |name: &str| format!("{name}{{model=\"lead-score\",version=\"v2\",role=\"canary\"");
    let rollbacks = format!("{},guardrail=\"errorShare\"}}", of("foregate_model_rollbacks_total"));
    assert_eq!(stand.gateway.sample(&rollbacks).await, Some(1.0));
    let percent = "foregate_model_canary_percent{model=\"lead-score\"}";
    assert_eq!(stand.gateway.sample(percent).await, Some(0.0));
    // From now on it is asked nothing, whatever it could have scored.
    let errors = format!("{}}}", of("foregate_model_trial_errors_total"));
    let before = stand.gateway.sample(&errors).await;
    let mut client = stand.client().await;
    for number in 0..50 {
        let reply = post(&mut client, lead(number)).await;
        assert_eq!(stand.fact(&reply).await["version"], "v1");
    }
    assert_eq!(stand.gateway.sample(&errors).await, before);
    let page = stand.page().await;
    let trial = &page["versions"][1]["trial"];
    assert_eq!((&trial["on"], &trial["broke"]["guardrail"]), (&json!(false), &json!("errorShare")));
    // A publication that changes nothing of the rollout does not try it again; one that changes it does.
    stand.publish(&(model(&versions, &canary) + "\n# another comment\n")).await;
    assert_eq!(stand.gateway.sample(percent).await, Some(0.0));
    stand.publish(&model(&versions, &canary.replace("percent: 50", "percent: 40"))).await;
    stand.gateway.wait_sample(percent, |value| (value - 40.0).abs() < 0.01).await;
}

#[tokio::test]
async fn a_canary_that_was_taken_off_stays_off_in_the_next_process() {
    let (trees, logistic) = (bundle("lead-score"), bundle("lead-score-logistic"));
    let versions = [("v1", trees.as_path()), ("v2", logistic.as_path())];
    let guardrails = "guardrails: { p99: 1us, minRecords: 40, holdOff: 1h }";
    let canary = format!("production: v1, canary: {{ version: v2, percent: 50 }}, {guardrails}");
    let state = tempfile::tempdir().unwrap();
    let options = Options::default().args(&["--state-dir", state.path().to_str().unwrap()]);
    let models = model(&versions, &canary);
    let mut stand = Stand::with(&models, options.clone()).await;
    stand.load_until("model version taken off", lead).await;
    let written = || std::fs::read_to_string(state.path().join("trials.json")).unwrap_or_default();
    within("the state", async {
        while !written().contains("\"guardrail\":\"p99\"") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // As a crash does.
    stand.gateway.signal("KILL");
    stand.gateway.exit().await;
    let stand = Stand::with(&models, options.clone()).await;
    let told = stand.gateway.event("model version stays off").await;
    assert_eq!((&told["version"], &told["role"]), (&json!("v2"), &json!("canary")));
    let percent = "foregate_model_canary_percent{model=\"lead-score\"}";
    stand.gateway.wait_sample(percent, |percent| percent < 0.01).await;
    let page = stand.page().await;
    let trial = &page["versions"][1]["trial"];
    assert_eq!((&trial["on"], &trial["broke"]["guardrail"]), (&json!(false), &json!("p99")));
    assert!((1.0..=3_600.0).contains(&trial["seconds"].as_f64().unwrap()), "{trial}");
    // A rollout that has changed is tried, and what was known of the one before is forgotten.
    stand.publish(&model(&versions, &canary.replace("p99: 1us", "p99: 900ms"))).await;
    stand.gateway.wait_sample(percent, |percent| (percent - 50.0).abs() < 0.01).await;
    drop(stand);
    let stand = Stand::with(&models, options).await;
    stand.gateway.wait_sample(percent, |percent| (percent - 50.0).abs() < 0.01).await;
}

#[tokio::test]
async fn a_canary_that_is_slow_or_says_something_else_is_taken_off_and_no_request_fails() {
    let (trees, logistic) = (bundle("lead-score"), bundle("lead-score-logistic"));
    let versions = [("v1", trees.as_path()), ("v2", logistic.as_path())];
    for (bounds, guardrail) in [
        ("p99: 1us, minRecords: 40", "p99"),
        ("disagreement: 0.05, tolerance: 0.001, minRecords: 40", "disagreement"),
    ] {
        let rollout = format!(
            "production: v1, canary: {{ version: v2, percent: 50 }}, guardrails: {{ {bounds}, holdOff: 30m }}"
        );
        let stand = Stand::start(&model(&versions, &rollout)).await;
        let (told, _) = stand.load_until("model version taken off", lead).await;
        assert_eq!((&told["guardrail"], &told["hold_off"]), (&json!(guardrail), &json!("1800s")));
        let mut client = stand.client().await;
        for number in 0..20 {
            let reply = post(&mut client, lead(number)).await;
            assert_eq!((reply.status, &stand.fact(&reply).await["version"]), (200, &json!("v1")));
        }
        let page = stand.page().await;
        let left = page["versions"][1]["trial"]["seconds"].as_f64().unwrap();
        assert!((1.0..=1_800.0).contains(&left), "{left}");
    }
}

/// Half of the leads have one visit at most, a quarter up to four, a quarter more.
const REFERENCE: &str = r#"{"features":{"website_visits":{"edges":[1.5,4],"counts":[500,250,250,0]},
    "country":{"counts":[400,300,300,0]}},"score":{"edges":[2],"counts":[1000,0,0]}}"#;

#[tokio::test]
async fn a_canary_whose_population_moves_is_taken_off_and_no_request_fails() {
    let (trees, folder) = (bundle("lead-score"), tempfile::tempdir().unwrap());
    let shipped = sha256(&std::fs::read(trees.join("reference.json")).unwrap());
    let renewed = |manifest: String| manifest.replace(&shipped, &sha256(REFERENCE.as_bytes()));
    copy_bundle(&trees, folder.path(), renewed, |_| true);
    std::fs::write(folder.path().join("reference.json"), REFERENCE).unwrap();
    let versions = [("v1", trees.as_path()), ("v2", folder.path())];
    let guardrails = "guardrails: { drift: 0.25, minRecords: 400 }";
    let canary = format!("production: v1, canary: {{ version: v2, percent: 99 }}, {guardrails}");
    let stand = Stand::start(&model(&versions, &canary)).await;
    let countries = ["US", "US", "US", "US", "GB", "GB", "GB", "FR", "DE", ""];
    let lead = |number: usize, visits: usize| json!({ "Id": format!("00Q5g00000a{number:04}"), "Website_Visits__c": visits, "Country": countries[number % 10] });
    // As in training: two windows and more, and it stays.
    let steady = |number: usize| lead(number, [0, 1, 3, 50][number / 10 % 4]);
    let moved = |feature: &str| {
        format!("foregate_model_drift{{model=\"lead-score\",role=\"canary\",feature=\"{feature}\"}}")
    };
    let (visits, records) = (moved("website_visits"), "foregate_model_trial_records_total");
    let records = format!("{records}{{model=\"lead-score\",version=\"v2\",role=\"canary\"}}");
    let windows = async |sent: usize| {
        if !sent.is_multiple_of(100) || stand.gateway.sample(&records).await < Some(1_000.0) {
            return None;
        }
        stand.gateway.sample(&visits).await.filter(|drift| drift.is_finite())
    };
    let (drift, _) = stand.load(steady, windows).await;
    assert!(drift < 0.1, "{drift}");
    let percent = "foregate_model_canary_percent{model=\"lead-score\"}";
    assert_eq!(stand.gateway.sample(percent).await, Some(99.0));
    let off = "model version taken off";
    assert!(stand.gateway.events().all().iter().all(|told| told["event.name"] != off));
    // Then nobody comes but those with many visits.
    let (told, sent) = stand.load_until(off, |number| lead(number, 50)).await;
    assert_eq!((&told["version"], &told["role"]), (&json!("v2"), &json!("canary")));
    assert_eq!((&told["guardrail"], &told["feature"]), (&json!("drift"), &json!("website_visits")));
    assert!(told["measured"].as_f64().unwrap() > 0.25 && told["bound"] == 0.25, "{told}");
    assert!((100..2_000).contains(&sent), "{sent}");
    assert_eq!(stand.gateway.sample(percent).await, Some(0.0));
    let mut client = stand.client().await;
    for number in 0..20 {
        let reply = post(&mut client, lead(number, 50)).await;
        assert_eq!((reply.status, &stand.fact(&reply).await["version"]), (200, &json!("v1")));
    }
}

#[tokio::test]
async fn a_shadow_is_compared_and_changes_nothing() {
    let (trees, logistic) = (bundle("lead-score"), bundle("lead-score-logistic"));
    let versions = [
        ("v1", trees.as_path()),
        ("v2", trees.as_path()),
        ("v3", logistic.as_path()),
        ("v4", logistic.as_path()),
    ];
    let rollout = "production: v1, shadow: { version: v3 }, guardrails: { tolerance: 0.001 }";
    let stand = Stand::start(&model(&versions, rollout)).await;
    let mut client = stand.client().await;
    let vectors = golden(&trees);
    for (record, score) in &vectors {
        let reply = post(&mut client, record.clone()).await;
        assert_eq!(reply.status, 200);
        let told: f64 = stand.upstream.last().header("x-lead-score").parse().unwrap();
        assert!((told - score).abs() < 1e-4, "{told} for {score}");
        assert_eq!(stand.fact(&reply).await["version"], "v1");
    }
    let of = |name: &str| format!("{name}{{model=\"lead-score\",version=\"v3\",role=\"shadow\"}}");
    #[expect(clippy::cast_precision_loss, reason = "a few dozen vectors")]
    let count = vectors.len() as f64;
    let compared = |value: f64| (value - count).abs() < 0.5;
    stand.gateway.wait_sample(&of("foregate_model_comparisons_total"), compared).await;
    let disagreed = stand.gateway.sample(&of("foregate_model_disagreements_total")).await.unwrap();
    assert!(disagreed > count / 2.0, "{disagreed} of {count}");
    let text = |pairs: [(&str, &str); 4]| pairs.map(|(a, b)| (a.to_owned(), b.to_owned()));
    let expected = [("v1", "production"), ("v2", "standby"), ("v3", "shadow"), ("v4", "standby")];
    assert_eq!(roles(&stand.page().await), text(expected));
}

#[tokio::test]
async fn what_does_not_load_or_fit_is_refused_and_the_last_good_rollout_goes_on() {
    let (trees, logistic) = (bundle("lead-score"), bundle("lead-score-logistic"));
    let versions = [("v1", trees.as_path()), ("v2", logistic.as_path())];
    let good = model(&versions, "production: v1, canary: { version: v2, percent: 50 }");
    let stand = Stand::start(&good).await;
    let folder = tempfile::tempdir().unwrap();
    copy_bundle(&trees, folder.path(), |manifest| manifest, |_| true);
    let mut onnx = std::fs::read(folder.path().join("model.onnx")).unwrap();
    let middle = onnx.len() / 2;
    onnx[middle] ^= 1;
    std::fs::write(folder.path().join("model.onnx"), onnx).unwrap();
    let churn = bundle("churn-risk");
    let failures = "foregate_config_reloads_total{outcome=\"failure\"}";
    for (count, (bundle, part)) in
        [(folder.path(), "sha256"), (churn.as_path(), "records of Contact")].into_iter().enumerate()
    {
        let versions = [("v1", trees.as_path()), ("v2", bundle)];
        let bad = model(&versions, "production: v1, canary: { version: v2, percent: 50 }");
        stand.gateway.write("policies.yaml", guarded(stand.upstream.address, SCORED) + &bad);
        #[expect(clippy::cast_precision_loss, reason = "two")]
        stand.gateway.wait_sample(failures, |value| value > count as f64 + 0.5).await;
        let (_, page) = stand.gateway.admin_page("/config").await;
        assert!(page.contains(part), "{page}");
        let mut client = stand.client().await;
        let mut versions = BTreeSet::new();
        for number in 0..40 {
            let reply = post(&mut client, lead(number)).await;
            assert_eq!(reply.status, 200);
            versions.insert(stand.fact(&reply).await["version"].as_str().unwrap().to_owned());
        }
        assert_eq!(versions.into_iter().collect::<Vec<_>>(), ["v1", "v2"]);
    }
}

#[tokio::test]
async fn a_bundle_that_must_be_signed_is_used_as_it_was_signed_and_not_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let (signed, logistic) = (folder.path().join("signed"), bundle("lead-score-logistic"));
    copy_bundle(&bundle("lead-score"), &signed, |manifest| manifest, |_| true);
    let (key, _, public) = SigningKey::generate().unwrap();
    std::fs::write(folder.path().join("key.pem"), public).unwrap();
    let sign = |by: &SigningKey| {
        let manifest = std::fs::read(signed.join("model.yaml")).unwrap();
        std::fs::write(signed.join("bundle.sig"), by.sign(&manifest)).unwrap();
    };
    sign(&key);
    let required = format!("signedBy: [{{ file: {} }}]", folder.path().join("key.pem").display());
    let with = |versions: &[(&str, &Path)], rollout: &str| {
        model(versions, rollout).replace("\n---", &format!("\n  {required}\n---"))
    };
    let one = with(&[("v1", &signed)], "production: v1");
    let stand = Stand::start(&one).await;
    let scored = async || {
        let reply = post(&mut stand.client().await, lead(1)).await;
        assert_eq!((reply.status, &stand.fact(&reply).await["version"]), (200, &json!("v1")));
    };
    scored().await;
    // One that nobody signed, one that a stranger signed, and one that was changed afterwards.
    let refused = async |count: f64, models: &str, part: &str| {
        stand.gateway.write("policies.yaml", guarded(stand.upstream.address, SCORED) + models);
        let failures = "foregate_config_reloads_total{outcome=\"failure\"}";
        stand.gateway.wait_sample(failures, |value| value > count - 0.5).await;
        let (_, page) = stand.gateway.admin_page("/config").await;
        assert!(page.contains(part), "{page}");
        scored().await;
    };
    let two = with(&[("v1", &signed), ("v2", &logistic)], "production: v1");
    refused(1.0, &two, "bundle.sig").await;
    let (stranger, ..) = SigningKey::generate().unwrap();
    stand.publish(&one).await;
    sign(&stranger);
    refused(2.0, &(one.clone() + "\n# again\n"), "none of the keys named has signed").await;
    sign(&key);
    stand.publish(&one).await;
    let mut golden = std::fs::read(signed.join("golden.json")).unwrap();
    golden[20] ^= 1;
    std::fs::write(signed.join("golden.json"), golden).unwrap();
    refused(3.0, &(one.clone() + "\n# and again\n"), "sha256").await;
}

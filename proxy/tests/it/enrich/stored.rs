//! A lead scored with what is looked up by key, while updates drop in.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Scoring;
use crate::support::command::foregate;
use crate::support::guarded::{bundle, copy_bundle, model, routes};
use crate::support::policies::GATEWAY;
use crate::support::within;

const PRICING: &str = "pointer: /Pricing_Page_Views__c, type: number,";
const STORED: &str = "pointer: /AccountId, type: number, store: {column: pricing_views, maxAge: 24h},";

/// A folder with a store of three accounts, its key, and a bundle that looks one number up in it.
pub(super) struct Kept {
    folder: TempDir,
}

impl Kept {
    pub(super) fn new() -> Self {
        let kept = Self { folder: tempfile::tempdir().unwrap() };
        let edit = |manifest: String| {
            assert!(manifest.contains(PRICING));
            manifest.replace(PRICING, STORED)
        };
        let fits = |record: &Value| record["Pricing_Page_Views__c"].is_null();
        copy_bundle(&bundle("lead-score-logistic"), &kept.path("bundle"), edit, fits);
        std::fs::create_dir(kept.path("inbox")).unwrap();
        foregate(&["features", "key", &kept.text("key")]).is(0, &[], &[]);
        std::fs::write(
            kept.path("rows.csv"),
            "key,at,pricing_views,other\n001A,,3,1\n001B,2020-01-01T00:00:00Z,3,1\n001C,,,1\n",
        )
        .unwrap();
        let said = ["rows.csv: 3 rows written, 0 older than known", "features.redb holds 3 rows"];
        kept.features(&["import"], &[&kept.text("rows.csv")]).is(0, &said, &[]);
        kept
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(super) fn features(&self, before: &[&str], after: &[&str]) -> crate::support::command::Ended {
        let (store, key) = (self.text("features.redb"), format!("file:{}", self.text("key")));
        foregate(&[&["features"], before, &["--store", &store, "--key", &key], after].concat())
    }

    /// Drops a file as its writer should: whole, by renaming.
    pub(super) fn drop_in(&self, name: &str, text: &str) {
        std::fs::write(self.path("inbox").join("part"), text).unwrap();
        std::fs::rename(self.path("inbox").join("part"), self.path("inbox").join(name)).unwrap();
    }

    fn model(&self, key: &Path) -> String {
        self.model_with(key, "")
    }

    /// The same with more members of its store.
    pub(super) fn model_with(&self, key: &Path, more: &str) -> String {
        let (store, inbox, key) = (self.text("features.redb"), self.text("inbox"), key.display());
        let said = format!("featureStore: {{ path: {store}, key: {{ file: {key} }}, inbox: {inbox}{more} }}");
        model("stored", &self.path("bundle")).replace(" } }\n", &format!(" }}, {said} }}\n"))
    }
}

pub(super) fn specs() -> [(&'static str, String); 2] {
    [("stored", "stored"), ("plain", "lead-score-logistic")].map(|(target, model)| {
        let set = "set: { header: x-lead-score }";
        let enrich = format!("{{ name: it, model: {model}, deadline: 900ms, {set} }}");
        (target, format!("insecure: {{ anonymous: true }}\nenrich: [{enrich}]\n"))
    })
}

/// The same lead, with more members.
pub(super) fn lead(more: &Value) -> String {
    let mut lead = json!({ "Title": "VP Operations", "Country": "US", "Website_Visits__c": 14 });
    lead.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    lead.to_string()
}

#[tokio::test]
async fn a_lead_is_scored_with_what_is_known_of_its_account() {
    let kept = Kept::new();
    let models =
        kept.model(&kept.path("key")) + &model("lead-score-logistic", &bundle("lead-score-logistic"));
    let specs = specs();
    let mut scoring =
        Scoring::with(&specs.each_ref().map(|(name, spec)| (*name, spec.as_str())), &models).await;
    // What the same model says where the record itself has the number, or nothing.
    let known = scoring
        .pass("/plain", lead(&json!({ "Pricing_Page_Views__c": 3 })))
        .await
        .header("x-lead-score")
        .to_owned();
    let unknown = scoring.pass("/plain", lead(&json!({}))).await.header("x-lead-score").to_owned();
    assert_ne!(known, unknown);
    for (account, expected) in [
        (json!("001A"), &known),
        (json!("001B"), &unknown),
        (json!("001C"), &unknown),
        (json!("001D"), &unknown),
        (json!(null), &unknown),
    ] {
        let seen =
            scoring.pass("/stored", lead(&json!({ "AccountId": account, "Pricing_Page_Views__c": 9 }))).await;
        assert_eq!(seen.header("x-lead-score"), expected, "{account}");
    }
    let labels = format!("{{store=\"{}\"}}", kept.text("features.redb"));
    for (name, count) in [("found", 2.0), ("stale", 1.0), ("absent", 2.0)] {
        let series = format!("foregate_feature_lookups_{name}_total{labels}");
        scoring.gateway.wait_sample(&series, |value| (value - count).abs() < 0.5).await;
    }
    let rows = format!("foregate_feature_store_rows{labels}");
    scoring.gateway.wait_sample(&rows, |rows| (rows - 3.0).abs() < 0.5).await;
    let age = format!("foregate_feature_store_age_seconds{labels}");
    scoring.gateway.wait_sample(&age, |age| (0.0..3_600.0).contains(&age)).await;
    updates(&kept, &mut scoring, &known).await;
}

/// Files and commands change what is known while requests run.
async fn updates(kept: &Kept, scoring: &mut Scoring, known: &str) {
    let rows = format!("foregate_feature_store_rows{{store=\"{}\"}}", kept.text("features.redb"));
    // A file is taken up while requests run, and none of them fails.
    kept.drop_in("1.ndjson", "{\"key\":\"001D\",\"features\":{\"pricing_views\":3}}\n");
    let body = lead(&json!({ "AccountId": "001D" }));
    within("the new row", async {
        while scoring.pass("/stored", body.clone()).await.header("x-lead-score") != known {}
    })
    .await;
    kept.drop_in("2.csv", "key,pricing_views\n001E,many\n");
    let event = scoring.gateway.event("features rejected").await;
    assert_eq!(
        (&event["file"], &event["error"]),
        (&json!("2.csv"), &json!("line 2: `pricing_views` is not a number"))
    );
    assert!(!kept.path("inbox/taken/1.ndjson").exists() && kept.path("inbox/rejected/2.csv").is_file());
    let reason = std::fs::read_to_string(kept.path("inbox/rejected/2.csv.reason")).unwrap();
    assert_eq!(reason, "line 2: `pricing_views` is not a number\n");
    // What a command writes is seen as well.
    std::fs::write(kept.path("more.csv"), "key,pricing_views\n001F,3\n").unwrap();
    within("the import", async {
        // Refused while the gateway itself is writing.
        while kept.features(&["import"], &[&kept.text("more.csv")]).code != 0 {}
    })
    .await;
    let body = lead(&json!({ "AccountId": "001F" }));
    within("the imported row", async {
        while scoring.pass("/stored", body.clone()).await.header("x-lead-score") != known {}
    })
    .await;
    scoring.gateway.wait_sample(&rows, |rows| (rows - 5.0).abs() < 0.5).await;
    let shown = ["key: 001D", "features: {\"pricing_views\":3.0}"];
    kept.features(&["show", "--row", "001D"], &[]).is(0, &shown, &[]);
    kept.features(&["show", "--format", "json"], &[]).is(
        0,
        &["\"columns\":[\"pricing_views\",\"other\"],\"rows\":5"],
        &[],
    );
}

#[test]
fn a_store_that_cannot_be_used_is_refused_where_it_is_named() {
    let kept = Kept::new();
    let check = |models: &str, code: i32, told: &[&str]| {
        let policies = tempfile::tempdir().unwrap();
        let specs = specs();
        let (name, spec) = &specs[0];
        let text = [routes("127.0.0.1:9", &[(name, spec)]), models.to_owned()].concat();
        assert!(text.starts_with(GATEWAY));
        std::fs::write(policies.path().join("policies.yaml"), text).unwrap();
        foregate(&["check", &policies.path().display().to_string()]).is(code, &[], told);
    };
    check(&kept.model(&kept.path("key")), 0, &[]);
    foregate(&["features", "key", &kept.text("other")]).is(0, &[], &[]);
    check(
        &kept.model(&kept.path("other")),
        3,
        &["FG0686", "features.redb was made with another key, or its head was changed from outside"],
    );
    check(&kept.model(&kept.path("rows.csv")), 3, &["FG0310", "the key must be 32 bytes"]);
    check(
        &model("stored", &kept.path("bundle")),
        3,
        &["FG0686", "the bundle looks features up, and no store is named"],
    );
    let other = kept.model(&kept.path("key")).replace("features.redb", "rows.csv");
    check(&other, 3, &["FG0686", "rows.csv cannot be read"]);
    // A store without the column that the bundle looks up.
    std::fs::remove_file(kept.path("features.redb")).unwrap();
    std::fs::write(kept.path("rows.csv"), "key,other\n001A,3\n").unwrap();
    kept.features(&["import"], &[&kept.text("rows.csv")]).is(0, &[], &[]);
    check(
        &kept.model(&kept.path("key")),
        3,
        &["FG0686", "feature `pricing_views`: the feature store has no such column"],
    );
}

//! Features that are looked up: found, absent, stale, shared keys, many records.

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::score::ScoreFault;
use foregate_inference::features::spec::FeatureSpec;
use foregate_inference::features::{Plan, Reading};
use foregate_inference::store::line::Update;
use foregate_inference::store::{FeatureStore, StoreKey};
use foregate_inference::table::Tables;
use serde_json::{Value, json};

const KEY: &[u8] = b"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NOW: Duration = Duration::from_hours(500_000);
const HOUR: i64 = 3_600_000_000;

fn compile(features: &Value) -> Result<Plan, String> {
    let specs: Vec<FeatureSpec> =
        serde_json::from_value(features.clone()).map_err(|error| error.to_string())?;
    Plan::compile("Lead", &specs, &Tables::new()).map_err(|error| error.to_string())
}

/// One row an hour old for account 001A, one two hours old for the number 7; columns `visits` and `spend`.
fn store() -> (tempfile::TempDir, Arc<FeatureStore>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.redb");
    let key = || StoreKey::parse(KEY).unwrap();
    FeatureStore::create(&path, &key(), &["visits".to_owned(), "spend".to_owned()]).unwrap();
    let store = FeatureStore::open(&path, key()).unwrap();
    let now = i64::try_from(NOW.as_micros()).unwrap();
    let row = |key: &str, age: i64, cells: [f32; 2]| Update {
        key: key.into(),
        at: now - age * HOUR,
        cells: Some(cells.into()),
    };
    store.apply(&[row("001A", 1, [12.0, 99.5]), row("7", 2, [3.0, f32::NAN])]).unwrap();
    (folder, Arc::new(store))
}

fn features() -> Value {
    json!([
        {"name": "visits", "pointer": "/AccountId", "type": "number", "store": {"column": "visits", "maxAge": "90m"}, "default": -1},
        {"name": "title", "pointer": "/Title", "type": "number", "default": 0},
        {"name": "spend", "label": "Spend", "pointer": "/AccountId", "type": "number", "store": {"column": "spend"}, "impute": 5, "log": true},
        {"name": "of_owner", "pointer": "/Owner/Id", "type": "number", "store": {"column": "visits"}, "missing": "nan", "pii": true}
    ])
}

fn rows(plan: &Plan, body: &str) -> Vec<f32> {
    let reading = Reading { now: NOW, values: false };
    plan.extract(body.as_bytes(), &[], reading).unwrap().rows
}

#[test]
fn what_is_found_fills_the_columns_and_what_is_not_has_its_default() {
    let (_folder, store) = store();
    let mut plan = compile(&features()).unwrap();
    assert!(plan.looks_up());
    let unknown = [-1.0, 4.0, 6.0_f32.ln()];
    let row = rows(&plan, r#"{"AccountId":"001A","Title":4}"#);
    assert_eq!(row[..3], unknown, "no store yet, as for golden vectors");
    plan.attach(&store).unwrap();
    let spend = 100.5_f32.ln();
    for (body, expected) in [
        (r#"{"AccountId":"001A","Title":4}"#, [12.0, 4.0, spend]),
        (r#"{"Title":4,"AccountId":"\u003001A"}"#, [12.0, 4.0, spend]),
        (r#"{"AccountId":"001a","Title":4}"#, unknown),
        (r#"{"AccountId":null,"Title":4}"#, unknown),
        (r#"{"AccountId":["001A"],"Title":4}"#, unknown),
        (r#"{"AccountId":true,"Title":4}"#, unknown),
        (r#"{"Title":4}"#, unknown),
        // Two hours are too old for visits; spend has no cell.
        (r#"{"AccountId":"7","Title":4}"#, unknown),
        (r#"{"AccountId":7,"Title":4}"#, unknown),
    ] {
        let row = rows(&plan, body);
        assert_eq!(row[..3], expected, "{body}");
        assert!(row[3].is_nan(), "{body}");
    }
    assert_eq!(rows(&plan, r#"{"Owner":{"Id":7}}"#)[3], 3.0, "of any age");
    let batch = r#"{"records":[{"AccountId":"001A"},{},{"AccountId":"001A","Owner":{"Id":"001A"}}]}"#;
    let batch = rows(&plan, batch);
    assert_eq!((batch[0], batch[4], batch[8], batch[11]), (12.0, -1.0, 12.0, 12.0));
}

#[test]
fn lookups_are_counted_once_a_key_and_a_record() {
    let (_folder, store) = store();
    let mut plan = compile(&json!([features()[0], features()[2]])).unwrap();
    plan.attach(&store).unwrap();
    rows(&plan, r#"{"records":[{"AccountId":"001A"},{"AccountId":"001A"},{"AccountId":"none"},{}]}"#);
    let counts = store.counts();
    assert_eq!((counts.found(), counts.absent(), counts.stale()), (2, 2, 0));
    let mut plan = compile(&json!([features()[0]])).unwrap();
    plan.attach(&store).unwrap();
    rows(&plan, r#"{"AccountId":7}"#);
    assert_eq!((counts.found(), counts.absent(), counts.stale()), (2, 2, 1));
}

#[test]
fn an_update_is_seen_by_the_next_record() {
    let (_folder, store) = store();
    let mut plan = compile(&features()).unwrap();
    plan.attach(&store).unwrap();
    let body = r#"{"AccountId":"001B"}"#;
    assert_eq!(rows(&plan, body)[0], -1.0);
    let at = i64::try_from(NOW.as_micros()).unwrap();
    store.apply(&[Update { key: "001B".into(), at, cells: Some([8.0, 8.0].into()) }]).unwrap();
    assert_eq!(rows(&plan, body)[0], 8.0);
    store.apply(&[Update { key: "001B".into(), at, cells: None }]).unwrap();
    assert_eq!(rows(&plan, body)[0], -1.0);
}

#[test]
fn explanations_tell_what_was_found_and_never_the_key() {
    let (_folder, store) = store();
    let mut plan = compile(&features()).unwrap();
    plan.attach(&store).unwrap();
    let reading = Reading { now: NOW, values: true };
    let body = br#"{"AccountId":"001A","Title":4,"Owner":{"Id":"001A"}}"#;
    let told = plan.extract(body, &[], reading).unwrap().values;
    let told: Vec<Option<&str>> = told.iter().map(Option::as_deref).collect();
    assert_eq!(told, [Some("12"), Some("4"), Some("99.5"), None]);
}

#[test]
fn a_spec_that_cannot_be_looked_up_is_refused() {
    let (_folder, store) = store();
    let stored = |more: &str| {
        let text = format!(r#"[{{"name":"f","pointer":"/A","store":{{"column":"visits"}},{more}}}]"#);
        compile(&serde_json::from_str(&text).unwrap()).err().unwrap_or_default()
    };
    for (more, expected) in [
        (r#""type":"number""#, "needs a `default`, `impute` or `missing`"),
        (r#""type":"string","default":"""#, "what is looked up in a store is a number"),
        (r#""type":"number","default":0,"lenient":true"#, "never `lenient`"),
        (r#""type":"number","default":"a""#, "the default is not a number"),
    ] {
        assert!(stored(more).contains(expected), "{more}: {}", stored(more));
    }
    let mut plan = compile(&json!([
        {"name": "f", "pointer": "/A", "type": "number", "store": {"column": "none"}, "default": 0}
    ]))
    .unwrap();
    let error = plan.attach(&store).unwrap_err().to_string();
    assert_eq!(error, "feature `f`: the feature store has no such column");
    let unstored = compile(&json!([{"name": "f", "pointer": "/A", "type": "number"}])).unwrap();
    assert!(!unstored.looks_up());
    let missing = unstored.extract(b"{}", &[], Reading::default()).unwrap().records.remove(0).features;
    assert!(matches!(missing, Err(ScoreFault::Feature(_))));
}

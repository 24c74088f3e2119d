//! Every operator of the feature spec gives what the reference implementation gives.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::score::ScoreFault;
use foregate_filters::timestamp::Timestamp;
use foregate_inference::features::spec::FeatureSpec;
use foregate_inference::features::{Plan, Reading};
use foregate_inference::table::{Table, Tables};
use serde::Deserialize;
use serde_json::{Value, json};

/// The moment of the request and the record of a line, as the oracle wrote them, escapes and all.
pub(crate) fn request<'a>(line: &'a str, told: &Value) -> (Reading, &'a str) {
    let now = serde_json::from_value::<Timestamp>(told["now"].clone()).map_or(0, Timestamp::micros);
    let now = Duration::from_micros(u64::try_from(now).unwrap());
    let start = line.find(r#""record":"#).unwrap() + r#""record":"#.len();
    let mut values =
        serde_json::Deserializer::from_str(&line[start..]).into_iter::<&serde_json::value::RawValue>();
    (Reading { now, values: false }, values.next().unwrap().unwrap().get())
}

/// Records compared.
const ROWS: usize = 4_000;

#[derive(Deserialize)]
struct Spec {
    files: BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>,
    features: Vec<FeatureSpec>,
}

fn training() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("training")
}

fn plan() -> Plan {
    let text = fs::read_to_string(training().join("specs/operators.yaml")).unwrap();
    let spec: Spec = serde_saphyr::from_str(&text).unwrap();
    let table = |file: &BTreeMap<String, String>| {
        Arc::new(Table::parse(&fs::read(training().join("specs").join(&file["path"])).unwrap()).unwrap())
    };
    let tables: Tables =
        spec.files["tables"].iter().map(|(name, file)| (name.clone(), table(file))).collect();
    Plan::compile("Lead", &spec.features, &tables).unwrap()
}

/// The row of a line: dense, or only what is not zero.
pub(crate) fn row(line: &Value, width: usize) -> Vec<f32> {
    #[allow(clippy::cast_possible_truncation, reason = "the oracle writes the shortest text of a float32")]
    let cell = |value: &Value| value.as_f64().map_or(f32::NAN, |value| value as f32);
    if let Some(features) = line["features"].as_array() {
        return features.iter().map(cell).collect();
    }
    let mut row = vec![0.0; width];
    for pair in line["sparse"].as_array().unwrap() {
        row[usize::try_from(pair[0].as_u64().unwrap()).unwrap()] = cell(&pair[1]);
    }
    row
}

#[test]
fn features_agree_with_the_reference_over_thousands_of_records() {
    let python = std::env::var("FOREGATE_PYTHON")
        .expect("FOREGATE_PYTHON names no Python with onnxruntime: run `bash .ci/test`, which makes one");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("operators.jsonl");
    let status = Command::new(python)
        .arg(training().join("oracle.py"))
        .arg(training().join("specs/operators.yaml"))
        .args(["--rows", &ROWS.to_string(), "--seed", "3", "--out"])
        .arg(&out)
        .status()
        .unwrap();
    assert!(status.success(), "oracle.py failed");
    let plan = plan();
    let (mut rows, mut exact, mut cells) = (0, 0, 0);
    for line in fs::read_to_string(&out).unwrap().lines() {
        let told: Value = serde_json::from_str(line).unwrap();
        let (reading, record) = request(line, &told);
        let found = plan.extract(record.as_bytes(), &[], reading).unwrap();
        assert_eq!(found.records[0].features, Ok(()), "{line}");
        let expected = row(&told, plan.width());
        assert_eq!(found.rows.len(), expected.len(), "{line}");
        for (column, (ours, theirs)) in found.rows.iter().zip(&expected).enumerate() {
            let near = (ours - theirs).abs() <= 1e-6 * theirs.abs().max(1.0);
            assert!(
                near || ours.is_nan() && theirs.is_nan(),
                "column {column}: {ours}, expected {theirs}: {line}"
            );
            exact += usize::from(ours.to_bits() == theirs.to_bits() || ours.is_nan());
            cells += 1;
        }
        rows += 1;
    }
    assert_eq!(rows, ROWS);
    println!("{rows} records: {exact} of {cells} columns are the same to the bit");
}

fn compile(feature: Value) -> Result<Plan, String> {
    let spec: FeatureSpec = serde_json::from_value(feature).map_err(|error| error.to_string())?;
    Plan::compile("Lead", &[spec], &Tables::new()).map_err(|error| error.to_string())
}

#[test]
fn operators_that_contradict_themselves_are_refused_by_name() {
    let cases = [
        (json!({"type": "date"}), "exactly one of `since` and `until`"),
        (json!({"type": "date", "since": "now", "until": "now"}), "exactly one of `since` and `until`"),
        (json!({"type": "date", "since": "later"}), "must start with `/`"),
        (json!({"type": "date", "since": "now", "unit": "weeks"}), "weeks"),
        (json!({"type": "date", "since": "now", "hash": {"buckets": 3}}), "an encoding of strings"),
        (json!({"type": "number", "since": "now"}), "belong to a date"),
        (json!({"type": "number", "also": ["/B"]}), "belong to a text"),
        (json!({"type": "text"}), "needs `ngrams`"),
        (json!({"type": "text", "ngrams": {"buckets": 8}}), "`words` or `chars`"),
        (json!({"type": "text", "ngrams": {"words": [2, 1], "buckets": 8}}), "`words` or `chars`"),
        (json!({"type": "text", "ngrams": {"chars": [1, 9], "buckets": 8}}), "`words` or `chars`"),
        (json!({"type": "text", "ngrams": {"words": [1, 1], "buckets": 0}}), "at least one bucket"),
        (json!({"type": "text", "ngrams": {"words": [1, 1], "buckets": 4097}}), "over 4096 columns"),
        (json!({"type": "text", "ngrams": {"words": [1, 1], "buckets": 8, "tf": "idf"}}), "idf"),
        (
            json!({"type": "text", "ngrams": {"words": [1, 1], "buckets": 8}, "normalize": {"unaccent": true}}),
            "`unaccent` needs `lower`",
        ),
        (
            json!({"type": "text", "ngrams": {"words": [1, 1], "buckets": 8}, "normalize": {"digits": "é"}}),
            "one ASCII letter or digit",
        ),
        (
            json!({"type": "text", "also": vec!["/B"; 16], "ngrams": {"words": [1, 1], "buckets": 8}}),
            "over 16 members",
        ),
        (
            json!({"type": "string", "lookup": {"table": "t", "column": "c", "width": 1}}),
            "no table of this name",
        ),
        (
            json!({"type": "string", "hash": {"buckets": 3}, "scale": {"mean": 0, "std": 1}}),
            "transform of numbers",
        ),
    ];
    for (case, part) in cases {
        let mut feature = json!({"name": "f", "pointer": "/F"});
        feature.as_object_mut().unwrap().extend(case.as_object().unwrap().clone());
        let error = compile(feature).unwrap_err();
        assert!(error.contains(part), "{case}: {error}");
    }
}

#[test]
fn values_at_fault_are_told_and_lenient_ones_count_as_absent() {
    let date = json!({"name": "f", "pointer": "/F", "type": "date", "until": "now", "missing": "nan"});
    let text =
        json!({"name": "f", "pointer": "/F", "type": "text", "ngrams": {"words": [1, 1], "buckets": 3}});
    let number = json!({"name": "f", "pointer": "/F", "type": "number", "missing": "nan"});
    for (feature, body) in [
        (&date, r#"{"F":"yesterday"}"#),
        (&date, r#"{"F":5}"#),
        (&date, r#"{"F":["2026-01-01"]}"#),
        (&text, r#"{"F":5}"#),
        (&text, "{}"),
        (&number, r#"{"F":"12"}"#),
    ] {
        let plan = compile(feature.clone()).unwrap();
        let found = plan.extract(body.as_bytes(), &[], Reading::default()).unwrap();
        assert!(matches!(found.records[0].features, Err(ScoreFault::Feature(_))), "{body}");
        let mut lenient = feature.clone();
        lenient["lenient"] = true.into();
        if lenient["type"] == "text" {
            lenient["default"] = "".into();
        }
        let found = compile(lenient).unwrap().extract(body.as_bytes(), &[], Reading::default()).unwrap();
        assert_eq!(found.records[0].features, Ok(()), "{body}");
        let expected = if body.contains("12") { Some(12.0) } else { None };
        assert!(expected.is_none_or(|number: f32| found.rows == [number]), "{body}: {:?}", found.rows);
    }
}

#[test]
fn a_million_elements_endless_texts_and_invalid_utf_8_are_bounded() {
    let plan = plan();
    let million =
        format!(r#"{{"Subject":[{}1],"Tags":[{}{{}}]}}"#, "1,".repeat(1_000_000), "{},".repeat(1_000_000));
    let found = plan.extract(million.as_bytes(), &[], Reading::default()).unwrap();
    assert!(found.records.len() == 1 && found.records[0].features.is_err(), "a list is no text");
    let short = plan.extract(
        format!(r#"{{"Subject":"{}"}}"#, "ab ".repeat(1366)).as_bytes(),
        &[],
        Reading::default(),
    );
    let long = plan.extract(
        format!(r#"{{"Subject":"{}"}}"#, "ab ".repeat(1_000_000)).as_bytes(),
        &[],
        Reading::default(),
    );
    // 4096 code points are 1365 words and the `a` of the next.
    let near =
        |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2.0 || a.is_nan() && b.is_nan());
    assert!(near(&short.unwrap().rows, &long.unwrap().rows));
    let invalid = plan.extract(b"{\"Subject\":\"\xff\xfe\"}", &[], Reading::default());
    assert_eq!(invalid, Err(ScoreFault::Body { offset: 12, what: "not UTF-8" }));
    let deep = format!("{}{}", "{\"a\":".repeat(100), "}".repeat(100));
    assert!(plan.extract(deep.as_bytes(), &[], Reading::default()).is_err());
}

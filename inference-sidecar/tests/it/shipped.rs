//! The bundles that are shipped load, and agree with onnxruntime.

use std::path::{Path, PathBuf};
use std::process::Command;

use foregate_inference::bundle::Bundle;
use serde_json::Value;

use crate::operators::{request, row};

/// Rows compared for each bundle.
const ROWS: usize = 10_000;

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn bundles() -> Vec<PathBuf> {
    let folders = std::fs::read_dir(home().join("bundles")).unwrap();
    let mut folders: Vec<_> =
        folders.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 2, "a boosted model and its baseline are shipped");
    folders
}

#[test]
fn every_shipped_bundle_loads_and_the_two_engines_are_used() {
    let engines: Vec<_> = bundles().iter().map(|dir| Bundle::load(dir).unwrap().model.engine()).collect();
    assert!(engines.contains(&"forest") && engines.contains(&"graph"), "{engines:?}");
}

#[test]
fn every_shipped_bundle_knows_the_records_it_was_trained_on() {
    for dir in bundles() {
        let bundle = Bundle::load(&dir).unwrap();
        let reference = bundle.reference.unwrap_or_else(|| panic!("{} has no reference", bundle.name));
        let told = reference.populations.last().unwrap();
        let records: u64 = told.counts.iter().sum();
        assert!(&*told.name == "score" && records >= 1_000, "{}: {records} records", bundle.name);
        // The same records are counted for each feature; wide text has no population.
        assert!(
            reference.populations.iter().all(|it| it.counts.iter().sum::<u64>() == records),
            "{}",
            bundle.name
        );
    }
}

/// A test for each bundle, so that they run side by side, and the list of them.
macro_rules! agreement {
    ($($test:ident $name:literal)*) => {
        const COMPARED: &[&str] = &[$($name),*];
        $(
            #[test]
            fn $test() {
                agrees($name);
            }
        )*
    };
}

agreement! {
    case_escalation_agrees_with_onnxruntime "case-escalation"
    case_priority_agrees_with_onnxruntime "case-priority"
    case_queue_agrees_with_onnxruntime "case-queue"
    case_sentiment_agrees_with_onnxruntime "case-sentiment"
    churn_risk_agrees_with_onnxruntime "churn-risk"
    lead_score_agrees_with_onnxruntime "lead-score"
    lead_score_logistic_agrees_with_onnxruntime "lead-score-logistic"
    opportunity_win_agrees_with_onnxruntime "opportunity-win"
    product_next_agrees_with_onnxruntime "product-next"
}

#[test]
fn every_shipped_bundle_is_compared() {
    let shipped: Vec<_> =
        bundles().iter().map(|dir| dir.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(shipped, COMPARED);
}

fn agrees(name: &str) {
    let python = std::env::var("FOREGATE_PYTHON")
        .expect("FOREGATE_PYTHON names no Python with onnxruntime: run `bash .ci/test`, which makes one");
    let dir = home().join("bundles").join(name);
    let bundle = Bundle::load(&dir).unwrap();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("oracle-{name}.jsonl"));
    let status = Command::new(&python)
        .arg(home().join("training/oracle.py"))
        .arg(&dir)
        .args(["--rows", &ROWS.to_string(), "--seed", "7", "--out"])
        .arg(&out)
        .status()
        .unwrap();
    assert!(status.success(), "oracle.py failed for {name}");
    compare(&bundle, &std::fs::read_to_string(&out).unwrap());
}

/// Scores within 1e-5 of onnxruntime's, features within a part of a million of the reference implementation's.
fn compare(bundle: &Bundle, oracle: &str) {
    let (mut of_scores, mut of_features, mut rows) = (0.0_f64, 0.0_f64, 0);
    for line in oracle.lines() {
        let told: Value = serde_json::from_str(line).unwrap();
        let (reading, record) = request(line, &told);
        let extraction = bundle.plan.extract(record.as_bytes(), &[], reading).unwrap();
        assert_eq!(extraction.records[0].features, Ok(()), "{line}");
        let expected = row(&told, bundle.plan.width());
        assert_eq!(extraction.rows.len(), expected.len(), "{line}");
        for (ours, theirs) in extraction.rows.iter().zip(&expected) {
            if ours.is_nan() && theirs.is_nan() {
                continue;
            }
            let apart = f64::from((ours - theirs).abs() / theirs.abs().max(1.0));
            assert!(apart <= 1e-6, "{ours}, expected {theirs}: {line}");
            of_features = of_features.max(apart);
        }
        let mut scores = Vec::new();
        bundle.model.run(&extraction.rows, 1, &mut scores).unwrap();
        let theirs = told["scores"].as_array().cloned().unwrap_or_else(|| vec![told["score"].clone()]);
        assert_eq!(scores.len(), theirs.len(), "{line}");
        for (ours, theirs) in scores.iter().zip(theirs) {
            of_scores = of_scores.max((f64::from(*ours) - theirs.as_f64().unwrap()).abs());
        }
        let items = bundle.output.read(&scores).1.map(|detail| detail.items).unwrap_or_default();
        let theirs = told["items"].as_array().cloned().unwrap_or_default();
        assert_eq!(items.iter().map(|item| Value::from(&*item.key)).collect::<Vec<_>>(), theirs, "{line}");
        rows += 1;
    }
    assert_eq!(rows, ROWS);
    assert!(of_scores < 1e-5, "{}: the largest difference of scores is {of_scores:e}", bundle.name);
    let name = &bundle.name;
    println!("{name}: over {rows} rows scores differ by {of_scores:e} at most, features by {of_features:e}");
}

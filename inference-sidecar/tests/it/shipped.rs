//! The bundles that are shipped load, and agree with onnxruntime.

use std::path::{Path, PathBuf};
use std::process::Command;

use foregate_inference::bundle::Bundle;
use serde_json::Value;

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
fn scores_agree_with_onnxruntime_over_ten_thousand_rows() {
    let python = std::env::var("FOREGATE_PYTHON")
        .expect("FOREGATE_PYTHON names no Python with onnxruntime: run `bash .ci/test`, which makes one");
    for dir in bundles() {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("oracle-{name}.jsonl"));
        let status = Command::new(&python)
            .arg(home().join("training/oracle.py"))
            .arg(&dir)
            .args(["--rows", &ROWS.to_string(), "--seed", "7", "--out"])
            .arg(&out)
            .status()
            .unwrap();
        assert!(status.success(), "oracle.py failed for {name}");
        compare(&Bundle::load(&dir).unwrap(), &std::fs::read_to_string(&out).unwrap());
    }
}

fn compare(bundle: &Bundle, oracle: &str) {
    let (mut largest, mut rows) = (0.0_f64, 0);
    for line in oracle.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let extraction = bundle.plan.extract(row["record"].to_string().as_bytes(), &[]).unwrap();
        assert_eq!(extraction.records[0].features, Ok(()), "{line}");
        for (ours, theirs) in extraction.rows.iter().zip(row["features"].as_array().unwrap()) {
            match theirs.as_f64() {
                Some(theirs) => {
                    assert!((f64::from(*ours) - theirs).abs() <= 1e-6 * theirs.abs().max(1.0), "{line}");
                }
                None => assert!(ours.is_nan(), "{line}"),
            }
        }
        let mut scores = Vec::new();
        bundle.model.run(&extraction.rows, 1, &mut scores).unwrap();
        largest = largest.max((f64::from(scores[0]) - row["score"].as_f64().unwrap()).abs());
        rows += 1;
    }
    assert_eq!(rows, ROWS);
    assert!(largest < 1e-5, "{}: the largest difference is {largest:e}", bundle.name);
    println!("{}: largest difference {largest:e} over {rows} rows", bundle.name);
}

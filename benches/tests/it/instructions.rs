//! Instructions of the parts of a request, beside those that were counted before.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Parts, named like the functions of `src/instructions.rs` behind `count_`.
const PARTS: [&str; 6] = ["chain", "extract", "limit", "route", "score", "token"];
/// Runs of each part within one run of the program: rounds by times of `src/instructions.rs`.
const TIMES: u32 = 8 * 40;
/// What a part may take more: 3 %.
const TOLERANCE: f64 = 0.03;
const RENEW: &str = "FOREGATE_WRITE_INSTRUCTIONS=1 cargo nextest run --workspace -E 'test(instructions)', and say in the commit why";

/// Inclusive instructions of the functions that are counted, by the calls that callgrind saw.
fn counted(profile: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    let mut lines = profile.lines();
    let mut callee = "";
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("cfn=") {
            callee = name.rsplit("::count_").next().filter(|part| *part != name).unwrap_or_default();
        } else if line.starts_with("calls=") {
            let cost =
                lines.next().and_then(|cost| cost.split(' ').nth(1)).and_then(|cost| cost.parse().ok());
            if let Some(part) = PARTS.iter().find(|part| **part == callee) {
                *counts.entry((*part).to_owned()).or_default() += cost.unwrap_or(0u32);
            }
        }
    }
    for count in counts.values_mut() {
        *count /= TIMES;
    }
    counts
}

/// What a count depends on besides the code of this repository.
fn built_with() -> Value {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc).arg("--version").output().unwrap().stdout;
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // Memory is copied and searched by what the processor can do.
    let wide =
        cpu.lines().any(|line| line.starts_with("flags") && line.split(' ').any(|flag| flag == "avx2"));
    json!({ "rustc": String::from_utf8(version).unwrap().trim(), "avx2": wide })
}

/// Runs the parts under callgrind.
fn count() -> BTreeMap<String, u32> {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .args([env!("CARGO_BIN_EXE_foregate-benches"), "instructions"])
        .stdin(Stdio::null())
        .output()
        .expect("valgrind does not start: apt-get install valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let counts = counted(&fs::read_to_string(profile).unwrap());
    assert_eq!(counts.len(), PARTS.len(), "counted {counts:?}");
    counts
}

/// The parts that take more than before, by more than a tolerance.
fn grown(counts: &BTreeMap<String, u32>, baseline: &Value, tolerance: f64) -> Vec<String> {
    let change = |part: &String, count: u32| {
        let before =
            baseline["counts"][part].as_u64().and_then(|before| u32::try_from(before).ok()).unwrap_or(0);
        let change = f64::from(count) / f64::from(before) - 1.0;
        (change > tolerance).then(|| format!("{part}: {before} -> {count} ({:+.1} %)", change * 100.0))
    };
    counts.iter().filter_map(|(part, count)| change(part, *count)).collect()
}

#[test]
fn parts_of_a_request_take_no_more_instructions_than_before() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let (mut counts, built) = (count(), built_with());
    if std::env::var_os("FOREGATE_WRITE_INSTRUCTIONS").is_some() {
        let text = serde_json::to_string_pretty(&json!({ "built": built, "counts": counts })).unwrap();
        fs::write(&file, text + "\n").unwrap();
    }
    let baseline: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    // Another compiler counts otherwise: only what no compiler explains is refused.
    let tolerance = if baseline["built"] == built { TOLERANCE } else { 1.0 };
    if !grown(&counts, &baseline, tolerance).is_empty() {
        // Keys of hash tables are random, and some spread their entries worse than others.
        let again = count();
        for (part, count) in &mut counts {
            *count = again[part].min(*count);
        }
    }
    let more = grown(&counts, &baseline, tolerance);
    assert!(
        more.is_empty(),
        "{more:#?}\nbuilt with {built}, before with {}\nwhere it is meant: {RENEW}",
        baseline["built"]
    );
    eprintln!("{counts:?}, before {}", baseline["counts"]);
}

//! Files scored by the command: every row, killed and resumed, in bounded memory.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use foregate_inference::bundle::Bundle;
use foregate_inference::features::Reading;
use serde_json::{Value, json};

use crate::serving::{bundles, command, peak, single};

const MODEL: &str = "lead-score-logistic";

/// A folder with an input, and where its output goes.
struct Job {
    folder: tempfile::TempDir,
    model: PathBuf,
    input: PathBuf,
    output: PathBuf,
}

impl Job {
    fn new(name: &str, text: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join(name), folder.path().join("out"));
        fs::write(&input, text).unwrap();
        Self { model: bundles().join(MODEL), input, output, folder }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = command(&["batch", "--model"]);
        command
            .arg(&self.model)
            .arg("--input")
            .arg(&self.input)
            .arg("--output")
            .arg(&self.output)
            .args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn checkpoint(&self) -> PathBuf {
        self.folder.path().join("out.checkpoint")
    }

    /// Starts it, and kills it once a checkpoint tells of rows.
    fn kill_midway(&self, words: &[&str]) {
        let mut child: Child = self.command(words).stderr(Stdio::null()).spawn().unwrap();
        while rows_of(&self.checkpoint()) == 0 {
            assert!(child.try_wait().unwrap().is_none(), "it ended before a checkpoint was seen");
        }
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(self.checkpoint().exists(), "it was killed before its end");
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.output).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Rows that a checkpoint tells of; none where it is absent.
fn rows_of(checkpoint: &Path) -> u64 {
    let text = fs::read(checkpoint).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).map_or(0, |found| found["rows"].as_u64().unwrap())
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn record(row: u32) -> Value {
    let industry = ["Manufacturing", "Healthcare", "Consulting", "Other, \"quoted\""][row as usize % 4];
    json!({
        "AnnualRevenue": 1_000 * (row % 977), "NumberOfEmployees": row % 313, "Industry": industry,
        "Title": "CFO", "Website_Visits__c": row % 7, "Viewed_Demo__c": row.is_multiple_of(3),
    })
}

fn ndjson(rows: u32) -> Vec<u8> {
    (0..rows).flat_map(|row| format!("{}\n", record(row)).into_bytes()).collect()
}

/// What the engine in this process says of a record.
fn score(bundle: &Bundle, record: &Value) -> f32 {
    let reading = Reading { now: std::time::Duration::ZERO, values: false };
    let extraction = bundle.plan.extract(record.to_string().as_bytes(), &[], reading).unwrap();
    let mut cells = Vec::new();
    bundle.model.run(&extraction.rows, 1, &mut cells).unwrap();
    bundle.output.read(&cells).0
}

#[test]
fn every_row_has_its_line_and_those_at_fault_say_why() {
    let bad = r#"{"AnnualRevenue":"much"}"#;
    let long = format!("{{\"Title\":\"{}\"}}", "x".repeat(1 << 20));
    let foreign = r#"{"attributes":{"type":"Case"}}"#;
    let text = format!("{}\n\n{bad}\n{{\n{long}\n[]\n{foreign}\n{}", record(1), record(2));
    let job = Job::new("in.ndjson", text.as_bytes());
    let output = job.run(&[]);
    assert_eq!(output.status.code(), Some(3), "rows at fault are told by the exit code");
    assert!(told(&output).contains("7 rows scored, 5 of them at fault"), "{}", told(&output));
    let lines = job.lines();
    let numbers: Vec<u64> = lines.iter().map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 3, 4, 5, 6, 7, 8]);
    let bundle = Bundle::load(&job.model).unwrap();
    for (line, row) in [(&lines[0], 1), (&lines[6], 2)] {
        assert_eq!(single(&line["score"]), score(&bundle, &record(row)));
    }
    let words = ["annual_revenue", "byte", "1 MiB", "object", "another object"];
    for (line, words) in lines[1..6].iter().zip(words) {
        assert!(line["error"].as_str().unwrap().contains(words), "{line}");
        assert!(line.get("score").is_none());
    }
    assert!(!job.checkpoint().exists());
    let good = Job::new("in.ndjson", &ndjson(3));
    assert_eq!(good.run(&[]).status.code(), Some(0));
}

#[test]
fn csv_and_json_of_the_same_records_have_the_same_scores() {
    let rows = 2_500;
    let json = Job::new("in.ndjson", &ndjson(rows));
    assert!(json.run(&[]).status.success());
    let mut text =
        "Id,AnnualRevenue,NumberOfEmployees,Industry,Title,Website_Visits__c,Viewed_Demo__c\r\n".to_owned();
    for row in 0..rows {
        let record = record(row);
        let industry = record["Industry"].as_str().unwrap().replace('"', "\"\"");
        let cells = ["AnnualRevenue", "NumberOfEmployees"].map(|name| record[name].to_string()).join(",");
        let rest = ["Website_Visits__c", "Viewed_Demo__c"].map(|name| record[name].to_string()).join(",");
        write!(text, "{row},{cells},\"{industry}\",CFO,{rest}\r\n").unwrap();
    }
    text.push_str("x,much,1,,,,\r\n");
    let csv = Job::new("in.csv", text.as_bytes());
    assert_eq!(csv.run(&[]).status.code(), Some(3));
    let written = fs::read_to_string(&csv.output).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines[0], "line,score,error");
    assert_eq!(lines.len(), rows as usize + 2);
    for (row, (line, expected)) in lines[1..].iter().zip(json.lines()).enumerate() {
        assert_eq!(*line, format!("{},{},", row + 2, expected["score"]));
    }
    assert!(lines[lines.len() - 1].starts_with("2502,,feature annual_revenue"), "{}", lines[lines.len() - 1]);
}

#[test]
fn classes_and_items_are_told() {
    let mut job = Job::new("in.ndjson", br#"{"Subject":"Invoice is wrong, I was charged twice"}"#);
    job.model = bundles().join("case-queue");
    assert!(job.run(&[]).status.success());
    let line = &job.lines()[0];
    assert_eq!(line["class"], "Billing");
    assert_eq!(line["probabilities"].as_array().unwrap().len(), 5);
    let mut job = Job::new("in.csv", b"Subject\n\"Invoice is wrong, I was charged twice\"\n");
    job.model = bundles().join("case-queue");
    assert!(job.run(&[]).status.success());
    let text = fs::read_to_string(&job.output).unwrap();
    assert!(text.starts_with("line,score,class,probabilities,error\n2,0."), "{text}");
    assert!(text.contains(",Billing,\"[0."), "{text}");
    let mut job = Job::new("in.ndjson", br#"{"Industry":"Manufacturing","Products__c":"GW100;GW110"}"#);
    job.model = bundles().join("product-next");
    assert!(job.run(&[]).status.success());
    let items = job.lines()[0]["items"].as_array().unwrap().clone();
    assert!(items.len() > 1 && items.iter().all(|item| item["key"].is_string()), "{items:?}");
    assert!(items.windows(2).all(|pair| pair[0]["score"].as_f64() >= pair[1]["score"].as_f64()));
}

#[test]
fn a_run_that_was_killed_and_resumed_is_as_one_that_was_not() {
    for (name, words) in [("in.ndjson", &["--threads", "2"][..]), ("in.csv", &[])] {
        let mut text = if name == "in.csv" { b"AnnualRevenue,Title\n".to_vec() } else { Vec::new() };
        for row in 0..60_000 {
            let bad = row % 1_000 == 17;
            text.extend(
                match (name, bad) {
                    ("in.csv", false) => format!("{row},\"a\nb {row}\"\n"),
                    ("in.csv", true) => "much,CFO\n".to_owned(),
                    (_, false) => format!("{}\n", record(row)),
                    (_, true) => "{\n".to_owned(),
                }
                .into_bytes(),
            );
        }
        let (whole, killed) = (Job::new(name, &text), Job::new(name, &text));
        let expected = told(&whole.run(words));
        assert!(expected.contains("60000 rows scored, 60 of them at fault"), "{expected}");
        killed.kill_midway(words);
        // What was written behind the checkpoint, half a line perhaps, is written anew.
        let mut partial = fs::OpenOptions::new().append(true).open(&killed.output).unwrap();
        std::io::Write::write_all(&mut partial, b"{\"line\":").unwrap();
        let output = killed.run(words);
        assert_eq!(output.status.code(), Some(3));
        assert!(told(&output).contains("resumed behind"), "{}", told(&output));
        assert!(told(&output).contains("60000 rows scored, 60 of them at fault"), "{}", told(&output));
        assert!(
            fs::read(&whole.output).unwrap() == fs::read(&killed.output).unwrap(),
            "{name}: the outputs differ"
        );
        assert!(!killed.checkpoint().exists());
    }
}

#[test]
fn what_does_not_belong_to_a_checkpoint_is_not_resumed() {
    let text = ndjson(60_000);
    let job = Job::new("in.ndjson", &text);
    job.kill_midway(&[]);
    let kept = (fs::read(job.checkpoint()).unwrap(), fs::read(&job.output).unwrap());
    let refused = |words: &[&str], says: &str| {
        let output = job.run(words);
        assert_eq!(output.status.code(), Some(1));
        assert!(told(&output).contains(says), "{says}: {}", told(&output));
        assert!(fs::read(&job.output).unwrap() == kept.1, "nothing was written");
    };
    refused(&["--format", "csv"], "no column is read by the model");
    refused(&["--now", "2027-01-31T12:00:00Z"], "of another moment");
    let other = Job { model: bundles().join("lead-score"), ..Job::new("in.ndjson", b"") };
    let swapped = command(&["batch", "--model"])
        .arg(&other.model)
        .arg("--input")
        .arg(&job.input)
        .arg("--output")
        .arg(&job.output)
        .output()
        .unwrap();
    assert!(told(&swapped).contains("of another model"), "{}", told(&swapped));
    let mut changed = text.clone();
    changed[20] ^= 1;
    fs::write(&job.input, &changed).unwrap();
    refused(&[], "is not the one that was scored so far");
    fs::write(&job.input, &text).unwrap();
    fs::write(job.checkpoint(), b"{}").unwrap();
    refused(&[], "no checkpoint of this version");
    fs::write(job.checkpoint(), &kept.0).unwrap();
    fs::write(&job.output, &kept.1[..10]).unwrap();
    let short = job.run(&[]);
    assert!(told(&short).contains("shorter than its checkpoint"), "{}", told(&short));
    fs::remove_file(job.checkpoint()).unwrap();
    let exists = job.run(&[]);
    assert!(told(&exists).contains("it exists, and no checkpoint"), "{}", told(&exists));
    assert_eq!(fs::read(&job.output).unwrap(), kept.1[..10], "what is not ours is not overwritten");
}

#[test]
fn memory_does_not_grow_with_the_file() {
    let peak_of = |rows: u32| {
        let job = Job::new("in.ndjson", &ndjson(rows));
        let mut child = job.command(&["--threads", "2"]).stderr(Stdio::null()).spawn().unwrap();
        let mut most = 0;
        while child.try_wait().unwrap().is_none() {
            most = peak(child.id()).unwrap_or(most).max(most);
        }
        assert!(child.wait().unwrap().success());
        most
    };
    let (small, large) = (peak_of(2_000), peak_of(100_000));
    assert!(small > 0 && large <= small + 16, "{small} MiB for 2,000 rows, {large} MiB for 100,000");
}

#[test]
fn dates_are_held_against_one_moment() {
    let text = br#"{"CreatedDate":"2026-12-01T00:00:00Z","LastActivityDate":"2026-12-01","Amount":50000}"#;
    let score = |moment: &str| {
        let mut job = Job::new("in.ndjson", text);
        job.model = bundles().join("opportunity-win");
        let output = job.run(&["--now", moment]);
        assert!(output.status.success(), "{}", told(&output));
        job.lines()[0]["score"].clone()
    };
    assert_eq!(score("2026-12-02T12:00:00Z"), score("2026-12-02T12:00:00Z"));
    assert_ne!(score("2026-12-02T12:00:00Z"), score("2027-12-31T12:00:00Z"));
}

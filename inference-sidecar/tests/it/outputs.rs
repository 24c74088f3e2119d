//! Bundles whose answer is a class, a ranking or a vector.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::score::{Detail, RecordScore, ScoreCall, Scorer};
use foregate_inference::bundle::Bundle;
use foregate_inference::scorer::{ModelScorer, Rows};
use prost::Message;
use serde_json::{Value, json};
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

use crate::bundles::digest;
use crate::forests::{file, int, node};

const TABLE: &str = r#"{"columns":{"e":3,"short":2},"rows":[
{"key":"a","label":"Item A","e":[1,0,0],"short":[0,0]},
{"key":"b","e":[0,1,0],"short":[0,0]},
{"key":"c","e":[0,0,1],"short":[0,0]},
{"key":"d","e":[0,0,1],"short":[0,0]}]}"#;

/// The keys of the best items for a query.
type Best = fn([f32; 3]) -> Vec<&'static str>;

/// `y = x W`, x of two columns and W of three; then a softmax where wanted.
fn model(softmax: bool) -> Vec<u8> {
    let weights = TensorProto {
        name: "w".to_owned(),
        data_type: 1,
        dims: vec![2, 3],
        float_data: vec![1.0, 0.0, -1.0, 0.0, 1.0, 2.0],
        ..TensorProto::default()
    };
    let product = NodeProto {
        input: vec!["x".to_owned(), "w".to_owned()],
        ..node("MatMul", "", &[if softmax { "z" } else { "y" }], Vec::new())
    };
    let mut nodes = vec![product];
    if softmax {
        nodes.push(node("Softmax", "z", &["y"], vec![int("axis", -1)]));
    }
    let mut model = ModelProto::decode(file(nodes, "y").as_slice()).unwrap();
    model.graph.as_mut().unwrap().initializer = vec![weights];
    model.encode_to_vec()
}

fn computed(a: f32, b: f32, softmax: bool) -> [f32; 3] {
    let cells = [a, b, 2.0 * b - a];
    if !softmax {
        return cells;
    }
    let powers = cells.map(f32::exp);
    powers.map(|power| power / powers.iter().sum::<f32>())
}

/// Writes a bundle; `items` tells the keys that the golden vectors claim.
fn bundle(test: &str, softmax: bool, task: &str, items: Option<Best>) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("output-{test}"));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let vectors: Vec<Value> = (0_i16..20)
        .map(|number| {
            let (a, b) = (f32::from(number % 5) - 1.25, f32::from(number / 5) - 0.5);
            let scores = computed(a, b, softmax);
            let mut vector = json!({"record": {"A": a, "B": b}, "features": [a, b], "scores": scores});
            if let Some(items) = items {
                vector["items"] = json!(items(scores));
            }
            vector
        })
        .collect();
    let golden = json!({"vectors": vectors}).to_string();
    let onnx = model(softmax);
    let manifest = format!(
        "apiVersion: foregate.dev/v1alpha1\nkind: ModelBundle\nname: out\nversion: '1'\nobject: Lead\n{task}\n\
         files: {{model: {{path: m.onnx, sha256: {}}}, golden: {{path: g.json, sha256: {}}}, \
         tables: {{items: {{path: t.json, sha256: {}}}}}}}\n\
         input: {{name: x, width: 2}}\nmetrics: {{topTen: 0.5}}\n\
         trainedOn: {{dataset: none, licence: MIT, seed: 1, split: none}}\nfeatures:\n\
         - {{name: a, pointer: /A, type: number}}\n- {{name: b, pointer: /B, type: number}}\n",
        digest(&onnx),
        digest(golden.as_bytes()),
        digest(TABLE.as_bytes())
    );
    fs::write(dir.join("m.onnx"), onnx).unwrap();
    fs::write(dir.join("g.json"), golden).unwrap();
    fs::write(dir.join("t.json"), TABLE).unwrap();
    fs::write(dir.join("model.yaml"), manifest).unwrap();
    dir
}

fn score(dir: &Path, explain: bool) -> RecordScore {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let scorer = ModelScorer::new("out", Bundle::load(dir).unwrap(), 1);
    let body = Bytes::from_static(br#"{"A":0.5,"B":2}"#);
    let budget = Duration::from_mins(1);
    let call = ScoreCall { body, reserved: Arc::default(), budget, now: Duration::ZERO, explain };
    runtime.block_on(scorer.submit(call)).unwrap().remove(0)
}

/// The columns of a row: what is told where rows are asked about, and not with bodies.
fn columns(dir: &Path) -> Vec<f32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let scorer = ModelScorer::new("out", Bundle::load(dir).unwrap(), 1);
    let rows = Rows { cells: vec![0.5, 2.0], count: 1, ..Rows::default() };
    let (_, detail) =
        runtime.block_on(scorer.score_rows(rows, Duration::from_mins(1))).unwrap().scores.remove(0);
    detail.unwrap().values
}

const CLASSES: &str = "task: classification\noutput: {name: y, labels: [low, medium, high]}";
const RANKING: &str = "task: ranking\noutput: {name: y}\nitems: {table: items, column: e, k: 3}";

/// Best first; `c` and `d` are alike, so `c` comes first.
fn best(query: [f32; 3]) -> Vec<&'static str> {
    let mut items = [("a", query[0]), ("b", query[1]), ("c", query[2]), ("d", query[2])];
    items.sort_by(|x, y| y.1.total_cmp(&x.1));
    items.map(|item| item.0)[..3].to_vec()
}

#[test]
fn a_class_comes_with_its_label_and_the_probabilities_of_all() {
    let found = score(&bundle("classes", true, CLASSES, None), false);
    let Detail { class, values: told, items, reasons } = *found.detail.unwrap();
    let values = columns(&bundle("classes", true, CLASSES, None));
    let expected = computed(0.5, 2.0, true);
    assert_eq!((class.as_deref(), told, items, reasons), (Some("high"), Vec::new(), Vec::new(), None));
    assert!(values.iter().zip(expected).all(|(ours, wanted)| (ours - wanted).abs() < 1e-6), "{values:?}");
    assert_eq!(found.score, Ok(values[2]));
    let reasons = score(&bundle("classes", true, CLASSES, None), true).detail.unwrap().reasons.unwrap();
    // The margin of `high` over the mean of the others: 3.5 - (0.5 + 2.0) / 2.
    assert!((reasons.margin - 2.25).abs() < 1e-6, "{reasons:?}");
    let sum: f32 = reasons.predictors.iter().map(|predictor| predictor.contribution).sum();
    assert!((reasons.base + sum - reasons.margin).abs() < 1e-5, "{reasons:?}");
}

#[test]
fn a_ranking_names_the_nearest_items_of_its_table() {
    let found = score(&bundle("ranking", false, RANKING, Some(best)), false);
    let items = found.detail.unwrap().items;
    let told: Vec<_> = items.iter().map(|item| (&*item.key, item.label.as_deref(), item.score)).collect();
    assert_eq!(told, [("c", None, 3.5), ("d", None, 3.5), ("b", None, 2.0)]);
    assert_eq!(found.score, Ok(3.5));
}

#[test]
fn the_score_of_a_ranking_and_of_an_embedding_has_no_reasons() {
    let embedding = "task: embedding\noutput: {name: y}";
    for (test, softmax, task, items, reasons) in [
        ("classes-offer", true, CLASSES, None, true),
        ("ranking-offer", false, RANKING, Some(best as Best), false),
        ("embedding-offer", false, embedding, None, false),
    ] {
        let dir = bundle(test, softmax, task, items);
        let scorer = ModelScorer::new("out", Bundle::load(&dir).unwrap(), 1);
        assert_eq!(scorer.offer().unwrap().reasons, reasons, "{test}");
        let told = score(&dir, true).detail.is_some_and(|detail| detail.reasons.is_some());
        assert_eq!(told, reasons, "{test}");
    }
}

#[test]
fn an_embedding_is_told_as_it_is() {
    let dir = bundle("embedding", false, "task: embedding\noutput: {name: y}", None);
    let found = score(&dir, false);
    assert_eq!(columns(&dir), [0.5, 2.0, 3.5]);
    assert!(found.score.is_ok_and(|length| (length - 16.5_f32.sqrt()).abs() < 1e-6));
}

#[test]
fn outputs_that_contradict_the_task_are_refused() {
    let cases = [
        ("task: classification\noutput: {name: y}", "needs `index`, or 2 to 1024 distinct `labels`"),
        ("task: classification\noutput: {name: y, labels: [a, a, b]}", "distinct `labels`"),
        ("task: classification\noutput: {name: y, index: 1, labels: [a, b, c]}", "distinct `labels`"),
        ("task: classification\noutput: {name: y, labels: [a, b]}", "3 columns for 2 labels"),
        ("task: classification\noutput: {name: y, labels: [a, b, c]}", "no probability"),
        ("task: regression\noutput: {name: y}", "a regression needs `index`"),
        (
            "task: regression\noutput: {name: y, index: 1}\nitems: {table: items, column: e, k: 1}",
            "only a ranking",
        ),
        ("task: regression\noutput: {name: y, index: 7}", "should be in column 7"),
        ("task: embedding\noutput: {name: y, index: 1}", "no `index`, no `labels`"),
        ("task: ranking\noutput: {name: y}", "a ranking needs `items`"),
        ("task: ranking\noutput: {name: y}\nitems: {table: other, column: e, k: 1}", "no such table"),
        ("task: ranking\noutput: {name: y}\nitems: {table: items, column: f, k: 1}", "no such column"),
        ("task: ranking\noutput: {name: y}\nitems: {table: items, column: short, k: 1}", "the items have 2"),
        ("task: ranking\noutput: {name: y}\nitems: {table: items, column: e, k: 5}", "`k` is not within"),
        (
            "task: ranking\noutput: {name: y}\nitems: {table: items, column: e, k: 2}",
            "the best items are others",
        ),
        (
            "task: embedding\noutput: {name: y}\nexplain: {baseline: [1.0]}",
            "one finite number for each of the 2 columns",
        ),
    ];
    for (number, (task, part)) in cases.iter().enumerate() {
        let items = (*part == "the best items are others").then_some(best as Best);
        let error =
            Bundle::load(&bundle(&format!("bad-{number}"), false, task, items)).unwrap_err().to_string();
        assert!(error.contains(part), "{task}: {error}");
    }
}

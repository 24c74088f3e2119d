//! Random tree ensembles of every kind give what onnxruntime gives.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use foregate_inference::onnx::{Network, open};
use prost::Message;
use serde_json::{Value, json};
use tract_onnx::pb::{AttributeProto, ModelProto, OperatorSetIdProto, TensorProto};

use crate::draw::Draw;
use crate::forests::{file, floats, int, ints, node, ports, text, texts};

pub(crate) const WIDTH: usize = 4;
const CASES: usize = 600;
const ROWS: usize = 24;
pub(crate) const MODES: [&str; 6] =
    ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];
const TRANSFORMS: [&str; 5] = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"];
const AGGREGATES: [&str; 4] = ["AVERAGE", "SUM", "MIN", "MAX"];

/// Tree, node, target and weight.
type Entry = (usize, usize, usize, f32);
/// A branch, and for true and false where it leads and whether that is a leaf.
type Placed = (Grown, (usize, i64), (usize, i64));

/// One node of a random tree, in pre-order.
pub(crate) struct Grown {
    pub(crate) mode: usize,
    pub(crate) feature: i64,
    pub(crate) split: f32,
    pub(crate) tracks: i64,
    pub(crate) children: Option<(usize, usize)>,
}

pub(crate) fn grow(draw: &mut Draw, modes: &[usize], depth: usize, out: &mut Vec<Grown>) -> usize {
    let at = out.len();
    let mode = draw.pick(modes);
    let feature = i64::try_from(draw.below(WIDTH)).unwrap();
    let tracks = i64::from(draw.once_in(2));
    out.push(Grown { mode, feature, split: draw.eighths(), tracks, children: None });
    if depth > 0 && !draw.once_in(6) {
        let on_true = grow(draw, modes, depth - 1, out);
        let on_false = grow(draw, modes, depth - 1, out);
        out[at].children = Some((on_true, on_false));
    }
    at
}

/// The modes of one ensemble: all alike, as libraries write them, or mixed.
fn modes(draw: &mut Draw, known: usize) -> Vec<usize> {
    if draw.once_in(2) { vec![draw.below(known)] } else { (0..known).collect() }
}

fn weight(draw: &mut Draw, positive: bool) -> f32 {
    if positive { draw.eighths().abs() / 20.0 } else { draw.eighths() }
}

/// The parallel lists of ai.onnx.ml 1 to 3.
pub(crate) fn classic(draw: &mut Draw) -> (Vec<AttributeProto>, &'static str) {
    let classifier = draw.once_in(2);
    let modes = modes(draw, 6);
    let targets = 1 + draw.below(4) + usize::from(classifier);
    let both = !classifier || targets > 2 || draw.once_in(2);
    let lone = i64::from(classifier && targets == 2 && draw.once_in(3));
    let positive = draw.once_in(3);
    let (mut lists, mut entries) = (Vec::new(), Vec::new());
    for tree in 0..=draw.below(6) {
        let mut nodes = Vec::new();
        grow(draw, &modes, 4, &mut nodes);
        for (id, grown) in nodes.iter().enumerate() {
            if grown.children.is_none() {
                let whole = both && (targets == 1 || classifier && targets == 2 || draw.once_in(2));
                let named: Vec<usize> = match (both, whole) {
                    (false, _) => vec![usize::try_from(lone).unwrap()],
                    (true, true) => (0..targets).collect(),
                    (true, false) => vec![draw.below(targets)],
                };
                entries.extend(named.into_iter().map(|target| (tree, id, target, weight(draw, positive))));
            }
        }
        lists.extend(nodes.into_iter().enumerate().map(|(id, grown)| (tree, id, grown)));
    }
    let list = |pick: &dyn Fn(&(usize, usize, Grown)) -> i64| lists.iter().map(pick).collect::<Vec<_>>();
    let number = |value: usize| i64::try_from(value).unwrap();
    let child =
        |grown: &Grown, on: bool| grown.children.map_or(0, |(yes, no)| number(if on { yes } else { no }));
    let prefix = if classifier { "class" } else { "target" };
    let entry = |pick: &dyn Fn(&Entry) -> i64| entries.iter().map(pick).collect::<Vec<_>>();
    let mode = |grown: &Grown| if grown.children.is_some() { MODES[grown.mode] } else { "LEAF" };
    let mut attributes = vec![
        ints("nodes_treeids", &list(&|it| number(it.0))),
        ints("nodes_nodeids", &list(&|it| number(it.1))),
        ints("nodes_featureids", &list(&|it| it.2.feature)),
        floats("nodes_values", &lists.iter().map(|it| it.2.split).collect::<Vec<_>>()),
        texts("nodes_modes", &lists.iter().map(|it| mode(&it.2)).collect::<Vec<_>>()),
        ints("nodes_truenodeids", &list(&|it| child(&it.2, true))),
        ints("nodes_falsenodeids", &list(&|it| child(&it.2, false))),
        ints("nodes_missing_value_tracks_true", &list(&|it| it.2.tracks)),
        ints(&format!("{prefix}_treeids"), &entry(&|it| number(it.0))),
        ints(&format!("{prefix}_nodeids"), &entry(&|it| number(it.1))),
        ints(&format!("{prefix}_ids"), &entry(&|it| number(it.2))),
        floats(&format!("{prefix}_weights"), &entries.iter().map(|it| it.3).collect::<Vec<_>>()),
        text("post_transform", draw.pick(&TRANSFORMS)),
    ];
    let base = match (classifier, draw.below(3)) {
        (_, 0) => 0,
        (true, 1) if targets == 2 => 1,
        _ => targets,
    };
    attributes.push(floats("base_values", &(0..base).map(|_| draw.eighths() / 4.0).collect::<Vec<_>>()));
    if classifier {
        attributes.push(if draw.once_in(2) {
            ints("classlabels_int64s", &(0_i64..).take(targets).collect::<Vec<_>>())
        } else {
            texts("classlabels_strings", &["a", "b", "c", "d", "e"][..targets])
        });
        return (attributes, "TreeEnsembleClassifier");
    }
    attributes
        .extend([int("n_targets", number(targets)), text("aggregate_function", draw.pick(&AGGREGATES))]);
    (attributes, "TreeEnsembleRegressor")
}

fn tensor(name: &str, data_type: i32, values: &[f32]) -> AttributeProto {
    let mut t =
        TensorProto { data_type, dims: vec![i64::try_from(values.len()).unwrap()], ..TensorProto::default() };
    t.raw_data = match data_type {
        1 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "modes are below seven")]
        2 => values.iter().map(|value| *value as u8).collect(),
        _ => values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect(),
    };
    AttributeProto { name: name.to_owned(), t: Some(t), r#type: 4, ..AttributeProto::default() }
}

/// The lists of ai.onnx.ml 5.
fn modern(draw: &mut Draw) -> Vec<AttributeProto> {
    let modes = modes(draw, 7);
    let targets = 1 + draw.below(3);
    let number = |value: usize| i64::try_from(value).unwrap();
    let (mut roots, mut nodes, mut leaves) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=draw.below(6) {
        let mut tree = Vec::new();
        grow(draw, &modes, 4, &mut tree);
        if tree[0].children.is_none() {
            let leaf = || Grown { mode: 0, feature: 0, split: 0.0, tracks: 0, children: None };
            tree.extend([leaf(), leaf()]);
            tree[0].children = Some((1, 2));
        }
        // Places among all branches, or among all leaves.
        let (mut places, mut inner) = (Vec::new(), nodes.len());
        for grown in &tree {
            if grown.children.is_some() {
                places.push((inner, 0));
                inner += 1;
            } else {
                places.push((leaves.len(), 1));
                leaves.push((draw.below(targets), draw.eighths()));
            }
        }
        roots.push(number(nodes.len()));
        for grown in tree {
            if let Some((yes, no)) = grown.children {
                nodes.push((grown, places[yes], places[no]));
            }
        }
    }
    let mut members = Vec::new();
    for _ in nodes.iter().filter(|node| node.0.mode == 6) {
        let large = draw.once_in(2);
        members.extend(
            (0..=draw.below(4))
                .map(|_| if large { draw.eighths() * 40.0 } else { draw.eighths().abs().floor() }),
        );
        members.push(f32::NAN);
    }
    let each = |pick: &dyn Fn(&Placed) -> i64| nodes.iter().map(pick).collect::<Vec<_>>();
    #[allow(clippy::cast_precision_loss, reason = "modes are below seven")]
    let codes = nodes.iter().map(|it| it.0.mode as f32).collect::<Vec<_>>();
    let mut attributes = vec![
        ints("tree_roots", &roots),
        ints("nodes_featureids", &each(&|it| it.0.feature)),
        ints("nodes_missing_value_tracks_true", &each(&|it| it.0.tracks)),
        ints("nodes_truenodeids", &each(&|it| number(it.1.0))),
        ints("nodes_trueleafs", &each(&|it| it.1.1)),
        ints("nodes_falsenodeids", &each(&|it| number(it.2.0))),
        ints("nodes_falseleafs", &each(&|it| it.2.1)),
        tensor("nodes_splits", 1, &nodes.iter().map(|it| it.0.split).collect::<Vec<_>>()),
        tensor("nodes_modes", 2, &codes),
        ints("leaf_targetids", &leaves.iter().map(|leaf| number(leaf.0)).collect::<Vec<_>>()),
        tensor("leaf_weights", 1, &leaves.iter().map(|leaf| leaf.1).collect::<Vec<_>>()),
        int("n_targets", number(targets)),
        int("aggregate_function", number(draw.below(4))),
        int("post_transform", number(draw.below(5))),
    ];
    if !members.is_empty() {
        attributes.push(tensor("membership_values", 1, &members));
    }
    attributes
}

/// The file, with the operator in its own domain as onnxruntime demands.
pub(crate) fn model(operator: &str, attributes: Vec<AttributeProto>, version: i64) -> Vec<u8> {
    let outputs: &[&str] = if operator == "TreeEnsembleClassifier" { &["label", "y"] } else { &["y"] };
    let mut ensemble = node(operator, "x", outputs, attributes);
    "ai.onnx.ml".clone_into(&mut ensemble.domain);
    let mut model = ModelProto::decode(file(vec![ensemble], "y").as_slice()).unwrap();
    model.opset_import.push(OperatorSetIdProto { domain: "ai.onnx.ml".to_owned(), version });
    model.encode_to_vec()
}

pub(crate) fn rows(draw: &mut Draw) -> Vec<Vec<f32>> {
    let cell = |draw: &mut Draw| match draw.below(8) {
        0 => f32::NAN,
        1 => draw.eighths() * 40.0,
        2 => draw.eighths().abs().floor(),
        _ => draw.eighths(),
    };
    (0..ROWS).map(|_| (0..WIDTH).map(|_| cell(draw)).collect()).collect()
}

fn oracle(folder: &Path) -> Vec<Value> {
    let python = std::env::var("FOREGATE_PYTHON")
        .expect("FOREGATE_PYTHON names no Python with onnxruntime: run `bash .ci/test`, which makes one");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_oracle.py");
    let status = Command::new(python).arg(script).arg(folder).status().unwrap();
    assert!(status.success(), "onnx_oracle.py failed");
    serde_json::from_str(&fs::read_to_string(folder.join("outputs.json")).unwrap()).unwrap()
}

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ensembles");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn random_ensembles_of_every_kind_agree_with_onnxruntime() {
    let mut draw = Draw(11);
    let folder = folder();
    let (mut cases, mut files) = (Vec::new(), Vec::new());
    for number in 0..CASES {
        let (attributes, operator, version) = match number % 3 {
            0 => (modern(&mut draw), "TreeEnsemble", 5),
            rest => {
                let (attributes, operator) = classic(&mut draw);
                (attributes, operator, if rest == 1 { 3 } else { 1 })
            }
        };
        let transform = attributes.iter().find(|attribute| attribute.name == "post_transform").unwrap();
        // The formula that onnxruntime uses loses most digits near a half.
        let tolerance = if transform.s == b"PROBIT" || transform.i == 4 { 5e-5 } else { 1e-6 };
        let holds_sets = attributes.iter().any(|attribute| attribute.name == "membership_values");
        let bytes = model(operator, attributes, version);
        let name = format!("{number}.onnx");
        fs::write(folder.join(&name), &bytes).unwrap();
        let mut rows = rows(&mut draw);
        if holds_sets {
            // onnxruntime drops the fraction before it looks into some sets; ONNX and Foregate do not.
            rows.iter_mut().flatten().for_each(|cell| *cell = cell.round());
        }
        let told: Vec<Vec<Option<f32>>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| (!cell.is_nan()).then_some(*cell)).collect())
            .collect();
        cases.push(json!({"file": name, "rows": told}));
        files.push((bytes, rows, tolerance));
    }
    fs::write(folder.join("cases.json"), Value::Array(cases).to_string()).unwrap();
    let (mut compared, mut refused) = (0, BTreeMap::<String, usize>::new());
    for (number, ((bytes, rows, tolerance), theirs)) in files.iter().zip(oracle(&folder)).enumerate() {
        let forest = match open(bytes, &ports(WIDTH)) {
            Ok(Network::Forest(forest)) => forest,
            Ok(Network::Graph(_)) => panic!("case {number} is no forest"),
            Err(error) => {
                *refused.entry(error.to_string()).or_default() += 1;
                continue;
            }
        };
        let theirs = theirs.as_array().unwrap_or_else(|| panic!("case {number}: {theirs}"));
        for (row, theirs) in rows.iter().zip(theirs) {
            let (mut tallies, mut ours) = (Vec::new(), Vec::new());
            forest.run_row(row, &mut tallies, &mut ours).unwrap();
            let theirs: Vec<f32> = theirs
                .as_array()
                .unwrap()
                .iter()
                .map(|cell| cell.as_str().unwrap().parse().unwrap())
                .collect();
            assert_eq!(ours.len(), theirs.len(), "case {number}");
            for (ours, theirs) in ours.iter().zip(&theirs) {
                let near = (ours - theirs).abs() <= tolerance * theirs.abs().max(1.0);
                let same = near || ours == theirs || ours.is_nan() && theirs.is_nan();
                assert!(same, "case {number}, {row:?}: {ours}, onnxruntime gives {theirs}");
            }
        }
        compared += 1;
    }
    println!("{compared} ensembles compared, {ROWS} rows each; refused: {refused:?}");
    assert!(compared >= CASES * 2 / 3, "{refused:?}");
    assert!(
        refused.keys().all(|why| ["leaves open", "only one of the two", "read differently"]
            .iter()
            .any(|part| why.contains(part))),
        "{refused:?}"
    );
}

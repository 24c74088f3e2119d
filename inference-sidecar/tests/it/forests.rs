//! Tree ensembles from hand-made ONNX files: branch modes, transforms, refusals.

use foregate_inference::model::load;
use foregate_inference::onnx::Ports;
use prost::Message;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto,
    type_proto,
};

pub(crate) fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.to_owned(), ints: ints.to_vec(), r#type: 7, ..AttributeProto::default() }
}

pub(crate) fn floats(name: &str, floats: &[f32]) -> AttributeProto {
    AttributeProto { name: name.to_owned(), floats: floats.to_vec(), r#type: 6, ..AttributeProto::default() }
}

pub(crate) fn texts(name: &str, texts: &[&str]) -> AttributeProto {
    let strings = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    AttributeProto { name: name.to_owned(), strings, r#type: 8, ..AttributeProto::default() }
}

pub(crate) fn text(name: &str, text: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        s: text.as_bytes().to_vec(),
        r#type: 3,
        ..AttributeProto::default()
    }
}

pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i, r#type: 2, ..AttributeProto::default() }
}

/// Trees of one branch each: `x mode threshold`, then the weights of the true and the false leaf.
fn stumps(mode: &str, thresholds: &[f32], nan: i64) -> Vec<AttributeProto> {
    let each = |values: &[i64]| thresholds.iter().flat_map(|_| values.to_vec()).collect::<Vec<_>>();
    let trees = (0_i64..).zip(thresholds).flat_map(|(tree, _)| [tree; 3]).collect::<Vec<_>>();
    vec![
        ints("nodes_treeids", &trees),
        ints("nodes_nodeids", &each(&[0, 1, 2])),
        ints("nodes_featureids", &each(&[0, 0, 0])),
        floats(
            "nodes_values",
            &thresholds.iter().flat_map(|threshold| [*threshold, 0.0, 0.0]).collect::<Vec<_>>(),
        ),
        texts("nodes_modes", &thresholds.iter().flat_map(|_| [mode, "LEAF", "LEAF"]).collect::<Vec<_>>()),
        ints("nodes_truenodeids", &each(&[1, 0, 0])),
        ints("nodes_falsenodeids", &each(&[2, 0, 0])),
        ints("nodes_missing_value_tracks_true", &each(&[nan, 0, 0])),
    ]
}

fn weights(prefix: &str, entries: &[(i64, i64, i64, f32)]) -> Vec<AttributeProto> {
    let column = |pick: fn(&(i64, i64, i64, f32)) -> i64| entries.iter().map(pick).collect::<Vec<_>>();
    vec![
        ints(&format!("{prefix}_treeids"), &column(|entry| entry.0)),
        ints(&format!("{prefix}_nodeids"), &column(|entry| entry.1)),
        ints(&format!("{prefix}_ids"), &column(|entry| entry.2)),
        floats(&format!("{prefix}_weights"), &entries.iter().map(|entry| entry.3).collect::<Vec<_>>()),
    ]
}

pub(crate) fn node(op_type: &str, input: &str, output: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op_type.to_owned(),
        input: vec![input.to_owned()],
        output: output.iter().map(|name| (*name).to_owned()).collect(),
        attribute,
        ..NodeProto::default()
    }
}

pub(crate) fn file(nodes: Vec<NodeProto>, output: &str) -> Vec<u8> {
    let value = |name: &str| ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type: 1, shape: None })),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    };
    let graph = GraphProto {
        node: nodes,
        input: vec![value("x")],
        output: vec![value(output)],
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 15 }];
    ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() }.encode_to_vec()
}

pub(crate) fn ports(width: usize) -> Ports {
    Ports { input: "x".to_owned(), width, output: "y".to_owned() }
}

fn run(bytes: &[u8], index: usize, x: f32) -> f32 {
    let mut out = Vec::new();
    load(bytes, &ports(1), index).unwrap().run(&[x], 1, &mut out).unwrap();
    out[0]
}

fn regressor(mode: &str, nan: i64) -> Vec<u8> {
    let mut attributes = stumps(mode, &[1.0], nan);
    attributes.extend(weights("target", &[(0, 1, 0, 10.0), (0, 2, 0, 20.0)]));
    file(vec![node("TreeEnsembleRegressor", "x", &["y"], attributes)], "y")
}

#[test]
fn every_branch_mode_compares_as_named_and_sends_nan_where_told() {
    // Below, at, above the threshold, and NaN with and without missing_value_tracks_true.
    let cases = [
        ("BRANCH_LEQ", [10.0, 10.0, 20.0, 10.0, 20.0]),
        ("BRANCH_LT", [10.0, 20.0, 20.0, 10.0, 20.0]),
        ("BRANCH_GTE", [20.0, 10.0, 10.0, 10.0, 20.0]),
        ("BRANCH_GT", [20.0, 20.0, 10.0, 10.0, 20.0]),
        ("BRANCH_EQ", [20.0, 10.0, 20.0, 10.0, 20.0]),
        ("BRANCH_NEQ", [10.0, 20.0, 10.0, 10.0, 10.0]),
    ];
    for (mode, expected) in cases {
        for (x, tracks, expected) in [
            (0.5, 0, expected[0]),
            (1.0, 0, expected[1]),
            (1.5, 0, expected[2]),
            (f32::NAN, 1, expected[3]),
            (f32::NAN, 0, expected[4]),
        ] {
            assert_eq!(run(&regressor(mode, tracks), 0, x), expected, "{mode} {x} {tracks}");
        }
    }
}

#[test]
fn aggregates_join_the_trees() {
    for (how, expected) in [("SUM", 7.5), ("AVERAGE", 4.0), ("MIN", 2.5), ("MAX", 5.5)] {
        let mut attributes = stumps("BRANCH_LEQ", &[1.0, 1.0], 0);
        attributes
            .extend(weights("target", &[(0, 1, 0, 2.0), (0, 2, 0, 9.0), (1, 1, 0, 5.0), (1, 2, 0, 9.0)]));
        attributes.extend([
            text("aggregate_function", how),
            floats("base_values", &[0.5]),
            int("n_targets", 1),
        ]);
        let bytes = file(vec![node("TreeEnsembleRegressor", "x", &["y"], attributes)], "y");
        assert_eq!(run(&bytes, 0, 0.0), expected, "{how}");
    }
}

fn classifier(classes: &[(i64, f32)], labels: usize, base: &[f32], transform: &str) -> Vec<u8> {
    let mut attributes = stumps("BRANCH_LEQ", &[1.0], 0);
    let entries: Vec<_> =
        classes.iter().flat_map(|(id, weight)| [(0, 1, *id, *weight), (0, 2, *id, -*weight)]).collect();
    attributes.extend(weights("class", &entries));
    attributes.push(ints("classlabels_int64s", &(0_i64..).take(labels).collect::<Vec<_>>()));
    attributes.extend([text("post_transform", transform), floats("base_values", base)]);
    file(vec![node("TreeEnsembleClassifier", "x", &["label", "y"], attributes)], "y")
}

#[test]
fn transforms_give_the_columns_that_onnxruntime_gives() {
    let sigma = |x: f32| 1.0 / (1.0 + (-x).exp());
    let [a, b, c] = [1.0_f32, 2.0, -1.0].map(f32::exp);
    let three: &[(i64, f32)] = &[(0, 1.0), (1, 2.0), (2, -1.0)];
    let cases = [
        (classifier(&[(0, 0.75)], 2, &[], "LOGISTIC"), vec![sigma(-0.75), sigma(0.75)]),
        (classifier(&[(0, 0.75)], 2, &[], "NONE"), vec![-0.75, 0.75]),
        (classifier(&[(0, 0.75)], 2, &[0.25], "LOGISTIC"), vec![sigma(-1.0), sigma(1.0)]),
        (classifier(&[(1, 0.75)], 2, &[], "LOGISTIC"), vec![0.5, sigma(0.75)]),
        (classifier(&[(0, 0.75), (1, 0.5)], 2, &[0.1], "NONE"), vec![0.85, 0.5]),
        (classifier(&[(0, 0.75), (1, 0.5)], 2, &[], "LOGISTIC"), vec![sigma(0.75), sigma(0.5)]),
        (classifier(&[(0, 0.75)], 2, &[], "SOFTMAX"), vec![-0.75, 0.75]),
        (classifier(three, 3, &[], "NONE"), vec![1.0, 2.0, -1.0]),
        (classifier(three, 3, &[0.5, 0.0, 0.0], "NONE"), vec![1.5, 2.0, -1.0]),
        (classifier(three, 3, &[], "LOGISTIC"), vec![sigma(1.0), sigma(2.0), sigma(-1.0)]),
        (classifier(three, 3, &[], "SOFTMAX"), vec![a / (a + b + c), b / (a + b + c), c / (a + b + c)]),
        (classifier(&[(0, 1.0), (1, 2.0)], 3, &[], "SOFTMAX_ZERO"), vec![a / (a + b), b / (a + b), 0.0]),
        (classifier(&[(0, 0.975), (1, 0.5), (2, 0.025)], 3, &[], "PROBIT"), vec![1.96, 0.0, -1.96]),
    ];
    for (number, (bytes, expected)) in cases.iter().enumerate() {
        for (index, expected) in expected.iter().enumerate() {
            let got = run(bytes, index, 0.0);
            let tolerance = if number == cases.len() - 1 { 5e-3 } else { 1e-6 };
            assert!(
                (got - expected).abs() <= tolerance,
                "case {number}, column {index}: {got}, expected {expected}"
            );
        }
    }
}

fn refusal(nodes: Vec<NodeProto>) -> String {
    load(&file(nodes, "y"), &ports(1), 0).unwrap_err().to_string()
}

fn broken(change: AttributeProto) -> String {
    let mut attributes = stumps("BRANCH_LEQ", &[1.0], 0);
    attributes.extend(weights("target", &[(0, 1, 0, 10.0), (0, 2, 0, 20.0)]));
    attributes.retain(|attribute| attribute.name != change.name);
    attributes.push(change);
    refusal(vec![node("TreeEnsembleRegressor", "x", &["y"], attributes)])
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    let cases = [
        (broken(ints("nodes_truenodeids", &[0, 0, 0])), "nodes form a cycle"),
        (broken(texts("nodes_modes", &["LEAF", "LEAF", "LEAF"])), "two roots"),
        (broken(ints("nodes_truenodeids", &[2, 0, 0])), "two nodes lead to the same one"),
        (broken(ints("nodes_truenodeids", &[7, 0, 0])), "does not exist"),
        (broken(ints("nodes_nodeids", &[0, 1, 1])), "share an id"),
        (broken(ints("nodes_featureids", &[1, 0, 0])), "column that the input does not have"),
        (broken(ints("nodes_featureids", &[-1, 0, 0])), "column that the input does not have"),
        (broken(ints("nodes_treeids", &[0, 0])), "differ in length"),
        (broken(ints("target_ids", &[0, 3])), "out of bounds"),
        (broken(texts("nodes_modes", &["BRANCH_MEMBER", "LEAF", "LEAF"])), "unknown branch mode"),
        (broken(text("post_transform", "TANH")), "unknown post_transform"),
        (refusal(vec![node("TreeEnsemble", "x", &["y"], vec![])]), "`TreeEnsemble`: `nodes_modes` is not"),
        (refusal(vec![node("Tokenizer", "x", &["y"], vec![])]), "`Tokenizer` is not supported"),
        (
            refusal(vec![node("Identity", "z", &["y"], vec![]), node("Identity", "y", &["z"], vec![])]),
            "cycle",
        ),
        (
            refusal(vec![
                node("Relu", "x", &["z"], vec![]),
                node("TreeEnsembleRegressor", "z", &["y"], vec![]),
            ]),
            "`Relu`",
        ),
    ];
    for (message, part) in cases {
        assert!(message.contains(part), "{message}, expected {part}");
    }
    let open = [
        classifier(&[(0, 0.75)], 2, &[0.1, 0.2], "NONE"),
        classifier(&[(1, 0.75)], 2, &[0.1], "NONE"),
        classifier(&[(0, 0.75)], 2, &[], "PROBIT"),
        classifier(&[(0, 1.0), (1, 1.0)], 3, &[0.5], "NONE"),
    ];
    for bytes in open {
        assert!(load(&bytes, &ports(1), 0).unwrap_err().to_string().contains("leaves open"));
    }
    assert!(load(b"not protobuf", &ports(1), 0).is_err());
}

#[test]
fn casts_and_dead_label_nodes_do_not_hinder_the_forest() {
    let mut attributes = stumps("BRANCH_LEQ", &[1.0], 0);
    attributes.extend(weights("class", &[(0, 1, 0, 0.75), (0, 2, 0, -0.75)]));
    attributes.push(ints("classlabels_int64s", &[0, 1]));
    let nodes = vec![
        node("Cast", "x", &["wide"], vec![int("to", 11)]),
        node("TreeEnsembleClassifier", "wide", &["label", "scores"], attributes),
        node("Cast", "label", &["text"], vec![int("to", 8)]),
        node("Identity", "scores", &["y"], vec![]),
    ];
    let model = load(&file(nodes, "y"), &ports(1), 1).unwrap();
    let mut out = Vec::new();
    model.run(&[0.0, 2.0], 2, &mut out).unwrap();
    assert_eq!((model.engine(), out), ("forest", vec![0.75, -0.75]));
}

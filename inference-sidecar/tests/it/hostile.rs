//! Damaged and hostile ONNX files are refused with the reason, and nothing worse happens.

use std::fs;
use std::path::Path;

use foregate_inference::model::load;
use foregate_inference::onnx::Ports;
use prost::Message;
use tract_onnx::pb::{
    AttributeProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
};

use crate::draw::Draw;
use crate::forests::{file, int, ints, node, ports};

/// Damaged copies of each shipped model.
const COPIES: usize = 1_500;

fn shipped() -> Vec<(Vec<u8>, Ports)> {
    let port = |width, output: &str| Ports { input: "features".to_owned(), width, output: output.to_owned() };
    [("lead-score", port(27, "probabilities")), ("lead-score-logistic", port(31, "probability"))]
        .into_iter()
        .map(|(name, ports)| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(name).join("model.onnx");
            (fs::read(path).unwrap(), ports)
        })
        .collect()
}

/// Bits flipped, bytes replaced, parts cut out, doubled or cut off.
fn damage(draw: &mut Draw, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=draw.below(6) {
        let at = draw.below(bytes.len().max(1));
        let end = (at + 1 + draw.below(40)).min(bytes.len());
        match draw.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at.min(end)..end)),
            2 => bytes.extend_from_within(at.min(end)..end),
            3 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = 0xff),
            4 => bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte = draw.next().to_le_bytes()[0]),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << draw.below(8)),
        }
    }
    bytes
}

#[test]
fn a_damaged_model_is_refused_or_runs_and_never_panics() {
    let mut draw = Draw(5);
    for (bytes, ports) in shipped() {
        let (mut loaded, mut refused) = (0, 0);
        for _ in 0..COPIES {
            match load(&damage(&mut draw, &bytes), &ports, 0) {
                Ok(model) => {
                    loaded += 1;
                    // What it gives is of no account; that it ends is.
                    let _ = model.run(&vec![1.0; ports.width * 3], 3, &mut Vec::new());
                }
                Err(error) => {
                    refused += 1;
                    assert!(!error.to_string().is_empty());
                }
            }
        }
        assert!(loaded > 0 && refused > 0, "{loaded} loaded, {refused} refused");
    }
}

#[test]
fn every_prefix_of_a_model_is_refused() {
    for (bytes, ports) in shipped() {
        for length in (0..bytes.len()).step_by(bytes.len() / 200 + 1) {
            assert!(load(&bytes[..length], &ports, 0).is_err(), "{length}");
        }
    }
}

fn constant(name: &str, dims: &[i64]) -> TensorProto {
    TensorProto { name: name.to_owned(), data_type: 1, dims: dims.to_vec(), ..TensorProto::default() }
}

fn graph(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Vec<u8> {
    let mut model = ModelProto::decode(file(nodes, "y").as_slice()).unwrap();
    model.graph.as_mut().unwrap().initializer = constants;
    model.encode_to_vec()
}

fn with_two(op_type: &str, inputs: [&str; 2], output: &str) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        ..node(op_type, "", &[output], Vec::new())
    }
}

fn filled(name: &str, dims: &[i64]) -> TensorProto {
    let count = usize::try_from(dims.iter().product::<i64>()).unwrap();
    TensorProto { float_data: vec![0.5; count], ..constant(name, dims) }
}

fn numbers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type: 7,
        dims: vec![i64::try_from(values.len()).unwrap()],
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

#[test]
fn what_would_grow_without_bound_is_refused_before_it_is_computed() {
    let doubled: Vec<NodeProto> = (0..50)
        .map(|step| {
            let from = if step == 0 { "c".to_owned() } else { format!("c{step}") };
            let mut node = with_two("Concat", [from.as_str(), from.as_str()], &format!("c{}", step + 1));
            node.attribute = vec![int("axis", 0)];
            node
        })
        .chain([with_two("Add", ["x", "c50"], "y")])
        .collect();
    let cases = [
        (
            graph(vec![with_two("Add", ["x", "c"], "y")], vec![constant("c", &[1 << 40])]),
            "numbers of the tensor `c`",
        ),
        (
            graph(vec![with_two("Add", ["x", "c"], "y")], vec![constant("c", &[1 << 31, 1 << 31, 1 << 31])]),
            "numbers of the tensor `c`",
        ),
        (
            graph(vec![with_two("Add", ["x", "c"], "y")], vec![constant("c", &[-4])]),
            "numbers of the tensor `c`",
        ),
        (graph(vec![with_two("Add", ["x", "c"], "y")], vec![constant("c", &[8])]), ""),
        (graph(doubled, vec![filled("c", &[4])]), "numbers of the tensor"),
        (
            graph(
                vec![node("ConstantOfShape", "s", &["c"], Vec::new()), with_two("Add", ["x", "c"], "y")],
                vec![numbers("s", &[1 << 40])],
            ),
            "`ConstantOfShape` computes from constants alone",
        ),
        (
            graph(
                vec![with_two("Mul", ["a", "b"], "c"), with_two("Add", ["x", "c"], "y")],
                vec![filled("a", &[1 << 14, 1]), filled("b", &[1, 1 << 14])],
            ),
            "numbers of the tensor `c`",
        ),
        (
            graph(vec![with_two("Expand", ["x", "s"], "y")], vec![numbers("s", &[1 << 20, 1 << 20, 1, 1])]),
            "over 2^26 numbers",
        ),
        (
            graph(vec![with_two("Tile", ["x", "s"], "y")], vec![numbers("s", &[1, 1 << 30])]),
            "over 2^26 numbers",
        ),
    ];
    for (number, (bytes, part)) in cases.iter().enumerate() {
        let error = load(bytes, &ports(1), 0).unwrap_err().to_string();
        assert!(error.contains(part), "case {number}: {error}");
    }
}

#[test]
fn what_lies_elsewhere_is_not_ours_or_goes_in_circles_is_refused_by_name() {
    let outside = TensorProto {
        external_data: vec![StringStringEntryProto {
            key: "location".to_owned(),
            value: "/etc/passwd".to_owned(),
        }],
        ..constant("c", &[1])
    };
    let mut foreign = node("Relu", "x", &["y"], Vec::new());
    "com.example".clone_into(&mut foreign.domain);
    let zip = vec![node("Relu", "x", &["p"], Vec::new()), node("ZipMap", "p", &["y"], Vec::new())];
    let many = (0..20_001).map(|_| node("Identity", "x", &["y"], Vec::new())).collect();
    let cases = [
        (graph(vec![with_two("Add", ["x", "c"], "y")], vec![outside]), "keeps its data in another file"),
        (file(vec![foreign], "y"), "operator `Relu` of the domain `com.example`"),
        (file(zip, "y"), "zipmap=False"),
        (file(vec![node("Tokenizer", "x", &["y"], Vec::new())], "y"), "`ngrams` in the feature spec"),
        (file(vec![with_two("Add", ["x", "y"], "y")], "y"), "cycle"),
        (file(many, "y"), "nodes of the graph: over 20000"),
        (file(vec![node("Relu", "x", &["z"], Vec::new())], "y"), ""),
    ];
    for (bytes, part) in cases {
        let error = load(&bytes, &ports(1), 0).unwrap_err().to_string();
        assert!(error.contains(part), "{error}, expected {part}");
    }
}

#[test]
fn lists_of_an_ensemble_that_lead_nowhere_are_refused() {
    let all_leq = |count: usize| AttributeProto {
        name: "nodes_modes".to_owned(),
        t: Some(TensorProto {
            data_type: 2,
            dims: vec![i64::try_from(count).unwrap()],
            raw_data: vec![0; count],
            ..TensorProto::default()
        }),
        ..AttributeProto::default()
    };
    let values = |name: &str, values: &[f32]| AttributeProto {
        name: name.to_owned(),
        t: Some(TensorProto { data_type: 1, float_data: values.to_vec(), ..TensorProto::default() }),
        ..AttributeProto::default()
    };
    let tree = |on_true: i64, leaf: i64, root: i64| {
        vec![
            ints("tree_roots", &[root]),
            ints("nodes_featureids", &[0, 0]),
            ints("nodes_truenodeids", &[on_true, 0]),
            ints("nodes_trueleafs", &[leaf, 1]),
            ints("nodes_falsenodeids", &[1, 1]),
            ints("nodes_falseleafs", &[0, 1]),
            values("nodes_splits", &[0.5, 1.5]),
            all_leq(2),
            ints("leaf_targetids", &[0, 0]),
            values("leaf_weights", &[1.0, 2.0]),
            int("n_targets", 1),
        ]
    };
    let cases = [
        (tree(0, 1, 0), None),
        (tree(0, 0, 0), Some("lead to the same one")),
        (tree(1, 0, 0), Some("lead to the same one")),
        (tree(7, 1, 0), Some("does not exist")),
        (tree(-1, 0, 0), Some("does not exist")),
        (tree(0, 1, 9), Some("root that does not exist")),
        (tree(0, 1, -9), Some("root that does not exist")),
    ];
    for (attributes, refusal) in cases {
        let mut ensemble = node("TreeEnsemble", "x", &["y"], attributes);
        "ai.onnx.ml".clone_into(&mut ensemble.domain);
        let mut model = ModelProto::decode(file(vec![ensemble], "y").as_slice()).unwrap();
        model.opset_import.push(OperatorSetIdProto { domain: "ai.onnx.ml".to_owned(), version: 5 });
        match (load(&model.encode_to_vec(), &ports(1), 0), refusal) {
            (Ok(_), None) => {}
            (Err(error), Some(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expected) => panic!("{:?}, expected {expected:?}", got.map(drop)),
        }
    }
}

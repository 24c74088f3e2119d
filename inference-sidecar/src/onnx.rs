//! Reads an ONNX file, refuses what cannot run, and chooses forest or graph.

mod bounds;
mod operators;

use std::collections::{HashMap, HashSet};

use prost::Message;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, type_proto};

use crate::forest::attributes::{EnsembleError, read};
use crate::forest::{Forest, v5};
use crate::onnx::operators::instead;

/// Which tensor goes in and which comes out, as the bundle says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    pub input: String,
    /// Columns of the input.
    pub width: usize,
    pub output: String,
}

/// What an ONNX file turned out to be.
#[derive(Debug)]
pub enum Network {
    /// One tree ensemble, with nothing but casts around it.
    Forest(Box<Forest>),
    /// Anything else: the part of the file that the output needs.
    Graph(Box<ModelProto>),
}

/// Why an ONNX file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    #[error("not an ONNX file: {0}")]
    Malformed(String),
    #[error("tensor `{0}` keeps its data in another file; save the model with all data inside")]
    ExternalData(String),
    #[error("operator `{0}` is not supported: {hint}", hint = instead(.0))]
    Operator(String),
    #[error("operator `{operator}` of the domain `{domain}` is not supported: only those of ONNX are")]
    Domain { operator: String, domain: String },
    #[error("{what}: over {limit}")]
    TooLarge { what: String, limit: usize },
    #[error("operator `{0}` computes from constants alone; fold them before the model is saved")]
    Unfolded(String),
    #[error("`{0}` is used before it is computed; the nodes form a cycle or are out of order")]
    Order(String),
    #[error("`{0}` is computed twice")]
    Twice(String),
    #[error("there is no output `{output}`; the file has {known}")]
    Output { output: String, known: String },
    #[error("input: {0}")]
    Input(String),
    #[error("operator `{operator}`: {fault}")]
    Ensemble { operator: String, fault: EnsembleError },
    #[error(
        "a tree ensemble together with `{0}` is not supported; only Identity and Cast may stand around it"
    )]
    Mixed(String),
}

const TREE_OPERATORS: [&str; 3] = ["TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"];

/// Reads the file and prunes it to what the output needs.
pub fn open(bytes: &[u8], ports: &Ports) -> Result<Network, OnnxError> {
    let mut model = ModelProto::decode(bytes).map_err(|error| OnnxError::Malformed(error.to_string()))?;
    if let Some(function) = model.functions.first() {
        return Err(OnnxError::Operator(function.name.clone().unwrap_or_default()));
    }
    let graph = model.graph.as_mut().ok_or_else(|| OnnxError::Malformed("no graph".to_owned()))?;
    bounds::check_size(graph)?;
    check_tensors(graph)?;
    check_input(graph, ports)?;
    check_order(graph)?;
    prune(graph, ports)?;
    let tree = graph.node.iter().find(|node| TREE_OPERATORS.contains(&node.op_type.as_str()));
    if let Some(tree) = tree {
        return forest(graph, tree, ports).map(|forest| Network::Forest(Box::new(forest)));
    }
    operators::check(graph)?;
    bounds::check_constants(graph)?;
    Ok(Network::Graph(Box::new(model)))
}

fn check_tensors(graph: &GraphProto) -> Result<(), OnnxError> {
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    let inner = attributes.clone().flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors));
    let external = |tensor: &&TensorProto| {
        !tensor.external_data.is_empty() || tensor.data_location == Some(DataLocation::External as i32)
    };
    if let Some(tensor) = graph.initializer.iter().chain(inner).find(external) {
        return Err(OnnxError::ExternalData(tensor.name.clone()));
    }
    let nested =
        |node: &&NodeProto| node.attribute.iter().any(|part| part.g.is_some() || !part.graphs.is_empty());
    match graph.node.iter().find(nested) {
        Some(node) => Err(OnnxError::Operator(node.op_type.clone())),
        None if !graph.sparse_initializer.is_empty() => {
            Err(OnnxError::Operator("sparse initializer".to_owned()))
        }
        None => Ok(()),
    }
}

/// The one input must have the name and width that the bundle says.
fn check_input(graph: &mut GraphProto, ports: &Ports) -> Result<(), OnnxError> {
    let constants: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    graph.input.retain(|input| !constants.contains(input.name.as_str()));
    let names = graph.input.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", ");
    let [input] = graph.input.as_slice() else {
        return Err(OnnxError::Input(format!("exactly one is supported, the file has `{names}`")));
    };
    if input.name != ports.input {
        return Err(OnnxError::Input(format!("there is no `{}`; the file has `{names}`", ports.input)));
    }
    let Some(type_proto::Value::TensorType(tensor)) =
        input.r#type.as_ref().and_then(|kind| kind.value.as_ref())
    else {
        return Err(OnnxError::Input("not a tensor".to_owned()));
    };
    if tensor.elem_type != DataType::Float as i32 {
        return Err(OnnxError::Input("not a float32 tensor".to_owned()));
    }
    let dims = tensor.shape.as_ref().map_or(&[][..], |shape| shape.dim.as_slice());
    let fixed = |dim: &tract_onnx::pb::tensor_shape_proto::Dimension| match dim.value {
        Some(tract_onnx::pb::tensor_shape_proto::dimension::Value::DimValue(size)) => Some(size),
        _ => None,
    };
    match dims {
        [] => Ok(()),
        [_, columns] => match fixed(columns) {
            Some(columns) if usize::try_from(columns) != Ok(ports.width) => {
                Err(OnnxError::Input(format!("{columns} columns, but the bundle says {}", ports.width)))
            }
            _ => Ok(()),
        },
        _ => Err(OnnxError::Input("not of two dimensions".to_owned())),
    }
}

/// ONNX demands topological order; what holds it has no cycle.
fn check_order(graph: &GraphProto) -> Result<(), OnnxError> {
    let mut known: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    known.extend(graph.input.iter().map(|input| input.name.as_str()));
    for node in &graph.node {
        for input in node.input.iter().filter(|input| !input.is_empty()) {
            if !known.contains(input.as_str()) {
                return Err(OnnxError::Order(input.clone()));
            }
        }
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            if !known.insert(output) {
                return Err(OnnxError::Twice(output.clone()));
            }
        }
    }
    Ok(())
}

/// Keeps the nodes that the output needs, and it as the only output.
fn prune(graph: &mut GraphProto, ports: &Ports) -> Result<(), OnnxError> {
    if !graph.output.iter().any(|output| output.name == ports.output) {
        let known =
            graph.output.iter().map(|output| format!("`{}`", output.name)).collect::<Vec<_>>().join(", ");
        return Err(OnnxError::Output { output: ports.output.clone(), known });
    }
    graph.output.retain(|output| output.name == ports.output);
    let mut needed = HashSet::from([ports.output.clone()]);
    let mut kept = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|output| needed.contains(output)) {
            needed.extend(node.input.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph.initializer.retain(|tensor| needed.contains(&tensor.name));
    Ok(())
}

/// Builds the forest where nothing but Identity and Cast lies between input, ensemble and output.
fn forest(graph: &GraphProto, tree: &NodeProto, ports: &Ports) -> Result<Forest, OnnxError> {
    let refuse = |fault| OnnxError::Ensemble { operator: tree.op_type.clone(), fault };
    let column = usize::from(tree.op_type == "TreeEnsembleClassifier");
    let others = graph.node.iter().filter(|node| node.output != tree.output);
    if let Some(other) = others.clone().find(|node| !is_passage(node)) {
        return Err(OnnxError::Mixed(other.op_type.clone()));
    }
    let sources: HashMap<&str, &str> = others
        .filter_map(|node| Some((node.output.first()?.as_str(), node.input.first()?.as_str())))
        .collect();
    let trace = |name: &str| {
        let mut name = name.to_owned();
        while let Some(source) = sources.get(name.as_str()) {
            name = (*source).to_owned();
        }
        name
    };
    let input = tree.input.first().map(|name| trace(name));
    if input.as_deref() != Some(ports.input.as_str()) {
        return Err(OnnxError::Input("the tree ensemble does not read it".to_owned()));
    }
    if Some(&trace(&ports.output)) != tree.output.get(column) {
        let known = tree.output.get(column).cloned().unwrap_or_default();
        return Err(OnnxError::Output {
            output: ports.output.clone(),
            known: format!("scores in `{known}`"),
        });
    }
    let ensemble = match tree.op_type.as_str() {
        "TreeEnsembleClassifier" => read(tree, true),
        "TreeEnsembleRegressor" => read(tree, false),
        _ => v5::read(tree),
    };
    ensemble.and_then(|ensemble| Forest::new(&ensemble, ports.width)).map_err(refuse)
}

/// True for a node that hands floats on unchanged.
fn is_passage(node: &NodeProto) -> bool {
    match node.op_type.as_str() {
        "Identity" => true,
        // To double and back loses nothing of a float.
        "Cast" => node.attribute.iter().any(|part| {
            part.name == "to" && [DataType::Float as i64, DataType::Double as i64].contains(&part.i)
        }),
        _ => false,
    }
}

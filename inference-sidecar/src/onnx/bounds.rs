//! Bounds what an ONNX file makes the engine compute while it loads.

use std::collections::HashMap;

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::OnnxError;

/// Nodes of a graph at most.
const MAX_NODES: usize = 20_000;
/// Numbers in a constant at most, whether it stands in the file or is computed from what does.
const MAX_CELLS: usize = 1 << 26;

/// Bounds the number of nodes, and the size of every tensor by what its shape claims.
pub(super) fn check_size(graph: &GraphProto) -> Result<(), OnnxError> {
    if graph.node.len() > MAX_NODES {
        return Err(OnnxError::TooLarge { what: "nodes of the graph".to_owned(), limit: MAX_NODES });
    }
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    let inner = attributes.flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors));
    for tensor in graph.initializer.iter().chain(inner) {
        cells(tensor)?;
    }
    Ok(())
}

fn too_large(name: &str) -> OnnxError {
    OnnxError::TooLarge { what: format!("numbers of the tensor `{name}`"), limit: MAX_CELLS }
}

/// Numbers in the tensor, as its shape says.
fn cells(tensor: &TensorProto) -> Result<usize, OnnxError> {
    let cells = tensor
        .dims
        .iter()
        .try_fold(1_usize, |cells, size| cells.checked_mul(usize::try_from(*size).ok()?))
        .filter(|cells| *cells <= MAX_CELLS);
    cells.ok_or_else(|| too_large(&tensor.name))
}

/// Refuses constants that grow out of other constants.
///
/// The engine computes such nodes while it reads the file, so that a few bytes could ask for any memory. What
/// depends on the row is bounded later, when the shapes are known.
pub(super) fn check_constants(graph: &GraphProto) -> Result<(), OnnxError> {
    let mut known: HashMap<&str, usize> = HashMap::new();
    for tensor in &graph.initializer {
        known.insert(&tensor.name, cells(tensor)?);
    }
    for node in &graph.node {
        let inputs = node.input.iter().filter(|name| !name.is_empty());
        let sizes: Option<Vec<usize>> = inputs.map(|name| known.get(name.as_str()).copied()).collect();
        let size = match (node.op_type.as_str(), sizes) {
            // The shape of any tensor is known at once, and it is short.
            ("Shape" | "Size", _) => 8,
            (_, None) => continue,
            (_, Some(sizes)) => grown(node, &sizes)?,
        };
        if size > MAX_CELLS {
            return Err(too_large(node.output.first().map_or("", String::as_str)));
        }
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            known.insert(output, size);
        }
    }
    Ok(())
}

/// Numbers at most in the output of a node that is computed from constants of these sizes.
fn grown(node: &NodeProto, sizes: &[usize]) -> Result<usize, OnnxError> {
    let product = || sizes.iter().fold(1_usize, |product, size| product.saturating_mul((*size).max(1)));
    Ok(match node.op_type.as_str() {
        "Constant" => {
            let tensors = node.attribute.iter().filter_map(|attribute| attribute.t.as_ref());
            let lists =
                node.attribute.iter().map(|attribute| attribute.floats.len().max(attribute.ints.len()));
            tensors
                .map(cells)
                .collect::<Result<Vec<_>, _>>()?
                .into_iter()
                .chain(lists)
                .max()
                .unwrap_or(1)
                .max(1)
        }
        "Identity" | "Cast" | "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Slice"
        | "Neg" | "Sqrt" | "Exp" | "Reciprocal" | "ReduceSum" | "ReduceProd" | "ReduceMean" | "Floor" => {
            sizes.first().copied().unwrap_or(1)
        }
        "Concat" => sizes.iter().fold(0, |sum, size| sum.saturating_add(*size)),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "MatMul" | "Gather" => product(),
        _ => return Err(OnnxError::Unfolded(node.op_type.clone())),
    })
}

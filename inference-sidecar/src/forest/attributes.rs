//! Reads the attributes of `TreeEnsembleClassifier` and `TreeEnsembleRegressor`.

use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto, tensor_proto::DataType};

use super::Mode;
use super::finish::{Aggregate, Binary, Finish, Transform};

/// Why a tree ensemble is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EnsembleError(pub &'static str);

/// One node, as the parallel `nodes_*` lists have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EnsembleNode {
    pub tree: i64,
    pub id: i64,
    pub feature: u16,
    pub threshold: f64,
    pub mode: Mode,
    pub on_true: i64,
    pub on_false: i64,
    pub nan_is_true: bool,
}

/// One weight of a leaf, as the `class_*` or `target_*` lists have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EnsembleWeight {
    pub tree: i64,
    pub node: i64,
    pub target: i64,
    pub value: f64,
}

/// A tree ensemble as read, before its nodes are linked.
#[derive(Clone, Debug, PartialEq)]
pub struct Ensemble {
    pub nodes: Vec<EnsembleNode>,
    pub weights: Vec<EnsembleWeight>,
    pub aggregate: Aggregate,
    pub finish: Finish,
    pub double: bool,
    /// What the branches of [`Mode::Member`] compare with; such a branch has the position as its threshold.
    pub sets: Vec<Vec<f64>>,
    /// Training rows that came to each node, in the order of `nodes`; empty where the file does not say.
    pub covers: Vec<f64>,
}

/// Classes or targets at most.
pub(super) const MAX_TARGETS: usize = 1024;

/// The attributes of one node, by name.
pub(super) struct Attributes<'a>(pub(super) &'a [AttributeProto]);

impl<'a> Attributes<'a> {
    pub(super) fn find(&self, name: &str) -> Option<&'a AttributeProto> {
        self.0.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn ints(&self, name: &str) -> &'a [i64] {
        self.find(name).map_or(&[], |attribute| attribute.ints.as_slice())
    }

    fn text(&self, name: &str) -> Result<&'a str, EnsembleError> {
        let bytes = self.find(name).map_or(&[][..], |attribute| attribute.s.as_slice());
        std::str::from_utf8(bytes).map_err(|_| EnsembleError("a text that is not UTF-8"))
    }

    /// The list of floats, or the `_as_tensor` list beside it; true where that holds doubles.
    fn floats(&self, name: &str) -> Result<(Vec<f64>, bool), EnsembleError> {
        let floats = self.find(name).map_or(&[][..], |attribute| attribute.floats.as_slice());
        let tensor = self.find(&format!("{name}_as_tensor")).and_then(|attribute| attribute.t.as_ref());
        let (values, double) = match tensor {
            Some(_) if !floats.is_empty() => {
                return Err(EnsembleError("values both as floats and as a tensor"));
            }
            Some(tensor) => tensor_values(tensor)?,
            None => (floats.iter().copied().map(f64::from).collect(), false),
        };
        if !values.iter().all(|value| !value.is_nan()) {
            return Err(EnsembleError("a value that is NaN"));
        }
        Ok((values, double))
    }
}

/// The floats of a tensor; true where they are doubles.
pub(crate) fn tensor_values(tensor: &TensorProto) -> Result<(Vec<f64>, bool), EnsembleError> {
    let raw = tensor.raw_data.as_slice();
    match tensor.data_type {
        kind if kind == DataType::Float as i32 => {
            let (words, _) = raw.as_chunks::<4>();
            let values = words.iter().map(|word| f64::from(f32::from_le_bytes(*word)));
            Ok((values.chain(tensor.float_data.iter().copied().map(f64::from)).collect(), false))
        }
        kind if kind == DataType::Double as i32 => {
            let (words, _) = raw.as_chunks::<8>();
            let values = words.iter().map(|word| f64::from_le_bytes(*word));
            Ok((values.chain(tensor.double_data.iter().copied()).collect(), true))
        }
        _ => Err(EnsembleError("values that are neither float nor double")),
    }
}

/// Reads the ensemble of a node; `classifier` tells which of the two operators it is.
pub fn read(node: &NodeProto, classifier: bool) -> Result<Ensemble, EnsembleError> {
    let attributes = Attributes(&node.attribute);
    let (nodes, double_nodes) = nodes(&attributes)?;
    let prefix = if classifier { "class" } else { "target" };
    let (weights, double_weights) = weights(&attributes, prefix)?;
    let (base, _) = attributes.floats("base_values")?;
    let transform = transform(attributes.text("post_transform")?)?;
    let covers = covers(&attributes, nodes.len())?;
    let (finish, aggregate) = if classifier {
        let leaves = nodes.iter().filter(|node| node.mode == Mode::Leaf).count();
        (classifier_finish(&attributes, leaves, &weights, base, transform)?, Aggregate::Sum)
    } else {
        (regressor_finish(&attributes, base, transform)?, aggregate(attributes.text("aggregate_function")?)?)
    };
    let double = double_nodes || double_weights;
    Ok(Ensemble { nodes, weights, aggregate, finish, double, sets: Vec::new(), covers })
}

/// Most exporters leave `nodes_hitrates` out, or write the same number everywhere.
fn covers(attributes: &Attributes<'_>, nodes: usize) -> Result<Vec<f64>, EnsembleError> {
    let (covers, _) = attributes.floats("nodes_hitrates")?;
    Ok(if covers.len() == nodes { covers } else { Vec::new() })
}

fn nodes(attributes: &Attributes<'_>) -> Result<(Vec<EnsembleNode>, bool), EnsembleError> {
    let trees = attributes.ints("nodes_treeids");
    let ids = attributes.ints("nodes_nodeids");
    let features = attributes.ints("nodes_featureids");
    let modes = attributes.find("nodes_modes").map_or(&[][..], |attribute| attribute.strings.as_slice());
    let on_true = attributes.ints("nodes_truenodeids");
    let on_false = attributes.ints("nodes_falsenodeids");
    let tracks = attributes.ints("nodes_missing_value_tracks_true");
    let (thresholds, double) = attributes.floats("nodes_values")?;
    let count = trees.len();
    let lengths = [ids.len(), features.len(), modes.len(), on_true.len(), on_false.len(), thresholds.len()];
    if lengths.iter().any(|length| *length != count) || !(tracks.is_empty() || tracks.len() == count) {
        return Err(EnsembleError("lists of nodes that differ in length"));
    }
    let columns = trees.iter().zip(ids).zip(features).zip(thresholds).zip(modes).zip(on_true).zip(on_false);
    let tracks = tracks.iter().copied().chain(std::iter::repeat(0));
    let mut nodes = Vec::with_capacity(count);
    for (((((((tree, id), feature), threshold), mode), on_true), on_false), tracks) in columns.zip(tracks) {
        let mode = branch_mode(mode)?;
        let feature = match u16::try_from(*feature) {
            Ok(feature) => feature,
            Err(_) if mode == Mode::Leaf => 0,
            Err(_) => return Err(EnsembleError("a node reads a column that the input does not have")),
        };
        let (on_true, on_false) = (*on_true, *on_false);
        let nan_is_true = tracks != 0;
        nodes.push(EnsembleNode {
            tree: *tree,
            id: *id,
            feature,
            threshold,
            mode,
            on_true,
            on_false,
            nan_is_true,
        });
    }
    Ok((nodes, double))
}

fn branch_mode(mode: &[u8]) -> Result<Mode, EnsembleError> {
    Ok(match mode {
        b"BRANCH_LEQ" => Mode::Leq,
        b"BRANCH_LT" => Mode::Lt,
        b"BRANCH_GTE" => Mode::Gte,
        b"BRANCH_GT" => Mode::Gt,
        b"BRANCH_EQ" => Mode::Eq,
        b"BRANCH_NEQ" => Mode::Neq,
        b"LEAF" => Mode::Leaf,
        _ => return Err(EnsembleError("an unknown branch mode")),
    })
}

fn weights(attributes: &Attributes<'_>, prefix: &str) -> Result<(Vec<EnsembleWeight>, bool), EnsembleError> {
    let trees = attributes.ints(&format!("{prefix}_treeids"));
    let nodes = attributes.ints(&format!("{prefix}_nodeids"));
    let targets = attributes.ints(&format!("{prefix}_ids"));
    let (values, double) = attributes.floats(&format!("{prefix}_weights"))?;
    if [nodes.len(), targets.len(), values.len()].iter().any(|length| *length != trees.len())
        || trees.is_empty()
    {
        return Err(EnsembleError("lists of weights that are empty or differ in length"));
    }
    let weights = trees.iter().zip(nodes).zip(targets).zip(values).map(|(((tree, node), target), value)| {
        EnsembleWeight { tree: *tree, node: *node, target: *target, value }
    });
    Ok((weights.collect(), double))
}

fn transform(name: &str) -> Result<Transform, EnsembleError> {
    Ok(match name {
        "" | "NONE" => Transform::None,
        "LOGISTIC" => Transform::Logistic,
        "SOFTMAX" => Transform::Softmax,
        "SOFTMAX_ZERO" => Transform::SoftmaxZero,
        "PROBIT" => Transform::Probit,
        _ => return Err(EnsembleError("an unknown post_transform")),
    })
}

fn aggregate(name: &str) -> Result<Aggregate, EnsembleError> {
    Ok(match name {
        "" | "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Average,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        _ => return Err(EnsembleError("an unknown aggregate_function")),
    })
}

fn classifier_finish(
    attributes: &Attributes<'_>,
    leaves: usize,
    weights: &[EnsembleWeight],
    base: Vec<f64>,
    transform: Transform,
) -> Result<Finish, EnsembleError> {
    let strings = attributes.find("classlabels_strings").map_or(0, |attribute| attribute.strings.len());
    let classes = attributes.ints("classlabels_int64s").len() + strings;
    if !(2..=MAX_TARGETS).contains(&classes) {
        return Err(EnsembleError("the number of classes is out of bounds"));
    }
    let first = weights.first().map(|weight| weight.target);
    let one_class = weights.iter().all(|weight| Some(weight.target) == first);
    let binary = match (classes == 2 && one_class, weights.iter().all(|weight| weight.value >= 0.0)) {
        (false, _) => Binary::No,
        (true, true) => Binary::Probability,
        (true, false) => Binary::Margin,
    };
    let first_is_second = one_class && first == Some(1);
    let clear = match (classes, base.len()) {
        (2, 0) => binary == Binary::No || transform != Transform::Probit,
        (2, 1) => !first_is_second && (binary == Binary::No || transform != Transform::Probit),
        (2, _) => false,
        (classes, values) => values == 0 || values == classes,
    };
    if !clear {
        return Err(EnsembleError(
            "base values or a transform whose meaning ONNX leaves open; write one weight a class into each leaf",
        ));
    }
    if classes == 2 && !one_class && weights.len() != 2 * leaves {
        return Err(EnsembleError("leaves that weigh only one of the two classes"));
    }
    Ok(Finish::Classifier { classes, base, transform, binary })
}

fn regressor_finish(
    attributes: &Attributes<'_>,
    base: Vec<f64>,
    transform: Transform,
) -> Result<Finish, EnsembleError> {
    let targets = attributes.find("n_targets").map_or(1, |attribute| attribute.i);
    let targets = usize::try_from(targets).ok().filter(|targets| (1..=MAX_TARGETS).contains(targets));
    let targets = targets.ok_or(EnsembleError("the number of targets is out of bounds"))?;
    if !(base.is_empty() || base.len() == targets) {
        return Err(EnsembleError("base values that do not match the targets; write one for each, or none"));
    }
    Ok(Finish::Regressor { targets, base, transform })
}

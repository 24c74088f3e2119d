//! Reads the attributes of `TreeEnsemble` (ai.onnx.ml 5).

use tract_onnx::pb::NodeProto;
use tract_onnx::pb::tensor_proto::DataType;

use super::Mode;
use super::attributes::{
    Attributes, Ensemble, EnsembleError, EnsembleNode, EnsembleWeight, MAX_TARGETS, tensor_values,
};
use super::finish::{Aggregate, Finish, Transform};

/// Nodes that are written down at most, leaves included: several branches may share one leaf.
const MAX_NODES: usize = 4_000_000;

/// The lists of the operator, all of one length.
struct Branches<'a> {
    features: &'a [i64],
    modes: Vec<Mode>,
    splits: Vec<f64>,
    tracks: &'a [i64],
    /// Target and whether it is a leaf, for true and for false.
    on_true: (&'a [i64], &'a [i64]),
    on_false: (&'a [i64], &'a [i64]),
}

/// Where a walk goes next: a branch or a leaf, and the id it gets.
#[derive(Clone, Copy)]
struct Step {
    at: i64,
    leaf: bool,
    id: i64,
}

/// Reads the ensemble of a node. One leaf may end several branches; a branch has one parent.
pub fn read(node: &NodeProto) -> Result<Ensemble, EnsembleError> {
    let attributes = Attributes(&node.attribute);
    let (branches, sets, double_splits) = branches(&attributes)?;
    let targets = attributes.ints("leaf_targetids");
    let (weights, double_weights) = floats(&attributes, "leaf_weights")?;
    if targets.len() != weights.len() || weights.iter().any(|weight| weight.is_nan()) {
        return Err(EnsembleError("lists of leaves that differ in length, or a weight that is NaN"));
    }
    let mut ensemble = Ensemble {
        nodes: Vec::new(),
        weights: Vec::new(),
        aggregate: aggregate(attributes.find("aggregate_function").map_or(1, |attribute| attribute.i))?,
        finish: finish(&attributes)?,
        double: double_splits || double_weights,
        sets,
        covers: Vec::new(),
    };
    let roots = attributes.ints("tree_roots");
    if roots.is_empty() {
        return Err(EnsembleError("no tree: `tree_roots` is empty"));
    }
    let mut seen = vec![false; branches.features.len()];
    for (tree, root) in (0_i64..).zip(roots) {
        let mut walk =
            Walk { branches: &branches, targets, weights: &weights, seen: &mut seen, tree, next: 1 };
        walk.run(*root, &mut ensemble)?;
    }
    Ok(ensemble)
}

/// The values of a tensor; true where they are doubles.
fn floats(attributes: &Attributes<'_>, name: &str) -> Result<(Vec<f64>, bool), EnsembleError> {
    match attributes.find(name).and_then(|attribute| attribute.t.as_ref()) {
        Some(tensor) => tensor_values(tensor),
        None => Ok((Vec::new(), false)),
    }
}

fn branches<'a>(attributes: &Attributes<'a>) -> Result<(Branches<'a>, Vec<Vec<f64>>, bool), EnsembleError> {
    let modes = modes(attributes)?;
    let (mut splits, double) = floats(attributes, "nodes_splits")?;
    let (members, _) = floats(attributes, "membership_values")?;
    let sets = sets(&modes, &members, &mut splits)?;
    let branches = Branches {
        features: attributes.ints("nodes_featureids"),
        modes,
        splits,
        tracks: attributes.ints("nodes_missing_value_tracks_true"),
        on_true: (attributes.ints("nodes_truenodeids"), attributes.ints("nodes_trueleafs")),
        on_false: (attributes.ints("nodes_falsenodeids"), attributes.ints("nodes_falseleafs")),
    };
    let count = branches.features.len();
    let lengths = [
        branches.modes.len(),
        branches.splits.len(),
        branches.on_true.0.len(),
        branches.on_true.1.len(),
        branches.on_false.0.len(),
        branches.on_false.1.len(),
    ];
    let tracks = branches.tracks.len();
    if lengths.iter().any(|length| *length != count) || !(tracks == 0 || tracks == count) {
        return Err(EnsembleError("lists of nodes that differ in length"));
    }
    if branches.splits.iter().any(|split| split.is_nan()) {
        return Err(EnsembleError("a value that is NaN"));
    }
    Ok((branches, sets, double))
}

fn modes(attributes: &Attributes<'_>) -> Result<Vec<Mode>, EnsembleError> {
    let tensor = attributes.find("nodes_modes").and_then(|attribute| attribute.t.as_ref());
    let tensor = tensor.ok_or(EnsembleError("`nodes_modes` is not a tensor"))?;
    if tensor.data_type != DataType::Uint8 as i32 {
        return Err(EnsembleError("`nodes_modes` does not hold uint8"));
    }
    let raw = tensor.raw_data.iter().copied().map(i32::from);
    let listed = tensor.int32_data.iter().copied();
    raw.chain(listed)
        .map(|mode| {
            Ok(match mode {
                0 => Mode::Leq,
                1 => Mode::Lt,
                2 => Mode::Gte,
                3 => Mode::Gt,
                4 => Mode::Eq,
                5 => Mode::Neq,
                6 => Mode::Member,
                _ => return Err(EnsembleError("an unknown branch mode")),
            })
        })
        .collect()
}

/// The sets of the branches on membership, in order; NaN ends each. Their splits become positions of sets.
fn sets(modes: &[Mode], members: &[f64], splits: &mut [f64]) -> Result<Vec<Vec<f64>>, EnsembleError> {
    let mut groups = members.split(|value| value.is_nan());
    let mut sets = Vec::new();
    for (mode, split) in modes.iter().zip(splits) {
        if *mode != Mode::Member {
            continue;
        }
        let group = groups.next().filter(|group| !group.is_empty());
        let group = group.ok_or(EnsembleError("a branch on membership without `membership_values`"))?;
        let position = u32::try_from(sets.len()).map_err(|_| EnsembleError("too many nodes"))?;
        *split = f64::from(position);
        sets.push(group.to_vec());
    }
    Ok(sets)
}

fn aggregate(number: i64) -> Result<Aggregate, EnsembleError> {
    Ok(match number {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        _ => return Err(EnsembleError("an unknown aggregate_function")),
    })
}

fn finish(attributes: &Attributes<'_>) -> Result<Finish, EnsembleError> {
    let targets = attributes.find("n_targets").map_or(0, |attribute| attribute.i);
    let targets = usize::try_from(targets).ok().filter(|targets| (1..=MAX_TARGETS).contains(targets));
    let targets = targets.ok_or(EnsembleError("the number of targets is out of bounds"))?;
    let transform = match attributes.find("post_transform").map_or(0, |attribute| attribute.i) {
        0 => Transform::None,
        // ONNX says softmax and logistic, onnxruntime computes logistic and softmax; neither for a single target.
        1 | 2 if targets == 1 => Transform::None,
        1 | 2 => {
            return Err(EnsembleError(
                "a post_transform that ONNX and onnxruntime read differently; write it with ai.onnx.ml 3",
            ));
        }
        3 => Transform::SoftmaxZero,
        4 => Transform::Probit,
        _ => return Err(EnsembleError("an unknown post_transform")),
    };
    Ok(Finish::Regressor { targets, base: Vec::new(), transform })
}

struct Walk<'a> {
    branches: &'a Branches<'a>,
    targets: &'a [i64],
    weights: &'a [f64],
    seen: &'a mut [bool],
    tree: i64,
    /// Id of the next node.
    next: i64,
}

impl Walk<'_> {
    /// Writes down one tree.
    fn run(&mut self, root: i64, ensemble: &mut Ensemble) -> Result<(), EnsembleError> {
        let place = usize::try_from(root).map_err(|_| EnsembleError("a root that does not exist"))?;
        let mut open = vec![self.root(place, root)?];
        while let Some(step) = open.pop() {
            if ensemble.nodes.len() >= MAX_NODES {
                return Err(EnsembleError("the number of nodes is out of bounds"));
            }
            if step.leaf {
                self.leaf(step, ensemble)?;
            } else {
                open.extend(self.branch(step, ensemble)?);
            }
        }
        Ok(())
    }

    /// A tree that is one leaf is written as a branch whose two ways end in it.
    fn root(&self, place: usize, root: i64) -> Result<Step, EnsembleError> {
        let at = |list: &[i64]| list.get(place).copied().ok_or(EnsembleError("a root that does not exist"));
        let (on_true, true_leaf) = (at(self.branches.on_true.0)?, at(self.branches.on_true.1)?);
        let (on_false, false_leaf) = (at(self.branches.on_false.0)?, at(self.branches.on_false.1)?);
        let lone = on_true == on_false && true_leaf != 0 && false_leaf != 0;
        Ok(if lone { Step { at: on_true, leaf: true, id: 0 } } else { Step { at: root, leaf: false, id: 0 } })
    }

    fn leaf(&self, step: Step, ensemble: &mut Ensemble) -> Result<(), EnsembleError> {
        let place = usize::try_from(step.at).ok();
        let found =
            place.and_then(|place| self.targets.get(place).copied().zip(self.weights.get(place).copied()));
        let (target, value) = found.ok_or(EnsembleError("a node leads to one that does not exist"))?;
        ensemble.nodes.push(EnsembleNode {
            tree: self.tree,
            id: step.id,
            feature: 0,
            threshold: 0.0,
            mode: Mode::Leaf,
            on_true: 0,
            on_false: 0,
            nan_is_true: false,
        });
        ensemble.weights.push(EnsembleWeight { tree: self.tree, node: step.id, target, value });
        Ok(())
    }

    fn branch(&mut self, step: Step, ensemble: &mut Ensemble) -> Result<[Step; 2], EnsembleError> {
        let missing = EnsembleError("a node leads to one that does not exist");
        let place = usize::try_from(step.at).map_err(|_| missing)?;
        let first = self.seen.get_mut(place).ok_or(missing)?;
        if std::mem::replace(first, true) {
            return Err(EnsembleError("two nodes lead to the same one, or the nodes form a cycle"));
        }
        let at = |list: &[i64]| list.get(place).copied().ok_or(missing);
        let feature = u16::try_from(at(self.branches.features)?)
            .map_err(|_| EnsembleError("a node reads a column that the input does not have"))?;
        let (on_true, on_false) = (self.next, self.next + 1);
        self.next += 2;
        ensemble.nodes.push(EnsembleNode {
            tree: self.tree,
            id: step.id,
            feature,
            threshold: self.branches.splits.get(place).copied().ok_or(missing)?,
            mode: self.branches.modes.get(place).copied().ok_or(missing)?,
            on_true,
            on_false,
            nan_is_true: self.branches.tracks.get(place).is_some_and(|tracks| *tracks != 0),
        });
        Ok([
            Step {
                at: at(self.branches.on_false.0)?,
                leaf: at(self.branches.on_false.1)? != 0,
                id: on_false,
            },
            Step { at: at(self.branches.on_true.0)?, leaf: at(self.branches.on_true.1)? != 0, id: on_true },
        ])
    }
}

//! Turns the parallel lists of a tree ensemble into flat pre-order nodes.

use std::collections::HashMap;

use super::attributes::{Ensemble, EnsembleError};
use super::set::Set;
use super::{Forest, Mode, Node, Weight};

/// Nodes in all trees at most: 16 bytes each.
const MAX_NODES: usize = 4_000_000;

/// Checks that the nodes form trees, and writes them down in pre-order.
pub(super) fn lay_out(ensemble: &Ensemble, width: usize) -> Result<Forest, EnsembleError> {
    if ensemble.nodes.is_empty() || ensemble.nodes.len() > MAX_NODES {
        return Err(EnsembleError("the number of nodes is out of bounds"));
    }
    let (roots, children) = link(ensemble, width)?;
    let leaves = leaves(ensemble)?;
    let mut forest = Forest {
        nodes: Vec::with_capacity(ensemble.nodes.len()),
        roots: Vec::with_capacity(roots.len()),
        weights: Vec::with_capacity(ensemble.weights.len()),
        sets: ensemble.sets.iter().map(|values| Set::new(values)).collect(),
        covers: Vec::with_capacity(ensemble.covers.len()),
        width,
        aggregate: ensemble.aggregate,
        finish: ensemble.finish.clone(),
        double: ensemble.double,
        uniform: None,
        lone: None,
    };
    for root in roots {
        forest.roots.push(index(forest.nodes.len())?);
        write_tree(&mut forest, ensemble, &children, &leaves, root)?;
    }
    if forest.nodes.len() != ensemble.nodes.len() {
        return Err(EnsembleError("nodes form a cycle"));
    }
    if !forest.covers_add_up() {
        forest.covers = Vec::new();
    }
    simplify(&mut forest);
    Ok(forest)
}

impl Forest {
    /// True where every branch was passed by as many rows as its two children together, and by some.
    fn covers_add_up(&self) -> bool {
        let cover = |at: usize| self.covers.get(at).copied().unwrap_or(0.0);
        self.covers.len() == self.nodes.len()
            && self.nodes.iter().enumerate().all(|(at, node)| {
                let whole = cover(at);
                let parts = cover(at + 1) + cover(node.link as usize);
                whole.is_finite()
                    && whole > 0.0
                    && (node.mode == Mode::Leaf || (whole - parts).abs() <= 1e-4 * whole)
            })
    }
}

/// Finds out what all branches, and all leaves, have in common.
fn simplify(forest: &mut Forest) {
    let mut branches = forest.nodes.iter().filter(|node| node.mode != Mode::Leaf);
    let first = branches.next().map(|node| node.mode);
    let plain = forest.nodes.iter().all(|node| node.mode == Mode::Leaf || !node.nan_is_true);
    forest.uniform = first.filter(|mode| plain && branches.all(|node| node.mode == *mode));
    let Some(target) = forest.weights.first().map(|weight| weight.target) else { return };
    let alike = forest.weights.iter().all(|weight| weight.target == target);
    if alike && forest.nodes.iter().all(|node| node.mode != Mode::Leaf || node.feature == 1) {
        forest.lone = Some(target);
        for node in forest.nodes.iter_mut().filter(|node| node.mode == Mode::Leaf) {
            if let Some(weight) = forest.weights.get(node.link as usize) {
                node.threshold = weight.value;
            }
        }
    }
}

fn index(position: usize) -> Result<u32, EnsembleError> {
    u32::try_from(position).map_err(|_| EnsembleError("too many nodes"))
}

/// Positions of a branch's children.
type Children = Vec<Option<(usize, usize)>>;

/// Finds the children of every branch, and the one root of every tree in order of appearance.
fn link(ensemble: &Ensemble, width: usize) -> Result<(Vec<usize>, Children), EnsembleError> {
    let mut positions = HashMap::with_capacity(ensemble.nodes.len());
    for (position, node) in ensemble.nodes.iter().enumerate() {
        if positions.insert((node.tree, node.id), position).is_some() {
            return Err(EnsembleError("two nodes of a tree share an id"));
        }
        if node.mode != Mode::Leaf && usize::from(node.feature) >= width {
            return Err(EnsembleError("a node reads a column that the input does not have"));
        }
    }
    let mut parented = vec![false; ensemble.nodes.len()];
    let mut children: Children = Vec::with_capacity(ensemble.nodes.len());
    for node in &ensemble.nodes {
        if node.mode == Mode::Leaf {
            children.push(None);
            continue;
        }
        let mut child = |id| {
            let position = *positions
                .get(&(node.tree, id))
                .ok_or(EnsembleError("a node leads to one that does not exist"))?;
            match parented.get_mut(position) {
                Some(taken) if !*taken => *taken = true,
                _ => return Err(EnsembleError("two nodes lead to the same one")),
            }
            Ok(position)
        };
        children.push(Some((child(node.on_true)?, child(node.on_false)?)));
    }
    let mut rooted = HashMap::new();
    let mut roots = Vec::new();
    for (position, node) in ensemble.nodes.iter().enumerate() {
        if parented.get(position) == Some(&false) {
            if rooted.insert(node.tree, position).is_some() {
                return Err(EnsembleError("a tree has two roots"));
            }
            roots.push(position);
        }
    }
    Ok((roots, children))
}

/// The weights of every leaf.
fn leaves(ensemble: &Ensemble) -> Result<HashMap<(i64, i64), Vec<Weight>>, EnsembleError> {
    let mut leaves: HashMap<(i64, i64), Vec<Weight>> = HashMap::new();
    for weight in &ensemble.weights {
        let target =
            u16::try_from(weight.target).map_err(|_| EnsembleError("a class or target out of bounds"))?;
        if usize::from(target) >= ensemble.finish.targets() {
            return Err(EnsembleError("a class or target out of bounds"));
        }
        leaves.entry((weight.tree, weight.node)).or_default().push(Weight { target, value: weight.value });
    }
    Ok(leaves)
}

fn write_tree(
    forest: &mut Forest,
    ensemble: &Ensemble,
    children: &Children,
    leaves: &HashMap<(i64, i64), Vec<Weight>>,
    root: usize,
) -> Result<(), EnsembleError> {
    // Each entry: what to write, and the node whose child for `false` it is.
    let mut open: Vec<(usize, Option<usize>)> = vec![(root, None)];
    while let Some((position, parent)) = open.pop() {
        let at = forest.nodes.len();
        if let Some(parent) = parent.and_then(|parent| forest.nodes.get_mut(parent)) {
            parent.link = index(at)?;
        }
        let source = ensemble.nodes.get(position).ok_or(EnsembleError("a node out of bounds"))?;
        let mut node = Node {
            threshold: source.threshold,
            link: 0,
            feature: source.feature,
            mode: source.mode,
            nan_is_true: source.nan_is_true,
        };
        if let Some((on_true, on_false)) = children.get(position).copied().flatten() {
            open.push((on_false, Some(at)));
            open.push((on_true, None));
        } else {
            let weights = leaves.get(&(source.tree, source.id)).map_or(&[][..], Vec::as_slice);
            node.link = index(forest.weights.len())?;
            node.feature =
                u16::try_from(weights.len()).map_err(|_| EnsembleError("a leaf with too many weights"))?;
            forest.weights.extend_from_slice(weights);
        }
        forest.nodes.push(node);
        forest.covers.extend(ensemble.covers.get(position));
    }
    Ok(())
}

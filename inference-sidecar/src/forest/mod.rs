//! Evaluates tree ensembles laid out flat, as the ONNX ai.onnx.ml operators define them.

pub mod attributes;
pub mod finish;
mod layout;
mod set;
mod shap;
pub mod v5;

use crate::forest::attributes::{Ensemble, EnsembleError};
use crate::forest::finish::{Aggregate, Finish};
use crate::forest::set::Set;

/// A tree ensemble ready to run. Immutable.
#[derive(Debug)]
pub struct Forest {
    /// All trees in pre-order, one behind the other: the child for `true` follows its node.
    nodes: Vec<Node>,
    /// Where each tree starts in `nodes`.
    roots: Vec<u32>,
    weights: Vec<Weight>,
    sets: Vec<Set>,
    /// Training rows that came to each node; empty where the file tells no such thing.
    covers: Vec<f64>,
    width: usize,
    aggregate: Aggregate,
    finish: Finish,
    /// True where the operator computes in f64.
    double: bool,
    /// How all branches compare, where they do alike and NaN goes the way of `false`.
    uniform: Option<Mode>,
    /// The target of all weights, where every leaf has one, for the same target: it is then the leaf's threshold too.
    lone: Option<u16>,
}

/// A branch, or a leaf; 16 bytes, so that four share a cache line.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Of a leaf: its weight, where [`Forest::lone`] says so. Of a branch on membership: position of its set.
    threshold: f64,
    /// Of a branch: index of the child for `false`. Of a leaf: index of its first weight.
    link: u32,
    /// Of a branch: column of the row. Of a leaf: number of its weights.
    feature: u16,
    mode: Mode,
    /// True where NaN goes the way of `true`.
    nan_is_true: bool,
}

/// How a branch compares; the names are those of ONNX without `BRANCH_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Leq,
    Lt,
    Gte,
    Gt,
    Eq,
    Neq,
    /// True for the values of a set.
    Member,
    Leaf,
}

/// What a leaf adds to a class or target.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Weight {
    target: u16,
    value: f64,
}

/// What has been gathered for one class or target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    pub score: f64,
    /// False until some leaf had a weight for it.
    pub has_score: bool,
}

impl Forest {
    /// Lays out the ensemble for rows of `width` columns; refuses whatever is not a set of proper trees.
    pub fn new(ensemble: &Ensemble, width: usize) -> Result<Self, EnsembleError> {
        layout::lay_out(ensemble, width)
    }

    /// Columns that the output has for each row.
    pub fn columns(&self) -> usize {
        self.finish.columns()
    }

    /// Trees in the ensemble.
    pub fn trees(&self) -> usize {
        self.roots.len()
    }

    /// Writes every output column of one row to `out`; `tallies` is scratch. `None` where the row is too short.
    pub fn run_row(&self, row: &[f32], tallies: &mut Vec<Tally>, out: &mut Vec<f32>) -> Option<()> {
        if row.len() != self.width {
            return None;
        }
        tallies.clear();
        tallies.resize(self.finish.targets(), Tally::default());
        // Most ensembles compare in one way: the loops then hold no choice among six.
        match self.uniform {
            Some(Mode::Leq) => self.gather(row, tallies, |node, value| value <= node.threshold)?,
            Some(Mode::Lt) => self.gather(row, tallies, |node, value| value < node.threshold)?,
            _ => self.gather(row, tallies, |node, value| node.holds(value, &self.sets))?,
        }
        self.finish.finish(tallies, self.aggregate, self.roots.len(), self.double, out);
        Some(())
    }

    /// Adds up the leaves that the row leads to.
    #[inline]
    fn gather(&self, row: &[f32], tallies: &mut [Tally], holds: impl Fn(&Node, f64) -> bool) -> Option<()> {
        // One call, so that the way down a tree becomes part of this loop.
        for root in &self.roots {
            let leaf = self.leaf(*root, row, &holds)?;
            if let Some(target) = self.lone {
                self.aggregate.add(tallies.get_mut(usize::from(target))?, leaf.threshold, self.double);
                continue;
            }
            let first = leaf.link as usize;
            for weight in self.weights.get(first..first + usize::from(leaf.feature))? {
                let tally = tallies.get_mut(usize::from(weight.target))?;
                self.aggregate.add(tally, weight.value, self.double);
            }
        }
        Some(())
    }

    #[inline]
    fn leaf(&self, root: u32, row: &[f32], holds: impl Fn(&Node, f64) -> bool) -> Option<&Node> {
        let mut at = root as usize;
        loop {
            let node = self.nodes.get(at)?;
            if node.mode == Mode::Leaf {
                return Some(node);
            }
            let value = f64::from(*row.get(usize::from(node.feature))?);
            at = if holds(node, value) { at + 1 } else { node.link as usize };
        }
    }
}

impl Node {
    #[inline]
    #[expect(clippy::float_cmp, reason = "BRANCH_EQ and BRANCH_NEQ mean exactly that")]
    fn holds(&self, value: f64, sets: &[Set]) -> bool {
        let holds = match self.mode {
            Mode::Leq => value <= self.threshold,
            Mode::Lt => value < self.threshold,
            Mode::Gte => value >= self.threshold,
            Mode::Gt => value > self.threshold,
            Mode::Eq => value == self.threshold,
            Mode::Neq => value != self.threshold,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the layout wrote a position there"
            )]
            Mode::Member => sets.get(self.threshold as usize).is_some_and(|set| set.holds(value)),
            Mode::Leaf => false,
        };
        holds || (self.nan_is_true && value.is_nan())
    }
}

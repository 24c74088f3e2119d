//! What each column adds to the margin of a tree ensemble: path-dependent `TreeSHAP`.

use super::finish::{Aggregate, Binary, Finish};
use super::{Forest, Mode, Node, Weight};
use crate::reasons::Margin;

/// Branches on the way to a leaf at most.
const MAX_DEPTH: usize = 64;
/// Steps of one explanation at most: leaves times the square of their depth. Some ten milliseconds.
const MAX_STEPS: usize = 4_000_000;
/// Rows that count as seen in every leaf, so that no branch is impossible.
const UNSEEN: f64 = 1.0 / 1024.0;

/// One column on the way to a leaf (Lundberg and others, "Consistent Individualized Feature Attribution for Tree
/// Ensembles", algorithm 2).
#[derive(Clone, Copy, Debug)]
struct Step {
    column: u16,
    /// Share of the rows that go this way where the column is unknown.
    zero: f64,
    /// 1 where the row itself goes this way, else 0.
    one: f64,
    /// Of the subsets of columns so far, by size.
    weight: f64,
}

/// Which weights of the leaves count, and how.
struct Counted {
    target: u16,
    sign: f64,
    offset: f64,
}

impl Forest {
    /// Counts where these rows go, where the file does not tell where those of the training went; row-major.
    ///
    /// Deep or very large ensembles give no reasons afterwards: the work for one row is bounded.
    pub fn learn(&mut self, rows: &[f32]) {
        if self.steps().is_none_or(|steps| steps > MAX_STEPS) {
            self.covers = Vec::new();
            return;
        }
        if !self.covers.is_empty() {
            return;
        }
        let mut covers: Vec<f64> =
            self.nodes.iter().map(|node| if node.mode == Mode::Leaf { UNSEEN } else { 0.0 }).collect();
        for row in rows.chunks_exact(self.width.max(1)) {
            for root in &self.roots {
                let leaf = self.leaf_place(*root, row);
                if let Some(cover) = leaf.and_then(|at| covers.get_mut(at)) {
                    *cover += 1.0;
                }
            }
        }
        // Children stand behind their parents.
        for (at, node) in self.nodes.iter().enumerate().rev() {
            if node.mode != Mode::Leaf {
                let part = |at: usize| covers.get(at).copied().unwrap_or_default();
                let whole = part(at + 1) + part(node.link as usize);
                if let Some(cover) = covers.get_mut(at) {
                    *cover = whole;
                }
            }
        }
        self.covers = covers;
    }

    /// Sum over all leaves of the square of the depth; `None` where one lies too deep.
    fn steps(&self) -> Option<usize> {
        let mut depths = vec![0_usize; self.nodes.len()];
        let mut steps = 0_usize;
        for (at, node) in self.nodes.iter().enumerate() {
            let depth = *depths.get(at)?;
            if depth > MAX_DEPTH {
                return None;
            }
            if node.mode == Mode::Leaf {
                steps = steps.saturating_add((depth + 1) * (depth + 1));
            } else {
                *depths.get_mut(at + 1)? = depth + 1;
                *depths.get_mut(node.link as usize)? = depth + 1;
            }
        }
        Some(steps)
    }

    fn leaf_place(&self, root: u32, row: &[f32]) -> Option<usize> {
        let mut at = root as usize;
        loop {
            let node = self.nodes.get(at)?;
            if node.mode == Mode::Leaf {
                return Some(at);
            }
            at = if self.goes_true(node, row)? { at + 1 } else { node.link as usize };
        }
    }

    fn goes_true(&self, node: &Node, row: &[f32]) -> Option<bool> {
        Some(node.holds(f64::from(*row.get(usize::from(node.feature))?), &self.sets))
    }

    /// Adds to `out`, one number a column of the row, what that column adds to the margin of an output column.
    ///
    /// `None` where there are no exact reasons: for MIN and MAX, for too large ensembles, before [`Forest::learn`].
    pub fn explain(&self, row: &[f32], column: usize, out: &mut [f64]) -> Option<Margin> {
        if self.covers.len() != self.nodes.len() || row.len() != self.width || out.len() != self.width {
            return None;
        }
        let counted = self.counted(column)?;
        #[expect(clippy::cast_precision_loss, reason = "at most millions of trees")]
        let scale = if self.aggregate == Aggregate::Average { 1.0 / self.roots.len() as f64 } else { 1.0 };
        let mut walk =
            Walk { forest: self, row, target: counted.target, sums: vec![0.0; self.width], path: Vec::new() };
        let (mut base, mut margin, mut weighed) = (0.0, 0.0, false);
        for root in &self.roots {
            walk.path.clear();
            base +=
                walk.visit(*root as usize, 0, Step { column: u16::MAX, zero: 1.0, one: 1.0, weight: 0.0 })?;
            let leaf = self.nodes.get(self.leaf_place(*root, row)?)?;
            weighed |= self.weights_of(leaf).iter().any(|weight| weight.target == counted.target);
            margin += self.value(leaf, counted.target);
        }
        // Of several targets, one that no leaf weighs is 0 whatever its base value: that is no sum.
        if !weighed && matches!(&self.finish, Finish::Regressor { targets: 2.., .. }) {
            return None;
        }
        let scale = scale * counted.sign;
        for (cell, sum) in out.iter_mut().zip(walk.sums) {
            *cell += sum * scale;
        }
        Some(Margin { base: base * scale + counted.offset, margin: margin * scale + counted.offset })
    }

    /// What a leaf adds to a target.
    fn value(&self, leaf: &Node, target: u16) -> f64 {
        self.weights_of(leaf).iter().filter(|weight| weight.target == target).map(|weight| weight.value).sum()
    }

    fn weights_of(&self, leaf: &Node) -> &[Weight] {
        let first = leaf.link as usize;
        self.weights.get(first..first + usize::from(leaf.feature)).unwrap_or_default()
    }

    fn counted(&self, column: usize) -> Option<Counted> {
        let at = |base: &[f64], column: usize| base.get(column).copied().unwrap_or(0.0);
        match &self.finish {
            _ if matches!(self.aggregate, Aggregate::Min | Aggregate::Max) => None,
            Finish::Regressor { targets, base, .. } => (column < *targets).then_some(Counted {
                target: u16::try_from(column).ok()?,
                sign: 1.0,
                offset: at(base, column),
            }),
            Finish::Classifier { classes, base, binary, .. } if *classes == 2 => {
                let first = self.weights.first().map_or(0, |weight| weight.target);
                match (binary, first, column) {
                    (_, _, 2..) => None,
                    // Two classes, all weights for the first: it is the margin of the second.
                    (Binary::Margin | Binary::Probability, 0, 1) => {
                        Some(Counted { target: 0, sign: 1.0, offset: at(base, 0) })
                    }
                    (Binary::Margin, 0, _) => Some(Counted { target: 0, sign: -1.0, offset: -at(base, 0) }),
                    (Binary::Probability, 0, _) => {
                        Some(Counted { target: 0, sign: -1.0, offset: 1.0 - at(base, 0) })
                    }
                    // A single base value belongs to the first class.
                    _ => Some(Counted {
                        target: u16::try_from(column).ok()?,
                        sign: 1.0,
                        offset: at(base, column),
                    }),
                }
            }
            Finish::Classifier { classes, base, .. } => (column < *classes).then_some(Counted {
                target: u16::try_from(column).ok()?,
                sign: 1.0,
                offset: at(base, column),
            }),
        }
    }
}

/// The walk through one tree. The paths of all open nodes stand behind each other in `path`.
struct Walk<'f> {
    forest: &'f Forest,
    row: &'f [f32],
    target: u16,
    sums: Vec<f64>,
    path: Vec<Step>,
}

impl Walk<'_> {
    /// Visits the node with the path that begins at `start` and goes on by `step`; gives the mean below it,
    /// weighed by its share of the rows. The depth is bounded at load.
    fn visit(&mut self, at: usize, start: usize, step: Step) -> Option<f64> {
        let forest = self.forest;
        let own = self.path.len();
        self.path.extend_from_within(start..);
        extend(&mut self.path, own, step);
        let node = forest.nodes.get(at)?;
        let mean = if node.mode == Mode::Leaf {
            let value = forest.value(node, self.target);
            for place in own + 1..self.path.len() {
                let weight = unwound(self.path.get(own..)?, place - own);
                let step = self.path.get(place)?;
                *self.sums.get_mut(usize::from(step.column))? += weight * (step.one - step.zero) * value;
            }
            value
        } else {
            self.branch(at, node, own)?
        };
        self.path.truncate(own);
        Some(mean)
    }

    fn branch(&mut self, at: usize, node: &Node, own: usize) -> Option<f64> {
        let (yes, no) = (at + 1, node.link as usize);
        let (hot, cold) = if self.forest.goes_true(node, self.row)? { (yes, no) } else { (no, yes) };
        let (mut zero, mut one) = (1.0, 1.0);
        // A column that was met before counts once.
        let met = self.path.get(own + 1..)?.iter().position(|step| step.column == node.feature);
        if let Some(place) = met {
            let step = *self.path.get(own + 1 + place)?;
            (zero, one) = (step.zero, step.one);
            unwind(&mut self.path, own, place + 1);
        }
        let cover = |at: usize| self.forest.covers.get(at).copied();
        let whole = cover(at)?;
        let shares = (cover(hot)? / whole, cover(cold)? / whole);
        let step = Step { column: node.feature, zero: zero * shares.0, one, weight: 0.0 };
        let hot = self.visit(hot, own, step)?;
        let cold = self.visit(cold, own, Step { zero: zero * shares.1, one: 0.0, ..step })?;
        Some(hot * shares.0 + cold * shares.1)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a path has at most 65 steps")]
fn float(count: usize) -> f64 {
    count as f64
}

/// Appends a step to the path that begins at `start`.
#[expect(clippy::indexing_slicing, reason = "`place + 1` is at most the last step, which was just pushed")]
fn extend(path: &mut Vec<Step>, start: usize, step: Step) {
    let depth = path.len() - start;
    path.push(Step { weight: if depth == 0 { 1.0 } else { 0.0 }, ..step });
    let steps = &mut path[start..];
    for place in (0..depth).rev() {
        let weight = steps[place].weight;
        steps[place + 1].weight += step.one * weight * float(place + 1) / float(depth + 1);
        steps[place].weight = step.zero * weight * float(depth - place) / float(depth + 1);
    }
}

/// Takes a step out of the path that begins at `start`.
#[expect(clippy::indexing_slicing, reason = "`place` and `index` are below the depth of the path")]
fn unwind(path: &mut Vec<Step>, start: usize, index: usize) {
    let steps = &mut path[start..];
    let depth = steps.len() - 1;
    let Step { zero, one, .. } = steps[index];
    let mut next = steps[depth].weight;
    for place in (0..depth).rev() {
        if one == 0.0 {
            steps[place].weight *= float(depth + 1) / (zero * float(depth - place));
        } else {
            let weight = steps[place].weight;
            steps[place].weight = next * float(depth + 1) / (float(place + 1) * one);
            next = weight - steps[place].weight * zero * float(depth - place) / float(depth + 1);
        }
    }
    for place in index..depth {
        let Step { column, zero, one, .. } = steps[place + 1];
        steps[place] = Step { column, zero, one, weight: steps[place].weight };
    }
    path.pop();
}

/// The sum of all weights, were this step taken out.
#[expect(clippy::indexing_slicing, reason = "`place` and `index` are below the depth of the path")]
fn unwound(steps: &[Step], index: usize) -> f64 {
    let depth = steps.len() - 1;
    let Step { zero, one, .. } = steps[index];
    let mut next = steps[depth].weight;
    let mut total = 0.0;
    for place in (0..depth).rev() {
        if one == 0.0 {
            total += steps[place].weight / (zero * float(depth - place) / float(depth + 1));
        } else {
            let part = next * float(depth + 1) / (float(place + 1) * one);
            total += part;
            next = steps[place].weight - part * zero * float(depth - place) / float(depth + 1);
        }
    }
    total
}

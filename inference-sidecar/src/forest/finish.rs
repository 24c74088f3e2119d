//! From gathered leaf weights to output columns, as onnxruntime computes them.

use super::Tally;

/// How the weights of several trees become one score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

/// `post_transform` of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
    Probit,
}

/// Which of the two binary layouts the weights of a classifier follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// More than two classes, or weights for both of two.
    No,
    /// Two classes, weights for one of them, none negative: they are probabilities.
    Probability,
    /// Two classes, weights for one of them, some negative: they are a margin.
    Margin,
}

/// What the operator does with the gathered scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Finish {
    Classifier { classes: usize, base: Vec<f64>, transform: Transform, binary: Binary },
    Regressor { targets: usize, base: Vec<f64>, transform: Transform },
}

impl Aggregate {
    #[inline]
    pub(super) fn add(self, tally: &mut Tally, weight: f64, double: bool) {
        tally.score = match self {
            Self::Sum | Self::Average => narrow(tally.score + weight, double),
            Self::Min if tally.has_score => tally.score.min(weight),
            Self::Max if tally.has_score => tally.score.max(weight),
            Self::Min | Self::Max => weight,
        };
        tally.has_score = true;
    }
}

/// Rounds to f32 where the operator computes in f32, so that sums agree to the bit.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the rounding is the purpose")]
fn narrow(value: f64, double: bool) -> f64 {
    if double { value } else { f64::from(value as f32) }
}

#[expect(clippy::cast_possible_truncation, reason = "the output tensor is f32")]
fn to_f32(value: f64) -> f32 {
    value as f32
}

impl Finish {
    /// Classes or targets that weights may name.
    pub fn targets(&self) -> usize {
        match self {
            Self::Classifier { classes, .. } => *classes,
            Self::Regressor { targets, .. } => *targets,
        }
    }

    /// Columns of the output.
    pub fn columns(&self) -> usize {
        self.targets()
    }

    pub(super) fn finish(
        &self,
        tallies: &mut [Tally],
        how: Aggregate,
        trees: usize,
        double: bool,
        out: &mut Vec<f32>,
    ) {
        match self {
            Self::Classifier { base, transform, binary, .. } => {
                if let [zero, one] = tallies {
                    two_classes(zero, one, base, *transform, *binary, double, out);
                    return;
                }
                add_base(tallies, base, double);
                push_all(tallies, *transform, out);
            }
            Self::Regressor { base, transform, .. } => {
                if how == Aggregate::Average {
                    #[expect(clippy::cast_precision_loss, reason = "at most millions of trees")]
                    let trees = trees as f64;
                    for tally in tallies.iter_mut() {
                        tally.score = narrow(tally.score / trees, double);
                    }
                }
                // onnxruntime forgets the base value of a target that no leaf weighs, where there are several.
                let forgets = tallies.len() > 1;
                let weighed = tallies.iter_mut().zip(base).filter(|(tally, _)| tally.has_score || !forgets);
                weighed.for_each(|(tally, base)| tally.score = narrow(tally.score + base, double));
                match tallies {
                    [only] if *transform == Transform::Probit => out.push(probit(to_f32(only.score))),
                    // onnxruntime applies no other transform to a single target.
                    [only] => out.push(to_f32(only.score)),
                    _ => push_all(tallies, *transform, out),
                }
            }
        }
    }
}

fn add_base(tallies: &mut [Tally], base: &[f64], double: bool) {
    for (tally, base) in tallies.iter_mut().zip(base) {
        tally.score = narrow(tally.score + base, double);
        tally.has_score = true;
    }
}

/// The rules of onnxruntime for two classes, which ONNX leaves open. What it computes oddly is refused at load.
fn two_classes(
    zero: &mut Tally,
    one: &mut Tally,
    base: &[f64],
    transform: Transform,
    binary: Binary,
    double: bool,
    out: &mut Vec<f32>,
) {
    if let [base] = base {
        zero.score = narrow(zero.score + base, double);
    }
    if one.has_score {
        return push_all(&[*zero, *one], transform, out);
    }
    let score = to_f32(zero.score);
    match (binary, transform) {
        (Binary::Probability, _) => out.extend([1.0 - score, score]),
        (Binary::Margin | Binary::No, Transform::Logistic) => out.extend([logistic(-score), logistic(score)]),
        (Binary::Margin | Binary::No, _) => out.extend([-score, score]),
    }
}

fn push_all(tallies: &[Tally], transform: Transform, out: &mut Vec<f32>) {
    let start = out.len();
    out.extend(tallies.iter().map(|tally| to_f32(tally.score)));
    let scores = out.get_mut(start..).unwrap_or_default();
    match transform {
        Transform::None => {}
        Transform::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
        Transform::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
        Transform::Softmax => softmax(scores, false),
        Transform::SoftmaxZero => softmax(scores, true),
    }
}

fn logistic(x: f32) -> f32 {
    let positive = 1.0 / (1.0 + (-x.abs()).exp());
    if x < 0.0 { 1.0 - positive } else { positive }
}

/// Softmax; with `zero`, scores of zero stay zero beside the others.
fn softmax(scores: &mut [f32], zero: bool) {
    const NEAR_ZERO: f32 = 1e-7;
    let largest = scores.iter().copied().fold(f32::MIN, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        if zero && score.abs() <= NEAR_ZERO {
            *score *= (-largest).exp();
        } else {
            *score = (*score - largest).exp();
            sum += *score;
        }
    }
    for score in scores.iter_mut() {
        *score /= sum;
    }
}

/// The quantile of the standard normal distribution, by the approximation of Winitzki that onnxruntime uses.
fn probit(x: f32) -> f32 {
    const A: f32 = 0.147;
    let y = 2.0 * x - 1.0;
    let log = ((1.0 - y) * (1.0 + y)).ln();
    #[expect(clippy::approx_constant, reason = "the constant of onnxruntime, to the digit")]
    let v = 2.0 / (3.14159 * A) + 0.5 * log;
    let root = (-v + (v * v - (1.0 / A) * log).sqrt()).sqrt();
    std::f32::consts::SQRT_2 * if y < 0.0 { -root } else { root }
}

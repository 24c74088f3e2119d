//! Recognises linear models in graphs, runs them, and tells what each column adds.

use std::collections::HashMap;

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use crate::forest::attributes::tensor_values;
use crate::reasons::Margin;

/// Numbers in the weights at most.
const MAX_WEIGHTS: usize = 1 << 22;

/// `x W + b`, then perhaps a sigmoid, a tanh or a softmax over the columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    affine: Affine,
    link: Link,
    /// What the columns of the input are held against.
    middle: Vec<f64>,
}

/// The last transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    None,
    Sigmoid,
    Tanh,
    Softmax,
}

#[derive(Clone, Debug, PartialEq)]
struct Affine {
    /// One row for each column of the input.
    weights: Vec<f64>,
    bias: Vec<f64>,
}

#[derive(Clone, Debug)]
struct Constant {
    dims: Vec<usize>,
    values: Vec<f64>,
}

/// What is known of a tensor.
#[derive(Clone, Debug)]
enum Value {
    Constant(Constant),
    Affine(Affine),
    /// Behind the last transform.
    Linked(Affine, Link),
}

impl Linear {
    /// The model in a graph with this input of `width` columns; `None` where the graph does more than that.
    pub fn read(graph: &GraphProto, input: &str, width: usize, output: &str) -> Option<Self> {
        let mut known: HashMap<&str, Value> = HashMap::new();
        let mut inputs = vec![input];
        for tensor in &graph.initializer {
            if let Some(constant) = constant(tensor) {
                known.insert(&tensor.name, Value::Constant(constant));
            }
        }
        for node in &graph.node {
            let name = node.output.first()?.as_str();
            if node.op_type == "Constant" {
                let tensor = node.attribute.iter().find_map(|attribute| attribute.t.as_ref());
                known.extend(tensor.and_then(constant).map(|constant| (name, Value::Constant(constant))));
                continue;
            }
            if is_passage(node) && inputs.contains(&node.input.first()?.as_str()) {
                inputs.push(name);
                continue;
            }
            known.insert(name, value(node, &known, &inputs, width)?);
        }
        let (affine, link) = match known.remove(output)? {
            Value::Affine(affine) => (affine, Link::None),
            Value::Linked(affine, link) => (affine, link),
            Value::Constant(_) => return None,
        };
        // Zero times what is not finite is no number, and zeros are passed over.
        let sound = affine.weights.iter().chain(&affine.bias).all(|number| number.is_finite());
        sound.then(|| Self { affine, link, middle: vec![0.0; width] })
    }

    /// Columns of the output.
    pub fn columns(&self) -> usize {
        self.affine.bias.len()
    }

    /// Appends the columns of the output for each row. Columns of a row that are zero cost next to nothing: those of
    /// hashed words mostly are.
    pub fn run(&self, rows: &[f32], out: &mut Vec<f32>) {
        let columns = self.columns();
        let mut sums = Vec::with_capacity(columns);
        for row in rows.chunks_exact(self.middle.len().max(1)) {
            sums.clear();
            sums.extend_from_slice(&self.affine.bias);
            for (cell, weights) in row.iter().zip(self.affine.weights.chunks_exact(columns)) {
                if *cell != 0.0 {
                    let cell = f64::from(*cell);
                    sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += cell * weight);
                }
            }
            self.link.apply(&mut sums);
            #[expect(clippy::cast_possible_truncation, reason = "the output tensor is f32")]
            out.extend(sums.iter().map(|sum| *sum as f32));
        }
    }

    /// Holds contributions against the middle of these rows, column by column; row-major.
    ///
    /// The median, not the mean: golden rows have values that are far from any real record.
    pub fn learn(&mut self, rows: &[f32]) {
        let width = self.middle.len().max(1);
        for (column, middle) in self.middle.iter_mut().enumerate() {
            let mut cells: Vec<f32> =
                rows.chunks_exact(width).filter_map(|row| row.get(column).copied()).collect();
            cells.sort_unstable_by(f32::total_cmp);
            let half = cells.get(cells.len() / 2).copied().unwrap_or(0.0);
            let other = cells.get(cells.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
            *middle = f64::midpoint(f64::from(half), f64::from(other));
        }
    }

    /// Adds to `out`, one number a column of the row, what that column adds to the margin of an output column.
    ///
    /// Of a softmax the margin is how far the column lies above the mean of the others: for two, the log-odds.
    pub fn explain(&self, row: &[f32], column: usize, out: &mut [f64]) -> Option<Margin> {
        let columns = self.affine.bias.len();
        if column >= columns || row.len() != self.middle.len() {
            return None;
        }
        let of = |cells: &[f64]| {
            let own = cells.get(column).copied().unwrap_or(0.0);
            if self.link != Link::Softmax || columns < 2 {
                return own;
            }
            #[expect(clippy::cast_precision_loss, reason = "at most some thousand columns")]
            let others = (columns - 1) as f64;
            own - (cells.iter().sum::<f64>() - own) / others
        };
        let mut base = of(&self.affine.bias);
        let mut added = 0.0;
        let cells = out.iter_mut().zip(row).zip(&self.middle).zip(self.affine.weights.chunks_exact(columns));
        for (((out, cell), middle), weights) in cells {
            let weight = of(weights);
            let contribution = weight * (f64::from(*cell) - middle);
            *out += contribution;
            base += weight * middle;
            added += contribution;
        }
        let margin = Margin { base, margin: base + added };
        margin.margin.is_finite().then_some(margin)
    }
}

impl Link {
    fn apply(self, sums: &mut [f64]) {
        match self {
            Self::None => {}
            Self::Sigmoid => {
                for sum in sums {
                    *sum = 1.0 / (1.0 + (-*sum).exp());
                }
            }
            Self::Tanh => {
                for sum in sums {
                    *sum = sum.tanh();
                }
            }
            Self::Softmax => {
                let most = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                for sum in &mut *sums {
                    *sum = (*sum - most).exp();
                }
                let all: f64 = sums.iter().sum();
                for sum in sums {
                    *sum /= all;
                }
            }
        }
    }
}

fn constant(tensor: &TensorProto) -> Option<Constant> {
    let dims: Vec<usize> =
        tensor.dims.iter().map(|size| usize::try_from(*size).ok()).collect::<Option<_>>()?;
    let (values, _) = tensor_values(tensor).ok()?;
    (dims.iter().product::<usize>() == values.len() && values.len() <= MAX_WEIGHTS)
        .then_some(Constant { dims, values })
}

/// True for what hands its first input on as it is, but for the type or dimensions of one.
fn is_passage(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "Identity" | "Cast" | "Dropout")
}

/// What a node gives; `None` where it is no step of a linear model.
fn value(node: &NodeProto, known: &HashMap<&str, Value>, inputs: &[&str], width: usize) -> Option<Value> {
    let name = |place: usize| node.input.get(place).map(String::as_str);
    let at = |place: usize| known.get(name(place)?);
    let of_input = inputs.contains(&name(0)?);
    match (node.op_type.as_str(), at(0), at(1)) {
        ("MatMul", None, Some(Value::Constant(matrix))) if of_input => {
            first(matrix, width).map(Value::Affine)
        }
        ("Gemm", None, Some(Value::Constant(matrix))) if of_input => {
            gemm(node, matrix, at(2), width).map(Value::Affine)
        }
        ("Add" | "Sub" | "Mul" | "Div", Some(Value::Affine(affine)), Some(Value::Constant(by)))
        | ("Add" | "Mul", Some(Value::Constant(by)), Some(Value::Affine(affine))) => {
            affine.arithmetic(&node.op_type, by).map(Value::Affine)
        }
        ("Identity" | "Cast" | "Dropout" | "Squeeze", Some(value), _) => Some(value.clone()),
        ("Reshape" | "Flatten", Some(Value::Affine(affine)), _) if affine.bias.len() == 1 => {
            Some(Value::Affine(affine.clone()))
        }
        ("Reshape" | "Flatten", Some(Value::Linked(affine, link)), _) if affine.bias.len() == 1 => {
            Some(Value::Linked(affine.clone(), *link))
        }
        ("Sigmoid", Some(Value::Affine(affine)), _) => Some(Value::Linked(affine.clone(), Link::Sigmoid)),
        ("Tanh", Some(Value::Affine(affine)), _) => Some(Value::Linked(affine.clone(), Link::Tanh)),
        ("Softmax", Some(Value::Affine(affine)), _) if last_axis(node) => {
            Some(Value::Linked(affine.clone(), Link::Softmax))
        }
        _ => None,
    }
}

fn last_axis(node: &NodeProto) -> bool {
    node.attribute
        .iter()
        .find(|attribute| attribute.name == "axis")
        .is_none_or(|axis| [1, -1].contains(&axis.i))
}

/// The product of the input with a matrix.
fn first(matrix: &Constant, width: usize) -> Option<Affine> {
    match matrix.dims.as_slice() {
        [rows, columns] if *rows == width && *columns > 0 => {
            Some(Affine { weights: matrix.values.clone(), bias: vec![0.0; *columns] })
        }
        _ => None,
    }
}

fn gemm(node: &NodeProto, matrix: &Constant, bias: Option<&Value>, width: usize) -> Option<Affine> {
    let find = |name: &str| node.attribute.iter().find(|attribute| attribute.name == name);
    let (alpha, beta) = (find("alpha").map_or(1.0, |it| it.f), find("beta").map_or(1.0, |it| it.f));
    if find("transA").is_some_and(|it| it.i != 0) {
        return None;
    }
    let mut affine = if find("transB").is_some_and(|it| it.i != 0) {
        let [rows, columns] = matrix.dims.as_slice() else { return None };
        let turned =
            (0..*columns).flat_map(|column| matrix.values.iter().skip(column).step_by((*columns).max(1)));
        let turned = Constant { dims: vec![*columns, *rows], values: turned.copied().collect() };
        first(&turned, width)?
    } else {
        first(matrix, width)?
    };
    affine.weights.iter_mut().for_each(|weight| *weight *= f64::from(alpha));
    match (node.input.get(2).filter(|name| !name.is_empty()), bias) {
        (None, _) => Some(affine),
        (Some(_), Some(Value::Constant(bias))) => {
            let scaled = bias.values.iter().map(|value| value * f64::from(beta)).collect();
            affine.arithmetic("Add", &Constant { dims: bias.dims.clone(), values: scaled })
        }
        (Some(_), _) => None,
    }
}

impl Affine {
    /// Adds, subtracts, multiplies or divides by one number, or one for each column.
    fn arithmetic(&self, operator: &str, by: &Constant) -> Option<Self> {
        let columns = self.bias.len();
        let row = by.dims.iter().rev().skip(1).all(|size| *size == 1);
        let values: Vec<f64> = match by.values.as_slice() {
            [one] => vec![*one; columns],
            many if many.len() == columns && row => many.to_vec(),
            _ => return None,
        };
        let mut made = self.clone();
        match operator {
            "Add" => made.bias.iter_mut().zip(&values).for_each(|(bias, by)| *bias += by),
            "Sub" => made.bias.iter_mut().zip(&values).for_each(|(bias, by)| *bias -= by),
            _ => {
                let by = |by: &f64| if operator == "Mul" { *by } else { 1.0 / by };
                let rows =
                    made.weights.chunks_exact_mut(columns).chain(std::iter::once(made.bias.as_mut_slice()));
                rows.for_each(|row| row.iter_mut().zip(&values).for_each(|(cell, value)| *cell *= by(value)));
            }
        }
        Some(made)
    }
}

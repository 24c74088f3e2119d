//! Tensors of the inference protocol: types, shapes, and their bytes.

use bytes::Bytes;

use super::fault::{Fault, Kind};
use super::served::{Input, Served};

/// The types that models here take and give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    Fp32,
    Bytes,
}

/// What a model takes or gives, as its metadata tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: Box<str>,
    pub datatype: Datatype,
    /// -1 for the number of rows.
    pub shape: Vec<i64>,
}

/// The cells of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Cells {
    Fp32(Vec<f32>),
    Bytes(Vec<Bytes>),
}

/// A tensor of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: &'static str,
    pub shape: Vec<usize>,
    pub cells: Cells,
}

/// Dimensions of a tensor at most: no model here takes more than two.
const MAX_DIMENSIONS: usize = 8;

impl Datatype {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "FP32",
            Self::Bytes => "BYTES",
        }
    }
}

impl Cells {
    pub fn datatype(&self) -> Datatype {
        match self {
            Self::Fp32(_) => Datatype::Fp32,
            Self::Bytes(_) => Datatype::Bytes,
        }
    }

    /// The binary form: little-endian numbers, or each element with its length before it.
    pub fn to_binary(&self) -> Vec<u8> {
        match self {
            Self::Fp32(cells) => cells.iter().flat_map(|cell| cell.to_le_bytes()).collect(),
            Self::Bytes(elements) => {
                let size = elements.iter().map(|element| 4 + element.len()).sum();
                let mut binary = Vec::with_capacity(size);
                for element in elements {
                    let length = u32::try_from(element.len()).unwrap_or(u32::MAX);
                    binary.extend_from_slice(&length.to_le_bytes());
                    binary.extend_from_slice(element);
                }
                binary
            }
        }
    }
}

/// An input as a request announces it, before its elements are read.
pub struct Announced<'a> {
    pub name: &'a str,
    pub shape: Vec<usize>,
    /// Elements that its shape makes.
    pub count: usize,
    pub rows: usize,
    /// False for records.
    pub features: bool,
}

impl<'a> Announced<'a> {
    /// Refuses what the model does not take, and more than `most` rows.
    pub fn new(
        served: &Served,
        name: &'a str,
        datatype: &str,
        shape: &[i64],
        most: usize,
    ) -> Result<Self, Fault> {
        let features = served.takes_features(name, datatype)?;
        let (shape, count) = elements(name, shape)?;
        let rows = if features {
            feature_rows(name, &shape, served.width(), most)?
        } else {
            record_rows(name, &shape, most)?
        };
        Ok(Self { name, shape, count, rows, features })
    }

    /// What is wrong with it.
    pub fn fault(&self, what: &str) -> Fault {
        Fault::invalid(format!("input `{}`: {what}", self.name))
    }

    /// Reads its binary form.
    pub fn binary(&self, binary: Bytes) -> Result<Input, Fault> {
        Ok(if self.features {
            Input::Features { cells: floats(self.name, &binary, self.count)?, rows: self.rows }
        } else {
            Input::Records(byte_elements(self.name, binary, self.count)?)
        })
    }
}

/// The one input of a request.
pub fn only<T>(inputs: &[T]) -> Result<&T, Fault> {
    let [input] = inputs else {
        let message = format!("a request has one input, features or records; this one has {}", inputs.len());
        return Err(Fault::invalid(message));
    };
    Ok(input)
}

/// Refuses what the parameters of a tensor may ask for elsewhere.
pub fn check_parameters(tensor: &str, shared_memory: bool, classification: bool) -> Result<(), Fault> {
    let what = if shared_memory {
        "no memory is shared with this server"
    } else if classification {
        "`classification` is not spoken here; models with classes give `class` and `probabilities`"
    } else {
        return Ok(());
    };
    Err(Fault::invalid(format!("`{tensor}`: {what}")))
}

/// The dimensions of a shape, and how many elements it has; refuses what no tensor in memory could have.
fn elements(tensor: &str, shape: &[i64]) -> Result<(Vec<usize>, usize), Fault> {
    let fault = |what: &str| Fault::invalid(format!("input `{tensor}`: {what}"));
    if shape.is_empty() || shape.len() > MAX_DIMENSIONS {
        return Err(fault("a shape has 1 to 8 dimensions"));
    }
    let dimensions: Option<Vec<usize>> = shape.iter().map(|size| usize::try_from(*size).ok()).collect();
    let dimensions = dimensions.ok_or_else(|| fault("a dimension is negative"))?;
    let product = dimensions.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    let product = product.ok_or_else(|| fault("the product of its shape is no number of elements"))?;
    Ok((dimensions, product))
}

/// The number of rows of a tensor of features, `[rows, width]`.
fn feature_rows(tensor: &str, shape: &[usize], width: usize, most: usize) -> Result<usize, Fault> {
    match shape {
        [rows, found] if *found == width => bounded(tensor, *rows, most),
        _ => Err(Fault::invalid(format!(
            "input `{tensor}`: its shape must be [rows, {width}], and is {shape:?}"
        ))),
    }
}

/// The number of rows of a tensor of records, `[rows]` or `[rows, 1]`.
fn record_rows(tensor: &str, shape: &[usize], most: usize) -> Result<usize, Fault> {
    match shape {
        [rows] | [rows, 1] => bounded(tensor, *rows, most),
        _ => Err(Fault::invalid(format!("input `{tensor}`: its shape must be [rows], and is {shape:?}"))),
    }
}

fn bounded(tensor: &str, rows: usize, most: usize) -> Result<usize, Fault> {
    if rows == 0 {
        return Err(Fault::invalid(format!("input `{tensor}` has no row")));
    }
    if rows > most {
        let message = format!("input `{tensor}` has {rows} rows, and a request at most {most}");
        return Err(Fault::new(Kind::TooLarge, message));
    }
    Ok(rows)
}

/// Reads the binary form of so many numbers.
fn floats(tensor: &str, binary: &[u8], count: usize) -> Result<Vec<f32>, Fault> {
    let (cells, rest) = binary.as_chunks::<4>();
    if cells.len() != count || !rest.is_empty() {
        let size = binary.len();
        return Err(Fault::invalid(format!("input `{tensor}`: {size} bytes for {count} numbers of 4 bytes")));
    }
    Ok(cells.iter().map(|cell| f32::from_le_bytes(*cell)).collect())
}

/// Reads the binary form of so many elements of bytes.
fn byte_elements(tensor: &str, mut binary: Bytes, count: usize) -> Result<Vec<Bytes>, Fault> {
    let fault = |what: String| Fault::invalid(format!("input `{tensor}`: {what}"));
    // An element has at least its length, so that a shape that lies costs nothing.
    if count > binary.len() / 4 {
        return Err(fault(format!("{} bytes are too few for {count} elements", binary.len())));
    }
    let mut elements = Vec::with_capacity(count);
    for place in 0..count {
        let Some(length) = binary.first_chunk::<4>().copied() else {
            return Err(fault(format!("element {place} is cut short")));
        };
        let length = u32::from_le_bytes(length) as usize;
        let mut rest = binary.split_off(4);
        if length > rest.len() {
            return Err(fault(format!("element {place} is cut short")));
        }
        elements.push(rest.split_to(length));
        binary = rest;
    }
    if !binary.is_empty() {
        return Err(fault(format!("{} bytes behind its last element", binary.len())));
    }
    Ok(elements)
}

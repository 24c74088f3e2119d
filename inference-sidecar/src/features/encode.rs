//! Turns one JSON value into the columns of its feature.

use std::collections::BTreeMap;

use foregate_filters::json::Kind;

use super::extract::Slot;
use super::spec::{Default, FeatureSpec, FeatureType, SpecError};

/// The compiled transforms of one feature. All arithmetic in f64, cast to f32 at the end.
#[derive(Debug)]
pub(super) enum Encoder {
    Number { absent: Option<f64>, lenient: bool, log: bool, shape: Shape },
    Text { absent: Option<Box<str>>, lenient: bool, code: TextCode },
    Flag { absent: Option<bool>, lenient: bool },
}

#[derive(Debug)]
pub(super) enum Shape {
    Plain,
    Scale { mean: f64, std: f64 },
    Bucket(Box<[f64]>),
}

#[derive(Debug)]
pub(super) enum TextCode {
    OneHot { columns: BTreeMap<Box<str>, usize>, other: bool },
    Ordinal { ranks: BTreeMap<Box<str>, f64>, otherwise: Option<f64> },
    Hash { buckets: u32 },
}

const WRONG_TYPE: &str = "of the wrong type";
const ABSENT: &str = "required, but absent";
const TOO_LARGE: &str = "a number beyond its range";

impl Encoder {
    pub(super) fn new(spec: &FeatureSpec) -> Result<Self, SpecError> {
        let sources = [spec.default.is_some(), spec.impute.is_some(), spec.missing.is_some()];
        if sources.into_iter().filter(|set| *set).count() > 1 {
            return Err(spec.error("only one of `default`, `impute` and `missing`"));
        }
        let numeric = spec.impute.is_some() || spec.missing.is_some() || spec.log;
        let numeric = numeric || spec.scale.is_some() || spec.bucket.is_some();
        let textual = spec.one_hot.is_some() || spec.ordinal.is_some() || spec.hash.is_some();
        let textual = textual || spec.otherwise.is_some();
        match spec.kind {
            FeatureType::Number if textual => Err(spec.error("an encoding of strings on a number")),
            FeatureType::String if numeric => Err(spec.error("a transform of numbers on a string")),
            FeatureType::Boolean if numeric || textual => Err(spec.error("a boolean takes no transform")),
            FeatureType::Number => number(spec),
            FeatureType::String => text(spec),
            FeatureType::Boolean => match &spec.default {
                None => Ok(Self::Flag { absent: None, lenient: spec.lenient }),
                Some(Default::Boolean(flag)) => Ok(Self::Flag { absent: Some(*flag), lenient: spec.lenient }),
                Some(_) => Err(spec.error("the default is not a boolean")),
            },
        }
    }

    /// Columns this feature gives.
    pub(super) fn width(&self) -> usize {
        match self {
            Self::Number { shape: Shape::Bucket(edges), .. } => edges.len() + 1,
            Self::Text { code: TextCode::OneHot { columns, other }, .. } => {
                columns.len() + usize::from(*other)
            }
            Self::Text { code: TextCode::Hash { buckets }, .. } => *buckets as usize,
            Self::Number { .. } | Self::Text { .. } | Self::Flag { .. } => 1,
        }
    }

    /// Appends exactly `width` columns, or tells why the value has none.
    pub(super) fn encode(&self, slot: &Slot<'_>, out: &mut Vec<f32>) -> Result<(), &'static str> {
        match self {
            Self::Number { absent, lenient, log, shape } => {
                let value = match slot.typed(Kind::Number, *lenient)? {
                    Some(scalar) => read_number(scalar.raw).filter(|x| x.is_finite()).ok_or(TOO_LARGE)?,
                    None => absent.ok_or(ABSENT)?,
                };
                shape.encode(if *log { log1p(value) } else { value }, out)
            }
            Self::Text { absent, lenient, code } => match slot.typed(Kind::String, *lenient)? {
                Some(scalar) => code.encode(&scalar.unescape(), out),
                None => code.encode(absent.as_deref().ok_or(ABSENT)?, out),
            },
            Self::Flag { absent, lenient } => {
                let flag = match slot {
                    Slot::Scalar(scalar) if scalar.kind == Kind::True => true,
                    other => match other.typed(Kind::False, *lenient)? {
                        Some(_) => false,
                        None => absent.ok_or(ABSENT)?,
                    },
                };
                out.push(if flag { 1.0 } else { 0.0 });
                Ok(())
            }
        }
    }
}

impl<'a> Slot<'a> {
    /// The value where it has this kind; `None` where it is absent or null, or counts as such.
    fn typed(
        &self,
        kind: Kind,
        lenient: bool,
    ) -> Result<Option<foregate_filters::json::Scalar<'a>>, &'static str> {
        match self {
            Self::Scalar(scalar) if scalar.kind == kind => Ok(Some(*scalar)),
            Self::Absent => Ok(None),
            Self::Scalar(scalar) if scalar.kind == Kind::Null => Ok(None),
            Self::Scalar(_) | Self::Container if lenient => Ok(None),
            Self::Scalar(_) | Self::Container => Err(WRONG_TYPE),
        }
    }
}

fn number(spec: &FeatureSpec) -> Result<Encoder, SpecError> {
    let absent = match (&spec.default, spec.impute, spec.missing) {
        (Some(Default::Number(value)), ..) => Some(*value),
        (None, Some(value), _) => Some(value),
        (Some(_), ..) => return Err(spec.error("the default is not a number")),
        (None, None, Some(_)) if spec.bucket.is_some() => {
            return Err(spec.error("`missing: nan` has no bucket"));
        }
        (None, None, Some(_)) => Some(f64::NAN),
        (None, None, None) => None,
    };
    if spec.missing.is_none() && absent.is_some_and(|value| !value.is_finite()) {
        return Err(spec.error("the stand-in for an absent value must be finite"));
    }
    let shape = match (spec.scale, &spec.bucket) {
        (Some(_), Some(_)) => return Err(spec.error("`scale` or `bucket`, not both")),
        (Some(scale), None) => {
            if !(scale.mean.is_finite() && scale.std.is_finite() && scale.std > 0.0) {
                return Err(spec.error("`scale` needs a finite mean and a std above zero"));
            }
            Shape::Scale { mean: scale.mean, std: scale.std }
        }
        (None, Some(bucket)) => {
            let rises = bucket.edges.is_sorted_by(|a, b| a < b) && bucket.edges.iter().all(|x| x.is_finite());
            if !rises || bucket.edges.is_empty() {
                return Err(spec.error("bucket edges must rise, and be at least one"));
            }
            Shape::Bucket(bucket.edges.clone().into())
        }
        (None, None) => Shape::Plain,
    };
    Ok(Encoder::Number { absent, lenient: spec.lenient, log: spec.log, shape })
}

fn text(spec: &FeatureSpec) -> Result<Encoder, SpecError> {
    let absent = match &spec.default {
        None => None,
        Some(Default::String(text)) => Some(text.as_str().into()),
        Some(_) => return Err(spec.error("the default is not a string")),
    };
    if spec.otherwise.is_some() && spec.ordinal.is_none() {
        return Err(spec.error("`otherwise` belongs to `ordinal`"));
    }
    let code = match (&spec.one_hot, &spec.ordinal, spec.hash) {
        (Some(one_hot), None, None) => {
            let columns: BTreeMap<Box<str>, usize> = one_hot
                .values
                .iter()
                .zip(0..)
                .map(|(value, column)| (value.as_str().into(), column))
                .collect();
            if columns.len() < one_hot.values.len() || columns.is_empty() {
                return Err(spec.error("one-hot values must be distinct, and at least one"));
            }
            TextCode::OneHot { columns, other: one_hot.other }
        }
        (None, Some(ordinal), None) => {
            if !ordinal.values().chain(spec.otherwise.iter()).all(|rank| rank.is_finite()) {
                return Err(spec.error("ordinal ranks must be finite"));
            }
            let ranks = ordinal.iter().map(|(value, rank)| (value.as_str().into(), *rank)).collect();
            TextCode::Ordinal { ranks, otherwise: spec.otherwise }
        }
        (None, None, Some(hash)) if hash.buckets > 0 => TextCode::Hash { buckets: hash.buckets },
        (None, None, Some(_)) => return Err(spec.error("a hash needs at least one bucket")),
        _ => return Err(spec.error("a string needs exactly one of `oneHot`, `ordinal` and `hash`")),
    };
    Ok(Encoder::Text { absent, lenient: spec.lenient, code })
}

impl Shape {
    fn encode(&self, value: f64, out: &mut Vec<f32>) -> Result<(), &'static str> {
        match self {
            Self::Plain => push(value, out),
            Self::Scale { mean, std } => push((value - mean) / std, out),
            Self::Bucket(edges) => {
                one_of(edges.len() + 1, Some(edges.partition_point(|edge| *edge <= value)), out);
                Ok(())
            }
        }
    }
}

impl TextCode {
    fn encode(&self, text: &str, out: &mut Vec<f32>) -> Result<(), &'static str> {
        match self {
            Self::OneHot { columns, other } => {
                let unknown = other.then_some(columns.len());
                one_of(columns.len() + usize::from(*other), columns.get(text).copied().or(unknown), out);
                Ok(())
            }
            Self::Ordinal { ranks, otherwise } => {
                push(ranks.get(text).copied().or(*otherwise).ok_or("a value without a rank")?, out)
            }
            Self::Hash { buckets } => {
                let bucket = (!text.is_empty()).then(|| fnv1a64(text.as_bytes()) % u64::from(*buckets));
                one_of(*buckets as usize, bucket.and_then(|bucket| usize::try_from(bucket).ok()), out);
                Ok(())
            }
        }
    }
}

/// The number that JSON text means. Most are whole and short: those need no algorithm for floats.
fn read_number(text: &str) -> Option<f64> {
    match text.parse::<u32>() {
        Ok(number) => Some(f64::from(number)),
        Err(_) => text.parse().ok(),
    }
}

/// Appends one column; NaN is a value here, beyond f32 is a fault.
fn push(value: f64, out: &mut Vec<f32>) -> Result<(), &'static str> {
    if value.abs() > f64::from(f32::MAX) {
        return Err(TOO_LARGE);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked; the tensor is f32")]
    out.push(value as f32);
    Ok(())
}

fn one_of(width: usize, column: Option<usize>, out: &mut Vec<f32>) {
    let start = out.len();
    out.resize(start + width, 0.0);
    if let Some(cell) = column.and_then(|column| out.get_mut(start + column)) {
        *cell = 1.0;
    }
}

/// `ln(1 + x)` with x clamped at 0 from below; NaN stays NaN.
fn log1p(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x.ln_1p() }
}

/// FNV-1a, 64 bits (draft-eastlake-fnv, section 2).
fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

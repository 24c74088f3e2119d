//! Strings to columns: one-hot, ordinal, hash, a row of a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::encode::{one_of, push};
use super::spec::{FeatureSpec, SpecError};
use super::text::{Buckets, Fnv};
use crate::table::{Table, Tables};

#[derive(Debug)]
pub(super) enum TextCode {
    OneHot { columns: BTreeMap<Box<str>, usize>, other: bool },
    Ordinal { ranks: BTreeMap<Box<str>, f64>, otherwise: Option<f64> },
    Hash(Buckets),
    Lookup { table: Arc<Table>, column: Box<str>, default: Box<[f32]> },
}

impl TextCode {
    pub(super) fn new(spec: &FeatureSpec, tables: &Tables) -> Result<Self, SpecError> {
        if spec.otherwise.is_some() && spec.ordinal.is_none() {
            return Err(spec.error("`otherwise` belongs to `ordinal`"));
        }
        match (&spec.one_hot, &spec.ordinal, spec.hash, &spec.lookup) {
            (Some(one_hot), None, None, None) => {
                let values = one_hot.values.iter().zip(0..);
                let columns: BTreeMap<Box<str>, usize> =
                    values.map(|(value, column)| (value.as_str().into(), column)).collect();
                if columns.len() < one_hot.values.len() || columns.is_empty() {
                    return Err(spec.error("one-hot values must be distinct, and at least one"));
                }
                Ok(Self::OneHot { columns, other: one_hot.other })
            }
            (None, Some(ordinal), None, None) => {
                if !ordinal.values().chain(spec.otherwise.iter()).all(|rank| rank.is_finite()) {
                    return Err(spec.error("ordinal ranks must be finite"));
                }
                let ranks = ordinal.iter().map(|(value, rank)| (value.as_str().into(), *rank)).collect();
                Ok(Self::Ordinal { ranks, otherwise: spec.otherwise })
            }
            (None, None, Some(hash), None) => {
                let buckets = Buckets::new(hash.buckets);
                buckets.map(Self::Hash).ok_or_else(|| spec.error("a hash needs at least one bucket"))
            }
            (None, None, None, Some(lookup)) => {
                let table = tables.get(&lookup.table);
                let table = table.ok_or_else(|| spec.error("the bundle has no table of this name"))?;
                let width = table.column(&lookup.column).map(|column| column.width);
                if width != Some(lookup.width) || lookup.width == 0 {
                    return Err(spec.error("the table has no column of this name and width"));
                }
                if lookup.default.abs() > f64::from(f32::MAX) || lookup.default.is_nan() {
                    return Err(spec.error("the default of a lookup must be within the range of float32"));
                }
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the range is checked; the tensor is f32"
                )]
                let default = vec![lookup.default as f32; lookup.width].into();
                Ok(Self::Lookup { table: Arc::clone(table), column: lookup.column.as_str().into(), default })
            }
            _ => Err(spec.error("a string needs exactly one of `oneHot`, `ordinal`, `hash` and `lookup`")),
        }
    }

    pub(super) fn width(&self) -> usize {
        match self {
            Self::OneHot { columns, other } => columns.len() + usize::from(*other),
            Self::Ordinal { .. } => 1,
            Self::Hash(buckets) => buckets.len(),
            Self::Lookup { default, .. } => default.len(),
        }
    }

    pub(super) fn encode(&self, text: &str, out: &mut Vec<f32>) -> Result<(), &'static str> {
        match self {
            Self::OneHot { columns, other } => {
                let unknown = other.then_some(columns.len());
                one_of(columns.len() + usize::from(*other), columns.get(text).copied().or(unknown), out);
            }
            Self::Ordinal { ranks, otherwise } => {
                push(ranks.get(text).copied().or(*otherwise).ok_or("a value without a rank")?, out)?;
            }
            Self::Hash(buckets) => {
                let hash = || Fnv::NEW.write(text.as_bytes()).finish();
                one_of(buckets.len(), (!text.is_empty()).then(|| buckets.of(hash())), out);
            }
            Self::Lookup { table, column, default } => {
                let row = table.place(text).and_then(|place| table.column(column)?.row(place));
                out.extend_from_slice(row.unwrap_or(default));
            }
        }
        Ok(())
    }
}

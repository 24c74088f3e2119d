//! The population a model was trained on, as counts; later ones are held against it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::error::BundleFault;
use crate::features::Plan;

/// Name under which the score is told.
const SCORE: &str = "score";
/// Edges of one feature at most.
const MAX_EDGES: usize = 64;
/// Columns of one feature at most: what is wider, as hashed text is, has no population of its own.
const MAX_WIDTH: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    features: BTreeMap<String, WrittenBins>,
    score: WrittenBins,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenBins {
    /// Of a single column: the bins lie below the first, between two, and from the last on.
    #[serde(default)]
    edges: Vec<f32>,
    /// One a bin, and one for what is missing; of several columns, one a column, and one for none of them.
    counts: Vec<u64>,
}

/// What the columns and the score of the training records looked like.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// In the order of their columns, the score last.
    pub populations: Vec<Population>,
}

/// How often each value of one feature, or of the score, occurred.
#[derive(Clone, Debug, PartialEq)]
pub struct Population {
    pub name: Arc<str>,
    /// The first column, and how many there are; `None` for the score.
    columns: Option<(usize, usize)>,
    edges: Vec<f32>,
    pub counts: Vec<u64>,
}

impl Reference {
    /// Reads the file. Every feature that it names must be one of the plan.
    pub(super) fn parse(text: &[u8], plan: &Plan) -> Result<Self, BundleFault> {
        let Written { mut features, score } =
            serde_json::from_slice(text).map_err(|error| BundleFault::Syntax(error.to_string()))?;
        let mut populations = Vec::with_capacity(features.len() + 1);
        let mut column = 0;
        for feature in plan.features() {
            if let Some(bins) = features.remove(&*feature.name) {
                let columns = Some((column, feature.width));
                populations.push(Population::new(Arc::clone(&feature.name), columns, bins)?);
            }
            column += feature.width;
        }
        if let Some(unknown) = features.keys().next() {
            return Err(BundleFault::Value(format!("the model has no feature `{unknown}`")));
        }
        populations.push(Population::new(SCORE.into(), None, score)?);
        Ok(Self { populations })
    }
}

impl Population {
    fn new(name: Arc<str>, columns: Option<(usize, usize)>, bins: WrittenBins) -> Result<Self, BundleFault> {
        let WrittenBins { edges, counts } = bins;
        let fault = |what: &str| Err(BundleFault::Value(format!("`{name}`: {what}")));
        let width = columns.map_or(1, |(_, width)| width);
        if width > MAX_WIDTH || edges.len() > MAX_EDGES {
            return fault("a population has at most 64 columns or 64 edges");
        }
        if !edges.iter().all(|edge| edge.is_finite()) || !edges.is_sorted_by(|a, b| a < b) {
            return fault("edges are finite numbers, each larger than the one before");
        }
        if width > 1 && !edges.is_empty() {
            return fault("only a single column has edges");
        }
        let expected = if width > 1 { width + 1 } else { edges.len() + 2 };
        if counts.len() != expected {
            return fault("there must be one count a bin, and one for what is missing");
        }
        if counts.iter().all(|count| *count == 0) || counts.iter().any(|count| *count > u64::from(u32::MAX)) {
            return fault("the counts must not all be 0, nor over 4,294,967,295");
        }
        Ok(Self { name, columns, edges, counts })
    }

    /// Of a single column: the bins lie below the first, between two, and from the last on.
    pub fn edges(&self) -> &[f32] {
        &self.edges
    }

    /// The bin of a row and its score.
    pub fn bin(&self, row: &[f32], score: f32) -> usize {
        let Some((first, width)) = self.columns.filter(|(_, width)| *width > 1) else {
            let cell = self.columns.map_or(Some(score), |(first, _)| row.get(first).copied());
            return match cell {
                Some(cell) if !cell.is_nan() => self.edges.partition_point(|edge| *edge <= cell),
                _ => self.edges.len() + 1,
            };
        };
        let cells = row.get(first..first + width).unwrap_or_default();
        let largest = cells.iter().enumerate().filter(|(_, cell)| **cell != 0.0 && !cell.is_nan());
        // Of equal ones the first, as in training.
        let largest = largest.reduce(|best, next| if next.1 > best.1 { next } else { best });
        largest.map_or(width, |(place, _)| place)
    }
}

//! Golden vectors: records, their features and scores, recomputed at load.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::BundleFault;
use super::manifest::Task;
use crate::features::Plan;
use crate::model::Model;

/// Largest difference of a feature, relative above 1 and absolute below.
const FEATURE_TOLERANCE: f32 = 1e-6;
/// Largest difference of a score, relative above 1 and absolute below.
const SCORE_TOLERANCE: f32 = 1e-5;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden<'a> {
    #[serde(borrow)]
    vectors: Vec<Vector<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector<'a> {
    #[serde(borrow)]
    record: &'a RawValue,
    /// `null` stands for NaN.
    features: Vec<Option<f32>>,
    score: f32,
}

/// Recomputes every vector; gives the feature rows.
pub(super) fn check(
    text: &[u8],
    plan: &Plan,
    model: &dyn Model,
    task: Task,
) -> Result<Vec<f32>, BundleFault> {
    let golden: Golden<'_> =
        serde_json::from_slice(text).map_err(|error| BundleFault::Syntax(error.to_string()))?;
    if !(20..=200).contains(&golden.vectors.len()) {
        return Err(BundleFault::GoldenCount(golden.vectors.len()));
    }
    let mut rows = Vec::with_capacity(golden.vectors.len() * plan.width());
    let mut scores = Vec::with_capacity(1);
    for (index, vector) in golden.vectors.iter().enumerate() {
        let row = features(index, vector, plan)?;
        scores.clear();
        let fault = |what: String| BundleFault::GoldenRecord { vector: index, what };
        model.run(&row, 1, &mut scores).map_err(|error| fault(error.to_string()))?;
        let computed = scores.first().copied().unwrap_or(f32::NAN);
        if !near(vector.score, computed, SCORE_TOLERANCE) {
            let (claimed, off) = (vector.score, (vector.score - computed).abs());
            return Err(BundleFault::GoldenScore { vector: index, claimed, computed, off });
        }
        if task == Task::Classification && !(0.0..=1.0).contains(&computed) {
            return Err(fault(format!("a score of {computed} is no probability")));
        }
        rows.extend(row);
    }
    Ok(rows)
}

/// The features of a vector, computed from its record and found equal to those it claims.
fn features(index: usize, vector: &Vector<'_>, plan: &Plan) -> Result<Vec<f32>, BundleFault> {
    let fault = |what: String| BundleFault::GoldenRecord { vector: index, what };
    let extraction =
        plan.extract(vector.record.get().as_bytes(), &[]).map_err(|error| fault(error.to_string()))?;
    if let Some(Err(error)) = extraction.records.first().map(|record| record.features.as_ref()) {
        return Err(fault(error.to_string()));
    }
    let row = extraction.rows;
    if row.len() != vector.features.len() || row.len() != plan.width() {
        return Err(fault(format!("{} columns, the record gives {}", vector.features.len(), row.len())));
    }
    for (column, (claimed, computed)) in vector.features.iter().zip(&row).enumerate() {
        let claimed = claimed.unwrap_or(f32::NAN);
        if !near(claimed, *computed, FEATURE_TOLERANCE) {
            return Err(BundleFault::GoldenFeature { vector: index, column, claimed, computed: *computed });
        }
    }
    Ok(row)
}

fn near(claimed: f32, computed: f32, tolerance: f32) -> bool {
    if claimed.is_nan() || computed.is_nan() {
        return claimed.is_nan() && computed.is_nan();
    }
    (claimed - computed).abs() <= tolerance * claimed.abs().max(1.0)
}

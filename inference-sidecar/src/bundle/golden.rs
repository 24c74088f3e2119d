//! Golden vectors: records, their features and answers, recomputed at load.

use std::time::Duration;

use bytes::Bytes;
use foregate_filters::timestamp::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::BundleFault;
use super::manifest::Task;
use crate::bench::Records;
use crate::features::{Plan, Reading};
use crate::model::Model;
use crate::output::Output;

/// Largest difference of a feature, relative above 1 and absolute below.
const FEATURE_TOLERANCE: f32 = 1e-6;
/// Largest difference of a score, relative above 1 and absolute below.
const SCORE_TOLERANCE: f32 = 1e-5;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden<'a> {
    /// The moment of all requests, where a feature reads it.
    now: Option<Timestamp>,
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
    /// Of an output of one column.
    score: Option<f32>,
    /// Of an output of several.
    #[serde(default)]
    scores: Vec<f32>,
    /// Keys of the best items, best first.
    #[serde(default)]
    items: Vec<String>,
}

impl Golden<'_> {
    fn now(&self) -> Duration {
        let micros = self.now.as_ref().map_or(0, |now| u64::try_from(now.micros()).unwrap_or(0));
        Duration::from_micros(micros)
    }
}

/// The records of the vectors, as they stand there.
pub(super) fn records(text: &[u8]) -> Result<Records, BundleFault> {
    let golden: Golden<'_> =
        serde_json::from_slice(text).map_err(|error| BundleFault::Syntax(error.to_string()))?;
    let body = |vector: &Vector<'_>| Bytes::copy_from_slice(vector.record.get().as_bytes());
    Ok(Records { now: golden.now(), bodies: golden.vectors.iter().map(body).collect() })
}

/// What vectors are recomputed with.
pub(super) struct Judge<'a> {
    pub(super) plan: &'a Plan,
    pub(super) model: &'a dyn Model,
    pub(super) output: &'a Output,
    pub(super) task: Task,
}

impl Judge<'_> {
    /// Recomputes every vector; gives the feature rows.
    pub(super) fn check(&self, text: &[u8]) -> Result<Vec<f32>, BundleFault> {
        let golden: Golden<'_> =
            serde_json::from_slice(text).map_err(|error| BundleFault::Syntax(error.to_string()))?;
        if !(20..=200).contains(&golden.vectors.len()) {
            return Err(BundleFault::GoldenCount(golden.vectors.len()));
        }
        let reading = Reading { now: golden.now(), values: false };
        let mut rows = Vec::with_capacity(golden.vectors.len() * self.plan.width());
        for (index, vector) in golden.vectors.iter().enumerate() {
            let row = features(index, vector, self.plan, reading)?;
            self.answer(index, vector, &row)?;
            rows.extend(row);
        }
        Ok(rows)
    }

    fn answer(&self, index: usize, vector: &Vector<'_>, row: &[f32]) -> Result<(), BundleFault> {
        let fault = |what: String| BundleFault::GoldenRecord { vector: index, what };
        let mut cells = Vec::with_capacity(self.model.columns());
        self.model.run(row, 1, &mut cells).map_err(|error| fault(error.to_string()))?;
        let claims = vector.score.as_slice().iter().chain(&vector.scores);
        if claims.clone().count() != cells.len() {
            return Err(fault(format!("the vector has another number of scores than {}", cells.len())));
        }
        for (claimed, computed) in claims.copied().zip(cells.iter().copied()) {
            if !near(claimed, computed, SCORE_TOLERANCE) {
                let off = (claimed - computed).abs();
                return Err(BundleFault::GoldenScore { vector: index, claimed, computed, off });
            }
            if self.task == Task::Classification && !(0.0..=1.0).contains(&computed) {
                return Err(fault(format!("a score of {computed} is no probability")));
            }
        }
        self.output.check_answer(&cells).map_err(|error| fault(error.to_string()))?;
        let (_, detail) = self.output.read(&cells);
        let found = detail.map(|detail| detail.items).unwrap_or_default();
        let same = found.len() == vector.items.len()
            && found.iter().zip(&vector.items).all(|(found, claimed)| *found.key == **claimed);
        if same {
            Ok(())
        } else {
            Err(fault("the best items are others than those of the vector".to_owned()))
        }
    }
}

/// The features of a vector, computed from its record and found equal to those it claims.
fn features(
    index: usize,
    vector: &Vector<'_>,
    plan: &Plan,
    reading: Reading,
) -> Result<Vec<f32>, BundleFault> {
    let fault = |what: String| BundleFault::GoldenRecord { vector: index, what };
    let record = vector.record.get().as_bytes();
    let extraction = plan.extract(record, &[], reading).map_err(|error| fault(error.to_string()))?;
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

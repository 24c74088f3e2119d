//! From contributions of columns to the reasons that people are told.

use foregate_filters::score::{Predictor, Reasons};

use crate::features::Plan;

/// Predictors that are told at most: those that add or take away the most.
pub const TOP: usize = 5;

/// What a model says before its last transform: of the average row, and of this one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Margin {
    pub base: f64,
    pub margin: f64,
}

/// What each column of one row adds to its margin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contributions {
    pub margin: Margin,
    pub columns: Vec<f64>,
}

/// Adds up the columns of each feature and names the largest; `values` has one for each feature.
pub fn tell(plan: &Plan, contributions: &Contributions, values: &[Option<Box<str>>]) -> Reasons {
    let mut rest = contributions.columns.as_slice();
    let mut predictors: Vec<Predictor> = Vec::with_capacity(plan.features().len());
    for (place, feature) in plan.features().iter().enumerate() {
        let (own, tail) = rest.split_at_checked(feature.width).unwrap_or((rest, &[]));
        rest = tail;
        predictors.push(Predictor {
            contribution: to_f32(own.iter().sum()),
            label: feature.label.clone(),
            name: feature.name.clone(),
            value: values.get(place).cloned().flatten(),
        });
    }
    predictors.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()));
    predictors.truncate(TOP);
    predictors.retain(|predictor| predictor.contribution != 0.0);
    Reasons {
        base: to_f32(contributions.margin.base),
        margin: to_f32(contributions.margin.margin),
        predictors,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "for people")]
fn to_f32(value: f64) -> f32 {
    value as f32
}

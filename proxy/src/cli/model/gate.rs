//! What a version must fulfil before it becomes production.

use std::path::Path;

use foregate_filters::units::TimeSpan;
use foregate_inference::bench::{time, unread};
use foregate_inference::bundle::Bundle;
use foregate_inference::rollout::fit;
use foregate_inference::scorer::ModelScorer;
use foregate_policy::documents::model::{Gate, Threshold};
use serde::Serialize;

/// Scores that the latency is measured with.
const CALLS: usize = 2_000;

/// One thing that was checked.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    #[serde(rename = "check")]
    pub(super) name: String,
    pub(super) ok: bool,
    pub(super) found: String,
}

/// A loaded version, and where its bundle is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side<'a> {
    pub(super) scorer: &'a ModelScorer,
    pub(super) folder: &'a Path,
}

/// Every check; the golden vectors were recomputed when the bundle was loaded.
pub(super) fn checks(gate: &Gate, production: Side<'_>, version: Side<'_>) -> Vec<Check> {
    let mut checks = vec![golden(version), schema(production, version)];
    let metrics = &version.scorer.manifest().metrics;
    checks
        .extend(gate.metrics.iter().map(|(name, bounds)| metric(name, *bounds, metrics.get(name).copied())));
    checks.extend(gate.p99.map(|bound| latency(bound, version)));
    checks
}

fn golden(version: Side<'_>) -> Check {
    let records = Bundle::records(version.folder, version.scorer.manifest());
    let found = match &records {
        Ok(records) => format!("{} recomputed", records.bodies.len()),
        Err(error) => error.to_string(),
    };
    Check { name: "golden vectors".to_owned(), ok: records.is_ok(), found }
}

/// The same object, task and classes, and a score for every record that production's golden vectors hold.
fn schema(production: Side<'_>, version: Side<'_>) -> Check {
    let fits = fit::check(production.scorer, version.scorer).map_err(|misfit| misfit.to_string());
    let reads = || {
        let records = Bundle::records(production.folder, production.scorer.manifest());
        let records = records.map_err(|error| format!("the version in production: {error}"))?;
        match unread(version.scorer, &records) {
            None => Ok(format!("scores {} records of production", records.bodies.len())),
            Some((place, fault)) => Err(format!("no score for golden record {place} of production: {fault}")),
        }
    };
    let outcome = fits.and_then(|()| reads());
    Check { name: "schema".to_owned(), ok: outcome.is_ok(), found: outcome.unwrap_or_else(|why| why) }
}

fn metric(name: &str, bounds: Threshold, claimed: Option<f64>) -> Check {
    let within =
        |value: f64| bounds.min.is_none_or(|min| value >= min) && bounds.max.is_none_or(|max| value <= max);
    let wanted = [bounds.min.map(|min| format!(">= {min}")), bounds.max.map(|max| format!("<= {max}"))];
    let wanted: Vec<String> = wanted.into_iter().flatten().collect();
    Check {
        name: format!("metric {name} {}", wanted.join(" and ")).trim_end().to_owned(),
        ok: claimed.is_some_and(within),
        found: claimed.map_or("the bundle does not tell it".to_owned(), |value| value.to_string()),
    }
}

fn latency(bound: TimeSpan, version: Side<'_>) -> Check {
    let records = Bundle::records(version.folder, version.scorer.manifest());
    let timing = records.ok().and_then(|records| time(version.scorer, &records, CALLS));
    let found = timing.map_or("it could not be measured".to_owned(), |timing| format!("{:?}", timing.p99));
    let ok = timing.is_some_and(|timing| timing.p99 <= bound.0);
    Check { name: format!("p99 <= {bound}"), ok, found }
}

//! What models say now, by the bins of their training records.

use std::sync::Arc;

use foregate_inference::bundle::reference::Population;
use foregate_inference::rollout::drift;
use foregate_inference::rollout::trial::Role;
use foregate_inference::scorer::ModelScorer;
use serde::Serialize;

use crate::model_page::{role, runs};
use crate::shared::models::LoadedModel;
use crate::telemetry::decisions::Decisions;
use crate::telemetry::record::Record;

/// Fewest scores whose drift is told: of fewer, chance says more than the population.
const ENOUGH: u32 = 200;

/// A version that plays a part.
#[derive(Debug, Serialize)]
pub(super) struct ModelOverview {
    name: Arc<str>,
    version: Arc<str>,
    role: &'static str,
    runs: &'static str,
    /// For one row; 0 before the first that was timed.
    p99_us: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    drift: Option<Drift>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scores: Option<Scores>,
}

/// What has moved most.
#[derive(Debug, Serialize)]
struct Drift {
    feature: Arc<str>,
    /// The population stability index.
    index: f64,
}

/// Counts by bin: below the first edge, between two, and from the last on.
#[derive(Debug, Serialize)]
struct Scores {
    edges: Vec<f32>,
    training: Vec<u64>,
    now: Vec<u32>,
}

/// Every version that plays a part, with the scores of those kept decisions that were kept by chance alone: what
/// was kept because it was refused would tell of the policy, and not of the population.
pub(super) fn models(loaded: &[LoadedModel], decisions: &Decisions) -> Vec<ModelOverview> {
    if loaded.is_empty() {
        return Vec::new();
    }
    let records =
        decisions.recent(usize::MAX, |record| !record.scores.is_empty() && decisions.samples(record.id));
    let mut told = Vec::new();
    for model in loaded {
        for (name, scorer) in &model.versions {
            if let Some(role) = role(model.rollout.as_deref(), name.as_ref()) {
                let version = name.clone().unwrap_or_else(|| scorer.manifest().version.as_str().into());
                told.push(playing(model, role, version, scorer, &records));
            }
        }
    }
    told
}

fn playing(
    model: &LoadedModel,
    role: Role,
    version: Arc<str>,
    scorer: &ModelScorer,
    records: &[Arc<Record>],
) -> ModelOverview {
    let counted = count(scorer, &model.name, &version, records);
    let measured = model.rollout.as_deref().and_then(|rollout| {
        let all = rollout.watched(role).into_iter().zip(rollout.drift(role)?);
        all.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(feature, index)| Drift { feature, index })
    });
    ModelOverview {
        name: Arc::clone(&model.name),
        version,
        role: role.name(),
        runs: runs(scorer),
        p99_us: scorer.p99().as_secs_f64() * 1e6,
        drift: measured.or_else(|| counted.as_ref().and_then(moved)),
        scores: counted.map(|(population, now)| shown(population, now)),
    }
}

/// The scores that a version gave, by the bins of its reference; `None` where its bundle has none.
fn count<'a>(
    scorer: &'a ModelScorer,
    model: &str,
    version: &str,
    records: &[Arc<Record>],
) -> Option<(&'a Population, Vec<u32>)> {
    let population = scorer.reference()?.populations.last()?;
    let mut now = vec![0; population.counts.len()];
    let facts = records.iter().flat_map(|record| &record.scores);
    let mine =
        facts.filter(|fact| *fact.model == *model && *fact.version == *version && fact.fault.is_none());
    for score in mine.flat_map(|fact| &fact.scores) {
        if let Some(count) = now.get_mut(population.bin(&[], *score)) {
            *count += 1;
        }
    }
    Some((population, now))
}

fn moved((population, now): &(&Population, Vec<u32>)) -> Option<Drift> {
    let enough = now.iter().sum::<u32>() >= ENOUGH;
    enough.then(|| Drift {
        feature: Arc::clone(&population.name),
        index: drift::index(&population.counts, now),
    })
}

/// Without the bin for what is missing: a score is always there.
fn shown(population: &Population, mut now: Vec<u32>) -> Scores {
    let mut training = population.counts.clone();
    training.pop();
    now.pop();
    Scores { edges: population.edges().to_vec(), training, now }
}

//! The admin page of models: every version, the part it plays, how it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use foregate_filters::score::Scorer;
use foregate_inference::bundle::Cost;
use foregate_inference::rollout::Rollout;
use foregate_inference::rollout::trial::{Breach, Role, Trial};
use foregate_inference::scorer::ModelScorer;
use serde::Serialize;

use crate::shared::models::LoadedModel;

/// One model.
#[derive(Debug, Serialize)]
pub struct ModelStatus {
    name: Arc<str>,
    /// Bodies that were not compared because too many waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
    versions: Vec<VersionStatus>,
}

/// One version of it.
#[derive(Debug, Serialize)]
struct VersionStatus {
    version: Arc<str>,
    /// `production`, `canary`, `shadow`, or `standby` for one that is loaded and not asked.
    role: &'static str,
    /// What the bundle calls itself.
    bundle: String,
    /// `inline`, `threads` or `sidecar`.
    runs: &'static str,
    /// For one row; 0 before the first that was timed.
    p99_us: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trial: Option<TrialStatus>,
    /// How far features and the score have moved, as of the last full window.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    drift: BTreeMap<Arc<str>, f64>,
}

/// A version on trial.
#[derive(Debug, Serialize)]
struct TrialStatus {
    on: bool,
    /// Of the bodies, where it is the canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<f64>,
    records: u64,
    errors: u64,
    compared: u64,
    disagreed: u64,
    /// Until it is tried again; absent while it is on, and where only a publication ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    /// What it was taken off for last.
    #[serde(skip_serializing_if = "Option::is_none")]
    broke: Option<BreachStatus>,
}

#[derive(Debug, Serialize)]
struct BreachStatus {
    guardrail: &'static str,
    measured: f64,
    bound: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    feature: Option<Arc<str>>,
}

/// Every model of what is in force.
pub fn models(loaded: &[LoadedModel]) -> Vec<ModelStatus> {
    let model = |model: &LoadedModel| {
        let rollout = model.rollout.as_deref();
        let versions = model.versions.iter();
        ModelStatus {
            name: Arc::clone(&model.name),
            dropped: rollout.map(Rollout::dropped),
            versions: versions.map(|(name, scorer)| version(rollout, name.as_ref(), scorer)).collect(),
        }
    };
    loaded.iter().map(model).collect()
}

/// The part that a version of this name plays; `None` where it is only held ready.
pub fn role(rollout: Option<&Rollout>, name: Option<&Arc<str>>) -> Option<Role> {
    let (Some(rollout), Some(name)) = (rollout, name) else { return Some(Role::Production) };
    if rollout.version() == &**name {
        return Some(Role::Production);
    }
    rollout.trials().find(|trial| trial.version == *name).map(|trial| trial.role)
}

/// Where it runs.
pub fn runs(scorer: &ModelScorer) -> &'static str {
    match scorer.cost() {
        _ if scorer.is_remote() => "sidecar",
        Cost::Inline => "inline",
        Cost::Threads => "threads",
    }
}

fn version(rollout: Option<&Rollout>, name: Option<&Arc<str>>, scorer: &ModelScorer) -> VersionStatus {
    let role = role(rollout, name);
    let trial = rollout.zip(role).and_then(|(rollout, role)| {
        rollout.trials().find(|trial| trial.role == role).map(|trial| on_trial(rollout, trial))
    });
    let drift = rollout.zip(role).and_then(|(rollout, role)| {
        let moved = rollout.drift(role)?;
        Some(rollout.watched(role).into_iter().zip(moved).collect())
    });
    let bundle = scorer.manifest();
    VersionStatus {
        version: name.cloned().unwrap_or_else(|| bundle.version.as_str().into()),
        role: role.map_or("standby", Role::name),
        bundle: format!("{} {}", bundle.name, bundle.version),
        runs: runs(scorer),
        p99_us: scorer.p99().as_secs_f64() * 1e6,
        trial,
        drift: drift.unwrap_or_default(),
    }
}

fn on_trial(rollout: &Rollout, trial: &Trial) -> TrialStatus {
    let counts = &trial.counts;
    let broke = |breach: Breach| BreachStatus {
        guardrail: breach.guardrail.name(),
        measured: breach.measured,
        bound: breach.bound,
        feature: breach.feature,
    };
    TrialStatus {
        on: trial.is_on(),
        percent: (trial.role == Role::Canary).then(|| f64::from(rollout.canary_share()) / 100.0),
        records: counts.records.load(Relaxed),
        errors: counts.errors.load(Relaxed),
        compared: counts.compared.load(Relaxed),
        disagreed: counts.disagreed.load(Relaxed),
        seconds: trial.held_off().map(|left| left.as_secs_f64()).filter(|left| *left > 0.0),
        broke: trial.last().map(broke),
    }
}

//! Rollouts put together from loaded versions, and what the next process knows them by.

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::score::Scorer;
use foregate_filters::units::TimeSpan;
use foregate_inference::rollout::trial::{Event, Guardrails, Tell};
use foregate_inference::rollout::{Parts, Rollout, Version, fit};
use foregate_inference::scorer::ModelScorer;
use foregate_policy::codes;
use foregate_policy::model;
use log::Level;
use sha2::{Digest, Sha256};

use crate::decision_log::entry::hex;
use crate::telemetry::event::event;
use crate::trials::Trials;

/// What a rollout is: who plays which part, and the bounds. What else a document says changes nothing in it, so that a
/// version that was taken off stays off.
pub(super) fn parts_of(
    rollout: &model::Rollout,
    versions: &[(Option<Arc<str>>, Arc<ModelScorer>)],
) -> Vec<u8> {
    let model::Rollout { production, canary, shadow, guardrails, previous: _, gate: _ } = rollout;
    let version = |place: usize| {
        let (name, scorer) = versions.get(place)?;
        Some((name, Arc::as_ptr(scorer).addr()))
    };
    let canary = canary.map(|(place, share)| (version(place), share));
    let parts = (version(*production), canary, shadow.and_then(version), guardrails);
    format!("{parts:?}").into_bytes()
}

/// The same for whoever has other scorers of the same bundles, such as the next process.
fn identity_of(
    model: &str,
    rollout: &model::Rollout,
    versions: &[(Option<Arc<str>>, Arc<ModelScorer>)],
) -> Arc<str> {
    let model::Rollout { production, canary, shadow, guardrails, previous: _, gate: _ } = rollout;
    let version = |place: usize| {
        let (name, scorer) = versions.get(place)?;
        Some((name, scorer.digest()))
    };
    let canary = canary.map(|(place, share)| (version(place), share));
    let parts = (model, version(*production), canary, shadow.and_then(version), guardrails);
    hex(&Sha256::digest(format!("{parts:?}"))).into()
}

/// A rollout, and what it is to the next process.
#[derive(Debug)]
pub struct NamedRollout {
    pub rollout: Arc<Rollout>,
    pub identity: Arc<str>,
}

impl NamedRollout {
    /// Tells of versions that stay off from the process before.
    pub(super) fn tell_off(&self) {
        for trial in self.rollout.trials().filter(|trial| !trial.is_on()) {
            let left = trial.held_off().map(|left| Duration::from_secs(left.as_secs()));
            let fields = [
                ("model", self.rollout.model().into()),
                ("version", trial.version.as_ref().into()),
                ("role", trial.role.name().into()),
                ("hold_off", written(left).into()),
            ];
            event(Level::Warn, "model version stays off", &fields);
        }
    }
}

/// A hold-off as events have it.
fn written(hold_off: Option<Duration>) -> String {
    hold_off.map_or("until the rollout changes".to_owned(), |time| TimeSpan(time).to_string())
}

/// Puts versions together; refuses those that cannot stand in for production.
pub(super) fn start(
    name: &Arc<str>,
    rollout: &model::Rollout,
    versions: &[(Option<Arc<str>>, Arc<ModelScorer>)],
    spec: &Path,
    trials: &Arc<Trials>,
) -> Result<NamedRollout, Vec<Fault>> {
    let at = spec.key("rollout");
    let version = |place: usize| {
        let (name, scorer) = versions.get(place)?;
        Some(Version { name: name.clone().unwrap_or_default(), scorer: Arc::clone(scorer) })
    };
    let missing = || vec![Fault::new(Code::REFERENCE, at.clone(), "there is no such version")];
    let production = version(rollout.production).ok_or_else(missing)?;
    let canary = rollout.canary.and_then(|(place, share)| Some((version(place)?, share)));
    let shadow = rollout.shadow.and_then(version);
    let mut faults = Vec::new();
    let tried = [("canary", canary.as_ref().map(|(canary, _)| canary)), ("shadow", shadow.as_ref())];
    for (role, tried) in tried.into_iter().filter_map(|(role, tried)| Some((role, tried?))) {
        let at_version = at.key(role).key("version");
        if let Err(misfit) = fit::check(&production.scorer, &tried.scorer) {
            let message = format!("`{}` cannot stand in for `{}`: {misfit}", tried.name, production.name);
            faults.push(Fault::new(codes::MODEL_MISFIT, at_version, message));
        }
        if rollout.guardrails.drift.is_some() && tried.scorer.reference().is_none() {
            let message =
                format!("the bundle of `{}` has no reference, so that no drift can be told", tried.name);
            let fault = Fault::new(codes::MODEL_MISFIT, at.key("guardrails").key("drift"), message);
            faults.push(fault.help("have training write one (files.reference), or remove `drift`"));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let parts = Parts { production, canary, shadow, guardrails: guardrails(&rollout.guardrails) };
    let identity = identity_of(name, rollout, versions);
    let (model, noted, of) = (Arc::clone(name), Arc::clone(trials), Arc::clone(&identity));
    let tell: Tell = Arc::new(move |told| {
        tell_of(&model, told);
        noted.note(&of, told);
    });
    let rollout = Rollout::new(name, parts, &tell)
        .map_err(|error| vec![Fault::new(Code::MODEL, at, error.to_string())])?;
    for trial in rollout.trials() {
        if let Some((left, breach)) = trials.find(&identity, trial.role) {
            trial.stay_off(left, breach);
        }
    }
    Ok(NamedRollout { rollout: Arc::new(rollout), identity })
}

#[expect(clippy::cast_possible_truncation, reason = "scores are f32, and so is what they differ by")]
fn guardrails(said: &model::Guardrails) -> Guardrails {
    Guardrails {
        p99: said.p99,
        error_share: said.error_share,
        disagreement: said.disagreement,
        tolerance: said.tolerance as f32,
        drift: said.drift,
        hold_off: said.hold_off,
        min_records: said.min_records,
    }
}

/// One line for the operator.
fn tell_of(model: &Arc<str>, told: &Event) {
    let model = ("model", model.as_ref().into());
    match told {
        Event::TakenOff { role, version, breach, hold_off } => {
            let mut fields = vec![
                model,
                ("version", version.as_ref().into()),
                ("role", role.name().into()),
                ("guardrail", breach.guardrail.name().into()),
                ("measured", breach.measured.into()),
                ("bound", breach.bound.into()),
                ("hold_off", written(*hold_off).into()),
            ];
            fields.extend(breach.feature.as_ref().map(|feature| ("feature", feature.as_ref().into())));
            event(Level::Warn, "model version taken off", &fields);
        }
        Event::TriedAgain { role, version } => {
            let fields = [model, ("version", version.as_ref().into()), ("role", role.name().into())];
            event(Level::Info, "model version tried again", &fields);
        }
    }
}

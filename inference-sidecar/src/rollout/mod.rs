//! Several versions of a model as one scorer: production, canary, shadow.

mod after;
mod choice;
pub mod drift;
pub mod fit;
pub mod trial;

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foregate_filters::score::{Offer, RecordScore, ScoreCall, ScoreFault, Scorer, Scores};

use crate::clock::Stopwatch;
use crate::rollout::after::{After, Cast};
use crate::rollout::choice::Share;
use crate::rollout::drift::Watch;
use crate::rollout::trial::{Guardrails, Role, Tell, Trial};
use crate::scorer::ModelScorer;

/// Of the bodies that production alone has to do with, one in so many is looked at for drift.
const SAMPLED: u64 = 8;

/// A loaded bundle, under the name that the rollout gives it.
#[derive(Clone, Debug)]
pub struct Version {
    pub name: Arc<str>,
    pub scorer: Arc<ModelScorer>,
}

/// Who plays which part.
#[derive(Clone, Debug)]
pub struct Parts {
    pub production: Version,
    /// With its share of the bodies, in hundredths of a per cent.
    pub canary: Option<(Version, u32)>,
    pub shadow: Option<Version>,
    pub guardrails: Guardrails,
}

/// Scores with production; with a canary where the record is in its share; with a shadow for comparison alone.
///
/// A canary is given half of the deadline. What it fails on, production decides within the rest.
#[derive(Debug)]
pub struct Rollout {
    model: Box<str>,
    production: Version,
    canary: Option<Canary>,
    shadow: Option<Arc<Trial>>,
    /// Absent where nothing is compared and no drift is measured.
    after: Option<After>,
    /// Bodies that production decided about.
    calls: AtomicU64,
}

#[derive(Debug)]
struct Canary {
    version: Version,
    parts: u32,
    share: Share,
    trial: Arc<Trial>,
}

impl Rollout {
    /// Makes a scorer under the name that the policy gives the model; `tell` hears when a version is taken off.
    pub fn new(model: &str, parts: Parts, tell: &Tell) -> io::Result<Self> {
        let Parts { production, canary, shadow, guardrails } = parts;
        let watch = |version: &Version| {
            let reference = version.scorer.reference()?;
            Some(Watch::new(Arc::clone(reference), guardrails.min_records))
        };
        let trial = |role, version: &Version| {
            let name = Arc::clone(&version.name);
            Arc::new(Trial::new(role, name, guardrails.clone(), watch(version), Arc::clone(tell)))
        };
        let canary = canary.map(|(version, parts)| {
            let share = Share::new(model, &version.name, parts);
            Canary { trial: trial(Role::Canary, &version), version, parts, share }
        });
        let shadow = shadow.map(|version| (trial(Role::Shadow, &version), version));
        let drift = watch(&production);
        let idle = canary.is_none() && shadow.is_none() && drift.is_none();
        let cast = Cast {
            production: Arc::clone(&production.scorer),
            drift,
            canary: canary.as_ref().map(|it| (Arc::clone(&it.version.scorer), Arc::clone(&it.trial))),
            shadow: shadow.as_ref().map(|(trial, version)| (Arc::clone(&version.scorer), Arc::clone(trial))),
        };
        Ok(Self {
            model: model.into(),
            production,
            canary,
            shadow: shadow.map(|(trial, _)| trial),
            after: if idle { None } else { Some(After::start(cast)?) },
            calls: AtomicU64::new(0),
        })
    }

    /// The versions on trial.
    pub fn trials(&self) -> impl Iterator<Item = &Arc<Trial>> {
        self.canary.iter().map(|canary| &canary.trial).chain(&self.shadow)
    }

    /// The share of the canary that holds now, in hundredths of a per cent: 0 where it was taken off.
    pub fn canary_share(&self) -> u32 {
        self.canary.as_ref().filter(|canary| canary.trial.is_on()).map_or(0, |canary| canary.parts)
    }

    /// Bodies that were neither compared nor looked at for drift because too many waited.
    pub fn dropped(&self) -> u64 {
        self.after.as_ref().map_or(0, After::dropped)
    }

    /// The names of what is watched for drift in the version of this role: features, and the score.
    pub fn watched(&self, role: Role) -> Vec<Arc<str>> {
        self.watch(role).map(|watch| watch.names().cloned().collect()).unwrap_or_default()
    }

    /// How far each of [`Self::watched`] had moved at the end of the last full window.
    pub fn drift(&self, role: Role) -> Option<Vec<f64>> {
        self.watch(role)?.last()
    }

    fn watch(&self, role: Role) -> Option<&Watch> {
        match role {
            Role::Production => self.after.as_ref()?.cast().drift.as_ref(),
            Role::Canary => self.canary.as_ref()?.trial.drift.as_ref(),
            Role::Shadow => self.shadow.as_ref()?.drift.as_ref(),
        }
    }

    fn chosen(&self, call: &ScoreCall) -> Option<&Canary> {
        self.canary.as_ref().filter(|canary| canary.trial.is_on() && canary.share.holds(&call.body))
    }

    /// Production has decided.
    fn decided(&self, call: &ScoreCall, scores: &Scores) {
        let (Some(after), Ok(records)) = (&self.after, scores) else { return };
        let shadowed = self.shadow.as_ref().is_some_and(|trial| trial.is_on());
        let due = || self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLED);
        if shadowed || (after.cast().drift.is_some() && due()) {
            after.put(call, Role::Production, records);
        }
    }

    /// What the canary says, where it has a score for every record.
    fn accept(
        &self,
        canary: &Canary,
        call: &ScoreCall,
        tried: Scores,
        took: Duration,
    ) -> Result<Scores, Scores> {
        match tried {
            Ok(mut records) if records.iter().all(|record| record.score.is_ok()) => {
                canary.trial.note_call(counted(call, took), records.len(), 0);
                if let Some(after) = &self.after {
                    after.put(call, Role::Canary, &records);
                }
                tag(&mut records, &canary.version.name);
                Ok(Ok(records))
            }
            failed => Err(failed),
        }
    }

    /// Production has decided because the canary failed. What both fail on is no fault of the canary.
    fn instead(&self, canary: &Canary, call: &ScoreCall, failed: &Scores, took: Duration, scores: &Scores) {
        self.decided(call, scores);
        let good = |scores: &Scores, place: usize| {
            scores.as_ref().is_ok_and(|records| records.get(place).is_some_and(|record| record.score.is_ok()))
        };
        let records = scores.as_ref().map_or(0, Vec::len);
        let fault = |place: &usize| good(scores, *place) && !good(failed, *place);
        canary.trial.note_call(counted(call, took), records, (0..records).filter(fault).count());
    }

    async fn answer(&self, call: ScoreCall) -> Scores {
        let Some(canary) = self.chosen(&call) else {
            let scores = self.production.scorer.submit(call.clone()).await;
            self.decided(&call, &scores);
            return scores;
        };
        let watch = Stopwatch::start();
        let tried = match canary.try_here(&call, |_| true) {
            Some(scores) => scores,
            None => canary.version.scorer.submit(halved(&call)).await,
        };
        let took = watch.elapsed();
        let mut failed = match self.accept(canary, &call, tried, took) {
            Ok(scores) => return scores,
            Err(failed) => failed,
        };
        let budget = call.budget.saturating_sub(took);
        if budget.is_zero() {
            let records = failed.as_ref().map_or(1, Vec::len);
            canary.trial.note_call(counted(&call, took), records, records);
            if let Ok(records) = &mut failed {
                tag(records, &canary.version.name);
            }
            return failed;
        }
        let rest = ScoreCall { budget, ..call.clone() };
        let production = &self.production.scorer;
        let scores = match production.score(&rest) {
            Some(scores) => scores,
            None => production.submit(rest).await,
        };
        self.instead(canary, &call, &failed, took, &scores);
        scores
    }
}

impl Canary {
    /// Scores on this thread; `None` where that is too dear, or so many records must not be scored here.
    fn try_here(&self, call: &ScoreCall, may: impl FnOnce(usize) -> bool) -> Option<Scores> {
        let scorer = &self.version.scorer;
        let tried = catch_unwind(AssertUnwindSafe(|| match scorer.open(&halved(call))? {
            Ok(read) if may(read.records.len()) => Some(Ok(scorer.finish(read))),
            Ok(_) => None,
            Err(fault) => Some(Err(fault)),
        }));
        // A canary that panics is a canary that fails.
        tried.unwrap_or_else(|_| Some(Err(ScoreFault::Model("it panicked".into()))))
    }
}

/// The same call with half of the time.
fn halved(call: &ScoreCall) -> ScoreCall {
    ScoreCall { budget: call.budget / 2, ..call.clone() }
}

/// The time of a call that is judged by it: reasons cost more than the score, and are asked of few calls.
fn counted(call: &ScoreCall, took: Duration) -> Option<Duration> {
    (!call.explain).then_some(took)
}

fn tag(records: &mut [RecordScore], version: &Arc<str>) {
    for record in records {
        record.version = Some(Arc::clone(version));
    }
}

impl Scorer for Rollout {
    fn model(&self) -> &str {
        &self.model
    }

    fn version(&self) -> &str {
        &self.production.name
    }

    fn offer(&self) -> Option<Offer> {
        self.production.scorer.offer()
    }

    fn score(&self, call: &ScoreCall) -> Option<Scores> {
        let production = &self.production.scorer;
        // What the canary fails on, production must be able to decide here too: else the canary would be run twice.
        if !production.is_inline(call) {
            return None;
        }
        let Some(canary) = self.chosen(call) else {
            let scores = production.score(call)?;
            self.decided(call, &scores);
            return Some(scores);
        };
        let watch = Stopwatch::start();
        let tried = canary.try_here(call, |records| production.affords(call, records))?;
        let took = watch.elapsed();
        match self.accept(canary, call, tried, took) {
            Ok(scores) => Some(scores),
            Err(failed) => {
                let rest = ScoreCall { budget: call.budget.saturating_sub(took), ..call.clone() };
                let scores = production.score_here(&rest);
                self.instead(canary, call, &failed, took, &scores);
                Some(scores)
            }
        }
    }

    fn submit<'a>(&'a self, call: ScoreCall) -> Pin<Box<dyn Future<Output = Scores> + Send + 'a>> {
        Box::pin(self.answer(call))
    }
}

//! Which revision each proxy should have, and how a new one reaches them all.

pub mod commands;
pub mod difference;
pub mod guard;
mod pages;
pub mod routes;

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::units::TimeSpan;
use serde::{Deserialize, Serialize};

use crate::hex::sha256;
use crate::rollout::guard::{Evidence, Guardrails};

/// Steps of one rollout.
const MAX_STEPS: usize = 16;

/// How new revisions are rolled out, as the configuration says it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RolloutSpec {
    /// Per cent of the proxies, step by step, such as `[5, 25, 100]`; all at once where empty.
    pub steps: Vec<f64>,
    /// How long each step is looked at, the last one as well.
    pub interval: TimeSpan,
    /// Where there are no steps: how long a revision is looked at that all proxies have. Not at all where it is zero.
    pub watch: TimeSpan,
    pub guardrails: Guardrails,
    /// Revisions kept to go back to, 1 to 100.
    pub history: u32,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        let interval = TimeSpan(Duration::from_mins(1));
        let watch = TimeSpan(Duration::ZERO);
        Self { steps: Vec::new(), interval, watch, guardrails: Guardrails::default(), history: 10 }
    }
}

impl RolloutSpec {
    /// How a revision goes that is to go by these steps: one that is for all at once may be looked at as well.
    pub fn course(&self, steps: &[f64], interval: Duration) -> (Vec<f64>, Duration) {
        if steps.is_empty() && !self.watch.0.is_zero() {
            return (vec![100.0], self.watch.0);
        }
        (steps.to_vec(), interval)
    }

    /// What is wrong with it: the key, and how.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let rails = &self.guardrails;
        let looked = Duration::from_millis(100)..=Duration::from_hours(24);
        let shares = [rails.refused, rails.failed, rails.proxies];
        if let Err(fault) = check_steps(&self.steps) {
            Some(("steps", fault))
        } else if !looked.contains(&self.interval.0) {
            Some(("interval", "it must be from 100ms to 24h".to_owned()))
        } else if !self.watch.0.is_zero() && !looked.contains(&self.watch.0) {
            Some(("watch", "it must be 0s, or from 100ms to 24h".to_owned()))
        } else if !shares.iter().all(|share| (0.0..=1.0).contains(share)) {
            Some(("guardrails", "shares are from 0 to 1".to_owned()))
        } else if !(1..=100).contains(&self.history) {
            Some(("history", "1 to 100 revisions are kept".to_owned()))
        } else {
            None
        }
    }
}

/// # Errors
/// Why these are no steps.
pub fn check_steps(steps: &[f64]) -> Result<(), String> {
    let rising = steps.windows(2).all(|pair| matches!(pair, [first, second] if first < second));
    if steps.len() > MAX_STEPS {
        Err(format!("at most {MAX_STEPS} steps"))
    } else if !rising || steps.iter().any(|step| !(*step > 0.0 && *step <= 100.0)) {
        Err("per cent of the proxies, rising, such as 5,25,100".to_owned())
    } else {
        Ok(())
    }
}

/// A revision on its way to all proxies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    pub revision: Arc<str>,
    /// Per cent; the last one is 100.
    pub steps: Vec<f64>,
    /// Which of them is taken, from 0.
    pub step: usize,
    pub interval: Duration,
    /// When the step was taken; since the Unix epoch.
    pub since: Duration,
    pub paused: bool,
}

/// Why a revision was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reverted {
    pub revision: Arc<str>,
    pub to: Arc<str>,
    pub reason: String,
    pub at: Duration,
}

/// What every proxy should have. Kept over restarts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// What all have that no rollout has reached.
    pub current: Option<Arc<str>>,
    pub rollout: Option<Rollout>,
    /// The last revision that was taken back.
    pub reverted: Option<Reverted>,
    /// The last one that the sources gave: it is not begun again by itself.
    pub newest: Option<Arc<str>>,
}

/// What happened to a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    Stepped,
    Completed,
    Reverted(Reverted),
}

impl Plan {
    /// The revision for the proxy with this name: the same one every time, while the step is the same.
    pub fn revision(&self, node: &str) -> Option<&Arc<str>> {
        match &self.rollout {
            Some(rollout) if rollout.reaches(node) => Some(&rollout.revision),
            _ => self.current.as_ref(),
        }
    }

    /// Revisions that proxies may be given.
    pub fn used(&self) -> Vec<Arc<str>> {
        let rollout = self.rollout.as_ref().map(|rollout| Arc::clone(&rollout.revision));
        self.current.iter().cloned().chain(rollout).collect()
    }

    /// Begins to roll a revision out; the first one is for all at once.
    pub fn begin(&mut self, revision: &Arc<str>, steps: &[f64], interval: Duration, now: Duration) {
        if self.current.as_ref() == Some(revision) {
            self.rollout = None;
            return;
        }
        if self.current.is_none() || steps.is_empty() {
            self.rollout = None;
            self.current = Some(Arc::clone(revision));
            return;
        }
        let mut steps = steps.to_vec();
        if steps.last().is_none_or(|last| *last < 100.0) {
            steps.push(100.0);
        }
        let revision = Arc::clone(revision);
        self.rollout = Some(Rollout { revision, steps, step: 0, interval, since: now, paused: false });
    }

    /// Goes on by time, and back where the guardrails say so.
    pub fn tick(&mut self, guardrails: &Guardrails, evidence: &Evidence, now: Duration) -> Option<Happened> {
        let current = self.current.clone()?;
        let rollout = self.rollout.as_mut()?;
        // Where all have it, nothing but what was before tells how it should be.
        let evidence =
            if rollout.percent() < 100.0 || evidence.of(&current).requests >= guardrails.min_requests {
                evidence.judge(guardrails, &current, &rollout.revision)
            } else {
                evidence.refusals(guardrails)
            };
        if let Some(reason) = evidence {
            let reverted = Reverted { revision: Arc::clone(&rollout.revision), to: current, reason, at: now };
            self.rollout = None;
            self.reverted = Some(reverted.clone());
            return Some(Happened::Reverted(reverted));
        }
        if rollout.paused || now.saturating_sub(rollout.since) < rollout.interval {
            return None;
        }
        rollout.since = now;
        if rollout.step + 1 < rollout.steps.len() {
            rollout.step += 1;
            return Some(Happened::Stepped);
        }
        self.current = Some(Arc::clone(&rollout.revision));
        self.rollout = None;
        Some(Happened::Completed)
    }

    /// Goes to a revision at once, whatever is under way.
    pub fn set(&mut self, revision: &Arc<str>, reason: &str, now: Duration) {
        let from = self.rollout.take().map(|rollout| rollout.revision).or_else(|| self.current.clone());
        if let Some(from) = from.filter(|from| from != revision) {
            let to = Arc::clone(revision);
            self.reverted = Some(Reverted { revision: from, to, reason: reason.to_owned(), at: now });
        }
        self.current = Some(Arc::clone(revision));
    }
}

impl Rollout {
    /// Per cent of the proxies that get it now.
    pub fn percent(&self) -> f64 {
        self.steps.get(self.step).copied().unwrap_or(100.0)
    }

    fn reaches(&self, node: &str) -> bool {
        place(&self.revision, node) < self.percent()
    }
}

/// Where a proxy stands in a rollout, from 0 to 100: each revision has an order of its own, so that it is not always
/// the same ones that try what is new.
fn place(revision: &str, node: &str) -> f64 {
    let digest = sha256(format!("{revision}/{node}").as_bytes());
    let first = digest.get(..8).and_then(|first| u32::from_str_radix(first, 16).ok()).unwrap_or_default();
    f64::from(first) / f64::from(u32::MAX) * 99.999
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use foregate_filters::units::TimeSpan;

    use super::guard::{Evidence, Guardrails, Tally};
    use super::{Happened, Plan, RolloutSpec, check_steps};

    const STEP: Duration = Duration::from_secs(10);

    fn plan() -> Plan {
        let mut plan = Plan::default();
        plan.begin(&"old".into(), &[10.0], STEP, Duration::ZERO);
        assert_eq!(plan.current.as_deref(), Some("old"), "the first one is for all");
        plan.begin(&"new".into(), &[10.0, 50.0], STEP, Duration::ZERO);
        plan
    }

    fn reached(plan: &Plan) -> Vec<usize> {
        (0..1_000).filter(|node| plan.revision(&node.to_string()).map(|id| &**id) == Some("new")).collect()
    }

    #[test]
    fn steps_reach_more_and_more_and_nobody_goes_back() {
        let (mut plan, rails, evidence) = (plan(), Guardrails::default(), Evidence::default());
        let first = reached(&plan);
        assert!((50..150).contains(&first.len()), "{}", first.len());
        assert_eq!(plan.tick(&rails, &evidence, STEP / 2), None);
        assert_eq!(plan.tick(&rails, &evidence, STEP), Some(Happened::Stepped));
        let second = reached(&plan);
        assert!((420..580).contains(&second.len()), "{}", second.len());
        assert!(first.iter().all(|node| second.contains(node)));
        assert_eq!(plan.tick(&rails, &evidence, STEP * 2), Some(Happened::Stepped));
        assert_eq!(reached(&plan).len(), 1_000);
        assert_eq!(plan.tick(&rails, &evidence, STEP * 3), Some(Happened::Completed));
        assert_eq!((plan.current.as_deref(), plan.rollout), (Some("new"), None));
    }

    #[test]
    fn what_does_worse_is_taken_back_also_while_it_is_paused() {
        let (mut plan, rails, mut evidence) = (plan(), Guardrails::default(), Evidence::default());
        plan.rollout.as_mut().unwrap().paused = true;
        assert_eq!(plan.tick(&rails, &evidence, STEP * 9), None);
        evidence.add(&"old".into(), Tally { requests: 1_000, refused: 0, failed: 0 });
        evidence.add(&"new".into(), Tally { requests: 1_000, refused: 0, failed: 500 });
        let Some(Happened::Reverted(reverted)) = plan.tick(&rails, &evidence, STEP) else { panic!() };
        assert_eq!((&*reverted.revision, &*reverted.to), ("new", "old"));
        assert!(reached(&plan).is_empty());
    }

    #[test]
    fn a_revision_that_all_have_is_looked_at_and_compared_with_the_one_before() {
        let watching = RolloutSpec { watch: TimeSpan(STEP), ..RolloutSpec::default() };
        assert_eq!(watching.fault(), None);
        let mut plan = Plan::default();
        plan.begin(&"old".into(), &[], STEP, Duration::ZERO);
        let (steps, interval) = watching.course(&[], STEP * 9);
        plan.begin(&"new".into(), &steps, interval, Duration::ZERO);
        assert_eq!(reached(&plan).len(), 1_000);
        let (rails, mut evidence) = (Guardrails::default(), Evidence::default());
        let failing = Tally { requests: 1_000, refused: 0, failed: 500 };
        evidence.add(&"new".into(), failing);
        assert_eq!(plan.tick(&rails, &evidence, STEP / 2), None, "nobody knows how it was before");
        let mut good = plan.clone();
        assert_eq!(good.tick(&rails, &evidence, STEP), Some(Happened::Completed));
        assert_eq!(good.current.as_deref(), Some("new"));
        evidence.add(&"old".into(), Tally { requests: 1_000, refused: 0, failed: 0 });
        assert!(matches!(plan.tick(&rails, &evidence, STEP / 2), Some(Happened::Reverted(_))));
        assert_eq!((plan.revision("any").map(|id| &**id), plan.rollout.clone()), (Some("old"), None));
        assert_eq!(
            RolloutSpec::default().course(&[], STEP),
            (Vec::new(), STEP),
            "only where it is asked for"
        );
    }

    #[test]
    fn steps_rise_to_a_hundred() {
        for bad in [&[10.0, 5.0][..], &[0.0], &[101.0], &[f64::NAN], &[1.0; 17]] {
            assert!(check_steps(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_steps(&[5.0, 25.0, 100.0]), Ok(()));
    }
}

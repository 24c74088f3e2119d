//! Whether a revision does worse than the one before it: counts, compared within bounds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

/// Minutes that are looked back on: what happened before says little of now.
const MEMORY: u64 = 30;

/// Minutes without requests after which a revision is not used any more.
const STILL: u64 = 2;

/// Bounds that a new revision must keep to while it is rolled out.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Guardrails {
    /// Requests refused by policies: how much larger their share may be than with the revision before, 0 to 1.
    pub refused: f64,
    /// Requests that failed: the same.
    pub failed: f64,
    /// Requests that are counted, of either revision, before shares are judged.
    pub min_requests: u64,
    /// Largest share of proxies, of those that answered, that may refuse the revision or find no Gateway of theirs in it
    /// any more, 0 to 1.
    pub proxies: f64,
}

impl Default for Guardrails {
    fn default() -> Self {
        Self { refused: 0.05, failed: 0.02, min_requests: 200, proxies: 0.0 }
    }
}

/// What proxies reported of one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub requests: u64,
    pub refused: u64,
    pub failed: u64,
}

/// What is known of the revisions that are compared.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    by_revision: BTreeMap<Arc<str>, Minutes>,
    /// The minute that it is now.
    minute: u64,
    /// Proxies that took the new revision, and those that refused it.
    pub took: BTreeSet<Arc<str>>,
    pub refused: BTreeSet<Arc<str>>,
    /// Those that the new revision has no Gateway for, where the one before had.
    pub left_out: BTreeSet<Arc<str>>,
}

/// Counts of the last minutes, each with its number.
type Minutes = VecDeque<(u64, Tally)>;

fn sum<'t>(tallies: impl Iterator<Item = &'t Tally>) -> Tally {
    let mut sum = Tally::default();
    tallies.for_each(|tally| sum.add(*tally));
    sum
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.refused = self.refused.saturating_add(other.refused);
        self.failed = self.failed.saturating_add(other.failed);
    }
}

#[expect(clippy::cast_precision_loss, reason = "shares of counts")]
fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

impl Evidence {
    pub fn add(&mut self, revision: &Arc<str>, tally: Tally) {
        let minutes = self.by_revision.entry(Arc::clone(revision)).or_default();
        match minutes.back_mut() {
            Some((minute, known)) if *minute == self.minute => known.add(tally),
            _ => minutes.push_back((self.minute, tally)),
        }
    }

    /// What happened of late under a revision.
    pub fn of(&self, revision: &str) -> Tally {
        sum(self.minutes(revision).map(|(_, tally)| tally))
    }

    fn minutes(&self, revision: &str) -> impl Iterator<Item = (u64, &Tally)> {
        self.by_revision.get(revision).into_iter().flatten().map(|(minute, tally)| (*minute, tally))
    }

    /// What happened under both in the minutes in which both had requests.
    fn together(&self, old: &str, new: &str) -> (Tally, Tally) {
        let both: BTreeSet<u64> = self
            .minutes(old)
            .filter(|(minute, _)| self.minutes(new).any(|(other, _)| other == *minute))
            .map(|(minute, _)| minute)
            .collect();
        let of = |revision| {
            sum(self.minutes(revision).filter(|(minute, _)| both.contains(minute)).map(|(_, tally)| tally))
        };
        (of(old), of(new))
    }

    /// Forgets all but what is known of this revision.
    pub fn begin(&mut self, baseline: Option<&Arc<str>>) {
        let kept = baseline.and_then(|id| Some((Arc::clone(id), self.by_revision.remove(id)?)));
        *self = Self { by_revision: kept.into_iter().collect(), minute: self.minute, ..Self::default() };
    }

    /// Forgets what happened long ago; `now` is since the Unix epoch.
    pub fn fade(&mut self, now: Duration) {
        self.minute = now.as_secs() / 60;
        for minutes in self.by_revision.values_mut() {
            minutes.retain(|(minute, _)| minute + MEMORY > self.minute);
        }
    }

    /// That too many proxies refuse the new revision, or are left out by it, where they do.
    pub fn refusals(&self, guardrails: &Guardrails) -> Option<String> {
        let (refused, left_out) = (self.refused.len(), self.left_out.len());
        let answered = self.took.len() + refused + left_out;
        let against = refused + left_out;
        if against == 0 || share(against as u64, answered as u64) <= guardrails.proxies {
            return None;
        }
        Some(if left_out == 0 {
            format!("{refused} of {answered} proxies refused it")
        } else {
            format!("{left_out} of {answered} proxies have no Gateway in it, {refused} refused it")
        })
    }

    /// Why `new` is worse than `old`, where it is.
    pub fn judge(&self, guardrails: &Guardrails, old: &str, new: &str) -> Option<String> {
        if let Some(refusals) = self.refusals(guardrails) {
            return Some(refusals);
        }
        let enough =
            |(old, new): &(Tally, Tally)| old.requests.min(new.requests) >= guardrails.min_requests.max(1);
        // Of the same minutes while both are used, since days differ from nights; of the last of either once one is not.
        let last = self.minutes(old).last().map_or(0, |(minute, _)| minute);
        let together = (last + STILL >= self.minute).then(|| self.together(old, new)).filter(enough);
        let apart = || Some((self.of(old), self.of(new))).filter(enough);
        let (old, new) = together.or_else(apart)?;
        let worse = |what: &str, before: u64, after: u64, allowed: f64| {
            let (before, after) = (share(before, old.requests), share(after, new.requests));
            (after > before + allowed).then(|| {
                format!("{:.1} % of requests {what}, against {:.1} % before", after * 100.0, before * 100.0)
            })
        };
        worse("were refused", old.refused, new.refused, guardrails.refused)
            .or_else(|| worse("failed", old.failed, new.failed, guardrails.failed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Evidence, Guardrails, Tally};

    #[test]
    fn shares_are_judged_once_enough_was_seen() {
        let guardrails = Guardrails::default();
        let mut evidence = Evidence::default();
        evidence.add(&"old".into(), Tally { requests: 1_000, refused: 100, failed: 0 });
        evidence.add(&"new".into(), Tally { requests: 199, refused: 199, failed: 0 });
        assert_eq!(evidence.judge(&guardrails, "old", "new"), None);
        evidence.add(&"new".into(), Tally { requests: 1, refused: 0, failed: 0 });
        let why = evidence.judge(&guardrails, "old", "new").unwrap();
        assert!(why.contains("99.5 % of requests were refused, against 10.0 % before"), "{why}");
        let mut good = Evidence::default();
        good.add(&"old".into(), Tally { requests: 1_000, refused: 100, failed: 10 });
        good.add(&"new".into(), Tally { requests: 1_000, refused: 140, failed: 25 });
        assert_eq!(good.judge(&guardrails, "old", "new"), None);
        good.add(&"new".into(), Tally { requests: 100, refused: 0, failed: 20 });
        assert!(good.judge(&guardrails, "old", "new").unwrap().contains("failed"));
    }

    #[test]
    fn nothing_is_judged_that_cannot_be_compared_and_the_same_minutes_are_where_they_can() {
        let guardrails = Guardrails::default();
        let (old, new) = ("old".into(), "new".into());
        let usual = |requests: u64| Tally { requests, refused: requests * 6 / 100, failed: 0 };
        let at = |evidence: &mut Evidence, minute: u64| evidence.fade(Duration::from_mins(minute));
        // After a restart there are no counts of the one before.
        let mut evidence = Evidence::default();
        evidence.add(&new, usual(10_000));
        assert_eq!(evidence.judge(&guardrails, "old", "new"), None);
        evidence.add(&old, usual(199));
        assert_eq!(evidence.judge(&guardrails, "old", "new"), None);
        evidence.add(&old, Tally { requests: 1, refused: 0, failed: 0 });
        assert_eq!(evidence.judge(&guardrails, "old", "new"), None);
        // By night many are refused, whatever the revision.
        let mut evidence = Evidence::default();
        at(&mut evidence, 1_000);
        evidence.add(&old, Tally { requests: 100_000, refused: 0, failed: 0 });
        at(&mut evidence, 1_020);
        evidence.add(&old, Tally { requests: 300, refused: 90, failed: 0 });
        evidence.add(&new, Tally { requests: 300, refused: 90, failed: 0 });
        assert_eq!(evidence.judge(&guardrails, "old", "new"), None);
        // Once all have the new one, the minutes before are what there is.
        at(&mut evidence, 1_023);
        evidence.add(&new, Tally { requests: 100_000, refused: 90_000, failed: 0 });
        assert!(evidence.judge(&guardrails, "old", "new").is_some());
        let mut evidence = Evidence::default();
        evidence.add(&old, Tally { requests: 1_000, refused: 0, failed: 0 });
        at(&mut evidence, 1);
        evidence.add(&new, Tally { requests: 1_000, refused: 900, failed: 0 });
        assert!(evidence.judge(&guardrails, "old", "new").is_some());
        at(&mut evidence, 60);
        assert_eq!(evidence.of("old").requests + evidence.of("new").requests, 0, "long ago");
    }

    #[test]
    fn one_proxy_that_refuses_is_enough_unless_more_is_allowed() {
        let mut evidence = Evidence::default();
        evidence.took.extend(["a".into(), "b".into(), "c".into()]);
        let guardrails = Guardrails::default();
        assert_eq!(evidence.judge(&guardrails, "old", "new"), None);
        evidence.refused.insert("d".into());
        assert_eq!(evidence.judge(&guardrails, "old", "new").as_deref(), Some("1 of 4 proxies refused it"));
        let lenient = Guardrails { proxies: 0.25, ..guardrails };
        assert_eq!(evidence.judge(&lenient, "old", "new"), None);
        // One that gets nothing is as bad.
        evidence.left_out.insert("e".into());
        let why = evidence.judge(&lenient, "old", "new");
        assert_eq!(why.as_deref(), Some("1 of 5 proxies have no Gateway in it, 1 refused it"));
    }
}

//! Whether a revision does worse than the one before it: counts, compared within bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

/// Bounds that a new revision must keep to while it is rolled out.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Guardrails {
    /// Requests refused by policies: how much larger their share may be than with the revision before, 0 to 1.
    pub refused: f64,
    /// Requests that failed: the same.
    pub failed: f64,
    /// Requests that are counted before shares are judged.
    pub min_requests: u64,
    /// Largest share of proxies, of those that answered, that may refuse the revision, 0 to 1.
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
    by_revision: BTreeMap<Arc<str>, Tally>,
    /// Proxies that took the new revision, and those that refused it.
    pub took: BTreeSet<Arc<str>>,
    pub refused: BTreeSet<Arc<str>>,
}

#[expect(clippy::cast_precision_loss, reason = "shares of counts")]
fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

impl Evidence {
    pub fn add(&mut self, revision: &Arc<str>, tally: Tally) {
        let sum = self.by_revision.entry(Arc::clone(revision)).or_default();
        sum.requests = sum.requests.saturating_add(tally.requests);
        sum.refused = sum.refused.saturating_add(tally.refused);
        sum.failed = sum.failed.saturating_add(tally.failed);
    }

    pub fn of(&self, revision: &str) -> Tally {
        self.by_revision.get(revision).copied().unwrap_or_default()
    }

    /// Forgets all but what is known of this revision, of which only the latest counts much.
    pub fn begin(&mut self, baseline: Option<&Arc<str>>) {
        let kept = baseline.and_then(|id| Some((Arc::clone(id), *self.by_revision.get(id)?)));
        *self = Self { by_revision: kept.into_iter().collect(), ..Self::default() };
    }

    /// Halves what is known, so that what happened long ago weighs little.
    pub fn fade(&mut self) {
        for tally in self.by_revision.values_mut() {
            if tally.requests > 1 << 20 {
                *tally = Tally {
                    requests: tally.requests / 2,
                    refused: tally.refused / 2,
                    failed: tally.failed / 2,
                };
            }
        }
    }

    /// That too many proxies refuse the new revision, where they do.
    pub fn refusals(&self, guardrails: &Guardrails) -> Option<String> {
        let answered = self.took.len() + self.refused.len();
        let refusing = share(self.refused.len() as u64, answered as u64);
        (!self.refused.is_empty() && refusing > guardrails.proxies)
            .then(|| format!("{} of {answered} proxies refused it", self.refused.len()))
    }

    /// Why `new` is worse than `old`, where it is.
    pub fn judge(&self, guardrails: &Guardrails, old: &str, new: &str) -> Option<String> {
        if let Some(refusals) = self.refusals(guardrails) {
            return Some(refusals);
        }
        let (old, new) = (self.of(old), self.of(new));
        if new.requests < guardrails.min_requests {
            return None;
        }
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
    fn one_proxy_that_refuses_is_enough_unless_more_is_allowed() {
        let mut evidence = Evidence::default();
        evidence.took.extend(["a".into(), "b".into(), "c".into()]);
        let guardrails = Guardrails::default();
        assert_eq!(evidence.judge(&guardrails, "old", "new"), None);
        evidence.refused.insert("d".into());
        assert_eq!(evidence.judge(&guardrails, "old", "new").as_deref(), Some("1 of 4 proxies refused it"));
        assert_eq!(evidence.judge(&Guardrails { proxies: 0.25, ..guardrails }, "old", "new"), None);
    }
}

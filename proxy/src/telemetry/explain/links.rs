//! The filters of a chain as they went: which rule decided, and what it read.

use std::sync::Arc;

use foregate_filters::authorize::DEFAULT;
use foregate_filters::rule::RuleKind;
use foregate_policy::description::{Description, LinkDescription, PlacedRule};
use serde_json::{Map, Value, json};

use crate::telemetry::explain::Explanation;
use crate::telemetry::explain::inputs::{key_name, value};
use crate::telemetry::explain::steps::{NOT_REACHED, PASSED, StepTold, UNFINISHED, limit, section};
use crate::telemetry::record::Record;

/// One entry for each filter of the chain, those included that were not asked.
pub fn told(record: &Record, explanation: &Explanation, description: &Description) -> Vec<StepTold> {
    let ran = usize::from(explanation.trace.ran);
    let done = usize::from(explanation.trace.done);
    let one = |(index, link): (usize, &LinkDescription)| {
        let verdict = match index {
            _ if index >= ran => NOT_REACHED,
            _ if index >= done => UNFINISHED,
            _ => PASSED,
        };
        let mut told = StepTold::new(link.step, verdict);
        section(link, &mut told);
        if index < ran {
            Link { index, described: link, record, explanation }.tell(&mut told);
        }
        told
    };
    description.links.iter().enumerate().map(one).collect()
}

/// A filter that was asked.
struct Link<'a> {
    index: usize,
    described: &'a LinkDescription,
    record: &'a Record,
    explanation: &'a Explanation,
}

impl<'a> Link<'a> {
    fn tell(&self, told: &mut StepTold) {
        told.took(self.explanation.trace.spent(self.index));
        told.limits = self.limits();
        told.audits = self.audits();
        let refused =
            self.explanation.trace.refused && self.index + 1 == usize::from(self.explanation.trace.ran);
        let rule = if refused { self.refusing() } else { self.passing() };
        if let Some(placed) = rule {
            told.rule(placed);
            told.inputs = self.read([placed]);
        } else if refused && self.record.refusal.as_ref().is_some_and(|it| &*it.rule == DEFAULT) {
            // Nobody allowed it: what they all read is what counts.
            told.kind = Some(RuleKind::Allow.name());
            told.inputs =
                self.read(self.described.rules.iter().filter(|placed| placed.rule.kind == RuleKind::Allow));
        }
        if refused {
            told.refuse(self.record);
        }
    }

    /// The rule that the refusal names; `None` where the filter refused as a whole.
    fn refusing(&self) -> Option<&'a PlacedRule> {
        let refusal = self.record.refusal.as_ref()?;
        self.described.rules.iter().find(|placed| *placed.rule.name == *refusal.rule)
    }

    /// The rule that let the request through, or came closest to refusing it.
    fn passing(&self) -> Option<&'a PlacedRule> {
        let allowed = self.explanation.trace.allowed.iter();
        let here =
            allowed.filter(|(link, _)| usize::from(*link) == self.index).map(|(_, place)| *place).next();
        let rules = || self.described.rules.iter();
        if let Some(place) = here {
            return rules().find(|placed| placed.rule.place == place);
        }
        let facts = self.record.limits.iter();
        let scarce = facts.filter(|fact| self.owns(&fact.rule).is_some()).min_by_key(|fact| fact.remaining);
        if let Some(fact) = scarce {
            return self.owns(&fact.rule);
        }
        rules().find(|placed| match placed.rule.kind {
            RuleKind::Addresses | RuleKind::Tenant | RuleKind::Validate | RuleKind::OrgQuota => true,
            RuleKind::Enrich => {
                self.record.scores.iter().any(|fact| Arc::ptr_eq(&fact.rule, &placed.rule.name))
            }
            RuleKind::Issuer => {
                self.record.subject.as_ref().is_some_and(|principal| *principal.issuer == *placed.rule.name)
            }
            RuleKind::Key => self.record.consumer.is_some(),
            RuleKind::Idempotency => self.record.once.is_some(),
            RuleKind::Allow
            | RuleKind::Deny
            | RuleKind::Limit
            | RuleKind::Quota
            | RuleKind::Concurrency
            | RuleKind::Choose
            | RuleKind::Inject => false,
        })
    }

    /// The rule of this filter whose name this very text is.
    fn owns(&self, name: &Arc<str>) -> Option<&'a PlacedRule> {
        self.described.rules.iter().find(|placed| Arc::ptr_eq(&placed.rule.name, name))
    }

    /// What rules read, by name.
    fn read(&self, rules: impl IntoIterator<Item = &'a PlacedRule>) -> Map<String, Value> {
        let inputs = rules.into_iter().flat_map(|placed| &placed.rule.reads);
        inputs.map(|input| (input.to_string(), value(input, self.record, self.explanation))).collect()
    }

    fn limits(&self) -> Vec<Value> {
        let facts = self.record.limits.iter();
        facts
            .filter_map(|fact| self.owns(&fact.rule).map(|placed| limit(placed, fact, &key_name(fact.key))))
            .collect()
    }

    fn audits(&self) -> Vec<Value> {
        let facts = self.record.audits.iter();
        let told = facts.filter_map(|fact| self.owns(&fact.rule).map(|placed| (fact, placed)));
        told.map(|(fact, placed)| {
            json!({
                "rule": &*fact.rule, "detail": &*fact.detail,
                "file": &*placed.at.file, "line": placed.at.line,
                "expression": &*placed.rule.source, "inputs": self.read([placed]),
            })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::explain::steps::{Explained, steps};
    use crate::telemetry::json::write;
    use crate::telemetry::testing::explained_record;
    use serde_json::{Value, json};

    #[test]
    fn each_step_tells_verdict_rule_place_inputs_and_time() {
        let record = explained_record();
        let told = steps(&record, record.explanation.as_deref().unwrap());
        let lines: Vec<String> = told
            .iter()
            .map(|it| {
                let rule = it.rule.as_deref().unwrap_or("-");
                let place = it.file.as_deref().zip(it.line).map(|(file, line)| format!("{file}:{line}"));
                format!("{} {} {rule} {}", it.step, it.verdict, place.unwrap_or_default())
            })
            .collect();
        assert_eq!(
            lines,
            [
                "pin passed - ",
                "route passed leads edge.yaml:4",
                "guard passed addresses edge.yaml:10",
                "admit refused per-org edge.yaml:14",
                "decide not reached - edge.yaml:17",
                "dispatch passed leads-svc edge.yaml:30",
                "respond passed - ",
            ]
        );
        let refused = serde_json::to_value(&told[3]).unwrap();
        assert_eq!(refused["inputs"], json!({ "jwt.claims[\"org\"]": { "redacted": true } }));
        assert_eq!((&refused["reason"], &refused["detail"]), (&"RateLimited".into(), &"used up".into()));
        assert_eq!(refused["limits"][0]["line"], 14);
        assert_eq!(refused["limits"][0]["key"].as_str().unwrap().len(), 12);
        assert_eq!(refused["duration_us"], 3.0);
        assert_eq!(told[4].inputs.len(), 0, "what was not reached read nothing");
    }

    #[test]
    fn an_explained_record_is_the_record_and_more_and_holds_no_claim() {
        let record = explained_record();
        let (mut plain, mut explained) = (Vec::new(), Vec::new());
        write(&record, &mut plain).unwrap();
        write(&Explained(&record), &mut explained).unwrap();
        assert!(explained.starts_with(&plain[..plain.len() - 1]));
        let text = String::from_utf8(explained).unwrap();
        assert!(!text.contains("claim-not-to-be-seen") && !text.contains("hunter2"), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["foregate.revision"], "a1b2c3");
        assert!(value["foregate.advice"].as_str().unwrap().contains("used up"));
    }
}

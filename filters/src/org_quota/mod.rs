//! Shares the daily calls of a Salesforce org: whose call is it?

pub mod pool;
mod rolling;
pub mod spec;
#[cfg(test)]
mod tests;
pub mod usage;

use std::sync::Arc;

use http::request;

use crate::chain::Built;
use crate::context::RequestContext;
use crate::expression::{Environment, KeyExpression, Reads, Scope};
use crate::fault::{Code, Fault, Path};
use crate::filter::Filter;
use crate::reason::Reason;
use crate::rule::{Rule, RuleKind};
use crate::verdict::{Reply, Verdict};
use spec::KeySpec;

/// What the rule is called in refusals: a policy has one of them.
const RULE: &str = "orgQuota";

/// Finds whose calls the requests of a route are; refuses where it is nobody's.
#[derive(Debug)]
pub struct OrgQuota {
    name: Arc<str>,
    key: KeyExpression,
}

impl OrgQuota {
    /// Builds what is written at `at`.
    pub fn build(spec: &KeySpec, environment: &Environment, at: &Path) -> Built<Self> {
        let key = KeyExpression::new(&spec.key, environment, &at.key("key"))?;
        if key.reads().contains(Reads::SCORE) {
            let message = "a consumer is known before anything is scored";
            let help = "name it by what the token, the key or the head says";
            return Err(vec![Fault::new(Code::CONFLICT, at.key("key"), message).help(help)]);
        }
        Ok(Self { name: RULE.into(), key })
    }
}

impl Filter for OrgQuota {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        match self.key.evaluate(&Scope { head, ctx }, |value| Box::<str>::from(value)) {
            Ok(consumer) => {
                ctx.org_consumer = Some(consumer);
                Verdict::Continue
            }
            Err(error) => Reply::new(Reason::RuleError).rule(&self.name).detail(error.to_string()).into(),
        }
    }

    /// The call was made already.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }

    fn rules(&self) -> Vec<Rule> {
        let at = Path::default().key(RULE);
        let rule = Rule { at, ..Rule::listed(self.name.clone(), RuleKind::OrgQuota, "", 0) };
        vec![Rule { source: self.key.source().into(), reads: self.key.inputs().to_vec(), ..rule }]
    }
}

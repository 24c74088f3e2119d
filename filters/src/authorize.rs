//! Access rules: deny before allow, deny by default, refuse on error.

use std::sync::Arc;

use http::request;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chain::Built;
use crate::context::{AuditFact, RequestContext};
use crate::expression::{BoolExpression, Environment, EvaluationError, Reads, Scope};
use crate::fault::{Code, Fault, Path};
use crate::filter::Filter;
use crate::reason::Reason;
use crate::step::Step;
use crate::verdict::{Reply, Verdict};

/// Stands for the rule where no rule allowed the request. No rule may bear this name.
pub const DEFAULT: &str = "default";

/// Whether a rule refuses, or only tells that it would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    #[default]
    Enforce,
    Audit,
}

/// One access rule: exactly one of `allow` and `deny`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Names the rule in refusals, logs and metrics. Unique within the policy.
    pub name: String,
    /// CEL expression of type bool; true allows the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<String>,
    /// CEL expression of type bool; true refuses the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<String>,
    #[serde(default)]
    pub mode: Mode,
}

/// The bit of one set of access rules in [`RequestContext::allowed`].
pub type SetBit = u32;

/// The access rules of one policy: those that read no score, and those that do.
#[derive(Debug, Default)]
pub struct Access {
    /// Runs in *admit*.
    pub admit: Option<Authorize>,
    /// Runs in *decide*.
    pub decide: Option<Authorize>,
}

/// Access rules that run at one step.
///
/// A request passes a set if no `deny` is true and one `allow` is. Denies come first. The first
/// rule that is true, or cannot be evaluated, decides.
#[derive(Debug)]
pub struct Authorize {
    step: Step,
    bit: SetBit,
    denies: Vec<Rule>,
    allows: Vec<Rule>,
    /// `allow` rules in audit mode: they let nobody in, and tell whom they would have kept out.
    trials: Vec<Rule>,
    /// True where the set ends here and an `allow` must have matched by now.
    decides: bool,
}

#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    expression: BoolExpression,
    mode: Mode,
}

/// A rule on its way into a set.
struct Sorted {
    rule: Rule,
    allow: bool,
    score: bool,
}

impl Access {
    /// Builds the rules written at `at` as the set `bit`. Without `anonymous`, at least one rule must allow.
    pub fn build(
        specs: &[Spec],
        bit: SetBit,
        anonymous: bool,
        environment: &Environment,
        at: &Path,
    ) -> Built<Self> {
        let (mut rules, mut faults) = (Vec::new(), Vec::new());
        for (index, spec) in specs.iter().enumerate() {
            match spec.build(environment, &at.index(index)) {
                Ok(rule) => rules.push(rule),
                Err(mut wrong) => faults.append(&mut wrong),
            }
        }
        let allows = specs.iter().any(|spec| spec.allow.is_some() && spec.mode == Mode::Enforce);
        if !specs.is_empty() && !allows && !anonymous {
            let message = "no rule of this policy allows anything: every request would be refused";
            let help = "add an allow rule; allow: 'true' lets in whom no deny rule refuses";
            faults.push(Fault::new(Code::CONFLICT, at.clone(), message).help(help));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let late = rules.iter().any(|rule| rule.score && rule.allow && rule.rule.mode == Mode::Enforce);
        let (decide, admit): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| rule.score);
        Ok(Self {
            admit: Authorize::new(Step::Admit, bit, admit, allows && !late),
            decide: Authorize::new(Step::Decide, bit, decide, allows && late),
        })
    }
}

impl Spec {
    fn build(&self, environment: &Environment, at: &Path) -> Built<Sorted> {
        let (text, field, allow) = match (&self.allow, &self.deny) {
            (Some(text), None) => (text, "allow", true),
            (None, Some(text)) => (text, "deny", false),
            (Some(_), Some(_)) => {
                let help = "write two rules: deny rules are asked before allow rules";
                let message = "a rule has either allow or deny, not both";
                return Err(vec![Fault::new(Code::CONFLICT, at.clone(), message).help(help)]);
            }
            (None, None) => {
                let message = "a rule needs allow or deny";
                return Err(vec![Fault::new(Code::CONFLICT, at.clone(), message)]);
            }
        };
        let expression = BoolExpression::new(text, environment, &at.key(field))?;
        let score = expression.reads().contains(Reads::SCORE);
        let rule = Rule { name: self.name.as_str().into(), expression, mode: self.mode };
        Ok(Sorted { rule, allow, score })
    }
}

impl Authorize {
    fn new(step: Step, bit: SetBit, rules: Vec<Sorted>, decides: bool) -> Option<Self> {
        if rules.is_empty() && !decides {
            return None;
        }
        let (allows, denies): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| rule.allow);
        let (trials, allows): (Vec<_>, Vec<_>) =
            allows.into_iter().map(|rule| rule.rule).partition(|rule| rule.mode == Mode::Audit);
        let denies = denies.into_iter().map(|rule| rule.rule).collect();
        Some(Self { step, bit, denies, allows, trials, decides })
    }

    fn audit(&self, rule: &Rule, detail: &str, ctx: &mut RequestContext) {
        ctx.audits.push(AuditFact { step: self.step, rule: rule.name.clone(), detail: detail.into() });
    }

    fn deny(&self, head: &request::Parts, ctx: &mut RequestContext) -> Option<Reply> {
        for rule in &self.denies {
            let found = rule.expression.evaluate(&Scope { head, ctx });
            match (found, rule.mode) {
                (Ok(false), _) => {}
                (Ok(true), Mode::Audit) => self.audit(rule, "would deny", ctx),
                (Err(error), Mode::Audit) => self.audit(rule, &error.to_string(), ctx),
                (Ok(true), Mode::Enforce) => return Some(Reply::new(Reason::AccessDenied).rule(&rule.name)),
                (Err(error), Mode::Enforce) => return Some(failed(rule, &error)),
            }
        }
        None
    }

    fn allow(&self, head: &request::Parts, ctx: &mut RequestContext) -> Option<Reply> {
        for rule in &self.allows {
            if ctx.allowed & self.bit != 0 {
                return None;
            }
            match rule.expression.evaluate(&Scope { head, ctx }) {
                Ok(true) => ctx.allowed |= self.bit,
                Ok(false) => {}
                Err(error) => return Some(failed(rule, &error)),
            }
        }
        None
    }

    fn try_out(&self, head: &request::Parts, ctx: &mut RequestContext) {
        for rule in &self.trials {
            match rule.expression.evaluate(&Scope { head, ctx }) {
                Ok(true) => {}
                Ok(false) => self.audit(rule, "would not allow", ctx),
                Err(error) => self.audit(rule, &error.to_string(), ctx),
            }
        }
    }
}

fn failed(rule: &Rule, error: &EvaluationError) -> Reply {
    Reply::new(Reason::RuleError).rule(&rule.name).detail(error.to_string())
}

impl Filter for Authorize {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        self.try_out(head, ctx);
        if let Some(reply) = self.deny(head, ctx).or_else(|| self.allow(head, ctx)) {
            return reply.into();
        }
        if self.decides && ctx.allowed & self.bit == 0 {
            return Reply::new(Reason::AccessDenied).rule(DEFAULT).into();
        }
        Verdict::Continue
    }
}

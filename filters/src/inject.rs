//! Chooses requests that are delayed or refused on purpose, to try clients out.

use std::sync::Arc;
use std::time::Duration;

use http::request;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chain::Built;
use crate::context::RequestContext;
use crate::expression::{BoolExpression, Environment, Scope};
use crate::fault::{Code, Fault, Path};
use crate::filter::Filter;
use crate::rule::{self, RuleKind};
use crate::units::TimeSpan;
use crate::verdict::Verdict;

const DELAYS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(1);

/// One fault to inject. The first whose `when` is true is taken; where it cannot be evaluated, it is not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "InjectRule")]
pub struct Spec {
    /// Names the fault in metrics and refusals. Unique within the policy.
    pub name: String,
    /// CEL expression of type bool: who meets the fault, by header, consumer or claim.
    pub when: String,
    /// How many of a hundred of them, 1 to 100; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: Option<u8>,
    /// How long they wait before anything else happens, 1ms to 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<TimeSpan>,
    /// True: they are refused with 503, in gRPC with UNAVAILABLE.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abort: bool,
}

/// A fault that a request is to meet, once everything else has let it pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// Name of the rule.
    pub rule: Arc<str>,
    /// How many of a hundred requests meet it.
    pub percent: u8,
    pub delay: Duration,
    pub abort: bool,
}

/// Leaves the fault that a request is to meet in [`RequestContext::injection`].
#[derive(Debug)]
pub struct Inject {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    when: BoolExpression,
    injection: Injection,
    /// Place in the list of the document.
    place: u16,
}

impl Inject {
    /// Builds the faults written at `at`; what is wrong with them otherwise.
    pub fn build(specs: &[Spec], environment: &Environment, at: &Path) -> Built<Self> {
        let (mut rules, mut faults) = (Vec::new(), Vec::new());
        for (index, spec) in specs.iter().enumerate() {
            let at = at.index(index);
            let delay = spec.delay.map(|delay| delay.0);
            if delay.is_none() && !spec.abort {
                let message = "a fault needs delay or abort";
                faults.push(Fault::new(Code::CONFLICT, at.clone(), message));
            }
            if delay.is_some_and(|delay| !DELAYS.contains(&delay)) {
                let message = "delay must be from 1ms to 1m";
                faults.push(Fault::new(Code::VALUE, at.key("delay"), message));
            }
            let percent = spec.percent.unwrap_or(100);
            if !(1..=100).contains(&percent) {
                faults.push(Fault::new(Code::VALUE, at.key("percent"), "percent must be from 1 to 100"));
            }
            match BoolExpression::new(&spec.when, environment, &at.key("when")) {
                Ok(when) => rules.push(Rule {
                    when,
                    injection: Injection {
                        rule: spec.name.as_str().into(),
                        percent,
                        delay: delay.unwrap_or_default(),
                        abort: spec.abort,
                    },
                    place: u16::try_from(index).unwrap_or(u16::MAX),
                }),
                Err(mut wrong) => faults.append(&mut wrong),
            }
        }
        if faults.is_empty() { Ok(Self { rules }) } else { Err(faults) }
    }
}

impl Filter for Inject {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        let scope = Scope { head, ctx };
        let found = self.rules.iter().find(|rule| rule.when.evaluate(&scope) == Ok(true));
        let injection = found.map(|rule| Box::new(rule.injection.clone()));
        if injection.is_some() {
            ctx.injection = injection;
        }
        Verdict::Continue
    }

    /// What is open has met its fault.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }

    fn rules(&self) -> Vec<rule::Rule> {
        let told = self.rules.iter().map(|rule| {
            let name = rule.injection.rule.clone();
            let told = rule::Rule::listed(name, RuleKind::Inject, "inject", rule.place);
            rule::Rule { source: rule.when.source().into(), reads: rule.when.inputs().to_vec(), ..told }
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{TestResources, build, faults, get, run};

    const OPEN: &str = "insecure: { anonymous: true }\n";

    #[test]
    fn the_first_fault_whose_condition_holds_is_left_and_nobody_is_refused_here() {
        let policy = format!(
            r#"{OPEN}inject:
- {{ name: late, when: 'request.headers["x-try"] == "late"', delay: 200ms, percent: 10 }}
- {{ name: down, when: '"x-try" in request.headers', abort: true }}
"#
        );
        let chain = build(&policy, &TestResources::default()).unwrap();
        for (call, expected) in [
            (get("/"), None),
            (get("/").header("x-try", "late"), Some(("late", 10, 200, false))),
            (get("/").header("x-try", "down"), Some(("down", 100, 0, true))),
        ] {
            let (ctx, outcome) = run(&chain, &call);
            assert_eq!(outcome, Ok(()));
            let told =
                ctx.injection.as_ref().map(|it| (&*it.rule, it.percent, it.delay.as_millis(), it.abort));
            assert_eq!(told, expected, "{call:?}");
        }
    }

    #[test]
    fn faults_without_effect_or_bound_are_faults_themselves() {
        for (rule, expected) in [
            ("{ name: a, when: 'true' }", "FG0302 spec.inject[0]: a fault needs delay or abort"),
            (
                "{ name: a, when: 'true', delay: 2m }",
                "FG0301 spec.inject[0].delay: delay must be from 1ms to 1m",
            ),
            (
                "{ name: a, when: 'true', abort: true, percent: 101 }",
                "FG0301 spec.inject[0].percent: percent must be from 1 to 100",
            ),
            ("{ name: a, when: nope, abort: true }", "FG0402 spec.inject[0].when: unknown name nope"),
            (
                "{ name: a, when: 'true', abort: true }, { name: a, when: 'true', abort: true }",
                "FG0302 spec.inject[1].name: a second inject rule named a",
            ),
        ] {
            assert_eq!(faults(&format!("{OPEN}inject: [{rule}]")), [expected], "{rule}");
        }
    }
}

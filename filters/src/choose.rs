//! Chooses a backend of the route by what is known of the request.

use std::sync::Arc;

use http::request;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chain::Built;
use crate::context::RequestContext;
use crate::expression::{BoolExpression, Environment, Scope};
use crate::fault::Path;
use crate::filter::Filter;
use crate::reason::Reason;
use crate::rule::{self, RuleKind};
use crate::verdict::{Reply, Verdict};

/// One choice of a backend. The first whose `when` is true counts; where none is, the weights decide.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ChooseRule")]
pub struct Spec {
    /// Names the choice in explanations and refusals. Unique within the policy.
    pub name: String,
    /// CEL expression of type bool. Where it cannot be evaluated, the request is refused.
    pub when: String,
    /// Name of an `Upstream` among the `backendRefs` of the rule; its weight may be 0. Rules of the route without
    /// it are not concerned.
    #[schemars(length(min = 1, max = 253))]
    pub backend: String,
}

/// Leaves the backend that a rule chose in [`RequestContext::backend`].
#[derive(Debug)]
pub struct Choose {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    when: BoolExpression,
    /// Index among the backends of the route.
    backend: u16,
    /// Place in the list of the document.
    place: u16,
}

impl Choose {
    /// Builds the choices written at `at` for a route with these backends; nothing where none concerns it.
    pub fn build(
        specs: &[Spec],
        backends: &[&str],
        environment: &Environment,
        at: &Path,
    ) -> Built<Option<Self>> {
        let (mut rules, mut faults) = (Vec::new(), Vec::new());
        for (index, spec) in specs.iter().enumerate() {
            let when = match BoolExpression::new(&spec.when, environment, &at.index(index).key("when")) {
                Ok(when) => when,
                Err(mut wrong) => {
                    faults.append(&mut wrong);
                    continue;
                }
            };
            let backend = backends.iter().position(|backend| *backend == spec.backend);
            let Some(backend) = backend.and_then(|backend| u16::try_from(backend).ok()) else { continue };
            let place = u16::try_from(index).unwrap_or(u16::MAX);
            rules.push(Rule { name: spec.name.as_str().into(), when, backend, place });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok((!rules.is_empty()).then_some(Self { rules }))
    }
}

impl Filter for Choose {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        if ctx.backend.is_some() {
            return Verdict::Continue;
        }
        for rule in &self.rules {
            match rule.when.evaluate(&Scope { head, ctx }) {
                Ok(false) => {}
                Ok(true) => {
                    ctx.backend = Some(rule.backend);
                    ctx.trace.allow(rule.place);
                    break;
                }
                Err(error) => {
                    return Reply::new(Reason::RuleError).rule(&rule.name).detail(error.to_string()).into();
                }
            }
        }
        Verdict::Continue
    }

    /// Where it went is settled.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }

    fn rules(&self) -> Vec<rule::Rule> {
        let told = self.rules.iter().map(|rule| {
            let told = rule::Rule::listed(rule.name.clone(), RuleKind::Choose, "choose", rule.place);
            rule::Rule { source: rule.when.source().into(), reads: rule.when.inputs().to_vec(), ..told }
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::fault::Path;
    use crate::spec::{OfRoute, build_for};
    use crate::testing::{Call, Policy, TestResources, get, run};

    const CHOICES: &str = r#"
insecure: { anonymous: true }
choose:
- { name: gold, when: '"x-tier" in request.headers && request.headers["x-tier"] == "gold"', backend: fast }
- { name: other-rule, when: 'true', backend: not-here }
- { name: writes, when: 'request.method == "POST"', backend: writer }
- { name: asked, when: 'request.headers["x-to"] == "fast"', backend: fast }
"#;

    fn chosen(call: &Call) -> String {
        let policy: Policy = serde_saphyr::from_str(CHOICES).unwrap();
        let route = OfRoute { backends: &["slow", "fast", "writer"], ..OfRoute::default() };
        let chain = build_for(
            &[policy.specs("policy", Path::default().key("spec"), None)],
            &route,
            &TestResources::default(),
        )
        .unwrap();
        match run(&chain, call) {
            (ctx, Ok(())) => format!("{:?}", ctx.backend),
            (_, Err(refusal)) => {
                format!("{}: {} by {}", refusal.step, refusal.reply.reason, refusal.reply.rule)
            }
        }
    }

    #[test]
    fn the_first_choice_that_is_true_counts_and_what_cannot_be_decided_refuses() {
        for (call, expected) in [
            (get("/").header("x-tier", "gold"), "Some(1)"),
            (get("/").method("POST").header("x-tier", "gold"), "Some(1)"),
            (get("/").method("POST"), "Some(2)"),
            (get("/").header("x-to", "fast"), "Some(1)"),
            (get("/").header("x-to", "slow"), "None"),
            (get("/"), "decide: RuleError by asked"),
        ] {
            assert_eq!(chosen(&call), expected, "{call:?}");
        }
    }

    #[test]
    fn choices_are_type_checked_even_where_they_concern_no_backend() {
        let faults = crate::testing::faults(
            "insecure: { anonymous: true }\nchoose: [{ name: a, when: request.path, backend: b }]",
        );
        assert_eq!(
            faults,
            [
                "FG0403 spec.choose[0].when: an access rule or condition must be of type bool, and this is of type string"
            ]
        );
        let faults = crate::testing::faults(
            "insecure: { anonymous: true }\nchoose: [{ name: a, when: 'true', backend: b }, { name: a, when: 'true', backend: b }]",
        );
        assert_eq!(faults, ["FG0302 spec.choose[1].name: a second choose rule named a"]);
    }
}

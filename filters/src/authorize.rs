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
use crate::rule::{self, RuleKind};
use crate::rule_index::RuleIndex;
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
    denies: Rules,
    allows: Rules,
    /// `allow` rules in audit mode: they let nobody in, and tell whom they would have kept out.
    trials: Vec<Rule>,
    /// True where the set ends here and an `allow` must have matched by now.
    decides: bool,
}

/// Rules in the order of the document, and which of them a request may concern.
#[derive(Debug)]
struct Rules {
    all: Vec<Rule>,
    index: RuleIndex,
}

#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    expression: BoolExpression,
    mode: Mode,
    /// Place in the list of the document.
    place: u16,
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
                Ok(mut sorted) => {
                    sorted.rule.place = u16::try_from(index).unwrap_or(u16::MAX);
                    rules.push(sorted);
                }
                Err(mut wrong) => faults.append(&mut wrong),
            }
        }
        let allows = specs.iter().any(|spec| spec.allow.is_some() && spec.mode == Mode::Enforce);
        let complete = specs.iter().all(|spec| spec.allow.is_some() || spec.deny.is_some());
        if !specs.is_empty() && !allows && complete && !anonymous {
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
        let rule = Rule { name: self.name.as_str().into(), expression, mode: self.mode, place: 0 };
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
        let (denies, allows) = (Rules::new(denies), Rules::new(allows));
        Some(Self { step, bit, denies, allows, trials, decides })
    }

    fn audit(&self, rule: &Rule, detail: &str, ctx: &mut RequestContext) {
        ctx.audits.push(AuditFact { step: self.step, rule: rule.name.clone(), detail: detail.into() });
    }

    fn deny(&self, head: &request::Parts, ctx: &mut RequestContext) -> Option<Reply> {
        for rule in self.denies.concerning(&Scope { head, ctx }) {
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
        for rule in self.allows.concerning(&Scope { head, ctx }) {
            if ctx.allowed & self.bit != 0 {
                return None;
            }
            match rule.expression.evaluate(&Scope { head, ctx }) {
                Ok(true) => {
                    ctx.allowed |= self.bit;
                    ctx.trace.allow(rule.place);
                }
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

impl Rule {
    fn told(&self, kind: RuleKind) -> rule::Rule {
        let told = rule::Rule::listed(self.name.clone(), kind, "authorize", self.place);
        let (source, reads) = (self.expression.source().into(), self.expression.inputs().to_vec());
        rule::Rule { mode: self.mode, source, reads, ..told }
    }
}

impl Rules {
    fn new(all: Vec<Rule>) -> Self {
        let index = RuleIndex::new(all.iter().map(|rule| &rule.expression));
        Self { all, index }
    }

    /// The rules that may be true; the others are false.
    fn concerning(&self, scope: &Scope<'_>) -> impl Iterator<Item = &Rule> + use<'_> {
        let places = self.index.candidates(scope);
        places.into_iter().filter_map(|place| self.all.get(place as usize))
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

    fn rules(&self) -> Vec<rule::Rule> {
        let all = [
            (&self.denies.all, RuleKind::Deny),
            (&self.allows.all, RuleKind::Allow),
            (&self.trials, RuleKind::Allow),
        ];
        let told = all.into_iter().flat_map(|(rules, kind)| rules.iter().map(move |rule| rule.told(kind)));
        let mut told: Vec<_> = told.collect();
        told.sort_by_key(|rule| rule.place);
        told
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Access, Spec};
    use crate::context::ScoreFact;
    use crate::expression::{Enriched, Environment};
    use crate::fault::Path;
    use crate::filter::Filter;
    use crate::principal::Principal;
    use crate::testing::{TestResources, build, check, faults, get, run};
    use crate::verdict::Verdict;

    #[test]
    fn deny_comes_before_allow_and_nothing_allowed_is_refused() {
        let policy = r#"
authorize:
- { name: readers, allow: 'request.method == "GET"' }
- { name: staff, allow: 'request.headers["x-staff"] == "yes"' }
- { name: no-admin, deny: 'request.path.startsWith("/admin")' }
"#;
        for (call, verdict) in [
            (get("/"), "continue"),
            (get("/admin"), "admit: AccessDenied by no-admin"),
            (get("/").method("POST").header("x-staff", "yes"), "continue"),
            (get("/").method("POST").header("x-staff", "no"), "admit: AccessDenied by default"),
            (get("/").method("POST"), "admit: RuleError by staff"),
            (get("/admin").method("POST"), "admit: AccessDenied by no-admin"),
        ] {
            check(policy, &call, verdict);
        }
    }

    #[test]
    fn a_deny_rule_that_cannot_be_evaluated_refuses_in_its_turn() {
        let policy = r#"
authorize:
- { name: all, allow: 'true' }
- { name: first, deny: 'request.path == "/x"' }
- { name: errs, deny: 'request.headers["x-risk"] == "high"' }
"#;
        check(policy, &get("/x"), "admit: AccessDenied by first");
        check(policy, &get("/"), "admit: RuleError by errs");
        check(policy, &get("/").header("x-risk", "low"), "continue");
        check(policy, &get("/").header("x-risk", "high"), "admit: AccessDenied by errs");
    }

    #[test]
    fn audit_rules_leave_facts_and_refuse_nobody() {
        let policy = r#"
insecure: { anonymous: true }
authorize:
- { name: would-deny, deny: 'request.path == "/x"', mode: audit }
- { name: would-err, deny: 'request.headers["x-risk"] == "high"', mode: audit }
- { name: would-keep-out, allow: 'request.method == "POST"', mode: audit }
"#;
        let chain = build(policy, &TestResources::default()).unwrap();
        let (ctx, outcome) = run(&chain, &get("/x"));
        assert_eq!(outcome, Ok(()));
        let facts: Vec<_> = ctx.audits.iter().map(|fact| format!("{}: {}", fact.rule, fact.detail)).collect();
        assert_eq!(
            facts,
            ["would-keep-out: would not allow", "would-deny: would deny", "would-err: no such key: x-risk"]
        );
    }

    #[test]
    fn anonymous_lets_in_whom_no_rule_denies() {
        let policy =
            "insecure: { anonymous: true }\nauthorize: [{ name: no-x, deny: 'request.path == \"/x\"' }]";
        check(policy, &get("/"), "continue");
        check(policy, &get("/x"), "admit: AccessDenied by no-x");
        let strict =
            "insecure: { anonymous: true }\nauthorize: [{ name: x, allow: 'request.path == \"/x\"' }]";
        check(strict, &get("/"), "admit: AccessDenied by default");
    }

    #[test]
    fn a_set_with_allow_rules_on_scores_waits_for_them() {
        let lead = Enriched { name: "lead".to_owned(), ..Enriched::default() };
        let environment = Environment { rules: vec![lead], principal: true, ..Environment::default() };
        let rule = |name: &str, allow: Option<&str>, deny: Option<&str>| Spec {
            name: name.to_owned(),
            allow: allow.map(str::to_owned),
            deny: deny.map(str::to_owned),
            mode: super::Mode::Enforce,
        };
        let specs = [
            rule("admins", Some("jwt.admin"), None),
            rule("likely", Some("enrich.lead.score > 0.5"), None),
            rule("risky", None, Some("enrich.lead.score < 0.1")),
        ];
        let access = Access::build(&specs, 2, false, &environment, &Path::default()).unwrap();
        let (admit, decide) = (access.admit.unwrap(), access.decide.unwrap());
        let outcome = |admin: bool, score: f32| {
            let call = get("/");
            let (head, mut ctx) = (call.head(), call.context());
            let claims = serde_json::json!({ "admin": admin });
            ctx.principal = Some(Arc::new(Principal {
                issuer: "".into(),
                subject: "".into(),
                scopes: Arc::default(),
                claims: claims.as_object().unwrap().clone().into(),
                expires: 0,
            }));
            assert_eq!(admit.on_request(&head, &mut ctx), Verdict::Continue);
            ctx.scores.push(ScoreFact {
                rule: "lead".into(),
                model: "m".into(),
                version: "1".into(),
                scores: [score].into_iter().collect(),
                fault: None,
                beside: None,
            });
            match decide.on_request(&head, &mut ctx) {
                Verdict::Reply(reply) => reply.rule.to_string(),
                verdict => format!("{verdict:?} {}", ctx.allowed),
            }
        };
        assert_eq!(outcome(true, 0.3), "Continue 2");
        assert_eq!(outcome(false, 0.7), "Continue 2");
        assert_eq!(outcome(false, 0.3), "default");
        assert_eq!(outcome(true, 0.05), "risky");
    }

    #[test]
    fn many_rules_decide_as_few_do() {
        let mut policy = String::from("authorize:\n");
        for number in 0..300 {
            let rule = match number % 3 {
                0 => {
                    format!("allow: 'request.method == \"GET\" && request.path.startsWith(\"/t{number}/\")'")
                }
                1 => format!("deny: 'request.path == \"/t{number}/x\" && request.headers[\"x-a\"] == \"1\"'"),
                _ => format!(
                    "allow: 'pathMatches(request.path, \"/t{number}/{{id}}\") && \"x-b\" in request.headers'"
                ),
            };
            std::fmt::Write::write_fmt(&mut policy, format_args!("- {{ name: r{number}, {rule} }}\n"))
                .unwrap();
        }
        policy.push_str("- { name: last, deny: 'request.path.endsWith(\"/closed\")' }\n");
        let chain = build(&policy, &TestResources::default()).unwrap();
        for (call, expected) in [
            (get("/t297/a"), "continue"),
            (get("/t297/closed"), "admit: AccessDenied by last"),
            (get("/t297/a").method("POST"), "admit: AccessDenied by default"),
            (get("/t2/7").header("x-b", "1"), "continue"),
            (get("/t2/7"), "admit: AccessDenied by default"),
            // A rule that concerns the request and cannot be evaluated refuses; others are not in its way.
            (get("/t1/x"), "admit: RuleError by r1"),
            (get("/t1/x").header("x-a", "1"), "admit: AccessDenied by r1"),
            (get("/t1/x").header("x-a", "2"), "admit: AccessDenied by default"),
        ] {
            assert_eq!(crate::testing::verdict(&chain, &call), expected, "{call:?}");
        }
    }

    #[test]
    fn malformed_rules_are_faults() {
        for (rules, expected) in [
            ("{ name: a }", "FG0302 spec.authorize[0]: a rule needs allow or deny"),
            (
                "{ name: a, allow: 'true', deny: 'true' }",
                "FG0302 spec.authorize[0]: a rule has either allow or deny, not both",
            ),
            (
                "{ name: a, deny: 'true' }",
                "FG0302 spec.authorize: no rule of this policy allows anything: every request would be refused",
            ),
            (
                "{ name: a, allow: 'true', mode: audit }",
                "FG0302 spec.authorize: no rule of this policy allows anything: every request would be refused",
            ),
            (
                "{ name: default, allow: 'true' }",
                "FG0302 spec.authorize[0].name: default is the name of the refusal where no rule allows",
            ),
            (
                "{ name: 'a b', allow: 'true' }",
                "FG0301 spec.authorize[0].name: a name has 1 to 63 letters, digits, - _ or ., and starts with a letter or digit",
            ),
            (
                "{ name: a, allow: 'true' }, { name: a, deny: 'true' }",
                "FG0302 spec.authorize[1].name: a second authorize rule named a",
            ),
            ("{ name: a, allow: 'nope' }", "FG0402 spec.authorize[0].allow: unknown name nope"),
            (
                "{ name: a, allow: 'enrich.lead.ok' }",
                "FG0402 spec.authorize[0].allow: there is no enrich rule lead",
            ),
            (
                "{ name: a, allow: 'jwt.admin' }",
                "FG0402 spec.authorize[0].allow: jwt cannot be read: no token is required here",
            ),
        ] {
            assert_eq!(faults(&format!("authorize: [{rules}]")), [expected], "{rules}");
        }
    }
}

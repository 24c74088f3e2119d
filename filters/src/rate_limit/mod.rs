//! Limits requests per key by GCRA; tells callers how they stand.

mod headers;
pub mod limiter;
mod store;

use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderValue, request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::authorize::Mode;
use crate::chain::Built;
use crate::context::{AuditFact, LimitFact, RequestContext};
use crate::expression::{BoolExpression, Environment, EvaluationError, KeyExpression, Reads, Scope};
use crate::fault::{Code, Fault, Path};
use crate::filter::Filter;
use crate::reason::Reason;
use crate::resources::Resources;
use crate::rule::{Rule, RuleKind};
use crate::step::Step;
use crate::units::TimeSpan;
use crate::verdict::{Reply, Verdict};
use limiter::{Decision, Limiter, Rate};

const COUNTS: std::ops::RangeInclusive<u32> = 1..=1_000_000;
const PERIODS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(24);
/// Longest time a spent burst may take to come back; a longer one is a quota, not a rate.
const MAX_REFILL: Duration = Duration::from_hours(31 * 24);

/// One rate limit of a policy.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Names the limit in refusals, headers, logs and metrics. Unique within the policy.
    pub name: String,
    /// CEL expression whose value is the key; requests with the same value share the limit.
    /// An empty string, null or absent value refuses: give the expression a default instead.
    pub key: String,
    /// Requests admitted per period, 1 to 1,000,000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: u32,
    /// Length of the period, 1ms to 24h.
    pub per: TimeSpan,
    /// Requests that may come at once; `limit` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
    /// CEL expression of type bool; the limit applies only where it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    #[serde(default)]
    pub mode: Mode,
}

/// One limit, ready to count.
#[derive(Debug)]
pub struct Limit {
    name: Arc<str>,
    key: KeyExpression,
    when: Option<BoolExpression>,
    limiter: Arc<Limiter>,
    mode: Mode,
    /// Place in the list of the document.
    place: u16,
    /// What `RateLimit-Policy` says of it.
    policy: HeaderValue,
    /// What `RateLimit` begins with.
    standing: Box<str>,
}

/// The limits of one policy, each where what it reads is known.
#[derive(Debug, Default)]
pub struct Limits {
    /// Read neither the token nor a score: run in *guard*.
    pub flood: Vec<Limit>,
    /// Read the token: run in *admit*.
    pub admit: Vec<Limit>,
    /// Read a score: run in *decide*.
    pub score: Vec<Limit>,
}

/// Limits that run at one step, in the order of the document.
///
/// Each limit counts a request that the limits before it admitted; a request that a later one
/// refuses stays counted in the earlier ones.
#[derive(Debug)]
pub struct RateLimit {
    step: Step,
    limits: Vec<Limit>,
}

impl Limits {
    /// Builds the limits written at `at`; `policy` is the first part of their name in [`Resources`].
    pub fn build(
        specs: &[Spec],
        policy: &str,
        environment: &Environment,
        at: &Path,
        resources: &dyn Resources,
    ) -> Built<Self> {
        let (mut limits, mut faults) = (Self::default(), Vec::new());
        for (index, spec) in specs.iter().enumerate() {
            let (mut limit, reads) =
                match Limit::build(spec, policy, environment, &at.index(index), resources) {
                    Ok(built) => built,
                    Err(mut wrong) => {
                        faults.append(&mut wrong);
                        continue;
                    }
                };
            limit.place = u16::try_from(index).unwrap_or(u16::MAX);
            if reads.contains(Reads::SCORE) {
                limits.score.push(limit);
            } else if reads.contains(Reads::PRINCIPAL) {
                limits.admit.push(limit);
            } else {
                limits.flood.push(limit);
            }
        }
        if faults.is_empty() { Ok(limits) } else { Err(faults) }
    }
}

impl Spec {
    fn rate(&self, at: &Path) -> Built<Rate> {
        let mut faults = Vec::new();
        let mut bounded = |count: u32, field: &str| {
            if !COUNTS.contains(&count) {
                let message = format!("{field} must be from 1 to 1000000, and this is {count}");
                faults.push(Fault::new(Code::VALUE, at.key(field), message));
            }
        };
        bounded(self.limit, "limit");
        if let Some(burst) = self.burst {
            bounded(burst, "burst");
        }
        if !PERIODS.contains(&self.per.0) {
            let message = format!("per must be from 1ms to 24h, and this is {}", self.per);
            faults.push(Fault::new(Code::VALUE, at.key("per"), message));
        }
        let burst = self.burst.unwrap_or(self.limit);
        if faults.is_empty() && self.per.0.saturating_mul(burst) / self.limit > MAX_REFILL {
            let message = "a spent burst would take more than 31 days to come back";
            let help = "lower burst, or raise limit";
            faults.push(Fault::new(Code::CONFLICT, at.key("burst"), message).help(help));
        }
        let rate = Rate { limit: self.limit, per: self.per.0, burst };
        if faults.is_empty() { Ok(rate) } else { Err(faults) }
    }
}

impl Limit {
    fn build(
        spec: &Spec,
        policy: &str,
        environment: &Environment,
        at: &Path,
        resources: &dyn Resources,
    ) -> Built<(Self, Reads)> {
        let rate = spec.rate(at);
        let key = KeyExpression::new(&spec.key, environment, &at.key("key"));
        let when = spec.when.as_ref().map(|when| BoolExpression::new(when, environment, &at.key("when")));
        match (rate, key, when.transpose()) {
            (Ok(rate), Ok(key), Ok(when)) => {
                let reads = key.reads() | when.as_ref().map(BoolExpression::reads).unwrap_or_default();
                let limiter = resources.limiter(&format!("{policy}/{}", spec.name), &rate);
                let policy = headers::policy(&spec.name, &rate);
                let standing = headers::prefix(&spec.name);
                let (name, mode, place) = (spec.name.as_str().into(), spec.mode, 0);
                let limit = Self { name, key, when, limiter, mode, place, policy, standing };
                Ok((limit, reads))
            }
            (rate, key, when) => {
                let faults = [rate.err(), key.err(), when.err()];
                Err(faults.into_iter().flatten().flatten().collect())
            }
        }
    }

    fn rule(&self) -> Rule {
        let rule = Rule::listed(self.name.clone(), RuleKind::Limit, "rateLimit", self.place);
        let when = self.when.iter().flat_map(BoolExpression::inputs);
        let reads = self.key.inputs().iter().chain(when).cloned().collect();
        Rule { mode: self.mode, source: self.key.source().into(), reads, ..rule }
    }

    /// `None` where the limit does not apply to this request.
    fn check(&self, scope: &Scope<'_>) -> Result<Option<Decision>, EvaluationError> {
        if let Some(when) = &self.when
            && !when.evaluate(scope)?
        {
            return Ok(None);
        }
        self.key.evaluate(scope, |key| self.limiter.check(key, scope.ctx.moment)).map(Some)
    }

    fn audit(&self, step: Step, detail: String, ctx: &mut RequestContext) -> Verdict {
        ctx.audits.push(AuditFact { step, rule: self.name.clone(), detail: detail.into() });
        Verdict::Continue
    }

    fn apply(&self, decision: Decision, step: Step, ctx: &mut RequestContext) -> Verdict {
        ctx.limits.push(LimitFact {
            rule: self.name.clone(),
            remaining: decision.remaining,
            retry_after: decision.retry_after,
            admitted: decision.admitted,
            key: decision.key,
        });
        match self.mode {
            // Callers are not told of a limit that does not bind them.
            Mode::Audit if decision.admitted => Verdict::Continue,
            Mode::Audit => self.audit(step, "the limit is used up".to_owned(), ctx),
            Mode::Enforce => {
                ctx.edits.response.extend(headers::standing(&self.standing, &self.policy, &decision));
                if decision.admitted {
                    return Verdict::Continue;
                }
                let seconds = headers::seconds(decision.retry_after).max(1);
                Reply::new(Reason::RateLimited)
                    .rule(&self.name)
                    .header(RETRY_AFTER, HeaderValue::from(seconds))
                    .into()
            }
        }
    }
}

impl RateLimit {
    pub fn new(step: Step, limits: Vec<Limit>) -> Self {
        Self { step, limits }
    }
}

impl Filter for RateLimit {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        for limit in &self.limits {
            let verdict = match limit.check(&Scope { head, ctx }) {
                Ok(None) => Verdict::Continue,
                Ok(Some(decision)) => limit.apply(decision, self.step, ctx),
                Err(error) => match limit.mode {
                    Mode::Audit => limit.audit(self.step, error.to_string(), ctx),
                    Mode::Enforce => {
                        Reply::new(Reason::RuleError).rule(&limit.name).detail(error.to_string()).into()
                    }
                },
            };
            if verdict != Verdict::Continue {
                return verdict;
            }
        }
        Verdict::Continue
    }

    fn rules(&self) -> Vec<Rule> {
        self.limits.iter().map(Limit::rule).collect()
    }

    /// A request is counted once.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::edits::HeaderEdit;
    use crate::testing::{TestResources, build, check, faults, get, run, verdict};

    const OPEN: &str = "insecure: { anonymous: true }\n";

    /// The response headers asked for, and the refusal, as lines.
    fn answers(policy: &str, calls: &[crate::testing::Call]) -> Vec<String> {
        let chain = build(&format!("{OPEN}{policy}"), &TestResources::default()).unwrap();
        let one = |call: &crate::testing::Call| {
            let (ctx, outcome) = run(&chain, call);
            let mut lines: Vec<String> = ctx
                .edits
                .response
                .iter()
                .map(|edit| match edit {
                    HeaderEdit::Add(name, value) => format!("{name}: {}", value.to_str().unwrap()),
                    other => format!("{other:?}"),
                })
                .collect();
            if let Err(refusal) = outcome {
                lines.push(format!("{} {}", refusal.reply.reason, refusal.reply.rule));
                let headers = refusal.reply.headers.iter();
                lines.extend(headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
            }
            lines
        };
        calls.iter().flat_map(one).collect()
    }

    #[test]
    fn callers_are_told_how_they_stand() {
        let policy = "rateLimit: [{ name: per-client, key: source.address, limit: 2, per: 3s }]";
        let lines =
            answers(policy, &[get("/"), get("/"), get("/"), get("/").after(Duration::from_millis(1500))]);
        assert_eq!(
            lines,
            [
                "ratelimit-policy: \"per-client\";q=2;w=3",
                "ratelimit: \"per-client\";r=1;t=2",
                "ratelimit-policy: \"per-client\";q=2;w=3",
                "ratelimit: \"per-client\";r=0;t=3",
                "ratelimit-policy: \"per-client\";q=2;w=3",
                "ratelimit: \"per-client\";r=0;t=2",
                "RateLimited per-client",
                "retry-after: 2",
                "ratelimit-policy: \"per-client\";q=2;w=3",
                "ratelimit: \"per-client\";r=0;t=3",
            ]
        );
        let short = "rateLimit: [{ name: a, key: source.address, limit: 1, per: 100ms }]";
        let lines = answers(short, &[get("/"), get("/")]);
        assert_eq!(lines.first().unwrap(), "ratelimit-policy: \"a\";q=10;w=1");
        assert_eq!(lines.last().unwrap(), "retry-after: 1");
    }

    #[test]
    fn every_key_has_its_own_counter_and_when_skips() {
        let policy = format!(
            "{OPEN}rateLimit: [{{ name: writes, key: 'request.headers[\"x-org\"]', limit: 1, per: 1h, when: 'request.method == \"POST\"' }}]"
        );
        let chain = build(&policy, &TestResources::default()).unwrap();
        let write = |org: &str| get("/").method("POST").header("x-org", org);
        assert_eq!(verdict(&chain, &write("a")), "continue");
        assert_eq!(verdict(&chain, &write("a")), "guard: RateLimited by writes");
        assert_eq!(verdict(&chain, &write("b")), "continue");
        assert_eq!(verdict(&chain, &get("/")), "continue");
        assert_eq!(verdict(&chain, &write("a").after(Duration::from_hours(1))), "continue");
    }

    #[test]
    fn a_key_that_is_absent_or_empty_refuses() {
        let policy =
            format!("{OPEN}rateLimit: [{{ name: a, key: 'request.headers[\"x-org\"]', limit: 1, per: 1s }}]");
        check(&policy, &get("/"), "guard: RuleError by a");
        check(&policy, &get("/").header("x-org", ""), "guard: RuleError by a");
    }

    #[test]
    fn audit_counts_and_refuses_nobody() {
        let policy =
            format!("{OPEN}rateLimit: [{{ name: a, key: source.address, limit: 1, per: 1h, mode: audit }}]");
        let chain = build(&policy, &TestResources::default()).unwrap();
        for (admitted, audits) in [(true, 0), (false, 1)] {
            let (ctx, outcome) = run(&chain, &get("/"));
            assert_eq!(outcome, Ok(()));
            assert_eq!((ctx.limits[0].admitted, ctx.audits.len()), (admitted, audits));
            assert!(ctx.edits.response.is_empty());
        }
    }

    #[test]
    fn a_later_limit_that_refuses_leaves_the_earlier_one_counted() {
        let policy = format!(
            "{OPEN}rateLimit: [{{ name: wide, key: '\"all\"', limit: 3, per: 1h }}, {{ name: narrow, key: source.address, limit: 1, per: 1h }}]"
        );
        let chain = build(&policy, &TestResources::default()).unwrap();
        assert_eq!(verdict(&chain, &get("/")), "continue");
        assert_eq!(verdict(&chain, &get("/")), "guard: RateLimited by narrow");
        assert_eq!(verdict(&chain, &get("/").peer("192.0.2.2")), "continue");
        assert_eq!(verdict(&chain, &get("/").peer("192.0.2.3")), "guard: RateLimited by wide");
    }

    #[test]
    fn values_out_of_bounds_are_faults() {
        for (limit, expected) in [
            (
                "limit: 0, per: 1s",
                "FG0301 spec.rateLimit[0].limit: limit must be from 1 to 1000000, and this is 0",
            ),
            (
                "limit: 1000001, per: 1s",
                "FG0301 spec.rateLimit[0].limit: limit must be from 1 to 1000000, and this is 1000001",
            ),
            (
                "limit: 1, per: 1s, burst: 0",
                "FG0301 spec.rateLimit[0].burst: burst must be from 1 to 1000000, and this is 0",
            ),
            (
                "limit: 1, per: 999us",
                "FG0301 spec.rateLimit[0].per: per must be from 1ms to 24h, and this is 999us",
            ),
            (
                "limit: 1, per: 25h",
                "FG0301 spec.rateLimit[0].per: per must be from 1ms to 24h, and this is 90000s",
            ),
            (
                "limit: 1, per: 24h, burst: 32",
                "FG0302 spec.rateLimit[0].burst: a spent burst would take more than 31 days to come back",
            ),
            (
                "limit: 1, per: 1s, when: 'request.path'",
                "FG0403 spec.rateLimit[0].when: an access rule or condition must be of type bool, and this is of type string",
            ),
        ] {
            let policy = format!("{OPEN}rateLimit: [{{ name: a, key: source.address, {limit} }}]");
            assert_eq!(faults(&policy), [expected], "{limit}");
        }
        let list = format!("{OPEN}rateLimit: [{{ name: a, key: request.headers, limit: 1, per: 1s }}]");
        assert_eq!(
            faults(&list),
            [
                "FG0403 spec.rateLimit[0].key: a key must be a string, int, bool or double, and this is of type map of string"
            ]
        );
        let twice = format!(
            "{OPEN}rateLimit: [{{ name: a, key: source.address, limit: 1, per: 1s }}, {{ name: a, key: source.peer, limit: 1, per: 1s }}]"
        );
        assert_eq!(faults(&twice), ["FG0302 spec.rateLimit[1].name: a second rateLimit rule named a"]);
    }
}

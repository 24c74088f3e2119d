//! Names the tenant of a request, so that a saturated upstream is shared fairly.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use ahash::{AHashMap, RandomState};
use http::request;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chain::Built;
use crate::context::RequestContext;
use crate::expression::{Environment, KeyExpression, Reads, Scope};
use crate::fault::{Code, Fault, Path};
use crate::filter::Filter;
use crate::reason::Reason;
use crate::rule::{Rule, RuleKind};
use crate::verdict::{Reply, Verdict};

/// What the rule is called in refusals: a policy has one of them.
const RULE: &str = "fairness";

/// Weight of whom the policy does not name.
pub const DEFAULT_WEIGHT: u32 = 1;

const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=1_000;
/// Most tenants with a weight of their own.
const MAX_WEIGHTS: usize = 1_024;

/// One value gives one number wherever it is read in this process, and nobody outside can aim at another's.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// How tenants share an upstream that cannot serve all of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Fairness")]
pub struct Spec {
    /// CEL expression whose value names the tenant. An empty string, null or absent value refuses: give the
    /// expression a default instead.
    #[schemars(length(min = 1, max = 4096))]
    pub key: String,
    /// Shares of tenants by the value of `key`, 1 to 1,000; 1 for all others. What a tenant leaves unused goes to
    /// the rest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, u32>,
}

/// Whom a request counts for where an upstream is saturated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// A keyed hash of the value that names it.
    pub key: u64,
    pub weight: u32,
}

/// Finds the tenant of every request; refuses where it has none.
#[derive(Debug)]
pub struct Fairness {
    name: Arc<str>,
    key: KeyExpression,
    weights: AHashMap<Box<str>, u32>,
}

impl Fairness {
    /// Builds what is written at `at`.
    pub fn build(spec: &Spec, environment: &Environment, at: &Path) -> Built<Self> {
        let key = KeyExpression::new(&spec.key, environment, &at.key("key"));
        let mut faults = Vec::new();
        if spec.weights.len() > MAX_WEIGHTS {
            let message = format!("at most {MAX_WEIGHTS} tenants have a weight, and these are more");
            faults.push(Fault::new(Code::VALUE, at.key("weights"), message));
        }
        for (tenant, weight) in spec.weights.iter().filter(|(_, weight)| !WEIGHTS.contains(weight)) {
            let message = format!("a weight must be from 1 to 1000, and this is {weight}");
            faults.push(Fault::new(Code::VALUE, at.key("weights").key(tenant), message));
        }
        if key.as_ref().is_ok_and(|key| key.reads().contains(Reads::SCORE)) {
            let message = "a tenant is known before anything is scored";
            let help = "name it by what the token, the key or the head says";
            faults.push(Fault::new(Code::CONFLICT, at.key("key"), message).help(help));
        }
        match key {
            Ok(key) if faults.is_empty() => {
                let weights = spec.weights.iter().map(|(name, weight)| (name.as_str().into(), *weight));
                Ok(Self { name: RULE.into(), key, weights: weights.collect() })
            }
            Ok(_) => Err(faults),
            Err(mut wrong) => {
                wrong.append(&mut faults);
                Err(wrong)
            }
        }
    }

    fn tenant(&self, value: &str) -> Tenant {
        let weight = self.weights.get(value).copied().unwrap_or(DEFAULT_WEIGHT);
        Tenant { key: HASHER.hash_one(value), weight }
    }
}

impl Filter for Fairness {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        match self.key.evaluate(&Scope { head, ctx }, |value| self.tenant(value)) {
            Ok(tenant) => {
                ctx.tenant = Some(Box::new(tenant));
                Verdict::Continue
            }
            Err(error) => Reply::new(Reason::RuleError).rule(&self.name).detail(error.to_string()).into(),
        }
    }

    fn rules(&self) -> Vec<Rule> {
        let at = Path::default().key(RULE);
        let rule = Rule { at, ..Rule::listed(self.name.clone(), RuleKind::Tenant, "", 0) };
        vec![Rule { source: self.key.source().into(), reads: self.key.inputs().to_vec(), ..rule }]
    }

    /// Whoever is served already waits for nobody.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{TestResources, build, build_all, check, faults, get, run};

    const BY_ORG: &str = "insecure: { anonymous: true }\nfairness: { key: 'request.headers[\"x-org\"]', weights: { acme: 4, globex: 2 } }";

    #[test]
    fn tenants_are_told_apart_by_their_value_and_weigh_what_is_said() {
        let chain = build(BY_ORG, &TestResources::default()).unwrap();
        let tenant = |org: &str| *run(&chain, &get("/").header("x-org", org)).0.tenant.unwrap();
        assert_eq!(tenant("acme"), tenant("acme"));
        assert_ne!(tenant("acme").key, tenant("globex").key);
        let weights = ["acme", "globex", "initech"].map(|org| tenant(org).weight);
        assert_eq!(weights, [4, 2, 1]);
    }

    #[test]
    fn the_same_value_is_the_same_tenant_in_every_policy() {
        let other = "insecure: { anonymous: true }\nfairness: { key: 'request.headers[\"x-account\"]' }";
        let (one, two) = (build(BY_ORG, &TestResources::default()), build(other, &TestResources::default()));
        let call = get("/").header("x-org", "acme").header("x-account", "acme");
        let key = |chain| run(chain, &call).0.tenant.unwrap().key;
        assert_eq!(key(&one.unwrap()), key(&two.unwrap()));
    }

    #[test]
    fn who_has_no_tenant_is_refused() {
        check(BY_ORG, &get("/"), "admit: RuleError by fairness");
        check(BY_ORG, &get("/").header("x-org", ""), "admit: RuleError by fairness");
        check(BY_ORG, &get("/").header("x-org", "acme"), "continue");
    }

    #[test]
    fn a_shadow_policy_makes_nobody_a_tenant() {
        let shadow = "mode: shadow\nfairness: { key: '\"all\"' }\nauthorize: [{ name: all, allow: 'true' }]";
        let policies = ["insecure: { anonymous: true }", shadow];
        let chain = build_all(&policies, &TestResources::default()).unwrap();
        assert_eq!(run(&chain, &get("/")).0.tenant, None);
    }

    #[test]
    fn what_cannot_be_meant_is_a_fault() {
        let policy = |fairness: &str| format!("insecure: {{ anonymous: true }}\nfairness: {{ {fairness} }}");
        assert_eq!(
            faults(&policy("key: request.path, weights: { a: 0 }")),
            ["FG0301 spec.fairness.weights.a: a weight must be from 1 to 1000, and this is 0"]
        );
        assert_eq!(
            faults(&policy("key: request.headers")),
            [
                "FG0403 spec.fairness.key: a key must be a string, int, bool or double, and this is of type map of string"
            ]
        );
        let twice = [BY_ORG, BY_ORG];
        let faults = build_all(&twice, &TestResources::default()).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].fault.message.starts_with("fairness is already in policy"), "{faults:?}");
    }
}

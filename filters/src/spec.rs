//! All filters, in the order they run; a new filter is one row here.

use std::sync::Arc;
use std::time::Duration;

use crate::authorize::{self, DEFAULT};
use crate::chain::{Chain, Link, OF_ROUTE};
use crate::expression::{Enriched, Environment};
use crate::fault::{Code, Fault, Path};
use crate::parts::Parts;
use crate::rate_limit::Written;
use crate::resources::Resources;
use crate::shadow::Shadow;
use crate::step::Step;
use crate::together::{Ways, across};
use crate::validate::Compiled;
use crate::{
    addresses, api_key, choose, cors, enrich, fairness, idempotency, inject, introspection, jwt, org_quota,
    rate_limit,
};

/// Every filter of a policy. The order of the variants is the order in which filters run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FilterSpec {
    /// First: it learns the client address that all others may read.
    Addresses,
    /// Asked for by the route. Before all that refuses, so that scripts can read why.
    Cors,
    /// Limits that read neither token nor score, before any costly check.
    FloodLimit,
    /// Answers the preflights of `Cors`: they carry no credentials, but may be a flood.
    Preflight,
    Jwt,
    /// Tokens that are no JWT of a listed issuer: the authorization server is asked.
    Introspection,
    ApiKey,
    /// Behind several ways to identify: one of them must have been taken.
    Identified,
    /// Access rules that read no score: a request without access uses up no limit of its principal.
    Authorize,
    /// Limits that read the token.
    RateLimit,
    /// Whom the request counts for: only those admitted share an upstream.
    Fairness,
    /// Whose call it is where an org counts them.
    OrgQuota,
    /// Parameters and content type, before a byte of the body is read.
    ValidateHead,
    /// The body: the first that needs it, so that nobody else reads what is malformed.
    ValidateBody,
    /// Limits that read the body, before anything is scored.
    BodyLimit,
    Enrich,
    /// Access rules that read a score.
    Decide,
    /// Limits that read a score.
    ScoreLimit,
    /// Choices of a backend.
    Choose,
    /// Faults on purpose, for requests that all others let pass.
    Inject,
    /// Last: nothing that was claimed is refused afterwards.
    Idempotency,
}

/// The parts of one policy that ask for filters.
#[derive(Clone, Debug)]
pub struct Specs<'a> {
    /// Name of the policy, unique among all policies.
    pub name: &'a str,
    /// The way to its `spec`.
    pub at: Path,
    pub addresses: Option<&'a addresses::Spec>,
    pub jwt: &'a [jwt::Spec],
    pub introspection: &'a [introspection::Spec],
    pub api_key: Option<&'a api_key::Spec>,
    pub rate_limit: &'a [rate_limit::Spec],
    pub quota: &'a [rate_limit::quota::Spec],
    pub concurrency: &'a [rate_limit::concurrency::Spec],
    pub fairness: Option<&'a fairness::Spec>,
    pub org_quota: Option<&'a org_quota::spec::KeySpec>,
    /// Compiled already: schemas and contracts are those of the policy, not of each of its routes.
    pub validate: Option<&'a Arc<Compiled>>,
    pub enrich: &'a [enrich::Spec],
    pub authorize: &'a [authorize::Spec],
    pub choose: &'a [choose::Spec],
    pub inject: &'a [inject::Spec],
    pub idempotency: Option<&'a idempotency::spec::Spec>,
    /// `insecure: { anonymous: true }`: requests need no access rule to pass this policy.
    pub anonymous: bool,
    /// `mode: shadow`: the policy is only compared with those in force.
    pub shadow: bool,
}

/// What the rule of a route adds to its policies.
#[derive(Clone, Debug, Default)]
pub struct OfRoute<'a> {
    pub cors: Option<&'a cors::Spec>,
    /// The way to `cors`.
    pub at: Path,
    /// Names of its backends, in the order of the document.
    pub backends: &'a [&'a str],
    /// The time that it gives a request; `None` where it says nothing.
    pub request: Option<Duration>,
}

/// A fault, and the policy it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFault {
    /// Index of the policy, or [`OF_ROUTE`]; `None` where the route has no policy at all.
    pub policy: Option<usize>,
    pub fault: Fault,
}

/// One bit of `RequestContext::allowed` for each.
pub(crate) const MAX_POLICIES: usize = 32;

impl FilterSpec {
    /// Every filter, first to last.
    pub const ALL: [Self; 21] = [
        Self::Addresses,
        Self::Cors,
        Self::FloodLimit,
        Self::Preflight,
        Self::Jwt,
        Self::Introspection,
        Self::ApiKey,
        Self::Identified,
        Self::Authorize,
        Self::RateLimit,
        Self::Fairness,
        Self::OrgQuota,
        Self::ValidateHead,
        Self::ValidateBody,
        Self::BodyLimit,
        Self::Enrich,
        Self::Decide,
        Self::ScoreLimit,
        Self::Choose,
        Self::Inject,
        Self::Idempotency,
    ];

    /// The step the filter runs in.
    pub const fn step(self) -> Step {
        match self {
            Self::Addresses | Self::Cors | Self::FloodLimit | Self::Preflight => Step::Guard,
            Self::Jwt | Self::Introspection | Self::ApiKey | Self::Identified => Step::Identify,
            Self::Authorize
            | Self::RateLimit
            | Self::Fairness
            | Self::OrgQuota
            | Self::ValidateHead
            | Self::ValidateBody
            | Self::BodyLimit => Step::Admit,
            Self::Enrich => Step::Enrich,
            Self::Decide | Self::ScoreLimit | Self::Choose | Self::Inject | Self::Idempotency => Step::Decide,
        }
    }

    /// The part of a policy's `spec`, or of a route, that asks for the filter.
    pub const fn section(self) -> &'static str {
        match self {
            Self::Addresses => "addresses",
            Self::Cors | Self::Preflight => "cors",
            Self::FloodLimit | Self::RateLimit | Self::BodyLimit | Self::ScoreLimit => "rateLimit",
            Self::Jwt => "jwt",
            Self::Introspection => "introspection",
            Self::ApiKey | Self::Identified => "apiKey",
            Self::Authorize | Self::Decide => "authorize",
            Self::Fairness => "fairness",
            Self::OrgQuota => "orgQuota",
            Self::ValidateHead | Self::ValidateBody => "validate",
            Self::Enrich => "enrich",
            Self::Choose => "choose",
            Self::Inject => "inject",
            Self::Idempotency => "idempotency",
        }
    }
}

/// Builds the chain of a route from its policies, the gateway's before the route's own; every fault otherwise.
///
/// Every policy must let a request pass, but for those in shadow mode, which are asked and not obeyed.
/// Expressions see the `enrich` rules of their own and of earlier policies, and `jwt` and `consumer` where any
/// policy of the route has them.
pub fn build(policies: &[Specs<'_>], resources: &dyn Resources) -> Result<Chain, Vec<PolicyFault>> {
    build_for(policies, &OfRoute::default(), resources)
}

/// The same for one rule of a route, with what the rule itself asks for.
pub fn build_for(
    policies: &[Specs<'_>],
    route: &OfRoute<'_>,
    resources: &dyn Resources,
) -> Result<Chain, Vec<PolicyFault>> {
    let mut faults = Vec::new();
    across(policies, &mut faults);
    let (shadows, real): (Vec<_>, Vec<_>) =
        policies.iter().enumerate().partition(|(_, policy)| policy.shadow);
    let ways = Ways::of(real.iter().map(|(_, policy)| *policy));
    let mut environment = ways.environment();
    let mut built = Vec::new();
    let mut keep = |index: usize, parts: Result<Parts, Vec<Fault>>| match parts {
        Ok(parts) => Some(parts),
        Err(wrong) => {
            faults.extend(wrong.into_iter().map(|fault| PolicyFault { policy: Some(index), fault }));
            None
        }
    };
    for (index, policy) in &real {
        environment.rules.extend(policy.enrich.iter().map(|rule| enriched(rule, resources)));
        let parts =
            keep(*index, Parts::build(policy, *index, route, &environment, ways.several(), resources));
        built.extend(parts.map(|parts| (*index, parts)));
    }
    if let Some((_, parts)) = built.first_mut() {
        parts.identified = ways.identified();
    }
    if let Some(cors) = route.cors {
        let parts = Parts::of_route(cors, &route.at);
        built.extend(keep(OF_ROUTE, parts).map(|parts| (OF_ROUTE, parts)));
    }
    let mut compared = Vec::new();
    for (index, policy) in &shadows {
        let own = Ways::of([*policy]);
        let seen = Environment {
            principal: ways.token || own.token,
            consumer: ways.api_key || own.api_key,
            ..environment.clone()
        };
        if let Some(mut parts) =
            keep(*index, Parts::build(policy, *index, route, &seen, own.several(), resources))
        {
            parts.identified = own.identified();
            compared.push(Shadow::new(policy.name, links(&mut [(*index, parts)])));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Chain::new(links(&mut built)).shadowed(compared))
}

/// What expressions may read of a rule. A model that cannot be had is a fault elsewhere.
fn enriched(rule: &enrich::Spec, resources: &dyn Resources) -> Enriched {
    let scorer = resources.scorer(&rule.model, &Path::default()).ok();
    let offer = scorer.and_then(|scorer| scorer.offer());
    let class = offer.is_none_or(|offer| offer.classes);
    Enriched { name: rule.name.clone(), class, band: rule.set.band.is_some() }
}

/// The filters of several policies, each with its index, in run order.
fn links(parts: &mut [(usize, Parts)]) -> Vec<Link> {
    let mut links = Vec::new();
    for spec in FilterSpec::ALL {
        for index in 0..parts.len() {
            let waiting: usize = parts.iter().map(|(_, parts)| parts.limits.waiting(spec)).sum();
            let Some((policy, parts)) = parts.get_mut(index) else { continue };
            parts.limits.followed = waiting > 1;
            let (step, policy, section) = (spec.step(), *policy, parts.limits.section(spec));
            links.extend(parts.take(spec).map(|filter| Link { step, policy, section, filter }));
        }
    }
    links
}

impl Specs<'_> {
    /// The section that says which tokens are needed, where there is one.
    pub(crate) fn tokens(&self) -> Option<&'static str> {
        let named = [("jwt", self.jwt.is_empty()), ("introspection", self.introspection.is_empty())];
        named.into_iter().find(|(_, empty)| !empty).map(|(section, _)| section)
    }

    pub(crate) fn limits(&self) -> Written<'_> {
        Written { rate_limit: self.rate_limit, quota: self.quota, concurrency: self.concurrency }
    }

    /// Names are labels, log fields and header text: short, plain, and unique within their list.
    pub(crate) fn names(&self) -> Vec<Fault> {
        let limits = self.limits();
        let rules = self.authorize.iter().map(|rule| rule.name.as_str()).enumerate();
        let rules = rules.map(|(index, name)| ("authorize", index, name));
        let choices = self.choose.iter().enumerate().map(|(index, it)| ("choose", index, it.name.as_str()));
        let injected = self.inject.iter().enumerate().map(|(index, it)| ("inject", index, it.name.as_str()));
        let (mut faults, mut seen) = (Vec::new(), Vec::<(&str, &str, &str)>::new());
        for (list, index, name) in limits.names().chain(rules).chain(choices).chain(injected) {
            let at = self.at.key(list).index(index).key("name");
            if !plain(name) {
                let message =
                    "a name has 1 to 63 letters, digits, - _ or ., and starts with a letter or digit";
                faults.push(Fault::new(Code::VALUE, at, message));
            } else if name == DEFAULT && list == "authorize" {
                let message = "default is the name of the refusal where no rule allows";
                faults.push(Fault::new(Code::CONFLICT, at, message));
            } else if let Some((_, _, other)) = seen.iter().find(|it| (it.0, it.1) == (one_of(list), name)) {
                let message = if *other == list {
                    format!("a second {list} rule named {name}")
                } else {
                    format!("{name} is already the name of a {other} rule")
                };
                faults.push(Fault::new(Code::CONFLICT, at, message));
            }
            seen.push((one_of(list), name, list));
        }
        faults
    }
}

/// Lists whose names are labels of the same metrics.
fn one_of(list: &'static str) -> &'static str {
    if matches!(list, "quota" | "concurrency") { "rateLimit" } else { list }
}

/// True for a name that can be a label and a header text.
pub(crate) fn plain(name: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=63).contains(&name.len())
        && name.bytes().all(rest)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::FilterSpec;
    use crate::step::Step;
    use crate::testing::{TestResources, build, build_all, faults, get, verdict};

    #[test]
    fn filters_stand_in_run_order() {
        assert!(FilterSpec::ALL.is_sorted());
        assert!(FilterSpec::ALL.is_sorted_by_key(|spec| spec.step()));
    }

    #[test]
    fn what_a_limit_reads_decides_its_step() {
        let policy = r"
authorize: [{ name: all, allow: 'true' }]
addresses: { deny: [10.0.0.0/8] }
rateLimit: [{ name: by-address, key: source.address, limit: 1, per: 1s }]
";
        let chain = build(policy, &TestResources::default()).unwrap();
        assert_eq!(chain.steps().collect::<Vec<_>>(), [Step::Guard, Step::Guard, Step::Admit]);
    }

    #[test]
    fn every_policy_must_let_a_request_pass() {
        let gateway = "authorize: [{ name: no-delete, allow: 'request.method != \"DELETE\"' }]";
        let route = "authorize: [{ name: only-x, allow: 'request.path == \"/x\"' }]";
        let chain = build_all(&[gateway, route], &TestResources::default()).unwrap();
        assert_eq!(verdict(&chain, &get("/x")), "continue");
        assert_eq!(verdict(&chain, &get("/y")), "admit: AccessDenied by default");
        assert_eq!(verdict(&chain, &get("/x").method("DELETE")), "admit: AccessDenied by default");
        let open = build_all(&["insecure: { anonymous: true }", route], &TestResources::default()).unwrap();
        assert_eq!(verdict(&open, &get("/x")), "continue");
        assert_eq!(verdict(&open, &get("/y")), "admit: AccessDenied by default");
    }

    #[test]
    fn a_route_that_says_nothing_of_callers_does_not_build() {
        let message = "no access rule and not anonymous: nothing says who may call";
        assert_eq!(faults("addresses: {}"), [format!("FG0303 spec: {message}")]);
        let none = build_all(&[], &TestResources::default()).unwrap_err();
        assert_eq!(none.len(), 1);
        assert_eq!((none[0].policy, none[0].fault.message.as_str()), (None, message));
    }

    #[test]
    fn policies_of_one_route_share_no_jwt_and_no_enrich_name() {
        let one = r"
jwt: [{ issuer: 'https://a/', audiences: [x], jwks: { file: a.json } }]
enrich: [{ name: lead, model: m, deadline: 1ms }]
authorize: [{ name: all, allow: 'true' }]
";
        let faults = build_all(&[one, one], &TestResources::default()).unwrap_err();
        let told: Vec<_> = faults
            .iter()
            .filter(|fault| fault.fault.message.contains("already"))
            .map(|fault| (fault.policy, fault.fault.at.to_string(), fault.fault.message.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (
                    Some(1),
                    "spec.jwt".to_owned(),
                    "jwt is already in policy policy-0, which applies to the same route"
                ),
                (
                    Some(1),
                    "spec.enrich[0].name".to_owned(),
                    "an enrich rule lead is already in policy policy-0"
                ),
            ]
        );
    }

    #[test]
    fn every_fault_of_every_policy_is_told_at_once() {
        let bad =
            "authorize: [{ name: a, allow: nope }]\nrateLimit: [{ name: b, key: nope, limit: 0, per: 1s }]";
        let faults = build_all(&[bad, bad], &TestResources::default()).unwrap_err();
        let policies: Vec<_> = faults.iter().map(|fault| fault.policy).collect();
        assert_eq!(policies, [Some(0), Some(0), Some(0), Some(1), Some(1), Some(1)], "{faults:?}");
    }
}

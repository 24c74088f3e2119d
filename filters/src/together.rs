//! What the policies of one route have to do with each other.

use http::HeaderValue;

use crate::expression::Environment;
use crate::fault::{Code, Fault};
use crate::identified::Identified;
use crate::spec::{MAX_POLICIES, PolicyFault, Specs};
use crate::{api_key, jwt};

/// The ways in which callers can say who they are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ways<'a> {
    /// By `jwt` or `introspection`.
    pub(crate) token: bool,
    pub(crate) api_key: bool,
    /// The first policy that asks for one.
    policy: &'a str,
}

impl<'a> Ways<'a> {
    pub(crate) fn of(policies: impl IntoIterator<Item = &'a Specs<'a>>) -> Self {
        let mut ways = Self::default();
        for policy in policies {
            ways.token |= policy.tokens().is_some();
            ways.api_key |= policy.api_key.is_some();
            if ways.policy.is_empty() && (ways.token || ways.api_key) {
                ways.policy = policy.name;
            }
        }
        ways
    }

    /// True where any one of them suffices, so that none of them alone may be asked for.
    pub(crate) fn several(self) -> bool {
        self.token && self.api_key
    }

    pub(crate) fn environment(self) -> Environment {
        let rules = Vec::new();
        Environment { rules, principal: self.token, consumer: self.api_key, body: false }
    }

    pub(crate) fn identified(self) -> Option<Identified> {
        let challenges = [
            self.token.then(|| HeaderValue::from_static(jwt::CHALLENGE)),
            self.api_key.then_some(api_key::CHALLENGE),
        ];
        self.several().then(|| Identified::new(self.policy, challenges.into_iter().flatten().collect()))
    }
}

/// What no policy can be blamed for alone.
pub(crate) fn across(policies: &[Specs<'_>], faults: &mut Vec<PolicyFault>) {
    let mut fault = |policy: Option<usize>, fault: Fault| faults.push(PolicyFault { policy, fault });
    let real = || policies.iter().enumerate().filter(|(_, policy)| !policy.shadow);
    if real().all(|(_, policy)| policy.authorize.is_empty() && !policy.anonymous) {
        let at = policies.last().map(|policy| policy.at.clone()).unwrap_or_default();
        let message = "no access rule and not anonymous: nothing says who may call";
        let help = "add authorize rules, or insecure: { anonymous: true } if anybody may call";
        fault(policies.len().checked_sub(1), Fault::new(Code::INSECURE, at, message).help(help));
    }
    if let Some(policy) = policies.get(MAX_POLICIES) {
        let message = format!("more than {MAX_POLICIES} policies apply to one route");
        fault(Some(MAX_POLICIES), Fault::new(Code::CONFLICT, policy.at.clone(), message));
    }
    once(real(), "apiKey", "name every group in one policy", |policy| policy.api_key.is_some(), &mut fault);
    let help = "name the tenant in one policy";
    once(real(), "fairness", help, |policy| policy.fairness.is_some(), &mut fault);
    let help = "say in one policy what requests must be like";
    once(real(), "validate", help, |policy| policy.validate.is_some(), &mut fault);
    let help = "name whose call it is in one policy";
    once(real(), "orgQuota", help, |policy| policy.org_quota.is_some(), &mut fault);
    let help = "say in one policy what is carried out once";
    once(real(), "idempotency", help, |policy| policy.idempotency.is_some(), &mut fault);
    let mut first = None;
    for (index, policy) in real() {
        let Some(section) = policy.tokens() else { continue };
        if let Some((known, other)) = first {
            let message = format!("{known} is already in policy {other}, which applies to the same route");
            let help = "list every issuer in one policy";
            fault(Some(index), Fault::new(Code::CONFLICT, policy.at.key(section), message).help(help));
        }
        first = first.or(Some((section, policy.name)));
    }
    let mut rules: Vec<(&str, &str)> = Vec::new();
    for (index, policy) in real() {
        for (position, rule) in policy.enrich.iter().enumerate() {
            if let Some((_, other)) = rules.iter().find(|(name, _)| *name == rule.name) {
                let message = format!("an enrich rule {} is already in policy {other}", rule.name);
                let at = policy.at.key("enrich").index(position).key("name");
                fault(Some(index), Fault::new(Code::CONFLICT, at, message));
            }
            rules.push((&rule.name, policy.name));
        }
    }
}

/// What may stand in one policy of a route only.
fn once<'a>(
    policies: impl Iterator<Item = (usize, &'a Specs<'a>)>,
    section: &str,
    help: &str,
    has: fn(&Specs<'_>) -> bool,
    fault: &mut impl FnMut(Option<usize>, Fault),
) {
    let mut holders = policies.filter(|(_, policy)| has(policy));
    let Some((_, first)) = holders.next() else { return };
    for (index, policy) in holders {
        let other = first.name;
        let message = format!("{section} is already in policy {other}, which applies to the same route");
        fault(Some(index), Fault::new(Code::CONFLICT, policy.at.key(section), message).help(help));
    }
}

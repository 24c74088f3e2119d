//! What each policy asks of the requests of its routes, by step.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foregate_filters::chain::OF_ROUTE;
use foregate_filters::step::Step;
use foregate_policy::description::LinkDescription;
use foregate_policy::route::Route;
use serde::Serialize;

use crate::console::scrape::Scrape;

/// Most policies in one answer: those whose routes have most requests.
const MAX_POLICIES: usize = 200;

/// Refusals by step.
pub(super) type RefusedIn = BTreeMap<String, u64>;

/// The filters of a policy in force, and the routes that they are on.
#[derive(Debug, Default)]
pub(super) struct Asks<'a> {
    pub(super) routes: BTreeSet<&'a str>,
    filters: BTreeMap<Step, BTreeSet<&'static str>>,
}

/// A policy with the numbers of its routes: metrics tell routes and rules, and not of which policy a rule is.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct PolicyOverview {
    name: String,
    routes: usize,
    /// Of all its routes, since the start.
    requests: u64,
    /// On all its routes, whoever refused.
    refused_in: RefusedIn,
    /// In the order of the steps.
    brings: Vec<Brought>,
}

/// The filters that a policy brings to a step, such as `rateLimit`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Brought {
    step: &'static str,
    filters: Vec<&'static str>,
}

/// The policies that have a filter on one of these routes, by name.
pub(super) fn asks(routes: &[Arc<Route>]) -> BTreeMap<&str, Asks<'_>> {
    gathered(routes.iter().flat_map(|route| links(route).map(move |link| (&*route.name, link))))
}

/// The filters that policies bring to a route, which may have others of its own.
fn links(route: &Route) -> impl Iterator<Item = &LinkDescription> {
    let links = route.chain.links().iter().zip(&route.description.links);
    links.filter(|(link, _)| link.policy != OF_ROUTE).map(|(_, described)| described)
}

fn gathered<'a>(links: impl Iterator<Item = (&'a str, &'a LinkDescription)>) -> BTreeMap<&'a str, Asks<'a>> {
    let mut policies: BTreeMap<&'a str, Asks<'a>> = BTreeMap::new();
    for (route, link) in links {
        let asks = policies.entry(&link.policy).or_default();
        asks.routes.insert(route);
        asks.filters.entry(link.step).or_default().insert(link.filter);
    }
    policies
}

/// Refusals by route and step.
pub(super) fn refused(scrape: &Scrape) -> BTreeMap<&str, RefusedIn> {
    let mut by_route: BTreeMap<&str, RefusedIn> = BTreeMap::new();
    for (refusal, count) in &scrape.refusals {
        *by_route.entry(&refusal.route).or_default().entry(refusal.step.clone()).or_default() += count;
    }
    by_route
}

/// All of them together.
pub(super) fn added<'a>(refused: impl Iterator<Item = &'a RefusedIn>) -> RefusedIn {
    let mut sum = RefusedIn::new();
    for (step, count) in refused.flatten() {
        *sum.entry(step.clone()).or_default() += count;
    }
    sum
}

/// Those whose routes have most requests, and how many are left out.
pub(super) fn policies(asks: &BTreeMap<&str, Asks<'_>>, scrape: &Scrape) -> (Vec<PolicyOverview>, usize) {
    let refused = refused(scrape);
    let mut all: Vec<_> = asks.iter().map(|(name, asks)| told(name, asks, scrape, &refused)).collect();
    all.sort_by_key(|policy| Reverse(policy.requests));
    let omitted = all.len().saturating_sub(MAX_POLICIES);
    all.truncate(MAX_POLICIES);
    (all, omitted)
}

fn told(name: &str, asks: &Asks<'_>, scrape: &Scrape, refused: &BTreeMap<&str, RefusedIn>) -> PolicyOverview {
    let brought = |(step, filters): (&Step, &BTreeSet<&'static str>)| Brought {
        step: step.name(),
        filters: filters.iter().copied().collect(),
    };
    PolicyOverview {
        name: name.to_owned(),
        routes: asks.routes.len(),
        requests: asks
            .routes
            .iter()
            .filter_map(|route| scrape.routes.get(*route))
            .map(|counts| counts.requests)
            .sum(),
        refused_in: added(asks.routes.iter().filter_map(|route| refused.get(route))),
        brings: asks.filters.iter().map(brought).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Brought, MAX_POLICIES, PolicyOverview, RefusedIn, gathered, policies};
    use crate::console::scrape::{Counts, Refusal, Scrape};
    use foregate_filters::step::Step;
    use foregate_policy::description::{LinkDescription, Origin};

    fn link(policy: &str, step: Step, filter: &'static str) -> LinkDescription {
        let at = Origin { file: "policies.yaml".into(), line: 1 };
        LinkDescription { step, filter, policy: policy.into(), at, rules: Vec::new() }
    }

    fn scrape() -> Scrape {
        let counts = |requests| Counts { requests, ..Counts::default() };
        let refusal = |route: &str, step: &str, rule: &str| Refusal {
            route: route.to_owned(),
            step: step.to_owned(),
            rule: rule.to_owned(),
            ..Refusal::default()
        };
        Scrape {
            routes: [("leads/0".to_owned(), counts(10)), ("cases/0".to_owned(), counts(5))].into(),
            refusals: [
                (refusal("leads/0", "guard", "few"), 2),
                (refusal("leads/0", "admit", "readers"), 3),
                (refusal("cases/0", "guard", "few"), 1),
                (refusal("", "route", ""), 7),
            ]
            .into(),
            ..Scrape::default()
        }
    }

    #[test]
    fn a_policy_has_the_numbers_of_its_routes_and_the_filters_it_brings() {
        let edge = link("edge", Step::Guard, "rateLimit");
        let leads = [link("leads", Step::Decide, "authorize"), link("leads", Step::Admit, "quota")];
        let more = [link("leads", Step::Admit, "authorize"), link("leads", Step::Admit, "quota")];
        let links = [("leads/0", &edge), ("cases/0", &edge)].into_iter();
        let asks = gathered(links.chain(leads.iter().chain(&more).map(|link| ("leads/0", link))));
        let (told, omitted) = policies(&asks, &scrape());
        let refused = |steps: &[(&str, u64)]| -> RefusedIn {
            steps.iter().map(|(step, count)| ((*step).to_owned(), *count)).collect()
        };
        assert_eq!(omitted, 0);
        assert_eq!(
            told,
            [
                PolicyOverview {
                    name: "edge".to_owned(),
                    routes: 2,
                    requests: 15,
                    refused_in: refused(&[("admit", 3), ("guard", 3)]),
                    brings: vec![Brought { step: "guard", filters: vec!["rateLimit"] }],
                },
                PolicyOverview {
                    name: "leads".to_owned(),
                    routes: 1,
                    requests: 10,
                    refused_in: refused(&[("admit", 3), ("guard", 2)]),
                    brings: vec![
                        Brought { step: "admit", filters: vec!["authorize", "quota"] },
                        Brought { step: "decide", filters: vec!["authorize"] },
                    ],
                },
            ]
        );
    }

    #[test]
    fn those_with_most_requests_are_told_and_the_others_counted() {
        let links: Vec<_> =
            (0..=MAX_POLICIES).map(|it| link(&format!("p{it:03}"), Step::Admit, "quota")).collect();
        let mut on: Vec<_> = links.iter().map(|link| ("elsewhere/0", link)).collect();
        if let Some(last) = on.last_mut() {
            last.0 = "leads/0";
        }
        let asks = gathered(on.into_iter());
        let (told, omitted) = policies(&asks, &scrape());
        assert_eq!((told.len(), omitted), (MAX_POLICIES, 1));
        assert_eq!((&*told[0].name, told[0].requests), ("p200", 10));
    }
}

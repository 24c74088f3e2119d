//! The numbers of the console and of `foregate top`, in one answer.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::admin::{AdminState, ConfigStatus};
use crate::console::history::{History, Lines, Traffic, Window};
use crate::console::policies::{Asks, PolicyOverview, RefusedIn, added, asks, policies, refused};
use crate::console::scores::{ModelOverview, models};
use crate::console::scrape::{Refusal, Scrape};
use crate::telemetry::json::Timestamp;
use crate::upstream_page::{Fitness, fitness};

/// Most routes in one answer: those with most requests.
const MAX_ROUTES: usize = 500;

/// Most lines of refusals: those with most of them.
const MAX_REFUSALS: usize = 500;

#[derive(Debug, Serialize)]
pub(super) struct Overview {
    at: Timestamp,
    version: &'static str,
    /// `ready`, `draining`, `waiting` for the control plane, or `starting`.
    state: &'static str,
    config: Arc<ConfigStatus>,
    /// Over what rates, shares and quantiles are taken; everything else is since the start.
    window_seconds: f64,
    in_flight: u64,
    sampled_one_in: u32,
    total: Traffic,
    /// Of all routes.
    refused_in: RefusedIn,
    routes: Vec<RouteOverview>,
    routes_omitted: usize,
    policies: Vec<PolicyOverview>,
    policies_omitted: usize,
    refusals: Vec<RefusalOverview>,
    models: Vec<ModelOverview>,
    endpoints: Fitness,
    history: Lines,
}

#[derive(Debug, Serialize)]
struct RouteOverview {
    /// Empty for requests that found no route.
    name: String,
    #[serde(flatten)]
    traffic: Traffic,
    refused_in: RefusedIn,
    /// Those in force that have a filter on it.
    policies: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RefusalOverview {
    #[serde(flatten)]
    who: Refusal,
    count: u64,
}

pub(super) fn overview(admin: &AdminState, history: &History) -> Overview {
    let window = history.window();
    let scrape = window.as_ref().map(|window| &window.now.scrape);
    let live = admin.gateway.get().map(|gateway| gateway.live.pin());
    let asks = live.as_ref().map(|live| asks(live.snapshot.routes.all())).unwrap_or_default();
    let (routes, routes_omitted) = window.as_ref().map(|window| routes(window, &asks)).unwrap_or_default();
    let (policies, policies_omitted) = scrape.map(|scrape| policies(&asks, scrape)).unwrap_or_default();
    let telemetry = &admin.telemetry;
    let loaded = admin.policies.get().map(|policies| policies.models()).unwrap_or_default();
    Overview {
        at: Timestamp(window.as_ref().map_or(Duration::ZERO, |window| window.now.at.unix)),
        version: env!("CARGO_PKG_VERSION"),
        state: admin.readiness().name(),
        config: admin.config.load_full(),
        window_seconds: window.as_ref().map_or(0.0, Window::seconds),
        in_flight: scrape.map_or(0, |scrape| scrape.active),
        sampled_one_in: telemetry.decisions().sample(),
        total: window.as_ref().map(Window::total).unwrap_or_default(),
        refused_in: scrape.map(|scrape| added(refused(scrape).values())).unwrap_or_default(),
        routes,
        routes_omitted,
        policies,
        policies_omitted,
        refusals: scrape.map(refusals).unwrap_or_default(),
        models: models(&loaded, telemetry.decisions()),
        endpoints: live.as_ref().map(|live| fitness(live)).unwrap_or_default(),
        history: history.lines(),
    }
}

/// Those with most requests, and how many are left out.
fn routes(window: &Window<'_>, asks: &BTreeMap<&str, Asks<'_>>) -> (Vec<RouteOverview>, usize) {
    let scrape = &window.now.scrape;
    let mut names: Vec<_> = scrape.routes.iter().collect();
    names.sort_by_key(|(_, counts)| Reverse((counts.requests, counts.refused)));
    let omitted = names.len().saturating_sub(MAX_ROUTES);
    names.truncate(MAX_ROUTES);
    let mut refused = refused(scrape);
    let mut policies: BTreeMap<&str, Vec<String>> =
        names.iter().map(|&(name, _)| (name.as_str(), Vec::new())).collect();
    for (policy, asks) in asks {
        for route in &asks.routes {
            if let Some(of_route) = policies.get_mut(route) {
                of_route.push((*policy).to_owned());
            }
        }
    }
    let routes = names.into_iter().map(|(name, counts)| RouteOverview {
        name: name.clone(),
        traffic: window.route(name, counts),
        refused_in: refused.remove(name.as_str()).unwrap_or_default(),
        policies: policies.remove(name.as_str()).unwrap_or_default(),
    });
    (routes.collect(), omitted)
}

/// Those that refused most.
fn refusals(scrape: &Scrape) -> Vec<RefusalOverview> {
    let mut all: Vec<_> = scrape.refusals.iter().collect();
    all.sort_by_key(|(_, count)| Reverse(**count));
    let all = all.into_iter().take(MAX_REFUSALS);
    all.map(|(who, count)| RefusalOverview { who: who.clone(), count: *count }).collect()
}

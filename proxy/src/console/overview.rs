//! The numbers of the console and of `foregate top`, in one answer.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::admin::{AdminState, ConfigStatus};
use crate::console::history::{History, Lines, Traffic, Window};
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
    routes: Vec<RouteOverview>,
    routes_omitted: usize,
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
    /// Refusals by step.
    refused_in: BTreeMap<String, u64>,
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
    let (routes, routes_omitted) = window.as_ref().map(routes).unwrap_or_default();
    let telemetry = &admin.telemetry;
    let loaded = admin.policies.get().map(|policies| policies.models()).unwrap_or_default();
    let live = admin.gateway.get().map(|gateway| gateway.live.pin());
    Overview {
        at: Timestamp(window.as_ref().map_or(Duration::ZERO, |window| window.now.at.unix)),
        version: env!("CARGO_PKG_VERSION"),
        state: admin.readiness().name(),
        config: admin.config.load_full(),
        window_seconds: window.as_ref().map_or(0.0, Window::seconds),
        in_flight: scrape.map_or(0, |scrape| scrape.active),
        sampled_one_in: telemetry.decisions().sample(),
        total: window.as_ref().map(Window::total).unwrap_or_default(),
        routes,
        routes_omitted,
        refusals: scrape.map(refusals).unwrap_or_default(),
        models: models(&loaded, telemetry.decisions()),
        endpoints: live.map(|live| fitness(&live)).unwrap_or_default(),
        history: history.lines(),
    }
}

/// Those with most requests, and how many are left out.
fn routes(window: &Window<'_>) -> (Vec<RouteOverview>, usize) {
    let scrape = &window.now.scrape;
    let mut names: Vec<_> = scrape.routes.iter().collect();
    names.sort_by_key(|(_, counts)| Reverse((counts.requests, counts.refused)));
    let omitted = names.len().saturating_sub(MAX_ROUTES);
    let mut by_route: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
    for (refusal, count) in &scrape.refusals {
        *by_route.entry(&refusal.route).or_default().entry(refusal.step.clone()).or_default() += count;
    }
    let routes = names.into_iter().take(MAX_ROUTES).map(|(name, counts)| RouteOverview {
        name: name.clone(),
        traffic: window.route(name, counts),
        refused_in: by_route.remove(name.as_str()).unwrap_or_default(),
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

//! The admin page of upstreams: every endpoint, and whether it is fit.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::clock;
use crate::dispatch::endpoint::EndpointState;
use crate::dispatch::upstream::UpstreamState;
use crate::live::Live;
use crate::org_quota::{self, OrgStatus};

/// Endpoints of one upstream that are shown.
const MAX_SHOWN: usize = 1_000;

/// Requests go there.
const FIT: &str = "fit";

/// One upstream.
#[derive(Debug, Serialize)]
pub struct UpstreamStatus {
    name: Arc<str>,
    /// True while too few are fit, so that all are used.
    panic: bool,
    endpoints: Vec<EndpointStatus>,
    /// Those that are not shown.
    #[serde(skip_serializing_if = "is_zero")]
    omitted: usize,
    /// How the org behind it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    org_quota: Option<OrgStatus>,
}

/// One endpoint.
#[derive(Debug, Serialize)]
pub struct EndpointStatus {
    address: String,
    host: Box<str>,
    /// `fit`, `unfit`, `ejected` or `trial`.
    state: &'static str,
    /// Why it is ejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// Until it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    priority: u16,
    weight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<Box<str>>,
    outstanding: u32,
    /// The decaying peak; absent while nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Every upstream of what is in force.
pub fn upstreams(live: &Live) -> Vec<UpstreamStatus> {
    let now = clock::monotonic();
    live.upstreams.iter().map(|upstream| status(upstream, now)).collect()
}

/// How many endpoints there are, and how many are fit.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Fitness {
    all: usize,
    fit: usize,
}

/// Endpoints of every upstream of what is in force.
pub fn fitness(live: &Live) -> Fitness {
    let mut sum = Fitness::default();
    for upstream in &live.upstreams {
        let checked = upstream.spec.balancing.check.is_some();
        for endpoint in &upstream.table().members.endpoints {
            sum.all += 1;
            sum.fit += usize::from(standing(&endpoint.state, checked) == FIT);
        }
    }
    sum
}

/// Whether requests go to an endpoint, and why not.
fn standing(state: &EndpointState, checked: bool) -> &'static str {
    match state.circuit.until() {
        _ if checked && state.unfit() => "unfit",
        Some(_) if state.circuit.on_trial() => "trial",
        Some(_) => "ejected",
        None => FIT,
    }
}

fn status(upstream: &UpstreamState, now: Duration) -> UpstreamStatus {
    let table = upstream.table();
    let all = &table.members.endpoints;
    let checked = upstream.spec.balancing.check.is_some();
    let shown = all.iter().take(MAX_SHOWN).map(|endpoint| {
        let state = &endpoint.state;
        let open = state.circuit.until();
        let latency = state.latency.estimate(now);
        EndpointStatus {
            address: endpoint.at.address.to_string(),
            host: endpoint.at.host.clone(),
            state: standing(state, checked),
            cause: open.map(|(_, cause)| cause.name()),
            seconds: open.map(|(until, _)| until.saturating_sub(now).as_secs_f64()),
            priority: endpoint.at.priority,
            weight: endpoint.at.weight,
            zone: endpoint.at.zone.clone(),
            outstanding: state.outstanding(),
            latency_ms: (latency > 0.0).then_some(latency / 1e6),
        }
    });
    UpstreamStatus {
        name: Arc::clone(&upstream.spec.name),
        panic: table.panic,
        endpoints: shown.collect(),
        omitted: all.len().saturating_sub(MAX_SHOWN),
        org_quota: upstream.org.as_deref().map(org_quota::status),
    }
}

//! Every family of metrics that is exported, and how many series each may have.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use foregate_filters::step::Step;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::histogram::{Histograms, NoLabels, REQUEST_BOUNDS, STEP_BOUNDS};
use crate::telemetry::labels::{
    AuditLabels, ClientLabels, FailureLabels, InjectionLabels, LimitLabels, ListenerLabels, MirrorLabels,
    ModelLabels, OutcomeLabels, RefusalLabels, RevocationLabels, RouteLabels, ScoreLabels, ServerLabels,
    ShadowLabels, StepLabels, StoreLabels, UnavailableLabels,
};
use crate::telemetry::occupancy::Occupancy;
use crate::telemetry::series::Budget;
use crate::telemetry::values::Values;

/// Bounds of the score histogram.
const SCORES: [f64; 13] = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0];

/// Most routes that have series of their own; the others count as one.
pub(crate) const MAX_ROUTES: usize = 4_096;

/// Most refusal series, and as many audit series, that name their rule.
pub(crate) const MAX_RULES: usize = 2_000;

/// Most of them beyond that name their route, and rule `other`; the rest is `other` of all routes together.
pub(crate) const MAX_OTHER_RULES: usize = 1_000;

/// Most pairs of method and status of one route, or of one upstream of a route, that are told apart: callers choose
/// both, and must not use up what all routes have together.
pub(crate) const MAX_EXCHANGES: usize = 48;

/// Most series of requests by method and status, and as many of those to upstreams.
pub(crate) const MAX_HISTOGRAMS: usize = 8_192;

/// Most models, and as many limits, listeners and the like, with series of their own.
pub(crate) const MAX_NAMES: usize = 1_000;

/// What is exported, and how much of it there may be.
#[derive(Debug)]
pub(crate) struct Families {
    pub(crate) server: Histograms<ServerLabels>,
    pub(crate) client: Histograms<ClientLabels>,
    pub(crate) added: Histograms<RouteLabels>,
    pub(crate) steps: Histograms<StepLabels>,
    pub(crate) failures: Family<FailureLabels, Counter>,
    pub(crate) refusals: Family<RefusalLabels, Counter>,
    pub(crate) audits: Family<AuditLabels, Counter>,
    pub(crate) shadows: Family<ShadowLabels, Counter>,
    pub(crate) mirrors: Family<MirrorLabels, Counter>,
    pub(crate) injections: Family<InjectionLabels, Counter>,
    pub(crate) revocations: Family<RevocationLabels, Counter>,
    pub(crate) scores: Family<ScoreLabels, Counter>,
    pub(crate) score_values: Family<ModelLabels, Values, fn() -> Values>,
    pub(crate) enrich: Histograms<NoLabels>,
    pub(crate) stores: Family<StoreLabels, Values, fn() -> Values>,
    pub(crate) limits: Family<LimitLabels, Counter>,
    pub(crate) unavailable: Family<UnavailableLabels, Counter>,
    pub(crate) connections: Family<ListenerLabels, Gauge>,
    pub(crate) in_flight: Occupancy,
    pub(crate) reloads: Family<OutcomeLabels, Counter>,
    /// 1 while what came last was refused.
    pub(crate) rejected: Gauge,
    pub(crate) reload_success: Gauge<f64, AtomicU64>,
    pub(crate) revision: ArcSwap<Arc<str>>,
    pub(crate) route_budget: Budget,
    pub(crate) refusal_budget: Budget,
    pub(crate) other_refusal_budget: Budget,
    pub(crate) audit_budget: Budget,
    pub(crate) other_audit_budget: Budget,
    pub(crate) shadow_budget: Budget,
    /// Policies with their verdicts, below which the series are.
    pub(crate) shadow_kind_budget: Budget,
    pub(crate) model_budget: Budget,
    pub(crate) limit_budget: Budget,
    pub(crate) listener_budget: Budget,
    pub(crate) mirror_budget: Budget,
    pub(crate) injection_budget: Budget,
    pub(crate) failure_budget: Budget,
    pub(crate) store_budget: Budget,
    /// Upstreams of routes that have several.
    pub(crate) upstream_budget: Budget,
}

impl Default for Families {
    fn default() -> Self {
        Self {
            server: Histograms::new(
                "http_server_request_duration_seconds",
                "Time from the head of the request to the last byte of the response",
                REQUEST_BOUNDS,
                MAX_HISTOGRAMS,
            ),
            client: Histograms::new(
                "http_client_request_duration_seconds",
                "Time from dispatch to the response head of the upstream",
                REQUEST_BOUNDS,
                MAX_HISTOGRAMS,
            ),
            added: Histograms::new(
                "foregate_added_duration_seconds",
                "Time until dispatch and from the upstream's answer to the response head, waits for both sides left out",
                REQUEST_BOUNDS,
                MAX_ROUTES,
            ),
            steps: Histograms::new(
                "foregate_step_duration_seconds",
                "Time spent in a step, of requests whose steps are timed",
                STEP_BOUNDS,
                Step::ALL.len(),
            ),
            failures: Family::default(),
            refusals: Family::default(),
            audits: Family::default(),
            shadows: Family::default(),
            mirrors: Family::default(),
            injections: Family::default(),
            revocations: Family::default(),
            scores: Family::default(),
            score_values: Family::new_with_constructor(score_values),
            enrich: Histograms::new(
                "foregate_enrich_duration_seconds",
                "Time spent on features and scores",
                STEP_BOUNDS,
                1,
            ),
            stores: Family::new_with_constructor(seconds),
            limits: Family::default(),
            unavailable: Family::default(),
            connections: Family::default(),
            in_flight: Occupancy::default(),
            reloads: Family::default(),
            rejected: Gauge::default(),
            reload_success: Gauge::default(),
            revision: ArcSwap::from_pointee(Arc::from("")),
            route_budget: Budget::new(MAX_ROUTES),
            refusal_budget: Budget::new(MAX_RULES),
            other_refusal_budget: Budget::new(MAX_OTHER_RULES),
            audit_budget: Budget::new(MAX_RULES),
            other_audit_budget: Budget::new(MAX_OTHER_RULES),
            shadow_budget: Budget::new(MAX_RULES),
            shadow_kind_budget: Budget::new(MAX_RULES),
            model_budget: Budget::new(MAX_NAMES),
            limit_budget: Budget::new(MAX_NAMES),
            listener_budget: Budget::new(MAX_NAMES),
            mirror_budget: Budget::new(MAX_NAMES),
            injection_budget: Budget::new(MAX_NAMES),
            failure_budget: Budget::new(MAX_NAMES),
            store_budget: Budget::new(MAX_NAMES),
            upstream_budget: Budget::new(MAX_ROUTES),
        }
    }
}

/// A histogram of durations that nothing tells yet.
pub(crate) fn seconds() -> Values {
    Values::new(REQUEST_BOUNDS.iter().map(|nanos| Duration::from_nanos(*nanos).as_secs_f64()))
}

fn score_values() -> Values {
    Values::new(SCORES)
}

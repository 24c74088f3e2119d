//! Every family of metrics that is exported, and how many series each may have.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::telemetry::labels::{
    AuditLabels, InjectionLabels, LimitLabels, ListenerLabels, MirrorLabels, ModelLabels, OutcomeLabels,
    RefusalLabels, RevocationLabels, RouteLabels, ScoreLabels, ShadowLabels, StatusLabels, StoreLabels,
    UnavailableLabels,
};
use crate::telemetry::occupancy::Occupancy;
use crate::telemetry::record::DecisionId;
use crate::telemetry::series::Budget;

/// Bounds of the request and upstream histograms, in seconds: 50 us to 10 s.
const SECONDS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Bounds of the enrich histogram, in seconds: 1 us to 100 ms.
const ENRICH_SECONDS: [f64; 16] = [
    0.000_001,
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
];

/// Bounds of the score histogram.
const SCORES: [f64; 13] = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0];

/// Most routes that have series of their own; the others count as one.
pub(crate) const MAX_ROUTES: usize = 4_096;

/// Most refusal series, and as many audit series, that name their rule.
pub(crate) const MAX_RULES: usize = 2_000;

/// Most models, limits and listeners with series of their own.
pub(crate) const MAX_NAMES: usize = 1_000;

/// What is exported, and how much of it there may be.
#[derive(Debug)]
pub(crate) struct Families {
    pub(crate) requests: Family<StatusLabels, Counter>,
    pub(crate) durations: Family<RouteLabels, Exemplified, fn() -> Exemplified>,
    pub(crate) upstream: Family<RouteLabels, Histogram, fn() -> Histogram>,
    pub(crate) refusals: Family<RefusalLabels, Counter>,
    pub(crate) audits: Family<AuditLabels, Counter>,
    pub(crate) shadows: Family<ShadowLabels, Counter>,
    pub(crate) mirrors: Family<MirrorLabels, Counter>,
    pub(crate) injections: Family<InjectionLabels, Counter>,
    pub(crate) revocations: Family<RevocationLabels, Counter>,
    pub(crate) scores: Family<ScoreLabels, Counter>,
    pub(crate) score_values: Family<ModelLabels, Histogram, fn() -> Histogram>,
    pub(crate) enrich: Histogram,
    pub(crate) stores: Family<StoreLabels, Histogram, fn() -> Histogram>,
    pub(crate) limits: Family<LimitLabels, Counter>,
    pub(crate) unavailable: Family<UnavailableLabels, Counter>,
    pub(crate) connections: Family<ListenerLabels, Gauge>,
    pub(crate) in_flight: Occupancy,
    pub(crate) reloads: Family<OutcomeLabels, Counter>,
    pub(crate) reload_success: Gauge<f64, AtomicU64>,
    pub(crate) revision: ArcSwap<Arc<str>>,
    pub(crate) route_budget: Budget,
    pub(crate) refusal_budget: Budget,
    pub(crate) audit_budget: Budget,
    pub(crate) name_budget: Budget,
}

/// A histogram whose buckets may name a decision.
pub(crate) type Exemplified = HistogramWithExemplars<DecisionId>;

impl Default for Families {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(exemplified),
            upstream: Family::new_with_constructor(seconds),
            refusals: Family::default(),
            audits: Family::default(),
            shadows: Family::default(),
            mirrors: Family::default(),
            injections: Family::default(),
            revocations: Family::default(),
            scores: Family::default(),
            score_values: Family::new_with_constructor(score_values),
            enrich: Histogram::new(ENRICH_SECONDS),
            stores: Family::new_with_constructor(seconds),
            limits: Family::default(),
            unavailable: Family::default(),
            connections: Family::default(),
            in_flight: Occupancy::default(),
            reloads: Family::default(),
            reload_success: Gauge::default(),
            revision: ArcSwap::from_pointee(Arc::from("")),
            route_budget: Budget::new(MAX_ROUTES),
            refusal_budget: Budget::new(MAX_RULES),
            audit_budget: Budget::new(MAX_RULES),
            name_budget: Budget::new(MAX_NAMES),
        }
    }
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn exemplified() -> Exemplified {
    HistogramWithExemplars::new(SECONDS.into_iter())
}

fn score_values() -> Histogram {
    Histogram::new(SCORES)
}

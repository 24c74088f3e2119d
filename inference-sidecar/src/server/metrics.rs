//! What the server counts, for Prometheus.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::fault::Kind;
use super::repository::Models;

/// Media type of the exposition.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of the histogram, in seconds: 50 us to 10 s.
const SECONDS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    protocol: &'static str,
    call: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    protocol: &'static str,
    call: &'static str,
}

/// Only of models that were loaded, of which there is a bounded number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

/// The families that are exported.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<CallLabels, Histogram, fn() -> Histogram>,
    rows: Family<ModelLabels, Counter>,
    models: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let seconds = Family::new_with_constructor(histogram);
        let (rows, models) = (Family::<ModelLabels, Counter>::default(), Gauge::default());
        let mut registry = Registry::with_prefix("foregate_inference");
        registry.register("requests", "Requests, by what became of them.", requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from the head of a request to its answer.",
            Unit::Seconds,
            seconds.clone(),
        );
        registry.register("rows", "Rows that were scored.", rows.clone());
        registry.register("models", "Versions of models that are loaded.", models.clone());
        Self { registry, requests, seconds, rows, models }
    }
}

impl Metrics {
    /// Notes the end of a request.
    pub fn ended(&self, protocol: &'static str, call: &'static str, fault: Option<Kind>, took: Duration) {
        let outcome = match fault {
            None => "ok",
            Some(Kind::Invalid) => "invalid",
            Some(Kind::Unauthenticated) => "unauthenticated",
            Some(Kind::Forbidden) => "forbidden",
            Some(Kind::NotFound) => "not_found",
            Some(Kind::MethodNotAllowed) => "method_not_allowed",
            Some(Kind::TooLarge) => "too_large",
            Some(Kind::Unsupported) => "unsupported",
            Some(Kind::Busy) => "busy",
            Some(Kind::Late) => "late",
            Some(Kind::Internal) => "internal",
        };
        self.requests.get_or_create(&RequestLabels { protocol, call, outcome }).inc();
        self.seconds.get_or_create(&CallLabels { protocol, call }).observe(took.as_secs_f64());
    }

    /// Notes rows of a model.
    pub fn scored(&self, model: &str, rows: usize) {
        self.rows.get_or_create(&ModelLabels { model: model.to_owned() }).inc_by(rows as u64);
    }

    /// All of it as text; `models` are those that are loaded.
    pub fn exposition(&self, models: &Models) -> Result<String, std::fmt::Error> {
        let count: usize = models.values().map(Vec::len).sum();
        self.models.set(i64::try_from(count).unwrap_or(i64::MAX));
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

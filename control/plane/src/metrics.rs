//! The metrics of the process; every part adds its own.

use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

/// Names and values of labels. The values must be of a closed set.
pub type Labels = Vec<(&'static str, &'static str)>;

/// Counters that differ in their labels.
pub type Counters = Family<Labels, Counter>;

/// All metrics, each with the prefix `foregate_control_`.
#[derive(Debug)]
pub struct Metrics(Mutex<Registry>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Mutex::new(Registry::with_prefix("foregate_control")))
    }
}

impl Metrics {
    /// Counters of this name; `_total` is added to it.
    pub fn counters(&self, name: &str, help: &str) -> Counters {
        let counters = Counters::default();
        self.add(name, help, counters.clone());
        counters
    }

    /// A gauge of this name.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.add(name, help, gauge.clone());
        gauge
    }

    /// Any other metric; `help` is a sentence without its full stop.
    pub fn add(&self, name: &str, help: &str, metric: impl Metric) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric);
    }

    /// All of them in the text format of Prometheus.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &registry);
        text
    }
}

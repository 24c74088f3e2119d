//! What can be seen of the controller from outside: metrics, and what it waits for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::{Counters, Labels};
use crate::process::Process;

/// What the process is not ready without: one whole list of every kind.
pub const ARRIVAL: &str = "objects of Kubernetes";

/// Counts, and the last fault of each watch.
#[derive(Debug)]
pub struct Health {
    up: Family<Labels, Gauge>,
    errors: Counters,
    pub writes: Counters,
    pub leading: Gauge,
    pub revision: Gauge,
    pub objects: Gauge,
    pub refused: Gauge,
    pub stuck: Gauge,
    pub endpoints: Counter,
    faults: Mutex<BTreeMap<&'static str, String>>,
}

impl Health {
    pub fn new(process: &Process) -> Self {
        let metrics = &process.metrics;
        let up = Family::<Labels, Gauge>::default();
        metrics.add("kubernetes_watch_up", "1 while the API server tells of changes, by kind", up.clone());
        let endpoints = Counter::default();
        metrics.add(
            "kubernetes_endpoint_changes",
            "Files of endpoints that were written anew",
            endpoints.clone(),
        );
        Self {
            up,
            errors: metrics.counters("kubernetes_watch_errors", "Watches and lists that failed, by kind"),
            writes: metrics.counters("kubernetes_status_writes", "Statuses written, by how it went"),
            leading: metrics.gauge("kubernetes_leading", "1 while this replica writes statuses"),
            revision: metrics.gauge("kubernetes_revision", "The revision of what objects have become"),
            objects: metrics.gauge("kubernetes_objects", "Objects of kinds that are compiled"),
            refused: metrics
                .gauge("kubernetes_objects_refused", "Objects that are not in force for their faults"),
            stuck: metrics.gauge("kubernetes_stuck", "1 while faults hold up every change"),
            endpoints,
            faults: Mutex::default(),
        }
    }

    /// A watch told something.
    pub fn alive(&self, kind: &'static str) {
        self.up.get_or_create(&vec![("kind", kind)]).set(1);
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).remove(kind);
    }

    /// A watch failed; true where it is the first time in a row.
    pub fn failed(&self, kind: &'static str, why: String) -> bool {
        self.up.get_or_create(&vec![("kind", kind)]).set(0);
        self.errors.get_or_create(&vec![("kind", kind)]).inc();
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, why).is_none()
    }

    /// Kinds whose watch fails, and why.
    pub fn faults(&self) -> BTreeMap<&'static str, String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

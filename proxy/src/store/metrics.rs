//! Numbers of one store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::store::Store;
use crate::store::error::StoreError;
use crate::telemetry::Telemetry;
use crate::telemetry::sources::Kind;
use crate::telemetry::values::Values;

/// What happened to requests to one store.
#[derive(Debug, Default)]
pub struct Stats {
    answered: AtomicU64,
    failed: [AtomicU64; StoreError::KINDS.len()],
    /// Decisions by leases and remembered refusals.
    here: AtomicU64,
    leased: AtomicU64,
    returned: AtomicU64,
    lost: AtomicU64,
    /// Set where somebody reads it.
    latency: std::sync::OnceLock<Values>,
}

impl Stats {
    pub fn with_latency(&self, histogram: Values) {
        // The first one stays: it is the same.
        let _ = self.latency.set(histogram);
    }

    pub(super) fn answered(&self, time: Duration) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if let Some(latency) = self.latency.get() {
            latency.observe(time.as_secs_f64());
        }
    }

    pub(super) fn failed(&self, error: StoreError) -> StoreError {
        if let Some(count) = self.failed.get(error.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        error
    }

    pub(super) fn decided_here(&self) {
        self.here.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leased(&self, units: u64) {
        self.leased.fetch_add(units, Ordering::Relaxed);
    }

    pub(super) fn returned(&self, units: u64, told: bool) {
        let count = if told { &self.returned } else { &self.lost };
        count.fetch_add(units, Ordering::Relaxed);
    }

    /// Requests that the store answered.
    pub fn answers(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Requests that failed, by the place of the kind in [`StoreError::KINDS`].
    pub fn failures(&self, kind: usize) -> u64 {
        self.failed.get(kind).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Decisions that nobody was asked about.
    pub fn here(&self) -> u64 {
        self.here.load(Ordering::Relaxed)
    }

    /// Units that were taken in advance.
    pub fn units_leased(&self) -> u64 {
        self.leased.load(Ordering::Relaxed)
    }

    /// Units that were given back.
    pub fn units_returned(&self) -> u64 {
        self.returned.load(Ordering::Relaxed)
    }

    /// Units that could not be given back.
    pub fn units_lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// A count as metrics have it.
#[expect(clippy::cast_precision_loss, reason = "metrics are doubles; counts above 2^53 are not reached")]
fn count(number: u64) -> f64 {
    number as f64
}

/// Registers how a store stands; one that is not used any more is not kept for its metrics.
pub fn register(telemetry: &Telemetry, store: &Arc<Store>) {
    let name = Arc::clone(store.name());
    let add = |kind: Kind, metric: &str, help: &str, label: Option<(&str, &str)>, read: Read| {
        let labels: Vec<(&str, &str)> = [("store", &*name)].into_iter().chain(label).collect();
        telemetry
            .sources()
            .register_part(kind, metric, help, &labels, store, move |store| count(read(store)));
    };
    let help = "Requests to a store that it answered.";
    add(Kind::Counter, "foregate_store_requests_total", help, None, Box::new(|it| it.stats().answers()));
    for (place, kind) in StoreError::KINDS.into_iter().enumerate() {
        let (metric, help) = ("foregate_store_errors_total", "Requests to a store that failed, by kind.");
        let read: Read = Box::new(move |it| it.stats().failures(place));
        add(Kind::Counter, metric, help, Some(("kind", kind)), read);
    }
    let (metric, help) =
        ("foregate_store_decisions_here_total", "Decisions that a store was not asked about.");
    add(Kind::Counter, metric, help, None, Box::new(|it| it.stats().here()));
    let (metric, help) =
        ("foregate_store_circuits_open", "Servers of a store that are not asked at the moment.");
    add(Kind::Gauge, metric, help, None, Box::new(Store::open_circuits));
    let (metric, help) = ("foregate_store_leased_units_total", "Units of limits that were taken in advance.");
    add(Kind::Counter, metric, help, None, Box::new(|it| it.stats().units_leased()));
    let (metric, help) =
        ("foregate_store_returned_units_total", "Units of limits that were given back unused.");
    add(Kind::Counter, metric, help, None, Box::new(|it| it.stats().units_returned()));
    let (metric, help) = ("foregate_store_lost_units_total", "Units of limits that could not be given back.");
    add(Kind::Counter, metric, help, None, Box::new(|it| it.stats().units_lost()));
    let (metric, help) =
        ("foregate_store_held_units", "Units of limits that were taken in advance and not used yet.");
    add(Kind::Gauge, metric, help, None, Box::new(Store::units_held));
    store.stats().with_latency(telemetry.metrics().store_latency(&name));
}

type Read = Box<dyn Fn(&Store) -> u64 + Send + Sync>;

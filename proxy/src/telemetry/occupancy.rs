//! Gauges of how many there are now, counted by what lives.

use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::gauge::Gauge;

/// A gauge of how many there are now.
#[derive(Clone, Debug, Default)]
pub struct Occupancy(pub(crate) Gauge<i64, AtomicI64>);

/// One of those counted by an [`Occupancy`]; counted until dropped.
#[derive(Debug)]
pub struct Occupied(Occupancy);

impl Occupancy {
    /// One more, until what is returned is dropped.
    #[must_use]
    pub fn enter(&self) -> Occupied {
        self.0.inc();
        Occupied(self.clone())
    }

    /// How many there are now.
    pub fn count(&self) -> i64 {
        self.0.get()
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.0.dec();
    }
}

//! A snapshot with what the process adds to it: upstreams, certificates, metric handles.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foregate_policy::snapshot::Snapshot;

use crate::dispatch::upstream::UpstreamState;
use crate::owned::Owned;
use crate::telemetry::route_metrics::RouteMetrics;
use crate::tls::PortTls;

/// All that one request obeys, from its first step to its last.
#[derive(Debug)]
pub struct Live {
    /// Tells one from another; never used twice.
    pub number: u64,
    pub snapshot: Arc<Snapshot>,
    /// By [`foregate_policy::route::Route::id`].
    pub metrics: Vec<Arc<RouteMetrics>>,
    /// For requests that no route matched.
    pub unrouted: Arc<RouteMetrics>,
    /// As [`Snapshot::upstreams`].
    pub upstreams: Vec<Arc<UpstreamState>>,
    /// Request headers that the filters of any route set.
    pub owned: Arc<Owned>,
    /// Certificates of the ports that speak TLS, and what they ask clients for.
    pub tls: HashMap<u16, Arc<PortTls>>,
}

/// Counts what was made to be in force.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

impl Live {
    /// The number of the next one.
    pub fn next_number() -> u64 {
        NUMBERS.fetch_add(1, Ordering::Relaxed)
    }

    /// The metric handles of a route.
    pub fn metrics(&self, route: usize) -> &Arc<RouteMetrics> {
        self.metrics.get(route).unwrap_or(&self.unrouted)
    }
}

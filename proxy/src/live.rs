//! A snapshot with what the process adds to it: upstreams, certificates, metric handles.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foregate_filters::reason::Reason;
use foregate_filters::verdict::Reply;
use foregate_policy::snapshot::Snapshot;

use crate::capture::Index;
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
    /// What redirected connections of the application mean.
    pub meant: Index,
    /// Request headers that the filters of any route set.
    pub owned: Arc<Owned>,
    /// Certificates of the ports that speak TLS, and what they ask clients for.
    pub tls: HashMap<u16, Arc<PortTls>>,
    /// Why the control plane grants none of it any more: nothing is found then.
    pub withheld: Option<Arc<str>>,
}

/// Counts what was made to be in force.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

impl Live {
    /// The number of the next one.
    pub fn next_number() -> u64 {
        NUMBERS.fetch_add(1, Ordering::Relaxed)
    }

    /// The same, with the terms of TLS listeners that are as they were before: sessions of their clients can be taken up
    /// again.
    #[must_use]
    pub fn with_sessions_of(mut self, before: &Self) -> Self {
        for (port, tls) in &mut self.tls {
            if let Some(known) = before.tls.get(port) {
                *tls = Arc::new(tls.keeping(known));
            }
        }
        self
    }

    /// The same listeners, which refuse everything for this reason.
    #[must_use]
    pub fn withheld(&self, why: &str) -> Self {
        Self {
            number: Self::next_number(),
            snapshot: Arc::new(self.snapshot.withheld()),
            metrics: Vec::new(),
            unrouted: Arc::clone(&self.unrouted),
            upstreams: Vec::new(),
            meant: Index::default(),
            owned: Arc::clone(&self.owned),
            tls: self.tls.clone(),
            withheld: Some(why.into()),
        }
    }

    /// Why no route is found.
    pub fn miss(&self, detail: &str) -> Reply {
        match &self.withheld {
            Some(why) => Reply::new(Reason::GrantLost).detail(&**why),
            None => Reply::new(Reason::RouteNotFound).detail(detail),
        }
    }

    /// The metric handles of a route.
    pub fn metrics(&self, route: usize) -> &Arc<RouteMetrics> {
        self.metrics.get(route).unwrap_or(&self.unrouted)
    }
}

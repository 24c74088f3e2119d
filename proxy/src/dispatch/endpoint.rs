//! One address of an upstream, and what is known about it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use foregate_policy::snapshot::Endpoint as Written;

use crate::dispatch::circuit::Circuit;
use crate::dispatch::ewma::{PeakEwma, nanos};
use crate::dispatch::maglev;

/// An address as its source tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The name it stands for, for SNI and certificates.
    pub host: Box<str>,
    pub address: SocketAddr,
    pub weight: u32,
    pub zone: Option<Box<str>>,
    pub priority: u16,
}

impl Address {
    /// An address that was found for a name in a document.
    pub fn of(written: &Written, address: SocketAddr) -> Self {
        let Written { host, weight, zone, priority, .. } = written;
        Self { host: host.clone(), address, weight: *weight, zone: zone.clone(), priority: *priority }
    }

    /// An endpoint that is written as an address.
    pub fn literal(written: &Written) -> Option<Self> {
        let ip = written.host.parse().ok()?;
        Some(Self::of(written, SocketAddr::new(ip, written.port)))
    }
}

/// An address in use by one state of an upstream.
#[derive(Debug)]
pub struct Endpoint {
    pub at: Address,
    /// Names its shelf in the pools of all threads; never used twice.
    pub pool: u64,
    /// Set once it is in use no more: its connections serve no further request. Shared by all of this pool.
    pub gone: Arc<AtomicBool>,
    /// Hash of the address: the same in every gateway.
    pub seed: u64,
    /// Shared by all states of the upstream, past and to come.
    pub state: Arc<EndpointState>,
}

impl Endpoint {
    pub fn new(at: Address, pool: u64, state: Arc<EndpointState>) -> Self {
        let seed = maglev::hash(at.address.to_string().as_bytes());
        Self { at, pool, gone: Arc::default(), seed, state }
    }

    /// The same endpoint, of which its source tells something else now: its connections serve on.
    #[must_use]
    pub fn told(&self, at: Address) -> Self {
        let (gone, state) = (Arc::clone(&self.gone), Arc::clone(&self.state));
        Self { at, pool: self.pool, gone, seed: self.seed, state }
    }

    pub fn address(&self) -> SocketAddr {
        self.at.address
    }
}

/// One exchange or connection that is under way with an endpoint, until it is dropped.
#[derive(Debug)]
pub struct Outstanding(Arc<EndpointState>);

impl Outstanding {
    pub fn new(state: &Arc<EndpointState>) -> Self {
        state.outstanding.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is known about one address, whatever names and documents led to it.
#[derive(Debug)]
pub struct EndpointState {
    pub address: SocketAddr,
    pub latency: PeakEwma,
    pub circuit: Circuit,
    /// Set while checks say that it is unfit.
    unfit: AtomicBool,
    /// Exchanges and connections under way: see [`Outstanding`].
    outstanding: AtomicU32,
    /// Since when it is in use (again), in nanoseconds; 0 where it was from the beginning.
    since: AtomicU64,
    /// Since when it is not in use, in nanoseconds; 0 while it is.
    unused: AtomicU64,
}

impl EndpointState {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            latency: PeakEwma::default(),
            circuit: Circuit::default(),
            unfit: AtomicBool::new(false),
            outstanding: AtomicU32::new(0),
            since: AtomicU64::new(0),
            unused: AtomicU64::new(0),
        }
    }

    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// True while checks say that it is unfit.
    pub fn unfit(&self) -> bool {
        self.unfit.load(Ordering::Relaxed)
    }

    /// True where that is news.
    pub fn set_unfit(&self, unfit: bool) -> bool {
        self.unfit.swap(unfit, Ordering::Relaxed) != unfit
    }

    /// Whether it is in use now; since when it is not.
    pub fn unused(&self, unused: bool, now: Duration) -> Option<Duration> {
        if !unused {
            self.unused.store(0, Ordering::Relaxed);
            return None;
        }
        let now = nanos(now).max(1);
        let since = self.unused.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        Some(Duration::from_nanos(since.map_or_else(|since| since, |_| now)))
    }

    pub fn is_unused(&self) -> bool {
        self.unused.load(Ordering::Relaxed) != 0
    }

    /// It is in use from now on: its share begins small where starts are slow.
    pub fn starts(&self, now: Duration) {
        self.since.store(nanos(now).max(1), Ordering::Relaxed);
    }

    /// The part of its share that it has come to, of 256; all of it once the window is over.
    pub fn ramp(&self, window: Duration, now: Duration) -> u64 {
        let (since, window) = (self.since.load(Ordering::Relaxed), nanos(window));
        let past = nanos(now).saturating_sub(since);
        if since == 0 || past >= window {
            return 256;
        }
        // A tenth at least, so that it learns at all.
        (past.saturating_mul(256) / window.max(1)).max(26)
    }
}

//! A live upstream: its endpoints now, its TLS, its place in the pools.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use ahash::RandomState;
use arc_swap::{ArcSwap, Guard};
use foregate_filters::org_quota::pool::Pool;
use foregate_policy::snapshot::{Protocol, Shown, Upstream};

use crate::admission::Admission;
use crate::discovery::Sources;
use crate::dispatch::circuit::Outcome;
use crate::dispatch::endpoint::{Address, Endpoint, EndpointState};
use crate::dispatch::pool;
use crate::dispatch::roster::Roster;
use crate::dispatch::table::{Draw, MAX_ENDPOINTS, Members, Table};
use crate::dispatch::tls::UpstreamTrust;
use crate::oauth::credential::Credential;
use crate::telemetry::random;

/// What lives on from snapshot to snapshot while the `Upstream` document stays the same.
#[derive(Debug)]
pub struct UpstreamState {
    pub spec: Arc<Upstream>,
    /// Set where connections are TLS.
    pub tls: Option<UpstreamTrust>,
    /// Set once another state has taken its place: its connections serve no further request.
    pub retired: Arc<AtomicBool>,
    /// What it is shown; nothing where the document says nothing.
    pub credential: Option<Arc<Credential>>,
    /// What stands between requests and it.
    pub admission: Arc<Admission>,
    /// Set where an org behind it counts its calls.
    pub org: Option<Arc<Pool>>,
    /// What is known about its endpoints; that of all states of this name.
    pub roster: Arc<Roster>,
    /// Where its endpoints come from.
    pub sources: Arc<Sources>,
    /// The endpoints that redirected connections meant, of an upstream that is wherever that is.
    meant: ArcSwap<HashMap<SocketAddr, Arc<Endpoint>, RandomState>>,
    /// The only endpoint that there can be: there is nothing to choose.
    sole: Option<Arc<Endpoint>>,
    table: ArcSwap<Table>,
    /// Held while the table is made anew.
    renewing: Mutex<()>,
    /// Where this gateway stands.
    zone: Option<Arc<str>>,
    turn: AtomicUsize,
    /// The version of the sources that the table has.
    heard: AtomicU64,
}

/// What a request wants of the choice.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// Equal keys go to the same endpoint.
    pub key: Option<u64>,
    /// It may be repeated, so that it can try what failed before.
    pub safe: bool,
    /// Pools of endpoints that it tried.
    pub tried: &'a [u64],
    /// Monotonic.
    pub now: Duration,
}

/// An endpoint, and why.
#[derive(Debug)]
pub struct Picked {
    pub endpoint: Arc<Endpoint>,
    /// It is tried again after an ejection.
    pub trial: bool,
}

/// Destinations of redirected connections whose endpoints are remembered; those that come then begin anew.
const MAX_MEANT: usize = 256;

/// Counts shelves in pools, so that each has a number of its own.
static NEXT_POOL: AtomicU64 = AtomicU64::new(0);

/// Counts changes of endpoints, of all upstreams.
static MOVES: AtomicU64 = AtomicU64::new(0);

/// A number that grows whenever an upstream has other endpoints.
pub fn moves() -> u64 {
    MOVES.load(Ordering::Acquire)
}

impl UpstreamState {
    /// Endpoints that are IP addresses can be used at once; names wait for their first resolution.
    pub fn new(
        spec: Arc<Upstream>,
        tls: Option<UpstreamTrust>,
        roster: Arc<Roster>,
        zone: Option<Arc<str>>,
    ) -> Self {
        let sources = Arc::new(Sources::new(&spec));
        Self::with(spec, tls, roster, zone, sources)
    }

    fn with(
        spec: Arc<Upstream>,
        tls: Option<UpstreamTrust>,
        roster: Arc<Roster>,
        zone: Option<Arc<str>>,
        sources: Arc<Sources>,
    ) -> Self {
        let mut state = Self {
            admission: Arc::new(Admission::new(spec.concurrency)),
            spec,
            tls,
            retired: Arc::default(),
            credential: None,
            org: None,
            roster,
            meant: ArcSwap::default(),
            sole: None,
            table: ArcSwap::default(),
            renewing: Mutex::default(),
            zone,
            turn: AtomicUsize::new(0),
            heard: AtomicU64::new(u64::MAX),
            sources,
        };
        state.catch_up(Duration::ZERO);
        if state.sources.are_fixed() {
            state.sole = state.only().filter(|_| state.len() == 1);
        }
        state
    }

    /// The same upstream with other TLS: its connections are of a pool of their own.
    #[must_use]
    pub fn renewed(&self, tls: UpstreamTrust) -> Self {
        let (roster, sources) = (Arc::clone(&self.roster), Arc::clone(&self.sources));
        let mut renewed = Self::with(Arc::clone(&self.spec), Some(tls), roster, self.zone.clone(), sources);
        renewed.credential.clone_from(&self.credential);
        renewed.org.clone_from(&self.org);
        renewed.admission = Arc::clone(&self.admission);
        renewed
    }

    /// True where we show the identity of this workload.
    pub fn uses_identity(&self) -> bool {
        self.spec.tls.as_ref().is_some_and(|tls| matches!(tls.shown, Shown::Workload { .. }))
    }

    pub fn is_http2(&self) -> bool {
        self.spec.protocol == Protocol::Http2
    }

    /// The table as it is, with what is known about fitness now.
    pub fn table(&self) -> Guard<Arc<Table>> {
        let table = self.table.load();
        if table.changes == self.roster.changes() {
            return table;
        }
        self.refresh();
        self.table.load()
    }

    /// Endpoints known now.
    pub fn len(&self) -> usize {
        self.table.load().members.endpoints.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True where there is more than one endpoint to choose from.
    pub fn is_balanced(&self) -> bool {
        self.sole.is_none() && self.len() > 1
    }

    /// The first endpoint: the only one where it is not balanced.
    pub fn only(&self) -> Option<Arc<Endpoint>> {
        match &self.sole {
            Some(sole) => Some(Arc::clone(sole)),
            None => self.table.load().members.endpoints.first().cloned(),
        }
    }

    /// Where a redirected connection goes on to that meant `destination`; `None` where it was not redirected, or the
    /// upstream has endpoints of its own.
    pub fn meant(&self, destination: Option<SocketAddr>) -> Option<Arc<Endpoint>> {
        let address = self.spec.captured?.address(destination?);
        if let Some(known) = self.meant.load().get(&address) {
            return Some(Arc::clone(known));
        }
        let host = address.ip().to_string().into();
        let at = Address { host, address, weight: 1, zone: None, priority: 0 };
        let state = Arc::new(EndpointState::new(address));
        let new = Arc::new(Endpoint::new(at, NEXT_POOL.fetch_add(1, Ordering::Relaxed), state));
        let before = self.meant.rcu(|known| {
            let mut known = if known.len() < MAX_MEANT { HashMap::clone(known) } else { HashMap::default() };
            known.entry(address).or_insert_with(|| Arc::clone(&new));
            known
        });
        if before.len() >= MAX_MEANT {
            pool::leave(&before.values().cloned().collect::<Vec<_>>());
        }
        Some(self.meant.load().get(&address).map_or(new, Arc::clone))
    }

    /// The addresses by which redirected connections mean the upstream as it is now.
    pub fn meant_by(&self) -> Vec<SocketAddr> {
        self.spec.virtual_addresses.iter().copied().chain(self.addresses()).collect()
    }

    /// Makes the table anew; one thread does it for all, and the others go on with the old one meanwhile.
    fn refresh(&self) {
        let _renewing = match self.renewing.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let changes = self.roster.changes();
        let members = Arc::clone(&self.table.load().members);
        self.table.store(Arc::new(Table::new(members, &self.spec.balancing, changes)));
    }

    /// Takes over what the sources found since the last time.
    pub fn catch_up(&self, now: Duration) {
        let version = self.sources.version();
        if self.heard.swap(version, Ordering::AcqRel) != version {
            self.resolved(self.sources.known(), now);
        }
    }

    /// Takes over what the sources found. What was in use stays in its pool, with all that is known about it; what
    /// is new starts slowly where starts are slow, but not where all is new.
    pub fn resolved(&self, mut found: Vec<Address>, now: Duration) {
        let _renewing = self.renewing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = Arc::clone(&self.table.load().members);
        found.truncate(MAX_ENDPOINTS);
        if found.iter().eq(before.endpoints.iter().map(|endpoint| &endpoint.at)) {
            return;
        }
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::with_capacity(found.len());
        for at in found {
            let twin =
                |endpoint: &&Arc<Endpoint>| endpoint.at.address == at.address && endpoint.at.host == at.host;
            if endpoints.iter().any(|endpoint| twin(&endpoint)) {
                continue;
            }
            let known = before.endpoints.iter().find(twin);
            let (state, new) = self.roster.state(at.address);
            if new && !before.endpoints.is_empty() {
                state.starts(now);
            }
            let endpoint = match known {
                Some(known) => known.told(at),
                None => Endpoint::new(at, NEXT_POOL.fetch_add(1, Ordering::Relaxed), state),
            };
            endpoints.push(Arc::new(endpoint));
        }
        let stays =
            |one: &&Arc<Endpoint>| endpoints.iter().any(|endpoint| Arc::ptr_eq(&endpoint.gone, &one.gone));
        let left: Vec<_> = before.endpoints.iter().filter(|one| !stays(one)).cloned().collect();
        self.roster.moved(self, &endpoints);
        let how = &self.spec.balancing;
        let members = Arc::new(Members::new(endpoints, how, self.zone.as_deref()));
        self.table.store(Arc::new(Table::new(members, how, self.roster.changes())));
        MOVES.fetch_add(1, Ordering::Release);
        pool::leave(&left);
    }

    /// Chooses an endpoint. Takes no lock and no memory, except to look at an open circuit, and once after an
    /// endpoint became fit or unfit.
    pub fn pick(&self, want: &Want<'_>) -> Option<Picked> {
        let table = self.table();
        let endpoints = &table.members.endpoints;
        if let [only] = &**endpoints {
            return Some(Picked { endpoint: Arc::clone(only), trial: false });
        }
        let how = &self.spec.balancing;
        if table.is_due(want.now, want.safe)
            && want.tried.is_empty()
            && let Some(endpoint) = table.trial(how, want.safe, want.key, want.now)
        {
            return Some(Picked { endpoint: Arc::clone(endpoint), trial: true });
        }
        let draw = Draw { random: random::next(), key: want.key, tried: want.tried, now: want.now };
        let endpoint = table.pick(how, &self.turn, &draw)?;
        Some(Picked { endpoint: Arc::clone(endpoint), trial: false })
    }

    /// Takes note of what an exchange says about its endpoint; `took` is the time to the response head.
    pub fn judge(&self, endpoint: &Endpoint, outcome: Outcome, took: Duration, now: Duration) {
        let state = &endpoint.state;
        let sample = match outcome {
            Outcome::Good => took,
            // Errors come fast: they must not look like a fast endpoint.
            Outcome::Error | Outcome::Failure | Outcome::Rest(_) => {
                let known = state.latency.estimate(now).max(0.0);
                took.max(Duration::from_secs_f32(known * 2e-9))
            }
        };
        state.latency.observe(sample, now);
        if outcome == Outcome::Good && !state.circuit.troubled() {
            return;
        }
        let members = Arc::clone(&self.table.load().members);
        self.roster.note(state, outcome, (&self.spec.balancing, &members.endpoints), now);
    }

    /// Unused connections kept per thread and endpoint.
    pub fn idle_each(&self) -> usize {
        let all = self.spec.max_idle_per_thread;
        if self.sole.is_some() { all } else { all.div_ceil(self.len().max(1)) }
    }

    /// Every address that is known now.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.table.load().members.endpoints.iter().map(|endpoint| endpoint.address()).collect()
    }
}

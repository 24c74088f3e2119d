//! What is known about the addresses of one upstream, across documents and resolutions.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use foregate_policy::balancing::Balancing;
use log::Level;

use crate::clock;
use crate::dispatch::budget::RetryBudget;
use crate::dispatch::circuit::{Outcome, Rules, Turn};
use crate::dispatch::endpoint::{Endpoint, EndpointState};
use crate::dispatch::tally::ConnectionTally;
use crate::dispatch::upstream::UpstreamState;
use crate::telemetry::Telemetry;
use crate::telemetry::event::event;
use crate::telemetry::random;
use crate::telemetry::sources::Kind;

/// How long an address that is not in use any more is remembered: it may come back.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Numbers of one upstream since the process began.
#[derive(Debug, Default)]
pub struct Tallies {
    pub ejections: AtomicU64,
    pub retries: AtomicU64,
    /// Retries for which the budget was used up.
    pub refused: AtomicU64,
}

/// One of the numbers.
type ReadTally = fn(&Tallies) -> &AtomicU64;

/// The memory of one upstream, by its name.
#[derive(Debug)]
pub struct Roster {
    pub name: Arc<str>,
    pub budget: RetryBudget,
    pub tallies: Tallies,
    pub connections: Arc<ConnectionTally>,
    telemetry: Option<Weak<Telemetry>>,
    states: Mutex<HashMap<SocketAddr, Arc<EndpointState>>>,
    /// Counts changes of fitness: a table that has seen fewer is made anew.
    changes: AtomicU64,
    /// The state that requests go by.
    in_force: Mutex<Weak<UpstreamState>>,
    /// Held while it is decided who is taken out, so that no more are than may be.
    deciding: Mutex<()>,
}

impl Roster {
    pub fn new(name: Arc<str>, telemetry: Option<&Arc<Telemetry>>) -> Arc<Self> {
        let roster = Arc::new(Self {
            name,
            budget: RetryBudget::default(),
            tallies: Tallies::default(),
            connections: Arc::default(),
            telemetry: telemetry.map(Arc::downgrade),
            states: Mutex::default(),
            changes: AtomicU64::new(0),
            in_force: Mutex::default(),
            deciding: Mutex::default(),
        });
        if let Some(telemetry) = telemetry {
            measure(&roster, telemetry);
        }
        roster
    }

    fn states(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<EndpointState>>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known about an address; nothing yet where it is new. True where it is.
    pub fn state(&self, address: SocketAddr) -> (Arc<EndpointState>, bool) {
        let mut states = self.states();
        if let Some(known) = states.get(&address) {
            return (Arc::clone(known), false);
        }
        let state = Arc::new(EndpointState::new(address));
        states.insert(address, Arc::clone(&state));
        drop(states);
        if let Some(telemetry) = self.telemetry.as_ref().and_then(Weak::upgrade) {
            measure_endpoint(&self.name, &state, &telemetry);
        }
        (state, true)
    }

    /// Requests go by this state from now on.
    pub fn show(&self, upstream: &Arc<UpstreamState>) {
        *self.in_force() = Arc::downgrade(upstream);
        let table = upstream.table();
        self.forget(&table.members.endpoints);
        if upstream.spec.balancing.check.is_none() {
            // Nobody would ever say otherwise.
            for endpoint in table.members.endpoints.iter().filter(|endpoint| endpoint.state.unfit()) {
                self.checked(&endpoint.state, true, "", clock::monotonic());
            }
        }
    }

    /// True where requests go by this state.
    pub fn shows(&self, upstream: &Arc<UpstreamState>) -> bool {
        std::ptr::eq(self.in_force().as_ptr(), Arc::as_ptr(upstream))
    }

    /// The same state has other endpoints now.
    pub fn moved(&self, upstream: &UpstreamState, endpoints: &[Arc<Endpoint>]) {
        if std::ptr::eq(self.in_force().as_ptr(), upstream) {
            self.forget(endpoints);
        }
    }

    fn in_force(&self) -> MutexGuard<'_, Weak<UpstreamState>> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of what has not been in use for long.
    fn forget(&self, used: &[Arc<Endpoint>]) {
        let used: HashSet<SocketAddr> = used.iter().map(|endpoint| endpoint.address()).collect();
        let now = clock::monotonic();
        self.states().retain(|address, state| {
            let gone = state.unused(!used.contains(address), now);
            gone.is_none_or(|since| now.saturating_sub(since) <= REMEMBERED)
        });
    }

    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Tables are made anew.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Takes note of what an exchange says about its endpoint.
    pub fn note(
        &self,
        state: &EndpointState,
        outcome: Outcome,
        (how, among): (&Balancing, &[Arc<Endpoint>]),
        now: Duration,
    ) {
        let turn = {
            let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
            let out = among.iter().filter(|other| other.state.unfit() || !other.state.circuit.closed());
            let most = among.len() * usize::from(how.outliers.max_percent) / 100;
            let rules = Rules {
                outliers: how.outliers,
                breaker: how.breaker,
                may_eject: out.count() < most,
                jitter: random::next(),
            };
            state.circuit.note(outcome, &rules, now)
        };
        let Some(turn) = turn else { return };
        let mut fields =
            vec![("upstream", (&*self.name).into()), ("endpoint", state.address.to_string().into())];
        match turn {
            Turn::Opened { cause, lasts } => {
                self.tallies.ejections.fetch_add(1, Ordering::Relaxed);
                fields.push(("cause", cause.name().into()));
                fields.push(("seconds", lasts.as_secs_f64().into()));
                event(Level::Warn, "endpoint ejected", &fields);
            }
            Turn::Closed => {
                state.starts(now);
                event(Level::Info, "endpoint back", &fields);
            }
        }
        self.changed();
    }

    /// Takes note of what checks say about an endpoint.
    pub fn checked(&self, state: &EndpointState, fit: bool, why: &str, now: Duration) {
        if !state.set_unfit(!fit) {
            return;
        }
        let mut fields =
            vec![("upstream", (&*self.name).into()), ("endpoint", state.address.to_string().into())];
        if fit {
            state.starts(now);
            event(Level::Info, "endpoint fit", &fields);
        } else {
            fields.push(("error", why.into()));
            event(Level::Warn, "endpoint unfit", &fields);
        }
        self.changed();
    }

    /// How many are fit, unfit and ejected.
    fn count(&self) -> Option<[usize; 3]> {
        let upstream = self.in_force().upgrade()?;
        let table = upstream.table();
        let states = table.members.endpoints.iter().map(|endpoint| &endpoint.state);
        let unfit = states.clone().filter(|state| state.unfit()).count();
        let ejected = states.filter(|state| !state.unfit() && !state.circuit.closed()).count();
        Some([table.members.endpoints.len() - unfit - ejected, unfit, ejected])
    }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are doubles")]
fn measure(roster: &Arc<Roster>, telemetry: &Telemetry) {
    let name = "foregate_upstream_endpoints";
    let help = "Endpoints in use: fit, found unfit by checks, ejected by what they answered.";
    for (index, state) in ["fit", "unfit", "ejected"].into_iter().enumerate() {
        let labels = [("upstream", &*roster.name), ("state", state)];
        telemetry.sources().register_part(Kind::Gauge, name, help, &labels, roster, move |roster| {
            let count = roster.count().and_then(|count| count.get(index).copied());
            count.map_or(f64::NAN, |count| count as f64)
        });
    }
    roster.connections.measure(&roster.name, telemetry);
    let counters: [(&str, &str, ReadTally); 3] = [
        ("foregate_upstream_ejections_total", "Times that an endpoint was taken out.", |it| &it.ejections),
        ("foregate_upstream_retries_total", "Attempts beyond the first.", |it| &it.retries),
        (
            "foregate_upstream_retries_refused_total",
            "Retries left out because the budget was used up.",
            |it| &it.refused,
        ),
    ];
    for (name, help, read) in counters {
        let labels = [("upstream", &*roster.name)];
        telemetry.sources().register_part(Kind::Counter, name, help, &labels, roster, move |roster| {
            read(&roster.tallies).load(Ordering::Relaxed) as f64
        });
    }
}

fn measure_endpoint(upstream: &str, state: &Arc<EndpointState>, telemetry: &Telemetry) {
    let address = state.address.to_string();
    let labels = [("upstream", upstream), ("endpoint", address.as_str())];
    let help = "1 while requests go to the endpoint, 0 while it is unfit or ejected.";
    telemetry.sources().register_part(Kind::Gauge, "foregate_endpoint_fit", help, &labels, state, |state| {
        let fit = !state.unfit() && state.circuit.closed();
        if state.is_unused() { f64::NAN } else { f64::from(u8::from(fit)) }
    });
}

//! The process: Pingora's server with the gateway, the admin endpoint and the reload as services.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::store::Store;
use log::Level;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, Notify, watch};

use crate::admin::AdminState;
use crate::admission::capacity::Capacity;
use crate::discovery::resolve;
use crate::drain::drain;
use crate::failure::Failure;
use crate::fleet::channel::Channel;
use crate::fleet::follow::{Fleet, NodeOptions};
use crate::fleet::node::node_id;
use crate::gateway::Gateway;
use crate::handover::endpoint::HandoverEndpoint;
use crate::handover::{Handover, HandoverError};
use crate::handshake::tally::Tally;
use crate::idempotency;
use crate::identity::start::begin;
use crate::identity::{Identity, SourceError};
use crate::keys::Fetcher;
use crate::listeners::{Listeners, Socket};
use crate::live::Live;
use crate::open::Publications;
use crate::panics;
use crate::part_metrics;
use crate::policies::{FIRST_RESOLUTION, Policies, tell_leases};
use crate::proxy_protocol;
use crate::quotas::{Quotas, StateOptions};
use crate::reload::Reload;
use crate::run_options::{FleetOptions, RunOptions};
use crate::services::{AdminEndpoint, DataPlane, Pages, PolicyWatch, Shutdown};
use crate::shared::Shared;
use crate::sidecar::{Sidecar, SidecarOptions};
use crate::streams::tally::StreamTally;
use crate::telemetry::Telemetry;
use crate::telemetry::event::{self, event};
use crate::trials::Trials;

/// Time for the last log lines to be written.
const FLUSH: Duration = Duration::from_secs(2);

/// Where the process really listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub admin: Option<SocketAddr>,
    pub probes: Option<SocketAddr>,
    /// By `<gateway>/<listener>`.
    pub listeners: HashMap<Arc<str>, SocketAddr>,
}

/// Why the process did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The policies were refused.
    #[error("policies refused")]
    Refused(Vec<Diagnostic>),
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// A socket could not be opened.
    #[error("{0}")]
    Listen(String),
    /// The workload has no identity to serve with.
    #[error("no identity of this workload: {0}")]
    Identity(#[from] SourceError),
    /// The sockets of the process before could not be had.
    #[error("{0}")]
    Handover(#[from] HandoverError),
    /// The control plane gives policies to workloads that prove who they are.
    #[error("policies from a control plane need --identity")]
    Anonymous,
}

/// A process that is ready to run.
#[derive(Debug)]
pub struct Process {
    options: RunOptions,
    gateway: Arc<Gateway>,
    policies: Arc<Policies>,
    admin: Arc<AdminState>,
    /// Runs what is not the data plane's: fetches of keys, and whatever a caller adds.
    background: Runtime,
    failure: Arc<Failure>,
    bound: watch::Sender<Bound>,
    quotas: Arc<Quotas>,
    fleet: Option<Arc<Fleet>>,
}

impl Process {
    /// Loads the policies and makes all parts; opens no socket yet.
    ///
    /// # Errors
    /// `Refused` with every diagnostic; `Start` where the system lends no threads or log file.
    pub fn new(options: RunOptions) -> Result<Self, RunError> {
        event::install();
        let background = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("background")
            .enable_all()
            .build()?;
        let telemetry = measure(&options)?;
        let fetcher = Fetcher::new(background.handle().clone());
        let withdrawn = fetcher.withdrawn();
        let begin = |origin| begin(origin, &options, &background, &telemetry);
        let workload = options.identity.as_ref().map(begin).transpose()?;
        let channel = workload.as_ref().and_then(|begun| begun.channel.clone());
        let identity = workload.map(|begun| begun.identity);
        let fleet = follow(&options, channel, &telemetry)?;
        let (quotas, trials) = remembered(options.state.as_ref())?;
        quotas.export(&telemetry);
        let shared = Shared::new(Some(fetcher), Some(Arc::clone(&telemetry)));
        let shared = shared
            .with_quotas(Arc::clone(&quotas))
            .with_trials(trials)
            .with_model_threads(options.model_threads);
        let sidecar = options.sidecar.as_ref();
        let sidecar = sidecar.map(|options| connect(options, identity.as_ref(), &background, &telemetry));
        let shared = shared.with_sidecar(sidecar.transpose()?);
        let shared = Arc::new(shared.with_identity(identity).with_zone(options.zone.clone()));
        idempotency::tally::export(&telemetry, &shared.memory);
        let mut source = options.source.clone();
        if let Some(fleet) = &fleet {
            source.folder = fleet.folder();
            source.options.part = true;
        }
        let policies = Arc::new(Policies::new(source, shared, Arc::clone(&telemetry)));
        let live = first_policies(&policies, fleet.as_deref())?;
        // Better a start that is late by a moment than first requests that find no endpoint.
        background.block_on(async {
            let _ = tokio::time::timeout(FIRST_RESOLUTION, resolve(&live.upstreams)).await;
        });
        let admin = admin_state(&telemetry, &policies, fleet.as_ref());
        tell_leases(&live);
        tell_warnings(&live);
        part_metrics::admissions(&telemetry, &live.upstreams);
        part_metrics::certificates(&telemetry, &live);
        let gateway = Arc::new(Gateway {
            live: Store::new(live),
            tally: Tally::new(Arc::clone(&telemetry)),
            published: watch::channel(()).0,
            publications: Publications::default(),
            capacity: Capacity::new(options.capacity, &telemetry),
            streams: StreamTally::new(Arc::clone(&telemetry)),
            telemetry,
            deadlines: options.deadlines,
        });
        background.spawn(tell_withdrawn(withdrawn, Arc::clone(&gateway)));
        let _ = admin.gateway.set(Arc::clone(&gateway));
        let (bound, _) = watch::channel(Bound::default());
        Ok(Self {
            options,
            gateway,
            policies,
            admin,
            background,
            failure: Arc::default(),
            bound,
            quotas,
            fleet,
        })
    }

    fn reload(&self, sockets: watch::Sender<Vec<Socket>>, watching: watch::Sender<bool>) -> Reload {
        Reload {
            gateway: Arc::clone(&self.gateway),
            policies: Arc::clone(&self.policies),
            admin: Arc::clone(&self.admin),
            sockets,
            watching,
            look: Arc::default(),
            fleet: self.fleet.clone(),
            turn: Mutex::default(),
            own: Arc::new(self.options.own_files()),
        }
    }

    /// The runtime for work beside the data plane.
    pub fn background(&self) -> &Runtime {
        &self.background
    }

    /// Tells where the process listens, once it does.
    pub fn bound(&self) -> watch::Receiver<Bound> {
        self.bound.subscribe()
    }

    /// The admin endpoint, and that for other machines where there is one.
    fn endpoints(&self, handover: &Arc<Handover>) -> Vec<AdminEndpoint> {
        let probes = self.options.probes.map(|address| (Pages::Health, address));
        let all = std::iter::once((Pages::All, self.options.admin)).chain(probes);
        let endpoint = |(pages, address)| AdminEndpoint {
            pages,
            applications: Arc::clone(&self.options.applications),
            address,
            admin: Arc::clone(&self.admin),
            handover: Arc::clone(handover),
            failure: Arc::clone(&self.failure),
            bound: self.bound.clone(),
        };
        all.map(endpoint).collect()
    }

    /// Runs until SIGTERM, SIGINT, a failure, or until another process has taken over. Drains first, but for
    /// SIGINT and failures.
    ///
    /// # Errors
    /// `Listen` where a socket could not be opened, `Handover` where those of the process before were not given.
    pub fn run(self) -> Result<(), RunError> {
        let handover = Arc::new(Handover::begin(self.options.handover.clone())?);
        let state = self.options.state.as_ref();
        let writer = state.map(|state| self.quotas.start(state.interval)).transpose()?.flatten();
        let (start, drain) = drain(self.options.notice);
        let drain = drain.within(self.options.drain);
        let sockets = self.policies.sockets(&self.gateway.live.pin().snapshot);
        let (sockets, wanted) = watch::channel(sockets);
        let (watching, watched) = watch::channel(false);
        let mut server = Server::new_with_opt_and_conf(None, conf(self.options.threads));
        server.bootstrap();
        let (gate, opened) = watch::channel(!handover.is_taking_over());
        let listeners = Listeners::new(
            Arc::clone(&self.gateway),
            drain.clone(),
            self.options.connections.clone(),
            Arc::clone(&handover),
            opened,
        );
        server.add_service(HandoverEndpoint {
            handover: Arc::clone(&handover),
            failure: Arc::clone(&self.failure),
        });
        server.add_service(DataPlane {
            listeners: Some(listeners),
            handover: Arc::clone(&handover),
            gate,
            wanted,
            watched,
            drain: drain.clone(),
            failure: Arc::clone(&self.failure),
            admin: Arc::clone(&self.admin),
            bound: self.bound.clone(),
            fleet: self.fleet.clone(),
        });
        for endpoint in self.endpoints(&handover) {
            server.add_service(endpoint);
        }
        server.add_service(PolicyWatch {
            reload: Arc::new(self.reload(sockets, watching)),
            drain,
            failure: Arc::clone(&self.failure),
        });
        let shutdown = Shutdown {
            start,
            limit: self.options.drain,
            admin: Arc::clone(&self.admin),
            failure: Arc::clone(&self.failure),
            handover: Arc::clone(&handover),
        };
        server.run(RunArgs { shutdown_signal: Box::new(shutdown) });
        handover.close();
        if let Some(writer) = writer {
            writer.close();
        }
        close(&self.background, &self.policies, &self.gateway.telemetry);
        self.background.shutdown_timeout(Duration::from_secs(1));
        match self.failure.take() {
            Some(message) => Err(RunError::Listen(message)),
            None => Ok(()),
        }
    }
}

/// Telemetry, with what is measured from the start on.
fn measure(options: &RunOptions) -> io::Result<Arc<Telemetry>> {
    let telemetry = Telemetry::new(options.telemetry.clone())?;
    panics::export(&telemetry);
    proxy_protocol::export(&telemetry);
    Ok(telemetry)
}

/// What the admin endpoint shows; the gateway comes later.
fn admin_state(
    telemetry: &Arc<Telemetry>,
    policies: &Arc<Policies>,
    fleet: Option<&Arc<Fleet>>,
) -> Arc<AdminState> {
    let admin = Arc::new(AdminState::new(Arc::clone(telemetry)));
    if let Some(identity) = policies.identity() {
        let _ = admin.identity.set(Arc::clone(identity));
    }
    let _ = admin.stores.set(Arc::clone(policies.stores()));
    let _ = admin.policies.set(Arc::clone(policies));
    if let Some(fleet) = fleet {
        let _ = admin.fleet.set(Arc::clone(fleet));
    }
    admin
}

fn tell_warnings(live: &Live) {
    for warning in &live.snapshot.warnings {
        let fields = [("diagnostic", crate::policies::one_line(warning).into())];
        event(Level::Warn, "policy warning", &fields);
    }
}

/// Open connections look at what they rest on when keys are withdrawn.
async fn tell_withdrawn(withdrawn: Arc<Notify>, gateway: Arc<Gateway>) {
    loop {
        withdrawn.notified().await;
        gateway.publications.tell();
    }
}

/// Opens what is kept of the policies of the fleet.
fn follow(
    options: &RunOptions,
    channel: Option<Arc<Channel>>,
    telemetry: &Telemetry,
) -> Result<Option<Arc<Fleet>>, RunError> {
    let Some(FleetOptions { node, state }) = options.fleet.clone() else { return Ok(None) };
    let channel = channel.ok_or(RunError::Anonymous)?;
    let mut node = NodeOptions { zone: options.zone.clone(), ..node };
    if node.id.is_empty() {
        node.id = node_id(&state)?;
    }
    let fleet = Arc::new(Fleet::open(state.join("policies"), channel, node)?);
    fleet.standing.measure(telemetry);
    Ok(Some(fleet))
}

/// Policies to begin with. Those of the fleet may come later, and those that are kept may be of the past.
fn first_policies(policies: &Policies, fleet: Option<&Fleet>) -> Result<Live, RunError> {
    let Some(fleet) = fleet else { return policies.load().map_err(RunError::Refused) };
    if !fleet.is_empty() {
        match policies.load() {
            Ok(live) => {
                return Ok(match fleet.refuses() {
                    Some(why) => live.withheld(&why),
                    None => live,
                });
            }
            Err(diagnostics) => {
                fleet.forget();
                let lines: Vec<String> = diagnostics.iter().map(crate::policies::one_line).collect();
                event(Level::Error, "kept policies refused", &[("diagnostics", lines.into())]);
            }
        }
    }
    policies.empty().map_err(RunError::Refused)
}

/// Tells others what they should still know.
fn close(background: &Runtime, policies: &Policies, telemetry: &Telemetry) {
    background.block_on(policies.stores().close());
    telemetry.close(FLUSH);
}

fn conf(threads: usize) -> ServerConf {
    ServerConf {
        threads,
        work_stealing: false,
        // The drain is over when the signal is handed on: nothing is left to wait for.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

/// What the state folder remembers; nothing without one.
fn remembered(state: Option<&StateOptions>) -> io::Result<(Arc<Quotas>, Trials)> {
    let Some(StateOptions { folder, .. }) = state else { return Ok(Default::default()) };
    Ok((Arc::new(Quotas::open(folder)?), Trials::open(folder)?))
}

/// Begins to keep up the connection to the sidecar; waits for the first attempt, and does without where that fails.
fn connect(
    options: &SidecarOptions,
    identity: Option<&Arc<Identity>>,
    background: &Runtime,
    telemetry: &Telemetry,
) -> io::Result<Arc<Sidecar>> {
    let sidecar = Sidecar::start(options.clone(), identity)?;
    part_metrics::sidecar(telemetry, &sidecar);
    background.block_on(sidecar.tried());
    Ok(sidecar)
}

//! Policies in force: loaded at start, loaded again when files change or SIGHUP comes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::addresses::Networks;
use foregate_filters::fault::Code;
use foregate_policy::compile::{Options, compile};
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::load::{Sources, load_folder};
use foregate_policy::snapshot::{Listener, Snapshot, Speaks};
use log::Level;
use tokio::time::timeout;

use crate::admin::{AdminState, ConfigStatus, ReloadFailure};
use crate::capture::Index;
use crate::clock;
use crate::connection::Entry;
use crate::discovery::resolve;
use crate::dispatch::upstream::UpstreamState;
use crate::dispatch::{self, pool};
use crate::gateway::Gateway;
use crate::identity::Identity;
use crate::identity::set::Set;
use crate::listeners::Socket;
use crate::live::Live;
use crate::owned::Owned;
use crate::part_metrics;
use crate::shared::Shared;
use crate::shared::models::LoadedModel;
use crate::store::kept::Stores;
use crate::telemetry::Telemetry;
use crate::telemetry::event::event;
use crate::tls::PortTls;

/// How long a publication waits for names that have no address yet.
pub const FIRST_RESOLUTION: Duration = Duration::from_secs(2);

/// Where policies come from and what the command line changes about them.
#[derive(Clone, Debug)]
pub struct PolicySource {
    pub folder: PathBuf,
    pub options: Options,
    /// Listeners, by `<gateway>/<listener>`, that listen elsewhere than the policy says.
    pub bind: HashMap<String, SocketAddr>,
}

/// Loads and compiles policies, and adds what the process knows.
#[derive(Debug)]
pub struct Policies {
    pub source: PolicySource,
    shared: Arc<Shared>,
    telemetry: Arc<Telemetry>,
}

impl Policies {
    pub fn new(source: PolicySource, shared: Arc<Shared>, telemetry: Arc<Telemetry>) -> Self {
        Self { source, shared, telemetry }
    }

    /// Loads everything anew. Nothing changes until the result is published.
    ///
    /// # Errors
    /// Every fault of every file.
    pub fn load(&self) -> Result<Live, Vec<Diagnostic>> {
        self.shared.begin();
        let sources = load_folder(&self.source.folder)?;
        self.compiled(&sources)
    }

    /// What is in force before any policies have come: nothing is listened for.
    ///
    /// # Errors
    /// None are known.
    pub fn empty(&self) -> Result<Live, Vec<Diagnostic>> {
        self.shared.begin();
        self.compiled(&Sources::default())
    }

    fn compiled(&self, sources: &Sources) -> Result<Live, Vec<Diagnostic>> {
        let snapshot = compile(sources, &*self.shared, self.source.options)?;
        let upstreams = snapshot.upstreams.iter().map(|spec| {
            let file = spec.tls.as_ref().and_then(|tls| tls.ca_files.first().cloned()).unwrap_or_default();
            self.shared
                .upstream(spec)
                .map_err(|error| Box::new(Diagnostic::file(&file, Code::FILE, error.to_string())))
        });
        let (upstreams, mut faults) = partition(upstreams);
        let identity = self.identity().and_then(|identity| identity.current());
        let tls = port_tls(&snapshot.listeners, identity.as_deref()).unwrap_or_else(|fault| {
            faults.push(fault);
            HashMap::new()
        });
        if !faults.is_empty() {
            return Err(faults.into_iter().map(|fault| *fault).collect());
        }
        let metrics = snapshot.routes.all().iter().map(|route| self.telemetry.route(&route.name)).collect();
        let owned = snapshot.routes.all().iter().flat_map(|route| route.chain.owns().collect::<Vec<_>>());
        let shown = upstreams.iter().filter_map(|upstream| upstream.credential.as_ref());
        let credentials = shown.map(|credential| credential.header.clone());
        let owned = Arc::new(Owned::new(owned).with_credentials(credentials));
        let snapshot = Arc::new(snapshot);
        let unrouted = self.telemetry.route("");
        let number = Live::next_number();
        let meant = Index::default();
        Ok(Live { number, owned, metrics, unrouted, upstreams, meant, tls, snapshot, withheld: None })
    }

    /// The identity of this workload, where it has one.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.shared.identity()
    }

    /// What is in force, with the identity as it is now: nothing is read from files, so that a fault in them
    /// holds up no rotation. `None` where nothing in force has to do with the identity.
    pub fn renewed(&self, live: &Live) -> Option<Live> {
        let set = self.identity()?.current()?;
        let uses = live.tls.values().any(|tls| tls.uses_identity())
            || live.upstreams.iter().any(|upstream| upstream.uses_identity());
        if !uses {
            return None;
        }
        let tls = live.tls.iter().map(|(port, tls)| (*port, port_renewed(tls, &set)));
        let upstreams = live.upstreams.iter().map(|upstream| self.upstream_renewed(upstream, &set));
        Some(Live {
            number: Live::next_number(),
            snapshot: Arc::clone(&live.snapshot),
            metrics: live.metrics.clone(),
            unrouted: Arc::clone(&live.unrouted),
            owned: Arc::clone(&live.owned),
            tls: tls.collect(),
            upstreams: upstreams.collect(),
            meant: Index::default(),
            withheld: live.withheld.clone(),
        })
    }

    fn upstream_renewed(&self, upstream: &Arc<UpstreamState>, set: &Set) -> Arc<UpstreamState> {
        let tls = upstream.spec.tls.as_ref().filter(|_| upstream.uses_identity());
        let Some(tls) = tls else { return Arc::clone(upstream) };
        match dispatch::tls::config(tls, upstream.spec.protocol, Some(set)) {
            Ok(tls) => {
                let renewed = Arc::new(upstream.renewed(tls));
                self.shared.renewed(upstream, &renewed);
                renewed
            }
            Err(error) => {
                let fields =
                    [("upstream", upstream.spec.name.as_ref().into()), ("error", error.to_string().into())];
                event(Level::Error, "upstream not renewed", &fields);
                Arc::clone(upstream)
            }
        }
    }

    /// The sockets that a snapshot asks for.
    pub fn sockets(&self, snapshot: &Snapshot) -> Vec<Socket> {
        let mut sockets: Vec<Socket> = Vec::new();
        let tells = snapshot.upstreams.iter().any(|upstream| upstream.proxy_protocol.is_some());
        for listener in &snapshot.listeners {
            let name = format!("{}/{}", listener.gateway, listener.name);
            let asked = SocketAddr::new(listener.address, listener.port);
            let address = self.source.bind.get(&name).copied().unwrap_or(asked);
            if sockets.iter().any(|socket| socket.address == address && socket.entry.port == listener.port) {
                continue;
            }
            let by_name = shared_by_name(&snapshot.listeners, listener.port);
            let entry = Entry {
                port: listener.port,
                tls: by_name || listener.tls.is_some(),
                by_name,
                listener: name.into(),
                speaks: listener.speaks,
                proxies: listener.proxies.as_ref().map(|from| Arc::new(Networks::new(from))),
                tells,
                capture: listener.capture.clone(),
                captured: None,
            };
            sockets.push(Socket { address, entry });
        }
        sockets
    }

    /// Lets go of what the published snapshot does not use.
    pub fn commit(&self) {
        self.shared.commit();
    }

    /// The models that are kept for what is in force.
    pub fn models(&self) -> Vec<LoadedModel> {
        self.shared.models()
    }

    /// The stores that are shared with other processes.
    pub fn stores(&self) -> &Arc<Stores> {
        self.shared.stores()
    }

    /// The files that keys are read from; they may lie anywhere.
    pub fn key_files(&self) -> Vec<PathBuf> {
        self.shared.key_files()
    }

    /// Reads files of keys anew.
    pub fn reload_keys(&self) -> Vec<String> {
        self.shared.reload_keys()
    }
}

fn partition<T, E>(all: impl Iterator<Item = Result<T, E>>) -> (Vec<T>, Vec<E>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for one in all {
        match one {
            Ok(one) => good.push(one),
            Err(one) => bad.push(one),
        }
    }
    (good, bad)
}

fn port_renewed(tls: &Arc<PortTls>, set: &Set) -> Arc<PortTls> {
    if !tls.uses_identity() {
        return Arc::clone(tls);
    }
    tls.renewed(set).map_or_else(
        |error| {
            event(Level::Error, "listener not renewed", &[("error", error.to_string().into())]);
            Arc::clone(tls)
        },
        Arc::new,
    )
}

/// True where some listeners of a port read requests inside TLS, and others pass connections on.
fn shared_by_name(listeners: &[Listener], port: u16) -> bool {
    let mut here = listeners.iter().filter(|one| one.port == port);
    let requests = |one: &Listener| one.tls.is_some() && one.speaks == Speaks::Http;
    here.clone().any(requests) && here.any(|one| one.speaks.is_tls())
}

fn port_tls(
    listeners: &[Listener],
    identity: Option<&Set>,
) -> Result<HashMap<u16, Arc<PortTls>>, Box<Diagnostic>> {
    let speaks_tls = |one: &&Listener| one.tls.is_some() || one.speaks.is_tls();
    let ports: HashSet<u16> = listeners.iter().filter(speaks_tls).map(|one| one.port).collect();
    ports
        .into_iter()
        .map(|port| {
            let tls = PortTls::new(listeners.iter().filter(|listener| listener.port == port), identity);
            tls.map(|tls| (port, Arc::new(tls)))
                .map_err(|error| Box::new(Diagnostic::file(Path::new(""), Code::FILE, error.to_string())))
        })
        .collect()
}

/// Publishes what was loaded: from its return on, every new request obeys it.
pub async fn publish(live: Live, gateway: &Gateway, policies: &Policies, admin: &AdminState) {
    let new: Vec<_> = live.upstreams.iter().filter(|upstream| upstream.is_empty()).cloned().collect();
    // Requests to a name that nobody could resolve yet are refused: better late by a moment than so.
    let _ = timeout(FIRST_RESOLUTION, resolve(&new)).await;
    let live = live.with_sessions_of(&gateway.live.pin());
    let status = status(&live);
    let revision = status.revision.clone();
    replace(gateway, live);
    policies.commit();
    gateway.publications.tell();
    tell_leases(&gateway.live.pin());
    gateway.telemetry.metrics().reload_succeeded(&revision, clock::now().unix);
    admin.config.store(Arc::new(status));
}

/// Puts what was made in force: upstreams that are gone from it let go of their connections, and open
/// connections look whether they still may be.
pub fn replace(gateway: &Gateway, live: Live) {
    let before = gateway.live.pin();
    let kept = |one: &Arc<UpstreamState>| live.upstreams.iter().any(|other| Arc::ptr_eq(one, other));
    let gone: Vec<_> = before.upstreams.iter().filter(|one| !kept(one)).cloned().collect();
    part_metrics::admissions(&gateway.telemetry, &live.upstreams);
    part_metrics::certificates(&gateway.telemetry, &live);
    gateway.live.publish(live);
    for upstream in gone {
        pool::retire(&upstream);
    }
    gateway.published.send_replace(());
}

/// Tells what limits that are taken from in advance may let through.
pub fn tell_leases(live: &Live) {
    for bound in &live.snapshot.leases {
        let fields = [("rule", bound.rule.as_ref().into()), ("bound", bound.to_string().into())];
        event(Level::Info, "limit leased", &fields);
    }
}

/// What the admin page tells of a configuration.
pub fn status(live: &Live) -> ConfigStatus {
    ConfigStatus {
        revision: live.snapshot.revision.clone(),
        loaded_at: clock::now().unix,
        routes: live.snapshot.routes.all().len() + live.snapshot.streams.all().len(),
        listeners: live.snapshot.listeners.len(),
        warnings: live.snapshot.warnings.iter().map(one_line).collect(),
        failure: None,
        identity: None,
        fleet: None,
    }
}

/// A configuration was refused: the last good one stays, and metric, log and admin page say so.
pub fn refused(diagnostics: &[Diagnostic], gateway: &Gateway, admin: &AdminState) {
    gateway.telemetry.metrics().reload_failed();
    let lines: Vec<String> = diagnostics.iter().map(one_line).collect();
    let mut status = ConfigStatus::clone(&admin.config.load());
    status.failure = Some(ReloadFailure { at: clock::now().unix, diagnostics: lines.clone() });
    admin.config.store(Arc::new(status));
    // Last: whoever reads of it finds it on the admin page.
    event(Level::Error, "policies refused", &[("diagnostics", lines.into())]);
}

/// A diagnostic on one line: `FG0102 leads.yaml:12:5: unknown field`.
pub fn one_line(diagnostic: &Diagnostic) -> String {
    let Diagnostic { code, file, line, column, message, .. } = diagnostic;
    format!("{code} {file}:{line}:{column}: {message}")
}

//! The services of the process: data plane, admin endpoint, policies, and its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use log::Level;
use pingora_core::server::{ListenFds, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::Service;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, AdminState};
use crate::clock;
use crate::drain::{Drain, DrainStart};
use crate::failure::Failure;
use crate::fleet::follow::Fleet;
use crate::handover::until::UntilHanded;
use crate::handover::{Handover, admin_name};
use crate::listeners::{Listeners, Socket};
use crate::probes::Applications;
use crate::reload::Reload;
use crate::server::Bound;
use crate::telemetry::event::event;

/// Time for requests on the admin connections of a process that was relieved.
const SETTLE: Duration = Duration::from_secs(1);

/// The data plane: keeps the sockets as the published snapshot wants them.
pub(crate) struct DataPlane {
    pub(crate) listeners: Option<Listeners>,
    pub(crate) wanted: watch::Receiver<Vec<Socket>>,
    /// True once changes of policies are seen.
    pub(crate) watched: watch::Receiver<bool>,
    pub(crate) handover: Arc<Handover>,
    /// Lets the listeners accept.
    pub(crate) gate: watch::Sender<bool>,
    pub(crate) drain: Drain,
    pub(crate) failure: Arc<Failure>,
    pub(crate) admin: Arc<AdminState>,
    pub(crate) bound: watch::Sender<Bound>,
    /// Where policies come from that the process may start without.
    pub(crate) fleet: Option<Arc<Fleet>>,
}

impl DataPlane {
    /// Waits until changes of policies are seen and the admin endpoint has its socket: whoever waits for
    /// readiness may change files at once. Where one of them never comes, the process ends anyway.
    async fn complete(&mut self) {
        let _ = self.watched.wait_for(|watched| *watched).await;
        let _ = self.bound.subscribe().wait_for(|bound| bound.admin.is_some()).await;
    }
}

#[async_trait]
impl Service for DataPlane {
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        let Some(mut listeners) = self.listeners.take() else { return };
        if let Some(fleet) = &self.fleet {
            // Without policies there is nothing to listen for, and nobody to take the place of.
            tokio::select! {
                () = self.drain.wait() => return self.handover.withdraw_all(),
                () = fleet.provided() => {}
            }
        }
        let wanted = self.wanted.borrow_and_update().clone();
        let errors = listeners.reconcile(&wanted).await;
        if let Some(error) = errors.first() {
            self.failure.tell(error.to_string());
            return;
        }
        self.bound.send_modify(|bound| bound.listeners = listeners.bound());
        let drain = self.drain.clone();
        tokio::select! {
            () = drain.wait() => return self.handover.withdraw_all(),
            () = self.complete() => {}
        }
        if let Err(error) = self.handover.confirmed().await {
            self.failure.tell(error.to_string());
            return;
        }
        // Nothing can go wrong any more that would end this process before the other one: now it may accept.
        self.gate.send_replace(true);
        self.admin.ready.store(true, Ordering::Release);
        self.handover.serve();
        loop {
            tokio::select! {
                () = self.drain.wait() => break,
                changed = self.wanted.changed() => if changed.is_err() { break },
            }
            let wanted = self.wanted.borrow_and_update().clone();
            for error in listeners.reconcile(&wanted).await {
                event(Level::Error, "listener not opened", &[("error", error.to_string().into())]);
            }
            self.bound.send_modify(|bound| bound.listeners = listeners.bound());
        }
        self.handover.withdraw_all();
    }

    fn name(&self) -> &'static str {
        "gateway"
    }
}

/// What an admin endpoint shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Everything: on loopback, but where somebody says otherwise.
    All,
    /// Health and metrics: for other machines.
    Health,
}

/// Health, metrics and decisions, apart from the data plane.
pub(crate) struct AdminEndpoint {
    pub(crate) pages: Pages,
    pub(crate) applications: Arc<Applications>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: Arc<AdminState>,
    pub(crate) handover: Arc<Handover>,
    pub(crate) failure: Arc<Failure>,
    pub(crate) bound: watch::Sender<Bound>,
}

#[async_trait]
impl Service for AdminEndpoint {
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        let (what, said) = match self.pages {
            Pages::All => ("admin", "admin listening"),
            Pages::Health => ("probes", "probes listening"),
        };
        let name = admin_name(what, self.address);
        let listener = match self.handover.take(&name) {
            Some(inherited) => inherited,
            None => tokio::net::TcpListener::bind(self.address).await,
        };
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                return self.failure.tell(format!("{what}: cannot listen on {}: {error}", self.address));
            }
        };
        let address = listener.local_addr().unwrap_or(self.address);
        event(Level::Info, said, &[("address", address.to_string().into())]);
        self.handover.offer(name, &listener);
        self.bound.send_modify(|bound| match self.pages {
            Pages::All => bound.admin = Some(address),
            Pages::Health => bound.probes = Some(address),
        });
        // Until then the process before tells how it stands.
        self.handover.served().await;
        let listener = UntilHanded { listener, handover: Arc::clone(&self.handover) };
        let pages = match self.pages {
            Pages::All => admin::router(Arc::clone(&self.admin)),
            Pages::Health => admin::health(Arc::clone(&self.admin), Arc::clone(&self.applications)),
        };
        if let Err(error) = axum::serve(listener, pages).await {
            event(
                Level::Error,
                "admin ended",
                &[("pages", what.into()), ("error", error.to_string().into())],
            );
        }
    }

    fn name(&self) -> &'static str {
        match self.pages {
            Pages::All => "admin",
            Pages::Health => "probes",
        }
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// Keeps policies current.
pub(crate) struct PolicyWatch {
    pub(crate) reload: Arc<Reload>,
    pub(crate) drain: Drain,
    pub(crate) failure: Arc<Failure>,
}

#[async_trait]
impl Service for PolicyWatch {
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        let Reload { gateway, policies, admin, .. } = &*self.reload;
        let status = crate::policies::status(&gateway.live.pin());
        if let Some(fleet) = self.reload.fleet.as_ref().filter(|fleet| !fleet.is_empty()) {
            fleet.provide();
        }
        gateway.telemetry.metrics().reload_succeeded(&status.revision, clock::now().unix);
        admin.config.store(Arc::new(status));
        policies.commit();
        if let Err(error) = Arc::clone(&self.reload).run(self.drain.clone()).await {
            self.failure.tell(format!("cannot watch policies: {error}"));
        }
    }

    fn name(&self) -> &'static str {
        "reload"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// Ends the process in order.
pub(crate) struct Shutdown {
    pub(crate) start: DrainStart,
    pub(crate) limit: Duration,
    pub(crate) admin: Arc<AdminState>,
    pub(crate) failure: Arc<Failure>,
    pub(crate) handover: Arc<Handover>,
}

#[async_trait]
impl ShutdownSignalWatch for Shutdown {
    async fn recv(&self) -> ShutdownSignal {
        let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return ShutdownSignal::FastShutdown;
        };
        tokio::select! {
            () = self.failure.told() => return ShutdownSignal::FastShutdown,
            _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
            _ = terminate.recv() => {}
            () = self.handover.handed() => event(Level::Info, "handed over", &[]),
        }
        self.admin.draining.store(true, Ordering::Release);
        self.start.start();
        event(Level::Info, "drain started", &[("limit_seconds", self.limit.as_secs().into())]);
        // Admin connections that were accepted an instant ago have said nothing yet.
        let served = async {
            if self.handover.is_handed() {
                tokio::time::sleep(SETTLE).await;
            }
            self.start.finished(self.limit).await
        };
        let complete = tokio::select! {
            complete = served => complete,
            _ = interrupt.recv() => false,
        };
        event(Level::Info, "drain ended", &[("complete", complete.into())]);
        ShutdownSignal::FastShutdown
    }
}

//! Listening sockets: opened, kept and closed as snapshots come and go.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use log::Level;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::admission::clients::Seat;
use crate::connection::{Entry, serve};
use crate::drain::Drain;
use crate::gateway::Gateway;
use crate::handover::{Handover, listener_name};
use crate::telemetry::event::event;

/// Connections the kernel may hold before they are accepted.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept: out of file descriptors is not mended by trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that the policy asks for, and what is served on it.
#[derive(Clone, Debug)]
pub struct Socket {
    pub address: SocketAddr,
    pub entry: Entry,
}

/// A socket in use.
#[derive(Debug)]
struct Open {
    address: SocketAddr,
    /// What new connections are; a new snapshot may change it.
    entry: Arc<ArcSwap<Entry>>,
    /// Where it really listens: differs from what was asked where that was port 0.
    bound: SocketAddr,
    accepting: JoinHandle<()>,
}

/// Most connections at once.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// Over all sockets.
    pub total: usize,
    /// Of single listeners, by `<gateway>/<listener>`.
    pub listeners: HashMap<String, usize>,
}

/// All sockets of the gateway.
#[derive(Debug)]
pub struct Listeners {
    gateway: Arc<Gateway>,
    drain: Drain,
    bounds: Connections,
    open: Vec<Open>,
    permits: Arc<Semaphore>,
    /// Sockets of the process before this one, and for the one after it.
    handover: Arc<Handover>,
    /// Nothing is accepted before this turns true.
    gate: watch::Receiver<bool>,
}

/// Why a socket cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener}: cannot listen on {address}: {source}")]
pub struct ListenError {
    pub listener: Arc<str>,
    pub address: SocketAddr,
    pub source: io::Error,
}

impl Open {
    /// True where this is the socket asked for. Of sockets on any free port, the port in the policy tells.
    fn serves(&self, socket: &Socket) -> bool {
        self.address == socket.address
            && (socket.address.port() != 0 || self.entry.load().port == socket.entry.port)
    }

    fn name(&self) -> String {
        listener_name(self.address, self.entry.load().port)
    }
}

impl Listeners {
    pub fn new(
        gateway: Arc<Gateway>,
        drain: Drain,
        bounds: Connections,
        handover: Arc<Handover>,
        gate: watch::Receiver<bool>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(bounds.total));
        Self { gateway, drain, bounds, open: Vec::new(), permits, handover, gate }
    }

    /// Opens what is new, closes what is gone, and leaves the rest as it is. Connections of a closed
    /// socket go on to their end.
    ///
    /// # Errors
    /// Every socket that cannot be opened; all others are.
    pub async fn reconcile(&mut self, wanted: &[Socket]) -> Vec<ListenError> {
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|open| wanted.iter().any(|socket| open.serves(socket)));
        self.open = kept;
        for open in gone {
            self.handover.withdraw(&open.name());
            open.accepting.abort();
            // The socket is closed when its task is gone: only then is its port free for another address.
            let _ = open.accepting.await;
            event(Level::Info, "listener closed", &[("address", open.bound.to_string().into())]);
        }
        let mut errors = Vec::new();
        for socket in wanted {
            if let Some(open) = self.open.iter().find(|open| open.serves(socket)) {
                open.entry.store(Arc::new(socket.entry.clone()));
                continue;
            }
            match self.open(socket) {
                Ok(open) => self.open.push(open),
                Err(source) => {
                    let listener = Arc::clone(&socket.entry.listener);
                    errors.push(ListenError { listener, address: socket.address, source });
                }
            }
        }
        errors
    }

    /// Where each listener really listens.
    pub fn bound(&self) -> HashMap<Arc<str>, SocketAddr> {
        self.open.iter().map(|open| (Arc::clone(&open.entry.load().listener), open.bound)).collect()
    }

    fn open(&self, socket: &Socket) -> io::Result<Open> {
        let name = listener_name(socket.address, socket.entry.port);
        let listener = self.handover.take(&name).unwrap_or_else(|| listen(socket.address))?;
        let bound = listener.local_addr()?;
        let own = self.bounds.listeners.get(&*socket.entry.listener).copied();
        let most = own.unwrap_or(self.bounds.total).min(self.bounds.total);
        self.handover.offer(name, &listener);
        event(
            Level::Info,
            "listening",
            &[
                ("listener", socket.entry.listener.as_ref().into()),
                ("address", bound.to_string().into()),
                ("tls", socket.entry.tls.into()),
                ("max_connections", most.into()),
            ],
        );
        let entry = Arc::new(ArcSwap::from_pointee(socket.entry.clone()));
        let (gateway, drain) = (Arc::clone(&self.gateway), self.drain.clone());
        let permits = [Arc::new(Semaphore::new(most)), Arc::clone(&self.permits)];
        let accepting = accept(listener, gateway, Arc::clone(&entry), drain, permits);
        let mut gate = self.gate.clone();
        let accepting = async move {
            if gate.wait_for(|open| *open).await.is_ok() {
                accepting.await;
            }
        };
        Ok(Open { address: socket.address, entry, bound, accepting: tokio::spawn(accepting) })
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    entry: Arc<ArcSwap<Entry>>,
    drain: Drain,
    [own, all]: [Arc<Semaphore>; 2],
) {
    loop {
        // At the bound, connections wait in the kernel's backlog; nothing is accepted to be dropped.
        let Ok(own) = Arc::clone(&own).acquire_owned().await else { return };
        let Ok(all) = Arc::clone(&all).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.wait() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_of_the_connection(&error) {
                    event(Level::Warn, "accept failed", &[("error", error.to_string().into())]);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        // But of a client that has too many already: those of others would wait behind it. Behind a proxy that will
        // say who the client is, it is counted once that is known.
        let mut seat = Seat::new([own, all], None);
        let entry = Entry::clone(&entry.load());
        if entry.proxies.is_none() && !seat.count(&gateway.capacity.clients, peer.ip()) {
            continue;
        }
        let Ok(stream) = stream.into_std() else { continue };
        let (gateway, drain) = (Arc::clone(&gateway), drain.clone());
        // A random worker takes the connection and keeps it: its socket is polled there and nowhere else.
        pingora_runtime::current_handle().spawn(async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                serve(gateway, entry, (stream, peer), drain, seat).await;
            }
        });
    }
}

/// True for faults of one connection that was gone before it was accepted (accept(2)).
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

//! Takes connections within their bounds, and shakes hands.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use log::Level;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::authority::certificate::Facts;
use crate::clock;
use crate::event::{caused, event};
use crate::metrics::Counters;
use crate::process::Process;
use crate::serve::peer::Peer;

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time that a client without a certificate has to get one.
const STRANGER: Duration = Duration::from_secs(30);

/// Pause after the system has no socket left.
const PAUSE: Duration = Duration::from_millis(100);

/// The open port.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    acceptor: Handshakes,
    slots: Arc<Semaphore>,
    process: Process,
}

#[derive(Clone)]
struct Handshakes {
    tls: TlsAcceptor,
    outcomes: Counters,
    open: Gauge,
}

/// A client that has shaken hands. Reads as ended once what it rests on has ended.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    end: Pin<Box<Sleep>>,
    open: Gauge,
    _slot: OwnedSemaphorePermit,
}

impl Door {
    /// A port that holds `limit` connections open.
    pub fn new(listener: TcpListener, tls: TlsAcceptor, limit: usize, process: &Process) -> Self {
        let metrics = &process.metrics;
        let acceptor = Handshakes {
            tls,
            outcomes: metrics.counters("handshakes", "Connections of proxies by how their handshake ended"),
            open: metrics.gauge("connections", "Connections of proxies that are open"),
        };
        Self { listener, acceptor, slots: Arc::new(Semaphore::new(limit)), process: process.clone() }
    }

    /// Every client that has shaken hands, until the process ends.
    pub fn incoming(self) -> impl Stream<Item = Result<Connection, Infallible>> {
        let (ready, connections) = mpsc::channel(64);
        tokio::spawn(self.accept(ready));
        futures_util::stream::unfold(connections, async |mut connections| {
            connections.recv().await.map(|connection| (Ok(connection), connections))
        })
    }

    async fn accept(self, ready: mpsc::Sender<Connection>) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.process.shutdown.begun() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    event(Level::Warn, "accept failed", &[("error", error.to_string().into())]);
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
                self.acceptor.count("full");
                continue;
            };
            let (acceptor, ready) = (self.acceptor.clone(), ready.clone());
            tokio::spawn(async move {
                if let Some(connection) = acceptor.shake(stream, address, slot).await {
                    let _ = ready.send(connection).await;
                }
            });
        }
    }
}

impl Handshakes {
    fn count(&self, outcome: &'static str) {
        self.outcomes.get_or_create(&vec![("outcome", outcome)]).inc();
    }

    async fn shake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) -> Option<Connection> {
        let _ = stream.set_nodelay(true);
        let stream = match timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.count("failed");
                let fields = [("peer", address.to_string().into()), ("error", error.to_string().into())];
                caused(Level::Warn, "handshake failed", &fields);
                return None;
            }
            Err(_) => {
                self.count("late");
                return None;
            }
        };
        self.count("done");
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let facts = leaf.and_then(|leaf| Facts::read(leaf));
        // Verified in the handshake: here it is only read.
        let id = facts.as_ref().and_then(|facts| facts.workload().ok());
        let expires = id.as_ref().and_then(|_| Some(facts?.not_after));
        let left = expires.map_or(STRANGER, |expires| expires.saturating_sub(clock::now().unix));
        self.open.inc();
        let peer = Peer { address, id };
        Some(Connection { stream, peer, end: Box::pin(sleep(left)), open: self.open.clone(), _slot: slot })
    }
}

impl std::fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshakes").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

//! Takes connections within their bounds, and shakes hands.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use log::Level;
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::authority::bundle::Bundle;
use crate::clock;
use crate::event::{caused, event};
use crate::metrics::Counters;
use crate::places::{Place, Places};
use crate::process::Process;
use crate::serve::peer::{Heard, Peer};

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time that a client without a certificate has to get one.
const STRANGER: Duration = Duration::from_secs(30);

/// Connections of clients without a certificate, and those that shake hands, are a quarter of all, and of one address no
/// more than this.
const STRANGERS: usize = 64;

/// Fewest connections that a quarter of all is.
const FEW: usize = 16;

/// Pause after the system has no socket left.
const PAUSE: Duration = Duration::from_millis(100);

/// The open port.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    acceptor: Handshakes,
    slots: Arc<Semaphore>,
    strangers: Arc<Places<IpAddr>>,
    process: Process,
}

#[derive(Clone)]
struct Handshakes {
    tls: TlsAcceptor,
    bundles: watch::Receiver<Arc<Bundle>>,
    outcomes: Counters,
    open: Gauge,
}

/// A client that has shaken hands. Reads as ended, and takes no more, once what it rests on has ended: its certificate has
/// expired, or is below no root that is trusted.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// `None` once it has ended.
    end: Option<End>,
    open: Gauge,
    _slot: OwnedSemaphorePermit,
    _stranger: Option<Place>,
}

type End = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Door {
    /// A port that holds `limit` connections open, of clients that `bundles` vouch for.
    pub fn new(
        listener: TcpListener,
        tls: TlsAcceptor,
        bundles: watch::Receiver<Arc<Bundle>>,
        limit: usize,
        process: &Process,
    ) -> Self {
        let metrics = &process.metrics;
        let acceptor = Handshakes {
            tls,
            bundles,
            outcomes: metrics.counters("handshakes", "Connections of proxies by how their handshake ended"),
            open: metrics.gauge("connections", "Connections of proxies that are open"),
        };
        let strangers = Arc::new(Places::new((limit / 4).max(FEW), STRANGERS));
        let slots = Arc::new(Semaphore::new(limit));
        Self { listener, acceptor, slots, strangers, process: process.clone() }
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
            let slot = Arc::clone(&self.slots).try_acquire_owned().ok();
            let Some(slot) = slot.zip(self.strangers.try_take(address.ip())) else {
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
        (slot, place): (OwnedSemaphorePermit, Place),
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
        let mut bundles = self.bundles.clone();
        let chain: Arc<[CertificateDer<'static>]> =
            stream.get_ref().1.peer_certificates().unwrap_or_default().into();
        let (id, end): (_, End) = if chain.is_empty() {
            (None, Box::pin(sleep(STRANGER)))
        } else {
            let now = clock::now().unix;
            // The roots may be others than a moment ago, in the handshake.
            let bundle = Arc::clone(&bundles.borrow_and_update());
            let Ok((id, expires)) = bundle.verify(&chain, UnixTime::since_unix_epoch(now)) else {
                self.count("failed");
                return None;
            };
            let left = expires.saturating_sub(now);
            let shown = Arc::clone(&chain);
            (Some(id), Box::pin(async move { drop(timeout(left, withdrawn(bundles, shown)).await) }))
        };
        self.count("done");
        self.open.inc();
        let stranger = id.is_none().then_some(place);
        let peer = Peer { address, id, chain, heard: Heard::default() };
        let open = self.open.clone();
        Some(Connection { stream, peer, end: Some(end), open, _slot: slot, _stranger: stranger })
    }
}

/// Waits until a bundle vouches for this chain no longer.
async fn withdrawn(mut bundles: watch::Receiver<Arc<Bundle>>, chain: Arc<[CertificateDer<'static>]>) {
    while bundles.changed().await.is_ok() {
        let bundle = Arc::clone(&bundles.borrow_and_update());
        if bundle.verify(&chain, UnixTime::since_unix_epoch(clock::now().unix)).is_err() {
            return;
        }
    }
}

impl Connection {
    fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            self.end = None;
        }
        self.end.is_none()
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
        if this.has_ended(cx) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.peer.heard.add(buf.filled().len().saturating_sub(before));
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.has_ended(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut this.stream).poll_write(cx, buf)
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
        let this = self.get_mut();
        if this.has_ended(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

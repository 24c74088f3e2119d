//! One client connection: TLS, the choice of HTTP version, requests until its end.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::addresses::Networks;
use foregate_filters::peer::Peer;
use foregate_policy::routes::Door;
use foregate_policy::snapshot::{Capture, Speaks};
use futures_util::future::Either;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admission::clients::Seat;
use crate::capture;
use crate::drain::Drain;
use crate::gateway::{Gateway, handle};
use crate::handshake::vouch::Vouched;
use crate::handshake::{Established, Unnamed, establish, speaks_tls};
use crate::proxy_protocol;
use crate::proxy_protocol::header::Ends;
use crate::shape::address_value;
use crate::stall::StreamExecutor;
use crate::stream::{Activity, ClientStream, Transport};
use crate::streams;
use crate::streams::detect::{self, Spoken};
use crate::telemetry::occupancy::Occupied;

/// Largest HTTP/1 head, in bytes; 431 above.
const MAX_HEAD: u32 = 64 * 1024;

/// Response bytes buffered for one HTTP/2 stream.
const STREAM_BUFFER: usize = 64 * 1024;

/// Streams reset by the client before they were accepted, or by us for its faults, until the connection
/// ends (CVE-2023-44487, CVE-2025-8671).
const MAX_RESETS: usize = 64;

/// How often a silent HTTP/2 connection is asked whether it lives, and how long it may take to say so.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// What the requests of one connection share.
#[derive(Debug)]
pub struct Connection {
    pub gateway: Arc<Gateway>,
    pub activity: Arc<Activity>,
    pub peer: SocketAddr,
    /// The address of `peer` as a header value: written once, not with every request.
    pub peer_value: HeaderValue,
    /// Port of the listener as the policy has it.
    pub port: u16,
    /// True where the listener speaks TLS.
    pub tls: bool,
    /// True where this connection does: a listener may take plain ones for a while.
    pub secure: bool,
    /// The name that the client asked for in TLS (RFC 6066, section 3), in lower case.
    pub server_name: Option<Box<str>>,
    /// Whose terms held where it asked for none.
    pub unnamed: Option<Unnamed>,
    /// Whom its certificate has proved it to be.
    pub certificate: Option<Arc<Peer>>,
    /// [`Live::number`](crate::live::Live) of what the connection was last found to fit.
    pub seen: AtomicU64,
    /// Name of the listener, for records.
    pub listener: Arc<str>,
    /// The process waits for every connection, and for every tunnel that outlives its connection.
    pub drain: Drain,
    /// Counts the connection as open.
    pub open: Occupied,
    /// Its share of the connections allowed at once.
    pub seat: Seat,
    /// Where the client connected to; known where some upstream wants to know it.
    pub destination: Option<SocketAddr>,
    /// The same, where the kernel redirected it.
    pub captured: Option<SocketAddr>,
}

impl Connection {
    /// Where its routes are found.
    pub fn door(&self) -> Door {
        Door { port: self.port, meant: self.captured.map(|meant| meant.port()) }
    }

    /// True once it has brought as many requests as one connection may.
    pub fn spent(&self) -> bool {
        self.activity.begun() >= self.gateway.capacity.requests
    }

    /// Both ends of the client's connection, for upstreams that are told.
    pub fn ends(&self) -> Ends {
        ends(self.peer, self.destination, self.port)
    }
}

/// Where a destination is not known, its port is told alone.
pub fn ends(source: SocketAddr, destination: Option<SocketAddr>, port: u16) -> Ends {
    let unknown = || match source {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
    };
    Ends { source, destination: destination.unwrap_or_else(unknown) }
}

/// Where a connection came in.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Port of the listener as the policy has it.
    pub port: u16,
    pub tls: bool,
    pub listener: Arc<str>,
    pub speaks: Speaks,
    /// True where the name that a client asks for in TLS tells which of several it means.
    pub by_name: bool,
    /// Set where a header of the PROXY protocol is expected: from where it is believed.
    pub proxies: Option<Arc<Networks>>,
    /// True where some upstream wants to know where clients connected to.
    pub tells: bool,
    /// Set where the kernel redirects connections here.
    pub capture: Option<Arc<Capture>>,
    /// Where this connection meant to go; known of one that was redirected.
    pub captured: Option<SocketAddr>,
}

impl Entry {
    /// Where the routes of this connection are found.
    pub fn door(&self) -> Door {
        Door { port: self.port, meant: self.captured.map(|meant| meant.port()) }
    }
}

/// Serves a connection to its end. Every fault ends it quietly: there is nobody left to tell.
pub async fn serve(
    gateway: Arc<Gateway>,
    mut entry: Entry,
    (mut stream, mut peer): (TcpStream, SocketAddr),
    drain: Drain,
    mut seat: Seat,
) {
    gateway.capacity.load.watch(gateway.telemetry.metrics().requests_in_flight());
    let open = gateway.telemetry.metrics().connections(&entry.listener).enter();
    if stream.set_nodelay(true).is_err() {
        return;
    }
    if entry.capture.is_some() {
        return Box::pin(capture::serve(gateway, entry, (stream, peer), drain, (open, seat))).await;
    }
    let deadlines = gateway.deadlines;
    let Some(destination) = introduced(&gateway, &entry, (&mut stream, &mut peer), &mut seat).await else {
        return;
    };
    if entry.by_name {
        let Some(speaks) = Box::pin(meant(&gateway, &entry, &stream, &drain)).await else { return };
        entry.speaks = speaks;
    }
    if entry.speaks != Speaks::Http
        && let spoken = Box::pin(spoken(&entry, &stream, &drain)).await
        && spoken != Some(Spoken::Http)
    {
        let Some(spoken) = spoken else { return };
        let client = streams::Client { peer, destination, spoken };
        return Box::pin(streams::serve(gateway, entry, (stream, client), drain, (open, seat))).await;
    }
    let established = establish(&gateway, &entry, peer.ip(), stream);
    let first = if entry.tls { deadlines.head } else { deadlines.idle };
    let established = tokio::select! {
        established = timeout(first, Box::pin(established)) => match established {
            Ok(Ok(established)) => established,
            Ok(Err(_)) | Err(_) => return,
        },
        // A connection that has not said a word is not worth waiting for.
        () = drain.noticed() => return,
    };
    // Apart: the room that a handshake takes is given back, where a connection stays for long and says little.
    tokio::spawn(go_on(gateway, entry, established, (peer, destination), drain, (open, seat)));
}

/// Serves the requests of a connection that stands. What comes first is no part of the future, which an idle connection keeps.
pub fn go_on(
    gateway: Arc<Gateway>,
    entry: Entry,
    established: Established,
    (peer, destination): (SocketAddr, Option<SocketAddr>),
    drain: Drain,
    (open, seat): (Occupied, Seat),
) -> impl Future<Output = ()> + Send + use<> {
    let Established { transport, http2, server_name, unnamed, peer: certificate, vouched, .. } = established;
    let deadlines = gateway.deadlines;
    let secure = matches!(transport, Transport::Tls(_));
    let drain = Vouched::follow(vouched, &gateway, drain);
    let activity = Arc::new(Activity::default());
    let stream = ClientStream::new(transport, Arc::clone(&activity), deadlines, http2);
    let Entry { port, tls, listener, captured, .. } = entry;
    let connection = Arc::new(Connection {
        gateway,
        activity,
        peer,
        peer_value: address_value(peer.ip().to_canonical()),
        port,
        tls,
        secure,
        server_name,
        unnamed,
        certificate,
        seen: AtomicU64::new(u64::MAX),
        listener,
        drain,
        open,
        seat,
        destination,
        captured,
    });
    if http2 {
        Either::Left(Box::pin(serve_http2(connection, stream)))
    } else {
        Either::Right(serve_http1(connection, stream))
    }
}

/// Has whoever stands between say who the client is, where somebody does: `peer` is the client then. Gives where it
/// connected to, where that is known; `None` where the connection is not served.
async fn introduced(
    gateway: &Gateway,
    entry: &Entry,
    (stream, peer): (&mut TcpStream, &mut SocketAddr),
    seat: &mut Seat,
) -> Option<Option<SocketAddr>> {
    let mut destination = if entry.tells { stream.local_addr().ok() } else { None };
    let Some(trusted) = &entry.proxies else { return Some(destination) };
    match Box::pin(proxy_protocol::read(stream, *peer, trusted, gateway.deadlines.head)).await {
        Ok(Some(ends)) => (*peer, destination) = (ends.source, Some(ends.destination)),
        Ok(None) => {}
        // Nothing may be answered: what is spoken is not known yet.
        Err(_) => return None,
    }
    seat.count(&gateway.capacity.clients, peer.ip()).then_some(destination)
}

/// What the listener speaks whose name the client asks for; `None` where there is none, or nobody says anything.
async fn meant(gateway: &Gateway, entry: &Entry, stream: &TcpStream, drain: &Drain) -> Option<Speaks> {
    let reading = async {
        if !speaks_tls(stream).await? {
            // The handshake knows whether plain connections are taken for a while.
            return Ok::<_, io::Error>(Some(Speaks::Http));
        }
        let name = streams::hello::server_name(stream).await?;
        let live = gateway.live.pin();
        let terms = live.tls.get(&entry.port).and_then(|tls| tls.terms(name.as_deref()));
        Ok(terms.map(|terms| terms.speaks))
    };
    tokio::select! {
        meant = timeout(gateway.deadlines.head, reading) => meant.ok()?.ok()?,
        () = drain.noticed() => None,
    }
}

/// What is spoken on a new connection; `None` where it is not worth waiting for.
async fn spoken(entry: &Entry, stream: &TcpStream, drain: &Drain) -> Option<Spoken> {
    let Speaks::Detected(within) = entry.speaks else { return Some(Spoken::Opaque) };
    tokio::select! {
        spoken = detect::spoken(stream, within) => spoken.ok(),
        () = drain.noticed() => None,
    }
}

async fn serve_http1(connection: Arc<Connection>, mut stream: ClientStream) {
    let drain = connection.drain.clone();
    let mut unread = Bytes::new();
    loop {
        let comes = tokio::select! {
            comes = stream.head(unread) => comes,
            () = drain.noticed() => false,
            () = drain.cut() => false,
        };
        if !comes {
            return;
        }
        // Boxed: what an idle connection does not need is given back, the buffers of the codec and the room of a
        // request with it.
        let rests = Box::pin(serve_http1_until_rest(&connection, stream)).await;
        let Some(idle) = rests else { return };
        (stream, unread) = idle;
    }
}

/// Serves requests; gives the stream back where it has been idle for a while, with what was read of it.
async fn serve_http1_until_rest(
    connection: &Arc<Connection>,
    stream: ClientStream,
) -> Option<(ClientStream, Bytes)> {
    let drain = connection.drain.clone();
    let serves = Arc::clone(connection);
    let service = service_fn(move |request: Request<Incoming>| handle(Arc::clone(&serves), request));
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        // The stream keeps the deadlines: this one would count the idle time as part of a head.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD as usize)
        .max_header_size(MAX_HEAD as usize)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut cut = drain.is_of_one().then(|| Box::pin(drain.cut()));
    // Responses announce the close first; whoever stays idle through the notice is closed after it.
    let mut closing = pin!(drain.noticed());
    let mut registered = false;
    let mut closed = false;
    let rests = std::future::poll_fn(|cx| {
        // Polled once to be woken by the drain; until that has started, a flag is all there is to look at.
        let look = !std::mem::replace(&mut registered, true) || drain.started();
        if !closed && look && closing.as_mut().poll(cx).is_ready() {
            closed = true;
            Pin::new(&mut serving).graceful_shutdown();
        }
        if look && cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(false);
        }
        match Pin::new(&mut serving).poll(cx) {
            Poll::Ready(_) => Poll::Ready(false),
            Poll::Pending if connection.activity.rests() && !closed => Poll::Ready(true),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    let parts = if rests { serving.into_parts() } else { None }?;
    Some((parts.io.into_inner(), parts.read_buf))
}

async fn serve_http2(connection: Arc<Connection>, stream: ClientStream) {
    connection.activity.multiplex();
    let (drain, streams) = (connection.drain.clone(), connection.gateway.capacity.streams);
    let (limit, counted) = (connection.gateway.deadlines.idle, Arc::clone(&connection));
    let service = service_fn(move |request: Request<Incoming>| handle(Arc::clone(&connection), request));
    let mut serving = pin!(
        http2::Builder::new(StreamExecutor { limit })
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING)
            .keep_alive_timeout(HTTP2_PING)
            .max_concurrent_streams(streams)
            .max_header_list_size(MAX_HEAD)
            .max_send_buf_size(STREAM_BUFFER)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_RESETS)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut closing = pin!(drain.wait());
    let mut cut = drain.is_of_one().then(|| Box::pin(drain.cut()));
    let mut closed = false;
    std::future::poll_fn(|cx| {
        // GOAWAY is the announcement: streams under way finish, new ones go elsewhere.
        if !closed && (closing.as_mut().poll(cx).is_ready() || counted.spent()) {
            closed = true;
            serving.as_mut().graceful_shutdown();
        }
        if cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(());
        }
        serving.as_mut().poll(cx).map(drop)
    })
    .await;
}

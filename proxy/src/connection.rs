//! One client connection: TLS, the choice of HTTP version, requests until its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::drain::Drain;
use crate::gateway::{Gateway, handle};
use crate::shape::address_value;
use crate::stream::{Activity, ClientStream, Transport};
use crate::telemetry::metrics::Occupied;

/// Largest HTTP/1 head, in bytes; 431 above.
const MAX_HEAD: u32 = 64 * 1024;

/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;

/// Response bytes buffered for one HTTP/2 stream.
const STREAM_BUFFER: usize = 64 * 1024;

/// Streams reset by the client before they were accepted, or by us for its faults, until the connection
/// ends (CVE-2023-44487, CVE-2025-8671).
const MAX_RESETS: usize = 64;

/// How often a silent HTTP/2 connection is asked whether it lives, and how long it may take to say so.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// The first bytes of HTTP/2 with prior knowledge (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Between two looks at a preface that comes in parts, and how many looks: a second in all. Whoever is
/// slower speaks HTTP/1, with its deadlines.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);
const PREFACE_LOOKS: u32 = 200;

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
    pub tls: bool,
    /// The name that the client asked for in TLS (RFC 6066, section 3), in lower case.
    pub server_name: Option<Box<str>>,
    /// Name of the listener, for records.
    pub listener: Arc<str>,
    /// The process waits for every connection, and for every tunnel that outlives its connection.
    pub drain: Drain,
    /// Counts the connection as open.
    pub open: Occupied,
    /// Its share of the connections allowed at once.
    pub permit: OwnedSemaphorePermit,
}

/// Where a connection came in.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Port of the listener as the policy has it.
    pub port: u16,
    pub tls: bool,
    pub listener: Arc<str>,
}

/// Serves a connection to its end. Every fault ends it quietly: there is nobody left to tell.
pub async fn serve(
    gateway: Arc<Gateway>,
    entry: Entry,
    (stream, peer): (TcpStream, SocketAddr),
    drain: Drain,
    permit: OwnedSemaphorePermit,
) {
    let open = gateway.telemetry.metrics().connections(&entry.listener).enter();
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let deadlines = gateway.deadlines;
    let started = async {
        if entry.tls {
            let stream = handshake(&gateway, entry.port, stream).await?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Ok((Transport::Tls(Box::new(stream)), http2))
        } else {
            let http2 = has_preface(&stream).await?;
            Ok::<_, io::Error>((Transport::Plain(stream), http2))
        }
    };
    let first = if entry.tls { deadlines.head } else { deadlines.idle };
    let (transport, http2) = tokio::select! {
        started = timeout(first, Box::pin(started)) => match started {
            Ok(Ok(started)) => started,
            Ok(Err(_)) | Err(_) => return,
        },
        // A connection that has not said a word is not worth waiting for.
        () = drain.noticed() => return,
    };
    let server_name = match &transport {
        Transport::Tls(stream) => stream.get_ref().1.server_name().map(Box::from),
        Transport::Plain(_) => None,
    };
    let activity = Arc::new(Activity::default());
    let stream = ClientStream::new(transport, Arc::clone(&activity), deadlines);
    let Entry { port, tls, listener } = entry;
    let connection = Arc::new(Connection {
        gateway,
        activity,
        peer,
        peer_value: address_value(peer.ip().to_canonical()),
        port,
        tls,
        server_name,
        listener,
        drain,
        open,
        permit,
    });
    if http2 { serve_http2(connection, stream).await } else { serve_http1(connection, stream).await }
}

/// Terminates TLS with the certificate for the name that the client asks for.
async fn handshake(gateway: &Gateway, port: u16, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let live = gateway.live.pin();
    let tls = live.tls.get(&port).ok_or(io::ErrorKind::NotFound)?;
    let config = tls.config(start.client_hello().server_name()).ok_or(io::ErrorKind::NotFound)?;
    start.into_stream(Arc::clone(config)).await
}

/// Looks whether the client speaks HTTP/2 with prior knowledge, without taking a byte.
async fn has_preface(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0u8; PREFACE.len()];
    for _ in 0..PREFACE_LOOKS {
        let bytes = stream.peek(&mut seen).await?;
        let begins = PREFACE.starts_with(seen.get(..bytes).unwrap_or_default());
        // No HTTP/1 method starts with `PRI `: the method is reserved (RFC 9113, section 11.6).
        if !begins || bytes >= 4 || bytes == 0 {
            return Ok(begins && bytes >= 4);
        }
        // `P` may begin a `POST` too. What was seen stays readable: nothing would wake this task for more.
        sleep(PREFACE_PAUSE).await;
    }
    Ok(false)
}

async fn serve_http1(connection: Arc<Connection>, stream: ClientStream) {
    let drain = connection.drain.clone();
    let service = service_fn(move |request: Request<Incoming>| handle(Arc::clone(&connection), request));
    let mut serving = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // The stream keeps the deadlines: this one would count the idle time as part of a head.
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD as usize)
            .max_header_size(MAX_HEAD as usize)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    // Responses announce the close first; whoever stays idle through the notice is closed after it.
    let mut closing = pin!(drain.noticed());
    let mut registered = false;
    let mut closed = false;
    std::future::poll_fn(|cx| {
        // Polled once to be woken by the drain; until that has started, a flag is all there is to look at.
        if !closed && (!registered || drain.started()) {
            registered = true;
            if closing.as_mut().poll(cx).is_ready() {
                closed = true;
                serving.as_mut().graceful_shutdown();
            }
        }
        serving.as_mut().poll(cx).map(drop)
    })
    .await;
}

async fn serve_http2(connection: Arc<Connection>, stream: ClientStream) {
    connection.activity.multiplex();
    let drain = connection.drain.clone();
    let service = service_fn(move |request: Request<Incoming>| handle(Arc::clone(&connection), request));
    let mut serving = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING)
            .keep_alive_timeout(HTTP2_PING)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD)
            .max_send_buf_size(STREAM_BUFFER)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .max_local_error_reset_streams(MAX_RESETS)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut closing = pin!(drain.wait());
    let mut closed = false;
    std::future::poll_fn(|cx| {
        // GOAWAY is the announcement: streams under way finish, new ones go elsewhere.
        if !closed && closing.as_mut().poll(cx).is_ready() {
            closed = true;
            serving.as_mut().graceful_shutdown();
        }
        serving.as_mut().poll(cx).map(drop)
    })
    .await;
}

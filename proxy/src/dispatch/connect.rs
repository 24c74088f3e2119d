//! New upstream connections: TCP, TLS, HTTP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::capture::own;
use crate::dispatch::driven::Driven;
use crate::dispatch::endpoint::Endpoint;
use crate::dispatch::pool::Sender;
use crate::dispatch::upstream::UpstreamState;
use crate::maybe_tls::MaybeTls;
use crate::proxy_protocol;
use crate::proxy_protocol::header::Ends;

/// Largest response head of HTTP/2, in bytes.
const MAX_HEAD: u32 = 64 * 1024;

/// Most that is read of an HTTP/1 response at once, in bytes; a larger head is refused. The codec begins with 8 KiB, and
/// doubles what it reads as long as that is filled: large bodies take half of the reads and writes that 64 KiB would. A
/// connection that is kept behind a large answer keeps the room, and as much of a request waits for a slow upstream.
const MOST_READ: usize = 128 * 1024;

/// How often a silent HTTP/2 connection is asked whether it lives.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect: {0}")]
    Tcp(io::Error),
    #[error("no connection in time")]
    Timeout,
    #[error("not a server name: {0}")]
    Name(InvalidDnsNameError),
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("HTTP handshake failed: {0}")]
    Http(hyper::Error),
    #[error("{0}")]
    Loop(io::Error),
}

/// A connection that stands, before anything is said on it.
pub type Opened = MaybeTls<TlsStream<TcpStream>>;

/// Connects within the upstream's connect timeout. The connection is in no pool. Where the upstream wants to
/// know, `ends` are told it; none where it is a connection of our own.
///
/// # Errors
/// The first thing that failed.
pub async fn connect(
    upstream: &Arc<UpstreamState>,
    endpoint: &Endpoint,
    ends: Option<Ends>,
) -> Result<Sender, ConnectError> {
    let connecting = connect_unbounded(upstream, endpoint, ends);
    let outcome = timeout(upstream.spec.connect_timeout, connecting).await;
    let outcome = outcome.unwrap_or(Err(ConnectError::Timeout));
    upstream.roster.connections.connected(&outcome);
    outcome
}

async fn connect_unbounded(
    upstream: &Arc<UpstreamState>,
    endpoint: &Endpoint,
    ends: Option<Ends>,
) -> Result<Sender, ConnectError> {
    let stream = open(upstream, endpoint, ends, None).await?;
    if let Opened::Tls(stream) = &stream
        && upstream.is_http2()
        && stream.get_ref().1.alpn_protocol() != Some(b"h2")
    {
        let error = io::Error::other("the upstream does not speak HTTP/2 (ALPN)");
        return Err(ConnectError::Tls(error));
    }
    handshake(upstream, stream).await
}

/// Opens a connection: TCP, the header of the PROXY protocol, TLS. `name` is what the client asked for in TLS.
///
/// # Errors
/// The first thing that failed.
pub async fn open(
    upstream: &UpstreamState,
    endpoint: &Endpoint,
    ends: Option<Ends>,
    name: Option<&str>,
) -> Result<Opened, ConnectError> {
    let mut stream = TcpStream::connect(endpoint.at.address).await.map_err(ConnectError::Tcp)?;
    stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
    own::opened(&stream).map_err(ConnectError::Loop)?;
    if let Some(version) = upstream.spec.proxy_protocol {
        proxy_protocol::write(&mut stream, version, ends, name).await.map_err(ConnectError::Tcp)?;
    }
    let Some(trust) = &upstream.tls else { return Ok(Opened::Plain(stream)) };
    let configured = upstream.spec.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
    let name =
        ServerName::try_from(configured.unwrap_or(&endpoint.at.host)).map_err(ConnectError::Name)?.to_owned();
    let connector = TlsConnector::from(Arc::clone(&trust.config));
    let stream = Box::pin(connector.connect(name, stream)).await.map_err(ConnectError::Tls)?;
    trust.still_trusts(stream.get_ref().1).map_err(|error| ConnectError::Tls(io::Error::other(error)))?;
    Ok(Opened::Tls(Box::new(stream)))
}

async fn handshake(upstream: &UpstreamState, stream: Opened) -> Result<Sender, ConnectError> {
    let io = TokioIo::new(stream);
    let counted = upstream.roster.connections.open.enter();
    if upstream.is_http2() {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING)
            .max_header_list_size(MAX_HEAD)
            .handshake(io)
            .await
            .map_err(ConnectError::Http)?;
        tokio::spawn(async move {
            // How it ended is told to the exchanges on it.
            let _ = connection.await;
            drop(counted);
        });
        return Ok(Sender::Http2(sender));
    }
    let (sender, connection) =
        http1::Builder::new().max_buf_size(MOST_READ).handshake(io).await.map_err(ConnectError::Http)?;
    Ok(Sender::Http1(Driven::new(sender, async move {
        let _ = connection.with_upgrades().await;
        drop(counted);
    })))
}

//! Connections of HTTP/2 that calls of the gateway itself are made on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body::Body;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::rpc::causes;
use crate::rpc::endpoint::Endpoint;

/// How a silent other side is asked whether it lives.
#[derive(Clone, Copy, Debug)]
pub struct Pings {
    pub every: Duration,
    /// How long it may think about it.
    pub within: Duration,
    /// Also while no call is under way.
    pub idle: bool,
}

/// A connection that was made now. It is closed when the sender is dropped and nothing is under way.
#[derive(Debug)]
pub struct Opened<B> {
    pub sender: SendRequest<B>,
    /// Ends with the connection, and tells why.
    pub connection: JoinHandle<String>,
}

/// Connects with TLS.
///
/// # Errors
/// What the system or TLS says.
pub async fn tls(at: &Endpoint, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(at.host.clone()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((at.host.as_str(), at.port)).await?;
    // Whatever it says: it is slower without, and not wrong.
    let _ = stream.set_nodelay(true);
    TlsConnector::from(config).connect(name, stream).await
}

/// Begins HTTP/2 on a stream.
///
/// # Errors
/// What the other side has against it.
pub async fn open<S, B>(stream: S, pings: Pings) -> Result<Opened<B>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let handshake = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(pings.every)
        .keep_alive_timeout(pings.within)
        .keep_alive_while_idle(pings.idle)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = handshake?;
    let connection = tokio::spawn(async move {
        match connection.await {
            Ok(()) => "it was closed".to_owned(),
            Err(error) => causes(&error),
        }
    });
    Ok(Opened { sender, connection })
}

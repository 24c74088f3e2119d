//! Connections: accepted within a bound, served, and told to go.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::listener::{Accepted, Listener};
use super::{grpc, rest};

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for a request head, and between two requests of a connection.
const HEAD: Duration = Duration::from_mins(1);
/// Bytes of a request head at most.
const MAX_HEAD: usize = 32 << 10;
/// The same for HTTP/2.
const MAX_HEADER_LIST: u32 = 32 << 10;
/// Requests of one HTTP/2 connection at once.
const STREAMS: u32 = 256;
/// What a client may send ahead of being read, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// A silent HTTP/2 connection is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);
/// Pause where the operating system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(100);

/// What is spoken at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Rest,
    /// HTTP/2.
    Grpc,
}

/// A port and all that is served there.
pub struct Doors {
    pub listener: Listener,
    pub protocol: Protocol,
    /// Absent where it is not spoken, as on a unix socket.
    pub tls: Option<TlsAcceptor>,
    pub shared: Arc<Shared>,
    /// True once no more is accepted.
    pub closing: watch::Receiver<bool>,
}

/// What one connection needs.
#[derive(Clone)]
struct Guest {
    protocol: Protocol,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    closing: watch::Receiver<bool>,
}

impl Doors {
    /// Accepts until closing, and ends when the last connection has.
    pub async fn serve(self) {
        let Self { listener, protocol, tls, shared, mut closing } = self;
        let room = Arc::new(Semaphore::new(shared.limits.connections));
        let guest = Guest { protocol, tls, shared, closing: closing.clone() };
        let mut connections = JoinSet::new();
        loop {
            // The semaphore is never closed.
            let accept = async {
                let place = Arc::clone(&room).acquire_owned().await.ok();
                (listener.accept().await, place)
            };
            tokio::select! {
                (accepted, place) = accept => match accepted {
                    Ok(stream) => {
                        let guest = guest.clone();
                        connections.spawn(async move {
                            guest.serve(stream).await;
                            drop(place);
                        });
                    }
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(_) => tokio::time::sleep(NO_ROOM).await,
                },
                Some(_) = connections.join_next() => {}
                () = closed(&mut closing) => break,
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}

/// Ends once no more is accepted, also where nobody is left to say so.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// True where the next connection may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Guest {
    async fn serve(self, stream: Accepted) {
        match stream {
            Accepted::Tcp(stream) => {
                // Without it answers wait for acknowledgements; where it cannot be set, they do.
                let _ = stream.set_nodelay(true);
                self.secure(stream).await;
            }
            Accepted::Unix(stream) => self.secure(stream).await,
        }
    }

    async fn secure<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let Some(acceptor) = self.tls.clone() else {
            return self.converse(TokioIo::new(stream)).await;
        };
        if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            self.converse(TokioIo::new(stream)).await;
        }
    }

    async fn converse<S: Read + Write + Unpin + Send + 'static>(self, stream: S) {
        let Self { protocol, shared, mut closing, .. } = self;
        match protocol {
            Protocol::Rest => {
                let service = service_fn(move |request: Request<Incoming>| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, Infallible>(rest::answer(&shared, request).await) }
                });
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_header_size(MAX_HEAD);
                let mut connection = pin!(builder.serve_connection(stream, service));
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = closed(&mut closing) => connection.as_mut().graceful_shutdown(),
                }
                // How a connection ends, only its client minds.
                let _ = connection.await;
            }
            Protocol::Grpc => {
                let service = service_fn(move |request: Request<Incoming>| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, Infallible>(grpc::answer(&shared, request).await) }
                });
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder
                    .timer(TokioTimer::new())
                    .keep_alive_interval(PING)
                    .max_header_list_size(MAX_HEADER_LIST)
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_concurrent_streams(STREAMS);
                let mut connection = pin!(builder.serve_connection(stream, service));
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = closed(&mut closing) => connection.as_mut().graceful_shutdown(),
                }
                let _ = connection.await;
            }
        }
    }
}

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
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::complaints::{Complaint, Complaints};
use super::listener::{Accepted, Listener};
use super::streams::Together;
use super::tls::LiveTerms;
use super::traffic::{Patience, Still, Traffic};
use super::{Shared, grpc, rest};

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
/// Clients that do nothing hold no place for longer.
const PATIENCE: Patience = Patience { idle: Duration::from_mins(1), write: Duration::from_secs(30) };
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
    pub tls: Option<Arc<LiveTerms>>,
    pub shared: Arc<Shared>,
    pub complaints: Arc<Complaints>,
    /// True once no more is accepted.
    pub closing: watch::Receiver<bool>,
}

/// What one connection needs.
#[derive(Clone)]
struct Guest {
    protocol: Protocol,
    tls: Option<Arc<LiveTerms>>,
    shared: Arc<Shared>,
    complaints: Arc<Complaints>,
    closing: watch::Receiver<bool>,
    patience: Patience,
}

impl Doors {
    /// Accepts until closing, and ends when the last connection has.
    pub async fn serve(self) {
        let Self { listener, protocol, tls, shared, complaints, mut closing } = self;
        let room = Arc::new(Semaphore::new(shared.limits.connections));
        let (told, patience) = (Arc::clone(&complaints), PATIENCE);
        let guest = Guest { protocol, tls, shared, complaints, closing: closing.clone(), patience };
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
                    Err(error) => {
                        told.note(Complaint::Accept, &error);
                        tokio::time::sleep(NO_ROOM).await;
                    }
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
pub async fn closed(closing: &mut watch::Receiver<bool>) {
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
        let Some(acceptor) = self.tls.as_ref().map(|terms| terms.acceptor(self.protocol)) else {
            return self.converse(TokioIo::new(stream)).await;
        };
        match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.converse(TokioIo::new(stream)).await,
            Ok(Err(error)) => self.complaints.note(Complaint::Handshake, &error),
            Err(_) => self.complaints.note(Complaint::Handshake, &"it took too long"),
        }
    }

    async fn converse<S: Read + Write + Unpin + Send + 'static>(self, stream: S) {
        let Self { protocol, shared, closing, patience, .. } = self;
        let traffic = Arc::new(Traffic::default());
        let (requests, ending) = (Arc::clone(&traffic), closing.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (shared, mut turn) = (Arc::clone(&shared), requests.begin());
            let ending = grpc::is_stream(&request).then(|| ending.clone());
            async move {
                let answer = match (protocol, ending) {
                    (Protocol::Rest, _) => rest::answer(&shared, request, &mut turn).await,
                    // Its turn lasts as long as the stream, which has bounds of its own.
                    (Protocol::Grpc, Some(ending)) => {
                        return Ok(grpc::stream::answer(&shared, request, turn, ending));
                    }
                    (Protocol::Grpc, None) => grpc::answer(&shared, request, &mut turn).await,
                };
                Ok::<_, Infallible>(answer.map(|body| body.of_turn(turn.answered())))
            }
        });
        let course = Course { traffic, closing, patience };
        match protocol {
            Protocol::Rest => {
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_header_size(MAX_HEAD);
                let connection = builder.serve_connection(stream, service);
                course.run(pin!(connection), |it| it.as_mut().graceful_shutdown()).await;
            }
            Protocol::Grpc => {
                let connection = Together::new(|intake| {
                    let mut builder = http2::Builder::new(intake);
                    builder
                        .timer(TokioTimer::new())
                        .keep_alive_interval(PING)
                        .max_header_list_size(MAX_HEADER_LIST)
                        .initial_stream_window_size(STREAM_WINDOW)
                        .initial_connection_window_size(CONNECTION_WINDOW)
                        .max_concurrent_streams(STREAMS);
                    builder.serve_connection(stream, service)
                });
                course.run(connection, |it| it.connection.as_mut().graceful_shutdown()).await;
            }
        }
    }
}

/// How long a connection is served.
struct Course {
    traffic: Arc<Traffic>,
    closing: watch::Receiver<bool>,
    patience: Patience,
}

impl Course {
    /// Serves until the client goes, does nothing for too long, or closing; `shut_down` tells it that this is the end.
    async fn run<C: Future + Unpin>(self, mut connection: C, shut_down: impl FnOnce(&mut C)) {
        let Self { traffic, mut closing, patience } = self;
        tokio::select! {
            // How a connection ends, only its client minds.
            _ = &mut connection => return,
            () = closed(&mut closing) => {}
            still = traffic.still(patience) => if still == Still::Stuck { return },
        }
        shut_down(&mut connection);
        let patience = Patience { idle: patience.write, ..patience };
        tokio::select! {
            _ = connection => {}
            _ = traffic.still(patience) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Complaints, Guest, Patience, Protocol};
    use crate::server::access::Access;
    use crate::server::metrics::Metrics;
    use crate::server::repository::Repository;
    use crate::server::{Limits, Shared};
    use hyper_util::rt::TokioIo;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{Semaphore, watch};

    const SHORT: Duration = Duration::from_millis(5);
    /// Shorter than silent connections of HTTP/2 live without an answer to a ping.
    const LONG: Duration = Duration::from_secs(25);
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn shared() -> Arc<Shared> {
        let folder = tempfile::tempdir().unwrap();
        let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/lead-score-logistic");
        std::os::unix::fs::symlink(bundle, folder.path().join("model")).unwrap();
        let limits = Limits { body: 1 << 20, rows: 10, requests: 10, connections: 10, deadline: LONG };
        Arc::new(Shared {
            repository: Arc::new(Repository::open(folder.path(), 1, false).unwrap()),
            access: Access::default(),
            limits,
            metrics: Metrics::default(),
            open: Arc::new(Semaphore::new(limits.requests)),
            draining: AtomicBool::new(false),
        })
    }

    /// Fails where a connection does not end whose client sends this, takes up to 256 bytes, and stays.
    async fn ends(protocol: Protocol, patience: Patience, sent: &[u8]) {
        let (mut client, server) = tokio::io::duplex(256);
        let (_close, closing) = watch::channel(false);
        let complaints = Arc::new(Complaints::new(|_| {}));
        let guest = Guest { protocol, tls: None, shared: shared(), complaints, closing, patience };
        let serve = guest.converse(TokioIo::new(server));
        let both = async { tokio::join!(serve, client.write_all(sent)).1.unwrap() };
        tokio::time::timeout(LONG, both).await.expect("the connection ends");
    }

    #[tokio::test]
    async fn an_answer_keeps_its_room_until_it_was_taken() {
        let (mut client, server) = tokio::io::duplex(64);
        let (_close, closing) = watch::channel(false);
        let (shared, complaints) = (shared(), Arc::new(Complaints::new(|_| {})));
        let patience = Patience { idle: LONG, write: LONG };
        let open = Arc::clone(&shared.open);
        let guest = Guest { protocol: Protocol::Rest, tls: None, shared, complaints, closing, patience };
        let serve = tokio::spawn(guest.converse(TokioIo::new(server)));
        let path = "/v2/models/lead-score-logistic/infer";
        let head = "host: a\r\nconnection: close\r\ncontent-length: 2";
        client.write_all(format!("POST {path} HTTP/1.1\r\n{head}\r\n\r\n{{}}").as_bytes()).await.unwrap();
        let mut answer = vec![0];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(open.available_permits(), 9, "the rest of it waits to be sent");
        client.read_to_end(&mut answer).await.unwrap();
        serve.await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
        assert_eq!(open.available_permits(), 10);
    }

    /// A frame of HTTP/2 on a stream of this number.
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
    }

    #[tokio::test]
    async fn connections_without_a_request_end() {
        let patience = Patience { idle: SHORT, write: SHORT };
        ends(Protocol::Grpc, patience, b"").await;
        ends(Protocol::Grpc, patience, &[PREFACE, &frame(4, 0, 0, b"")].concat()).await;
        ends(Protocol::Rest, patience, b"").await;
    }

    #[tokio::test]
    async fn connections_whose_answers_nobody_takes_end() {
        let patience = Patience { idle: LONG * 2, write: SHORT };
        ends(Protocol::Rest, patience, b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await;
        // No stream may send anything: the initial window is 0.
        let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
        let path = b"/inference.GRPCInferenceService/ServerLive";
        let head = [&[0x83, 0x86, 0x04, 42][..], path, &[0x0f, 0x10, 16], b"application/grpc"].concat();
        let call = [frame(1, 4, 1, &head), frame(0, 1, 1, &[0; 5])].concat();
        ends(Protocol::Grpc, patience, &[PREFACE, &settings, &call].concat()).await;
    }
}

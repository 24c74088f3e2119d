//! Upstreams that answer as a test wants, and remember what they were asked.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::support::within;

/// Any body that a test sends, as client or as upstream.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What is spoken to an upstream.
#[derive(Clone, Debug)]
pub enum Speak {
    Http1,
    /// With prior knowledge.
    Http2,
    /// HTTP/2 where ALPN agrees on it, HTTP/1.1 otherwise.
    Tls(Arc<ServerConfig>),
}

/// A request as an upstream received it.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// A server on a free port of 127.0.0.1; ends when dropped.
#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    count: watch::Receiver<usize>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Upstream {
    /// HTTP/1.1; the handler answers requests that were read whole.
    pub async fn start<F, R>(handler: F) -> Self
    where
        F: Fn(Received) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::speaking(Speak::Http1, handler).await
    }

    /// The same with another protocol.
    pub async fn speaking<F, R>(speak: Speak, handler: F) -> Self
    where
        F: Fn(Received) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let received = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let write = Arc::clone(&received);
        let handler = Arc::new(handler);
        let mut this = Self::streaming(speak, move |request: Request<Incoming>| {
            let (write, sender, handler) = (Arc::clone(&write), sender.clone(), Arc::clone(&handler));
            async move {
                let (head, body) = request.into_parts();
                // A request that breaks off is no request: it is neither answered nor remembered.
                let body = body.collect().await?;
                let received = Received {
                    method: head.method,
                    uri: head.uri,
                    version: head.version,
                    headers: head.headers,
                    trailers: body.trailers().cloned(),
                    body: body.to_bytes(),
                };
                write.lock().unwrap().push(received.clone());
                sender.send_modify(|count| *count += 1);
                Ok(handler(received).await)
            }
        })
        .await;
        (this.received, this.count) = (received, count);
        this
    }

    /// The handler gets the request as it comes; nothing is remembered.
    pub async fn streaming<F, R>(speak: Speak, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response<Body>, hyper::Error>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        Self::raw(move |stream, _| {
            let (speak, handler) = (speak.clone(), Arc::clone(&handler));
            async move {
                let service = service_fn(move |request| handler(request));
                match speak {
                    Speak::Http1 => serve_http1(stream, service).await,
                    Speak::Http2 => serve_http2(stream, service).await,
                    Speak::Tls(config) => {
                        let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                        match stream.get_ref().1.alpn_protocol() {
                            Some(b"h2") => serve_http2(stream, service).await,
                            _ => serve_http1(stream, service).await,
                        }
                    }
                }
            }
        })
        .await
    }

    /// The handler gets every connection, and its number from 0; nothing is remembered.
    pub async fn raw<F, R>(handler: F) -> Self
    where
        F: Fn(TcpStream, usize) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                serving.spawn(handler(stream, number));
            }
        });
        let (_, count) = watch::channel(0);
        Self { address, received: Arc::default(), count, connections, task }
    }

    /// Answers everything with 200 and this text.
    pub async fn answering(text: &'static str) -> Self {
        Self::start(move |_| async move { Response::new(full(text)) }).await
    }

    /// Everything received so far, in the order of arrival.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Forgets what was received so far.
    pub fn forget(&self) {
        self.received.lock().unwrap().clear();
    }

    /// The request received last.
    pub fn last(&self) -> Received {
        self.received().pop().expect("the upstream received nothing")
    }

    /// Waits until so many requests were received.
    pub async fn wait_received(&self, count: usize) {
        let mut counter = self.count.clone();
        within("requests at the upstream", counter.wait_for(|seen| *seen >= count)).await.unwrap();
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Received {
    /// A header as text; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn serve_http1<S, V>(stream: S, service: V)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    V: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = hyper::Error>,
    V::Future: Send,
{
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

async fn serve_http2<S, V>(stream: S, service: V)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    V: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = hyper::Error>,
    V::Future: Send + 'static,
{
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

pub fn empty() -> Body {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Feeds a body piece by piece; the body ends when this is dropped.
#[derive(Clone, Debug)]
pub struct Feed(mpsc::Sender<io::Result<Frame<Bytes>>>);

impl Feed {
    pub async fn data(&self, bytes: impl Into<Bytes>) -> bool {
        within("the body to be read", self.0.send(Ok(Frame::data(bytes.into())))).await.is_ok()
    }

    pub async fn trailers(&self, trailers: HeaderMap) -> bool {
        within("the body to be read", self.0.send(Ok(Frame::trailers(trailers)))).await.is_ok()
    }

    /// Breaks the body off.
    pub async fn fail(&self) {
        let _ = self.0.send(Err(io::Error::other("broken off by the test"))).await;
    }

    /// Waits until nobody reads the body any more.
    pub async fn dropped(&self) {
        within("the body to be dropped", self.0.closed()).await;
    }
}

/// A body that is fed while it is sent.
pub fn fed() -> (Feed, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = stream::unfold(receiver, |mut receiver| async {
        let frame = receiver.recv().await?;
        Some((frame, receiver))
    });
    (Feed(sender), StreamBody::new(frames).boxed_unsync())
}

/// A body of zeros, made while it is sent.
pub fn zeros(bytes: usize) -> Body {
    const PIECE: usize = 64 * 1024;
    static PIECES: [u8; PIECE] = [0; PIECE];
    let frames = stream::unfold(bytes, |left| async move {
        let piece = left.min(PIECE);
        (piece > 0).then(|| (Ok(Frame::data(Bytes::from_static(&PIECES[..piece]))), left - piece))
    });
    StreamBody::new(frames).boxed_unsync()
}

//! A proxy of hyper's server and client, with nothing between them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use http::{HeaderName, Request, Response, Uri, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1 as client;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::tls::{self, NAME, Shows};

/// Headers that concern one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 4] = [header::CONNECTION, header::TE, header::TRAILER, header::UPGRADE];

/// Passes requests on, over connections that are kept.
#[derive(Args, Debug)]
pub struct HyperProxy {
    address: SocketAddr,
    origin: SocketAddr,
    /// The folder with certificates and keys.
    #[arg(long)]
    materials: Option<PathBuf>,
    /// Serves on TLS, HTTP/2 by ALPN.
    #[arg(long, requires = "materials")]
    tls: bool,
    /// Clients show certificates.
    #[arg(long, requires = "tls")]
    mutual: bool,
    /// The origin is spoken to on TLS, and gets a certificate.
    #[arg(long, requires = "materials")]
    mutual_upstream: bool,
}

type Sender = client::SendRequest<Incoming>;

/// The origin, and connections to it that nobody uses.
struct Upstream {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    idle: RefCell<Vec<Sender>>,
}

/// A body whose connection goes back when it ends.
struct Pooled {
    body: Incoming,
    sender: Option<Sender>,
    upstream: Rc<Upstream>,
}

/// Runs what HTTP/2 spawns on this thread.
#[derive(Clone, Copy, Debug)]
struct Here;

impl<F: Future<Output: 'static> + 'static> Executor<F> for Here {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

impl HyperProxy {
    /// Serves on this thread until the process is ended.
    pub fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, self.serve())
    }

    async fn serve(self) -> Result<()> {
        let shows = if self.mutual { Shows::Both } else { Shows::Server };
        let folder = self.materials.unwrap_or_default();
        let protocols: [&[u8]; 2] = [b"h2", b"http/1.1"];
        let acceptor =
            self.tls.then(|| tls::server(&folder, shows, &protocols)).transpose()?.map(TlsAcceptor::from);
        let client =
            self.mutual_upstream.then(|| tls::client(&folder, Shows::Both, b"http/1.1", true)).transpose()?;
        let upstream = Rc::new(Upstream {
            address: self.origin,
            tls: client.map(TlsConnector::from),
            idle: RefCell::default(),
        });
        let listener = TcpListener::bind(self.address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            spawn_local(accept(stream, acceptor.clone(), Rc::clone(&upstream)));
        }
    }
}

/// A connection that ends with an error ends: the load counts what it misses.
async fn accept(stream: TcpStream, acceptor: Option<TlsAcceptor>, upstream: Rc<Upstream>) {
    let Some(acceptor) = acceptor else { return connection(stream, false, upstream).await };
    if let Ok(stream) = acceptor.accept(stream).await {
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        connection(stream, http2, upstream).await;
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + 'static>(io: S, http2: bool, upstream: Rc<Upstream>) {
    let service = service_fn(move |request| forward(Rc::clone(&upstream), request));
    if http2 {
        let _ = http2::Builder::new(Here).serve_connection(TokioIo::new(io), service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
    }
}

async fn forward(upstream: Rc<Upstream>, mut request: Request<Incoming>) -> Result<Response<Pooled>> {
    let mut sender = Upstream::sender(&upstream).await?;
    if let Some(authority) = request.uri().authority() {
        let host = authority.as_str().parse()?;
        request.headers_mut().insert(header::HOST, host);
    }
    *request.uri_mut() = request.uri().path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    *request.version_mut() = http::Version::HTTP_11;
    for name in &HOP_BY_HOP {
        request.headers_mut().remove(name);
    }
    let mut response = sender.send_request(request).await?;
    for name in &HOP_BY_HOP {
        response.headers_mut().remove(name);
    }
    *response.version_mut() = http::Version::default();
    Ok(response.map(|body| {
        let mut pooled = Pooled { body, sender: Some(sender), upstream };
        if pooled.body.is_end_stream() {
            pooled.release();
        }
        pooled
    }))
}

impl Upstream {
    async fn sender(this: &Rc<Self>) -> Result<Sender> {
        loop {
            let idle = this.idle.borrow_mut().pop();
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(this.address).await?;
        stream.set_nodelay(true)?;
        match &this.tls {
            None => handshake(stream).await,
            Some(tls) => handshake(tls.connect(ServerName::try_from(NAME)?, stream).await?).await,
        }
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin + 'static>(io: S) -> Result<Sender> {
    let (sender, connection) = client::handshake(TokioIo::new(io)).await?;
    spawn_local(connection);
    Ok(sender)
}

impl Pooled {
    fn release(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.upstream.idle.borrow_mut().push(sender);
        }
    }
}

impl Body for Pooled {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let ended = match &frame {
            Poll::Ready(None) => true,
            Poll::Ready(Some(frame)) => frame.is_ok() && self.body.is_end_stream(),
            Poll::Pending => false,
        };
        if ended {
            self.release();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! HTTP clients on one connection: HTTP/1.1, HTTP/2 with prior knowledge, both on TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::upstream::{Body, empty, full};
use crate::support::within;

/// The host that clients ask for where a test says nothing else.
pub const HOST: &str = "crm.test";

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A client with one connection.
pub struct Client {
    sender: Sender,
    scheme: &'static str,
    /// Ends with the connection, and tells how.
    connection: JoinHandle<hyper::Result<()>>,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Client {
    pub async fn http1(address: SocketAddr) -> Self {
        Self::over(connect(address).await, false, "http").await
    }

    /// With prior knowledge.
    pub async fn http2(address: SocketAddr) -> Self {
        Self::over(connect(address).await, true, "http").await
    }

    /// On TLS; the version of HTTP is what ALPN agreed on.
    pub async fn tls(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let stream = tls(address, name, config).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Self::over(stream, http2, "https").await)
    }

    /// On a stream that stands already.
    pub async fn over<S>(stream: S, http2: bool, scheme: &'static str) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(stream);
        if http2 {
            let (sender, connection) =
                within("HTTP/2 handshake", http2::handshake(TokioExecutor::new(), io)).await.unwrap();
            return Self { sender: Sender::Http2(sender), scheme, connection: tokio::spawn(connection) };
        }
        let (sender, connection) = within("HTTP/1 handshake", http1::handshake(io)).await.unwrap();
        Self { sender: Sender::Http1(sender), scheme, connection: tokio::spawn(connection.with_upgrades()) }
    }

    /// The same connection once more, for requests beside those of this one. HTTP/2 alone.
    pub fn another(&self) -> Self {
        let Sender::Http2(sender) = &self.sender else { panic!("one request at a time on HTTP/1.1") };
        let connection = tokio::spawn(std::future::ready(Ok(())));
        Self { sender: Sender::Http2(sender.clone()), scheme: self.scheme, connection }
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// A request to [`HOST`], spelled as this connection's version of HTTP wants it.
    pub fn request(&self, method: &str, target: &str) -> http::request::Builder {
        self.request_to(HOST, method, target)
    }

    /// The same to another host. HTTP/1.1 has its `Host` header set when it is sent, unless the test does.
    pub fn request_to(&self, host: &str, method: &str, target: &str) -> http::request::Builder {
        let builder = Request::builder().method(method);
        match &self.sender {
            Sender::Http1(_) => builder.uri(target).extension(Host(host.to_owned())),
            Sender::Http2(_) => builder.uri(format!("{}://{host}{target}", self.scheme)),
        }
    }

    /// Sends a request and waits for the response head.
    pub async fn exchange(&mut self, mut request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        if let Some(Host(host)) = request.extensions_mut().remove::<Host>() {
            request.headers_mut().entry("host").or_insert_with(|| host.parse().unwrap());
        }
        let what = format!("a response to {} {}", request.method(), request.uri());
        match &mut self.sender {
            Sender::Http1(sender) => within(&what, sender.send_request(request)).await,
            Sender::Http2(sender) => within(&what, sender.send_request(request)).await,
        }
    }

    /// Sends a request and reads the whole response.
    pub async fn send(&mut self, request: Request<Body>) -> Reply {
        Reply::read(self.exchange(request).await.unwrap()).await.unwrap()
    }

    /// Sends requests, all at once on HTTP/2, one behind the other on HTTP/1.1. Replies stand in their order.
    pub async fn send_all(&mut self, requests: Vec<Request<Body>>) -> Vec<Reply> {
        if let Sender::Http2(sender) = &self.sender {
            let sends = requests.into_iter().map(|request| {
                let mut sender = sender.clone();
                async move { Reply::read(sender.send_request(request).await.unwrap()).await.unwrap() }
            });
            return within("all responses", join_all(sends)).await;
        }
        let mut replies = Vec::with_capacity(requests.len());
        for request in requests {
            replies.push(self.send(request).await);
        }
        replies
    }

    /// Sends a request without a body.
    pub async fn send_empty(&mut self, builder: http::request::Builder) -> Reply {
        self.send(builder.body(empty()).unwrap()).await
    }

    /// Gets a path.
    pub async fn get(&mut self, target: &str) -> Reply {
        self.send_empty(self.request("GET", target)).await
    }

    /// Posts a body.
    pub async fn post(&mut self, target: &str, body: impl Into<Bytes>) -> Reply {
        let request = self.request("POST", target).body(full(body)).unwrap();
        self.send(request).await
    }

    /// Waits until the connection takes another request; false where it has ended.
    pub async fn ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => within("a ready connection", sender.ready()).await.is_ok(),
            Sender::Http2(sender) => within("a ready connection", sender.ready()).await.is_ok(),
        }
    }

    /// Waits until the other side ends the connection.
    pub async fn ended(&mut self) -> hyper::Result<()> {
        within("the other side to end the connection", &mut self.connection).await.unwrap()
    }

    /// Ends the connection at once, whatever is under way.
    pub async fn abort(self) {
        self.connection.abort();
        let _ = self.connection.await;
    }
}

#[derive(Clone)]
struct Host(String);

impl Reply {
    /// Reads a response to its end; fails where it breaks off.
    pub async fn read(response: Response<Incoming>) -> hyper::Result<Self> {
        let (head, body) = response.into_parts();
        let body = within("the end of a response", body.collect()).await?;
        let trailers = body.trailers().cloned();
        Ok(Self { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes(), trailers })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header as text; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The id of the decision on the request.
    pub fn decision(&self) -> &str {
        self.header("x-foregate-decision")
    }

    /// The reason of a refusal.
    pub fn reason(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        self.json()["reason"].as_str().unwrap_or_default().to_owned()
    }
}

/// Connects to an address.
pub async fn connect(address: SocketAddr) -> TcpStream {
    within("a connection", TcpStream::connect(address)).await.unwrap()
}

/// Connects with TLS.
pub async fn tls(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = connect(address).await;
    within("a TLS handshake", TlsConnector::from(Arc::clone(config)).connect(name, stream)).await
}

/// The certificate that a server has shown.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

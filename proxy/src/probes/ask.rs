//! One question to one application, on a connection of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{Request, Uri};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::health::grpc;
use crate::probes::{HttpGet, Scheme};
use crate::tls::{provider, verifies_signatures};

/// How this process names itself to those that log their visitors.
const AGENT: &str = concat!("foregate/", env!("CARGO_PKG_VERSION"), " (probe)");

/// A server whose certificate is not looked at, as by the kubelet: nothing is told to it but what the pod says, and
/// nothing of its answer is used but the status.
#[derive(Debug)]
struct Anybody;

/// A task that ends with the question.
struct Driven(tokio::task::JoinHandle<()>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    verifies_signatures!();
}

/// Whether the port takes connections.
///
/// # Errors
/// Why not.
pub(super) async fn tcp(address: SocketAddr) -> Result<(), String> {
    connect(address).await.map(drop)
}

/// Whether the answer has a status from 200 to 399.
///
/// # Errors
/// Why not.
pub(super) async fn http(address: SocketAddr, get: &HttpGet) -> Result<(), String> {
    let request = request(address, get)?;
    let stream = connect(address).await?;
    let status = match get.scheme {
        Scheme::Http => status(stream, request).await?,
        Scheme::Https => status(secured(address, stream).await?, request).await?,
    };
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("status {status}")) }
}

/// Whether the service says that it is serving.
///
/// # Errors
/// Why not.
pub(super) async fn grpc(address: SocketAddr, service: &str) -> Result<(), String> {
    let said = |error: hyper::Error| error.to_string();
    let stream = connect(address).await?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(said)?;
    let _driven = Driven(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let target = Uri::builder().scheme("http").authority(address.to_string()).path_and_query(grpc::METHOD);
    let request = Request::post(target.build().map_err(|error| error.to_string())?)
        .header(USER_AGENT, AGENT)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(grpc::question(service)))
        .map_err(|error| error.to_string())?;
    grpc::answer(sender.send_request(request).await.map_err(said)?).await
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))
}

async fn secured(
    address: SocketAddr,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let name = ServerName::IpAddress(address.ip().into());
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| error.to_string())
}

fn request(address: SocketAddr, get: &HttpGet) -> Result<Request<Full<Bytes>>, String> {
    let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    let mut request = Request::get(path).body(Full::default()).map_err(|error| format!("path: {error}"))?;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    for header in &get.http_headers {
        let wrong = || format!("`{}` is no header", header.name);
        let name = HeaderName::try_from(&header.name).map_err(|_| wrong())?;
        let value = HeaderValue::try_from(&header.value).map_err(|_| wrong())?;
        if name == HOST || name == USER_AGENT {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    if !headers.contains_key(HOST) {
        let own = HeaderValue::try_from(address.to_string()).map_err(|error| error.to_string())?;
        headers.insert(HOST, own);
    }
    Ok(request)
}

/// The status of the answer; its body is left.
async fn status<S>(stream: S, request: Request<Full<Bytes>>) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    let _driven = Driven(tokio::spawn(async move {
        let _ = connection.await;
    }));
    Ok(sender.send_request(request).await.map_err(said)?.status().as_u16())
}

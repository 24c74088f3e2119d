//! Calls a webhook over TLS, as the API server does.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection to a webhook of this name below these roots.
pub async fn connect(
    at: SocketAddr,
    (name, roots): (&str, &str),
) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
    let mut store = RootCertStore::empty();
    store.add(CertificateDer::from_pem_slice(roots.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(builder.with_root_certificates(store).with_no_client_auth()));
    let socket = TcpStream::connect(at).await.unwrap();
    let stream = connector.connect(ServerName::try_from(name).unwrap().to_owned(), socket).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Status and body of an answer.
pub async fn post(at: SocketAddr, (name, roots): (&str, &str), path: &str, body: Bytes) -> (u16, String) {
    let request = Request::post(path)
        .header("host", name)
        .header("content-type", "application/json")
        .body(Full::new(body))
        .unwrap();
    let response = connect(at, (name, roots)).await.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

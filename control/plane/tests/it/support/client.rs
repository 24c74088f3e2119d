//! A workload that asks for certificates.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use foregate_policy::fleet::{Proof, SignRequest, SignResponse};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use x509_parser::extensions::GeneralName;

use crate::fleet::identity::identity_client::IdentityClient;
use crate::fleet::policies::policies_client::PoliciesClient;
use crate::support::process::Control;
use crate::support::within;

/// A certificate with its key.
#[derive(Debug)]
pub struct Svid {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

/// A connection, as tonic wants one.
#[derive(Clone, Debug)]
pub struct Wire(SendRequest<Body>);

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// TLS towards a control plane with these roots; shows a certificate where there is one.
pub fn config(roots: &[CertificateDer<'static>], svid: Option<&Svid>) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let provider = Arc::new(default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider)).build();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Strict(verifier.unwrap())));
    let mut config = match svid {
        Some(svid) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.key.serialize_der()));
            builder.with_client_auth_cert(svid.chain.clone(), key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Looks at root and name, as any client of TLS does.
#[derive(Debug)]
struct Strict(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Strict {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Shakes hands under a name.
pub async fn tls(
    address: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TcpStream::connect(address).await?;
    within("a handshake", TlsConnector::from(config).connect(name, stream)).await
}

/// A connection to the control plane.
pub async fn connect(control: &Control, svid: Option<&Svid>) -> Wire {
    let stream = tls(control.address, "control.test", config(&control.roots(), svid)).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    Wire(sender)
}

pub async fn identity(control: &Control, svid: Option<&Svid>) -> IdentityClient<Wire> {
    IdentityClient::with_origin(connect(control, svid).await, origin())
}

pub async fn policies(control: &Control, svid: Option<&Svid>) -> PoliciesClient<Wire> {
    PoliciesClient::with_origin(connect(control, svid).await, origin())
}

fn origin() -> http::Uri {
    "https://control.test".parse().unwrap()
}

/// A request for a key, changed as a test wants it.
pub fn csr(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

/// Asks for a certificate with a proof; gives it with its key.
pub async fn sign(
    control: &Control,
    svid: Option<&Svid>,
    proof: impl Into<Option<Proof>>,
) -> Result<Svid, Status> {
    let key = KeyPair::generate().unwrap();
    let response = ask(control, svid, csr(&key, |_| ()), proof.into()).await?;
    let chain = response.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    Ok(Svid { chain, key })
}

/// Sends a request as it is.
pub async fn ask(
    control: &Control,
    svid: Option<&Svid>,
    csr: Vec<u8>,
    proof: impl Into<Option<Proof>>,
) -> Result<SignResponse, Status> {
    let mut client = identity(control, svid).await;
    let request = SignRequest { csr: csr.into(), proof: proof.into() };
    within("an answer", client.sign(request)).await.map(tonic::Response::into_inner)
}

/// A join token as a proof.
pub fn join(token: &str) -> Proof {
    Proof::JoinToken(token.to_owned())
}

/// The one name in a leaf, which must be a URI.
pub fn id(svid: &Svid) -> String {
    let names = names(&svid.chain[0]);
    assert_eq!(names.len(), 1, "one name: {names:?}");
    names[0].clone()
}

/// All names in a certificate; those that are no URIs as they are shown to people.
pub fn names(leaf: &CertificateDer<'_>) -> Vec<String> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let told = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => other.to_string(),
    };
    names.value.general_names.iter().map(told).collect()
}

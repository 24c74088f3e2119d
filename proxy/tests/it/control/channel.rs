//! Whom a gateway takes for its control plane.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foregate::fleet::call::CallError;
use foregate::fleet::channel::Channel;
use foregate::fleet::endpoint::ControlOptions;
use foregate::rpc::endpoint::Endpoint;
use foregate_policy::fleet::{SignRequest, SignResponse};
use rcgen::{CertificateParams, SanType};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::control::plane::ControlPlane;
use crate::support::workloads::{Domain, Svid};
use crate::support::{unused_address, within};

const SIGN: &str = "/foregate.fleet.v1.Identity/Sign";
const RETRY: Duration = Duration::from_millis(500);

/// A server that shows a certificate and answers nothing.
async fn showing(svid: &Svid, domain: &Domain) -> SocketAddr {
    let acceptor = TlsAcceptor::from(svid.server(&["h2"], &[domain]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    address
}

fn roots(pem: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    file
}

fn named(name: &str) -> impl FnOnce(&mut CertificateParams) {
    let name = SanType::DnsName(name.to_owned().try_into().unwrap());
    move |params| params.subject_alt_names.push(name)
}

async fn ask(port: u16, roots: &NamedTempFile) -> CallError {
    let endpoint = Endpoint { host: "localhost".to_owned(), port };
    let channel = Channel::new(ControlOptions { endpoint, roots: roots.path().to_owned(), retry: RETRY });
    let answer: Result<SignResponse, _> =
        within("an end", channel.unary(SIGN, &SignRequest::default())).await;
    answer.unwrap_err()
}

#[tokio::test]
async fn nobody_else_is_taken_for_the_control_plane() {
    let (domain, other) = (Domain::new("mesh.test"), Domain::new("mesh.test"));
    let id = domain.id("/foregate/control");
    let control = |name: &str| domain.svid_with(&[&id], named(name));
    for (what, svid, trusted, want) in [
        ("another name", control("other.test"), &domain, "not valid for name"),
        ("no name", domain.svid("/foregate/control"), &domain, "not valid for name"),
        (
            "a workload",
            domain.svid_with(&[&domain.id("/ns/a/sa/b")], named("localhost")),
            &domain,
            "is not the control plane",
        ),
        ("two ids", domain.svid_with(&[&id, &id], named("localhost")), &domain, "more than one URI"),
        ("another authority", control("localhost"), &other, "UnknownIssuer"),
    ] {
        let address = showing(&svid, &domain).await;
        let error = ask(address.port(), &roots(&trusted.bundle)).await;
        assert!(matches!(error, CallError::Connect { .. }), "{what}: {error}");
        assert!(error.to_string().contains(want), "{what}: {error}");
    }
    // One that is right gets further: it is the server that wants a certificate then.
    let address = showing(&control("localhost"), &domain).await;
    let error = ask(address.port(), &roots(&domain.bundle)).await;
    assert!(!matches!(error, CallError::Connect { .. }), "{error}");
    let nobody = ask(unused_address().await.port(), &roots(&domain.bundle)).await;
    assert!(matches!(nobody, CallError::Connect { .. }), "{nobody}");
    let unreadable = ask(address.port(), &roots("no certificate")).await;
    assert!(unreadable.to_string().contains("no certificate or list"), "{unreadable}");
}

#[tokio::test]
async fn a_refusal_comes_with_its_status_and_its_words() {
    let control = ControlPlane::start("lifetime: 1h").await;
    let endpoint: Endpoint = control.url().parse().unwrap();
    let channel = Arc::new(Channel::new(ControlOptions { endpoint, roots: control.roots(), retry: RETRY }));
    for _ in 0..2 {
        let answer: Result<SignResponse, _> = channel.unary(SIGN, &SignRequest::default()).await;
        let error = answer.unwrap_err();
        // INVALID_ARGUMENT.
        assert_eq!(error.code(), Some(3), "{error}");
        assert!(error.to_string().contains("the request is no PKCS#10 in DER"), "{error}");
    }
    assert_eq!(channel.trust_domain().as_deref(), Some("mesh.test"));
}

//! Edge listeners that ask clients for certificates, as Gateway API has it.

use std::fmt::Write;

use http::Response;
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use crate::mtls::status;
use crate::support::certificates::{Authority, Leaf};
use crate::support::client::{Client, HOST};
use crate::support::guarded::guarded;
use crate::support::policies::{GATEWAY, route, upstream};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, empty, fed, full};
use crate::support::within;
use crate::support::workloads::{Domain, client};

const BACKEND: &str = "  - backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]";

/// A gateway `edge` with HTTPS listeners (name, port, hostname) and what it says of clients.
pub fn gateway(listeners: &[(&str, u16, &str)], frontend: &str) -> String {
    let mut text = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners:
"
    .to_owned();
    for (name, port, hostname) in listeners {
        let hostname = if hostname.is_empty() { String::new() } else { format!("hostname: {hostname}, ") };
        let tls = "tls: { certificateRefs: [{ name: edge-cert }] }";
        writeln!(text, "  - {{ name: {name}, protocol: HTTPS, port: {port}, {hostname}{tls} }}").unwrap();
    }
    write!(text, "  tls: {{ frontend: {frontend} }}\n---").unwrap();
    text
}

pub fn secrets(leaf: &Leaf, partners: &Domain) -> Options {
    Options::default()
        .file("secrets/edge-cert/tls.crt", leaf.certificate.as_str())
        .file("secrets/edge-cert/tls.key", leaf.key.as_str())
        .file("secrets/partners/ca.crt", partners.bundle.as_str())
}

pub const VALIDATED: &str =
    "{ default: { validation: { caCertificateRefs: [{ group: \"\", kind: Secret, name: partners }] } } }";

#[tokio::test]
async fn clients_show_a_certificate_of_the_authority_named() {
    let (partners, stranger) = (Domain::new("partner.test"), Domain::new("partner.test"));
    let leaf = Authority::new().leaf(&[HOST]);
    let backend = Upstream::answering("hello").await;
    let text = [
        &gateway(&[("https", 8443, "")], VALIDATED),
        &route("all", BACKEND),
        &upstream("crm", backend.address, ""),
    ];
    let text: String = text.map(String::as_str).concat();
    let revoked = partners.svid("/revoked");
    let options =
        secrets(&leaf, &partners).file("secrets/partners/ca.crl", partners.revocations(&[&revoked]));
    let foregate = Foregate::start(&text, options.args(&["--drain-notice", "8s"])).await;
    let address = foregate.address("edge/https");
    let alpn = &["http/1.1"][..];
    let web = partners.svid("/web");
    assert_eq!(status(address, &web.client(alpn)).await, Some(200));
    let unnamed = partners.svid_with(&[], |svid| svid.extended_key_usages.clear());
    assert_eq!(status(address, &unnamed.client(alpn)).await, Some(200), "no SPIFFE id is asked for here");
    for refused in [Some(&revoked), Some(&stranger.svid("/web")), None] {
        let config = client(refused, alpn, &crate::support::workloads::VERSIONS);
        assert_eq!(status(address, &config).await, None);
    }
    assert_eq!(backend.received().len(), 2);

    // Another authority: who came in under the old one is told to go.
    let mut living = Client::tls(address, HOST, &web.client(alpn)).await.unwrap();
    let mut living_http2 = Client::tls(address, HOST, &web.client(&["h2"])).await.unwrap();
    assert_eq!(living.get("/").await.header("connection"), "");
    assert_eq!(living_http2.get("/").await.status, 200);
    foregate.write("secrets/partners/ca.crl", stranger.revocations(&[]));
    foregate.write("secrets/partners/ca.crt", &stranger.bundle);
    foregate.event("policies published").await;
    foregate.wait_sample("foregate_connections_no_longer_vouched_total", |count| count > 1.5).await;
    assert_eq!(living.get("/").await.header("connection"), "close");
    let _ = living.ended().await;
    let _ = living_http2.ended().await;
    assert_eq!(status(address, &web.client(alpn)).await, None);
    assert_eq!(status(address, &stranger.svid("/web").client(alpn)).await, Some(200));
}

#[tokio::test]
async fn a_listener_that_comes_to_ask_for_certificates_asks_open_connections_too() {
    let partners = Domain::new("partner.test");
    let leaf = Authority::new().leaf(&[HOST]);
    let (sender, mut feeds) = mpsc::unbounded_channel();
    let backend = Upstream::start(move |request| {
        let (feed, body) = fed();
        let events = request.uri.path() == "/events";
        if events {
            sender.send(feed).unwrap();
        }
        async move { Response::new(if events { body } else { full("hello") }) }
    })
    .await;
    let text = |frontend: &str| {
        let parts = [gateway(&[("https", 8443, "")], frontend), route("all", BACKEND)];
        parts.concat() + &upstream("crm", backend.address, "")
    };
    let foregate = Foregate::start(&text("{ default: {} }"), secrets(&leaf, &partners)).await;
    let address = foregate.address("edge/https");
    let nobody = client(None, &["h2"], &crate::support::workloads::VERSIONS);
    let mut open = Client::tls(address, HOST, &nobody).await.unwrap();
    assert_eq!(open.get("/").await.status, 200);
    let request = open.request("GET", "/events").header("accept", "text/event-stream");
    let mut stream = open.exchange(request.body(empty()).unwrap()).await.unwrap();
    let decision = stream.headers()["x-foregate-decision"].to_str().unwrap().to_owned();
    let feed = within("the request", feeds.recv()).await.unwrap();
    assert!(feed.data("data: x\n\n").await);
    assert!(within("an event", stream.frame()).await.is_some_and(|frame| frame.is_ok()));
    foregate.write("policies.yaml", text(VALIDATED));
    foregate.event("policies published").await;
    assert_eq!(open.get("/").await.status, 421);
    // What was open before is of that connection too.
    assert!(within("the end of the stream", stream.frame()).await.is_some_and(|frame| frame.is_err()));
    assert_eq!(foregate.record(&decision).await["foregate.reason"], "Misdirected");
    foregate.write("policies.yaml", text("{ default: {} }"));
    let published = |event: &serde_json::Value| event["event.name"] == "policies published";
    foregate.events().wait_count("two publications", 2, published).await;
    assert_eq!(open.get("/").await.status, 200);
}

#[tokio::test]
async fn no_authority_but_that_of_the_domain_makes_a_workload() {
    let partners = Domain::new("partner.test");
    let leaf = Authority::new().leaf(&[HOST]);
    let backend = Upstream::answering("hello").await;
    let rule = "authorize: [{ name: web, allow: 'peer.id == \"spiffe://mesh.test/web\"' }]";
    let text = guarded(backend.address, rule).replace(GATEWAY, &gateway(&[("https", 8443, "")], VALIDATED));
    let foregate = Foregate::start(&text, secrets(&leaf, &partners)).await;
    let forged = partners.svid_with(&["spiffe://mesh.test/web"], |_| ());
    assert_eq!(status(foregate.address("edge/https"), &forged.client(&["http/1.1"])).await, Some(403));
    assert!(backend.received().is_empty());
}

#[tokio::test]
async fn a_certificate_for_one_listener_opens_no_other() {
    let partners = Domain::new("partner.test");
    let leaf = Authority::new().leaf(&["open.test", "closed.test"]);
    let backend = Upstream::answering("hello").await;
    let per_port = "{ default: {}, perPort: [{ port: 8444, tls: { validation: { caCertificateRefs: [{ group: \"\", kind: ConfigMap, name: partners }] } } }] }";
    let listeners = [("open", 8443, ""), ("closed", 8444, "closed.test"), ("ajar", 8444, "ajar.test")];
    let text =
        [&gateway(&listeners, per_port), &route("all", BACKEND), &upstream("crm", backend.address, "")];
    let text: String = text.map(String::as_str).concat();
    let foregate = Foregate::start(&text, secrets(&leaf, &partners)).await;
    let (open, closed) = (foregate.address("edge/open"), foregate.address("edge/closed"));
    let nobody = client(None, &["http/1.1"], &crate::support::workloads::VERSIONS);
    assert_eq!(status(open, &nobody).await, Some(200));
    let web = partners.svid("/web").client(&["http/1.1"]);
    assert!(
        Client::tls(closed, "closed.test", &nobody).await.is_err() || {
            let mut stream = crate::support::client::tls(closed, "closed.test", &nobody).await.unwrap();
            tokio::io::AsyncReadExt::read_u8(&mut stream).await.is_err()
        }
    );
    for (name, host, status) in [
        ("closed.test", "closed.test", 200),
        ("closed.test", "ajar.test", 421),
        // No name in the handshake: the terms of one listener held, and its hosts alone are served.
        ("127.0.0.1", "closed.test", 200),
        ("127.0.0.1", "ajar.test", 421),
    ] {
        let mut client = Client::tls(closed, name, &web).await.unwrap();
        let reply = client.send_empty(client.request_to(host, "GET", "/")).await;
        assert_eq!(reply.status, status, "{name} {host}");
    }
}

#[tokio::test]
async fn optional_certificates_are_a_named_weakening() {
    let (partners, stranger) = (Domain::new("partner.test"), Domain::new("partner.test"));
    let leaf = Authority::new().leaf(&[HOST]);
    let backend = Upstream::answering("hello").await;
    let fallback = VALIDATED.replace("validation: {", "validation: { mode: AllowInsecureFallback,");
    let text = [
        &gateway(&[("https", 8443, "")], &fallback),
        &route("all", BACKEND),
        &upstream("crm", backend.address, ""),
    ];
    let text: String = text.map(String::as_str).concat();
    let (code, told) = Foregate::refused(&text, secrets(&leaf, &partners)).await;
    assert_eq!(code.code(), Some(3), "{told}");
    assert!(told.contains("clientCertificateOptional"), "{told}");
    let switch = "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: optional }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  insecure: { clientCertificateOptional: true }
---";
    let foregate = Foregate::start(&(text + switch), secrets(&leaf, &partners)).await;
    let warning = foregate.event("policy warning").await;
    assert!(warning["diagnostic"].to_string().contains("FG0621"), "{warning}");
    let address = foregate.address("edge/https");
    for svid in [Some(partners.svid("/web")), Some(stranger.svid("/web")), None] {
        let config = client(svid.as_ref(), &["http/1.1"], &crate::support::workloads::VERSIONS);
        assert_eq!(status(address, &config).await, Some(200));
    }
}

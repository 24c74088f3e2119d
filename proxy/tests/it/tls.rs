//! TLS on both sides: names, versions, certificates that change, upstreams that must prove themselves.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::certificates::{Authority, Leaf};
use crate::support::client::{self, Client};
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw;
use crate::support::upstream::{Speak, Upstream, full};

/// A gateway `edge` with HTTPS listeners on one port: name, hostname (empty for any), certificates.
fn gateway(listeners: &[(&str, &str, &[&str])]) -> String {
    let mut text = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners:
"
    .to_owned();
    for (name, hostname, certificates) in listeners {
        let hostname =
            if hostname.is_empty() { String::new() } else { format!("hostname: \"{hostname}\", ") };
        let references: Vec<_> = certificates.iter().map(|name| format!("{{ name: {name} }}")).collect();
        let references = references.join(", ");
        let tls = format!("tls: {{ certificateRefs: [{references}] }}");
        writeln!(text, "  - {{ name: {name}, protocol: HTTPS, port: 8443, {hostname}{tls} }}").unwrap();
    }
    text.push_str("---");
    text
}

/// The documents behind a gateway: everything to one upstream.
fn behind(gateway: &str, upstream: &Upstream) -> String {
    policies::plain(upstream.address).replace(policies::GATEWAY, gateway)
}

/// Puts certificates where Kubernetes would mount them.
fn secrets(certificates: &[(&str, &Leaf)]) -> Options {
    certificates.iter().fold(Options::default(), |options, (name, leaf)| {
        options
            .file(format!("secrets/{name}/tls.crt"), leaf.certificate.as_str())
            .file(format!("secrets/{name}/tls.key"), leaf.key.as_str())
    })
}

#[tokio::test]
async fn clients_agree_on_version_and_protocol() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["crm.test"]);
    let upstream = Upstream::answering("hello").await;
    let gateway = gateway(&[("https", "", &["edge-cert"])]);
    let gateway = Foregate::start(&behind(&gateway, &upstream), secrets(&[("edge-cert", &leaf)])).await;
    let address = gateway.address("edge/https");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (alpn, http2) in
            [(&["h2", "http/1.1"][..], true), (&["http/1.1"], false), (&["h2"], true), (&[], false)]
        {
            let config = authority.client_with(alpn, &[version]);
            let mut client = Client::tls(address, "crm.test", &config).await.unwrap();
            assert_eq!(client.is_http2(), http2, "{version:?} {alpn:?}");
            for _ in 0..2 {
                let reply = client.get("/").await;
                assert_eq!((reply.status, reply.text().as_str()), (200, "hello"), "{version:?} {alpn:?}");
            }
            let received = upstream.last();
            assert_eq!(received.header("x-forwarded-proto"), "https");
        }
    }
    let config = authority.client(&["h3"]);
    assert!(client::tls(address, "crm.test", &config).await.is_err(), "nothing in common");
    let reply = Client::tls(address, "crm.test", &authority.client(&["h2"])).await.unwrap().get("/").await;
    let record = gateway.record(reply.decision()).await;
    assert_eq!(record["url.scheme"], "https");
    assert_eq!(record["network.protocol.version"], "2");
}

#[tokio::test]
async fn the_name_asked_for_chooses_the_certificate() {
    let authority = Authority::new();
    let [a, wild, rest] =
        [&["a.test"][..], &["*.b.test"], &["c.test", "127.0.0.1"]].map(|names| authority.leaf(names));
    let upstream = Upstream::answering("hello").await;
    let config = authority.client(&["http/1.1"]);

    let named = gateway(&[("a", "a.test", &["a"]), ("wild", "*.b.test", &["wild"])]);
    let files = secrets(&[("a", &a), ("wild", &wild), ("rest", &rest)]);
    let named = Foregate::start(&behind(&named, &upstream), files.clone()).await;
    let address = named.address("edge/a");
    for (name, leaf) in [("a.test", &a), ("A.TEST", &a), ("x.b.test", &wild)] {
        let stream = client::tls(address, name, &config).await.unwrap();
        assert_eq!(client::shown(&stream), leaf.der(), "{name}");
    }
    for name in ["c.test", "b.test", "127.0.0.1"] {
        assert!(client::tls(address, name, &config).await.is_err(), "{name}");
    }

    let open = gateway(&[("a", "a.test", &["a"]), ("rest", "", &["rest", "wild"])]);
    let open = Foregate::start(&behind(&open, &upstream), files).await;
    let address = open.address("edge/a");
    // Without a name in the handshake (an address is none), the listener for any name answers.
    for (name, leaf) in [("a.test", &a), ("x.b.test", &wild), ("c.test", &rest), ("127.0.0.1", &rest)] {
        let stream = client::tls(address, name, &config).await.unwrap();
        assert_eq!(client::shown(&stream), leaf.der(), "{name}");
    }
}

#[tokio::test]
async fn what_is_not_tls_does_no_harm() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["crm.test"]);
    let upstream = Upstream::answering("hello").await;
    let gateway = gateway(&[("https", "", &["edge-cert"])]);
    let options = secrets(&[("edge-cert", &leaf)]).args(&["--head-timeout", "1s"]);
    let gateway = Foregate::start(&behind(&gateway, &upstream), options).await;
    let address = gateway.address("edge/https");
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: crm.test\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x40\x00garbage",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        &[0xff; 16_000],
        // Nothing, and half a record: ended by the deadline of the handshake.
        b"",
        b"\x16\x03",
    ] {
        let mut client = raw::RawClient::connect(address).await;
        client.send(bytes).await;
        let answer = client.rest().await;
        assert!(!answer.starts_with(b"HTTP"), "{:?}", String::from_utf8_lossy(&answer));
    }
    // Whoever only looks whether somebody listens has begun no handshake; all others of these have.
    for _ in 0..2 {
        let mut probe = raw::RawClient::connect(address).await;
        probe.finish().await;
        assert_eq!(probe.rest().await, b"");
    }
    let failed =
        r#"foregate_tls_handshakes_total{listener="edge/https",version="",group="",outcome="failed"}"#;
    gateway.wait_sample(failed, |count| (count - 6.0).abs() < 0.5).await;
    // HTTP/2's first bytes where HTTP/1.1 was agreed on.
    let mut stream = client::tls(address, "crm.test", &authority.client(&["http/1.1"])).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = crate::support::within("an end", stream.read_to_end(&mut answer)).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));
    assert!(upstream.received().is_empty());
    let mut client = Client::tls(address, "crm.test", &authority.client(&["h2"])).await.unwrap();
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_old_ones_live_on() {
    let authority = Authority::new();
    let (old, new) = (authority.leaf(&["crm.test"]), authority.leaf(&["crm.test"]));
    let upstream = Upstream::answering("hello").await;
    let gateway = gateway(&[("https", "", &["edge-cert"])]);
    let gateway = Foregate::start(&behind(&gateway, &upstream), secrets(&[("edge-cert", &old)])).await;
    let address = gateway.address("edge/https");
    let config = authority.client(&["http/1.1"]);
    let stream = client::tls(address, "crm.test", &config).await.unwrap();
    assert_eq!(client::shown(&stream), old.der());
    let mut living = Client::over(stream, false, "https").await;
    assert_eq!(living.get("/").await.status, 200);

    // A certificate that does not load changes nothing, and says so.
    gateway.write("secrets/edge-cert/tls.crt", "not a certificate");
    let refused = gateway.event("policies refused").await;
    assert!(refused["diagnostics"].to_string().contains("secrets/edge-cert/tls.crt"), "{refused}");
    let (_, page) = gateway.admin_page("/config").await;
    assert!(page.contains("tls.crt"), "{page}");
    let stream = client::tls(address, "crm.test", &config).await.unwrap();
    assert_eq!(client::shown(&stream), old.der());

    // Nor does one that does not fit the key, however short the moment.
    let count = |events: &[serde_json::Value]| {
        events.iter().filter(|event| event["event.name"] == "policies published").count()
    };
    let before = count(&gateway.events().all());
    gateway.write("secrets/edge-cert/tls.key", &new.key);
    gateway.write("secrets/edge-cert/tls.crt", &new.certificate);
    let published = |event: &serde_json::Value| event["event.name"] == "policies published";
    gateway.events().wait_count("a reload", before + 1, published).await;
    let stream = client::tls(address, "crm.test", &config).await.unwrap();
    assert_eq!(client::shown(&stream), new.der());
    assert_eq!(living.get("/").await.status, 200);
    let (_, page) = gateway.admin_page("/config").await;
    assert!(!page.contains("failure"), "{page}");
}

/// Connects and asks for something; how the two have come to know each other.
async fn met(address: SocketAddr, config: &Arc<ClientConfig>) -> Option<HandshakeKind> {
    let stream = client::tls(address, "crm.test", config).await.unwrap();
    let kind = stream.get_ref().1.handshake_kind();
    // Tickets come before the answer.
    assert_eq!(Client::over(stream, false, "https").await.get("/").await.status, 200);
    kind
}

#[tokio::test]
async fn sessions_outlive_other_policies_and_end_with_their_certificate() {
    let authority = Authority::new();
    let (old, new) = (authority.leaf(&["crm.test"]), authority.leaf(&["crm.test"]));
    let (one, other) = (Upstream::answering("one").await, Upstream::answering("other").await);
    let gateway = gateway(&[("https", "", &["edge-cert"])]);
    let to = |upstream: &Upstream| behind(&gateway, upstream);
    let gateway = Foregate::start(&to(&one), secrets(&[("edge-cert", &old)])).await;
    let (address, config) = (gateway.address("edge/https"), authority.client(&["http/1.1"]));
    assert_eq!(met(address, &config).await, Some(HandshakeKind::Full));
    assert_eq!(met(address, &config).await, Some(HandshakeKind::Resumed));
    gateway.publish(&to(&other)).await;
    assert_eq!(met(address, &config).await, Some(HandshakeKind::Resumed));

    let served = || async {
        let stream = client::tls(address, "crm.test", &authority.client(&[])).await.unwrap();
        client::shown(&stream)
    };
    gateway.write("secrets/edge-cert/tls.key", &new.key);
    gateway.write("secrets/edge-cert/tls.crt", &new.certificate);
    gateway.wait_sample("foregate_config_reloads_total{outcome=\"success\"}", |count| count > 2.0).await;
    assert_eq!(served().await, new.der());
    assert_eq!(met(address, &config).await, Some(HandshakeKind::Full));
}

#[tokio::test]
async fn an_unreadable_certificate_at_the_start_is_refused() {
    let upstream = Upstream::answering("hello").await;
    let authority = Authority::new();
    let (one, other) = (authority.leaf(&["crm.test"]), authority.leaf(&["crm.test"]));
    let mixed = Leaf { certificate: one.certificate.clone(), key: other.key.clone() };
    let empty = Leaf { certificate: String::new(), key: one.key.clone() };
    let documents = behind(&gateway(&[("https", "", &["edge-cert"])]), &upstream);
    for (options, told) in [
        (Options::default(), "edge-cert"),
        (secrets(&[("edge-cert", &mixed)]), "tls.key"),
        (secrets(&[("edge-cert", &empty)]), "tls.crt"),
    ] {
        let (status, text) = Foregate::refused(&documents, options).await;
        assert_eq!(status.code(), Some(3), "{text}");
        assert!(text.contains(told), "{told}: {text}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
}

/// An upstream on TLS for `localhost`, and the policies that send everything to it.
async fn secured(authority: &Authority, names: &[&str], more: &str) -> (Upstream, String) {
    let config = authority.leaf(names).server(&["h2", "http/1.1"]);
    let upstream =
        Upstream::speaking(Speak::Tls(config), |_| async { http::Response::new(full("hello")) }).await;
    let policies = policies::to(upstream.address, more);
    (upstream, policies)
}

#[tokio::test]
async fn an_upstream_that_proves_its_name_is_trusted() {
    let authority = Authority::new();
    for (names, more, version) in [
        (&["127.0.0.1"][..], "tls: { mode: Simple, caFile: ca.pem }", http::Version::HTTP_11),
        (
            &["crm.internal"],
            "tls: { mode: Simple, caFile: ca.pem, serverName: crm.internal }",
            http::Version::HTTP_11,
        ),
        (&["127.0.0.1"], "protocol: Http2, tls: { mode: Simple, caFile: ca.pem }", http::Version::HTTP_2),
    ] {
        let (upstream, policies) = secured(&authority, names, more).await;
        let gateway = Foregate::start(&policies, Options::default().file("ca.pem", authority.pem())).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let reply = client.get("/a").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"), "{more}");
        assert_eq!(upstream.last().version, version, "{more}");
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_prove_its_name_gets_no_request() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let simple = "tls: { mode: Simple, caFile: ca.pem }";
    let named = "tls: { mode: Simple, caFile: ca.pem, serverName: crm.internal }";
    for (signer, names, more) in [
        (&stranger, &["127.0.0.1"][..], simple),
        (&authority, &["127.0.0.2", "localhost"], simple),
        (&authority, &["other.internal"], named),
    ] {
        let (upstream, policies) = secured(signer, names, more).await;
        let gateway = Foregate::start(&policies, Options::default().file("ca.pem", authority.pem())).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.reason().as_str()), (502, "UpstreamUntrusted"), "{names:?}");
        assert!(upstream.received().is_empty());
    }
    // TLS was asked for: an upstream without it is not spoken to in the clear.
    let plain = Upstream::answering("hello").await;
    let gateway = Foregate::start(
        &policies::to(plain.address, simple),
        Options::default().file("ca.pem", authority.pem()),
    )
    .await;
    let reply = Client::http1(gateway.address("edge/http")).await.get("/").await;
    assert_eq!((reply.status, reply.reason().as_str()), (502, "UpstreamUntrusted"));
    assert!(plain.received().is_empty());
}

#[tokio::test]
async fn a_connection_made_for_one_listener_is_not_lent_to_another() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["a.test", "b.test", "c.test"]);
    let upstream = Upstream::answering("hello").await;
    let two = gateway(&[("a", "a.test", &["edge-cert"]), ("b", "b.test", &["edge-cert"])]);
    let two = Foregate::start(&behind(&two, &upstream), secrets(&[("edge-cert", &leaf)])).await;
    let one = gateway(&[("any", "", &["edge-cert"])]);
    let one = Foregate::start(&behind(&one, &upstream), secrets(&[("edge-cert", &leaf)])).await;
    for alpn in ["h2", "http/1.1"] {
        let config = authority.client(&[alpn]);
        let mut client = Client::tls(two.address("edge/a"), "a.test", &config).await.unwrap();
        for (host, status) in [("a.test", 200), ("A.test:8443", 200), ("b.test", 421), ("c.test", 421)] {
            let reply = client.send_empty(client.request_to(host, "GET", "/")).await;
            assert_eq!(reply.status, status, "{alpn} {host}");
        }
        let mut client = Client::tls(one.address("edge/any"), "a.test", &config).await.unwrap();
        let reply = client.send_empty(client.request_to("b.test", "GET", "/")).await;
        assert_eq!(reply.status, 200, "one listener serves both names");
    }
}

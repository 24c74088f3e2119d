//! Upstreams that are workloads: known by their SPIFFE id, and shown ours.

use std::sync::Arc;

use http::Response;
use rustls::ServerConfig;

use crate::mtls::identified;
use crate::support::certificates::Authority;
use crate::support::client::Client;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Speak, Upstream, full};
use crate::support::workloads::{Domain, Folder};

async fn speaking(config: Arc<ServerConfig>) -> Upstream {
    Upstream::speaking(Speak::Tls(config), |_| async { Response::new(full("hello")) }).await
}

const PEERS: &str = "tls: { mode: Mutual, peers: [\"spiffe://mesh.test/ns/crm/sa/leads\"] }";

#[tokio::test]
async fn one_of_the_peers_is_spoken_to_and_sees_who_we_are() {
    let (domain, partner) = (Domain::new("mesh.test"), Domain::new("partner.test"));
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    folder.write("bundles/partner.test.pem", &partner.bundle);
    let leads = domain.svid("/ns/crm/sa/leads");
    for (svid, more) in [
        (&leads, PEERS.to_owned()),
        (&leads, format!("protocol: Http2, {PEERS}")),
        (&leads, PEERS.replace("sa/leads", "*")),
        // Only in SNI: it proves nothing.
        (&leads, PEERS.replace("Mutual,", "Mutual, serverName: other.test,")),
        (&partner.svid("/leads"), PEERS.replace("mesh.test/ns/crm/sa/leads", "partner.test/leads")),
    ] {
        // It takes no client but those of our domain.
        let upstream = speaking(svid.server(&["h2", "http/1.1"], &[&domain])).await;
        let text = policies::to(upstream.address, &more);
        let gateway = Foregate::start(&text, identified(&folder)).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        for _ in 0..3 {
            let reply = client.get("/").await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "hello"), "{more}");
        }
        assert_eq!(upstream.connections(), 1, "{more}");
    }
}

#[tokio::test]
async fn whoever_is_not_one_of_the_peers_gets_no_request() {
    let (domain, stranger) = (Domain::new("mesh.test"), Domain::new("mesh.test"));
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let revoked = domain.svid("/ns/crm/sa/leads");
    folder.write("crl.pem", domain.revocations(&[&revoked]));
    let id = domain.id("/ns/crm/sa/leads");
    for (what, svid) in [
        ("another workload", domain.svid("/ns/crm/sa/cases")),
        ("another authority", stranger.svid("/ns/crm/sa/leads")),
        ("revoked", revoked),
        ("two ids", domain.svid_with(&[&id, &domain.id("/x")], |_| ())),
        ("no id", domain.svid_with(&[], |_| ())),
        ("expired", domain.svid_with(&[&id], |svid| svid.not_after = rcgen::date_time_ymd(2021, 1, 1))),
        (
            "of a client only",
            domain.svid_with(&[&id], |svid| {
                svid.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            }),
        ),
    ] {
        let upstream = speaking(svid.server(&["http/1.1"], &[&domain])).await;
        let gateway = Foregate::start(&policies::to(upstream.address, PEERS), identified(&folder)).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.reason().as_str()), (502, "UpstreamUntrusted"), "{what}");
        assert!(upstream.received().is_empty(), "{what}");
        let record = gateway.record(reply.decision()).await;
        assert!(record["foregate.detail"].as_str().is_some_and(|it| !it.is_empty()), "{record}");
    }
}

#[tokio::test]
async fn a_certificate_from_files_is_shown_to_servers_with_a_name() {
    let (domain, authority) = (Domain::new("mesh.test"), Authority::new());
    let shown = domain.svid("/anything");
    // A server with a DNS name that takes clients of one authority.
    let named = domain.svid_with(&[], |svid| {
        svid.subject_alt_names = vec![rcgen::SanType::DnsName("crm.internal".to_owned().try_into().unwrap())];
    });
    let upstream = speaking(named.server(&["http/1.1"], &[&domain])).await;
    let more = "tls: { mode: Mutual, caFile: ca.pem, serverName: crm.internal, clientCertificateRef: { name: ours } }";
    let options = |ca: &str, leaf: &crate::support::certificates::Leaf| {
        Options::default()
            .file("ca.pem", ca)
            .file("secrets/ours/tls.crt", leaf.certificate.as_str())
            .file("secrets/ours/tls.key", leaf.key.as_str())
    };
    let text = policies::to(upstream.address, more);
    let gateway = Foregate::start(&text, options(&domain.bundle, &shown.leaf)).await;
    let address = gateway.address("edge/http");
    assert_eq!(Client::http1(address).await.get("/").await.status, 200);
    let before = upstream.connections();

    // Another certificate: new connections show it, and those of the old one are not used again.
    let other = authority.leaf(&["us.test"]);
    gateway.write("secrets/ours/tls.key", &other.key);
    gateway.write("secrets/ours/tls.crt", &other.certificate);
    gateway.event("policies published").await;
    let reply = Client::http1(address).await.get("/").await;
    assert_ne!(reply.status, 200, "the server does not know this authority");
    assert!(upstream.connections() > before);

    let gateway = Foregate::start(&text, options(authority.pem(), &shown.leaf)).await;
    let reply = Client::http1(gateway.address("edge/http")).await.get("/").await;
    assert_eq!((reply.status, reply.reason().as_str()), (502, "UpstreamUntrusted"));
}

#[tokio::test]
async fn key_exchange_is_hybrid_where_the_upstream_can() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let config = domain.svid("/ns/crm/sa/leads").server(&["http/1.1"], &[&domain]);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::raw(move |stream, _| {
        let (config, tell) = (Arc::clone(&config), tell.clone());
        async move {
            let stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await.unwrap();
            let connection = stream.get_ref().1;
            let group = connection.negotiated_key_exchange_group().unwrap().name();
            tell.send((group, connection.negotiated_cipher_suite().unwrap().suite())).unwrap();
        }
    })
    .await;
    let gateway = Foregate::start(&policies::to(upstream.address, PEERS), identified(&folder)).await;
    Client::http1(gateway.address("edge/http")).await.get("/").await;
    let agreed = crate::support::within("a handshake", told.recv()).await.unwrap();
    let wanted = (rustls::NamedGroup::X25519MLKEM768, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    assert_eq!(agreed, wanted);
}

#[tokio::test]
async fn documents_say_whom_they_mean() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    for (tls, told) in [
        ("{ mode: Mutual }", "peers"),
        ("{ mode: Simple, peers: [\"spiffe://a.test/b\"] }", "mode: Mutual"),
        ("{ mode: Mutual, peers: [\"crm.internal\"] }", "names no peer"),
        ("{ mode: Mutual, peers: [\"spiffe://a.test\"] }", "names no peer"),
        ("{ mode: Mutual, caFile: ca.pem, peers: [\"spiffe://a.test/b\"] }", "caFile"),
        ("{ mode: Mutual, clientCertificateRef: { name: ours } }", "secrets/ours"),
    ] {
        let text = policies::to("127.0.0.1:1", &format!("tls: {tls}"));
        let options = identified(&folder).file("ca.pem", domain.bundle.as_str());
        let (status, text) = Foregate::refused(&text, options).await;
        assert_eq!(status.code(), Some(3), "{tls}: {text}");
        assert!(text.contains(told), "{tls}: {text}");
    }
    let (status, text) = Foregate::refused(&policies::to("127.0.0.1:1", PEERS), Options::default()).await;
    assert_eq!(status.code(), Some(3), "{text}");
    assert!(text.contains("FG0221"), "{text}");
}

//! Mesh listeners: clients are workloads of trusted domains, or nobody.

use std::time::Duration;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, date_time_ymd};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::mtls::{MESH, ask, identified, status};
use crate::support::client::{Client, HOST, tls};
use crate::support::guarded::guarded;
use crate::support::policies::GATEWAY;
use crate::support::process::Foregate;
use crate::support::upstream::Upstream;
use crate::support::within;
use crate::support::workloads::{Domain, Folder, VERSIONS, client, hybrid};

/// Everything behind a mesh listener to one upstream, for those whom this rule lets in.
fn mesh(upstream: &Upstream, allow: &str) -> String {
    guarded(upstream.address, &format!("authorize: [{{ name: peers, allow: '{allow}' }}]"))
        .replace(GATEWAY, MESH)
}

#[tokio::test]
async fn a_workload_is_let_in_and_rules_read_who_it_is() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/ns/edge/sa/gateway"), &domain);
    let upstream = Upstream::answering("hello").await;
    let rule = r#"peer.namespace == "crm" && peer.trustDomain == "mesh.test""#;
    let gateway = Foregate::start(&mesh(&upstream, rule), identified(&folder)).await;
    let address = gateway.address("edge/mesh");
    for alpn in ["http/1.1", "h2"] {
        let web = domain.svid("/ns/crm/sa/web").client(&[alpn]);
        let mut client = Client::tls(address, HOST, &web).await.unwrap();
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"), "{alpn}");
        let record = gateway.record(reply.decision()).await;
        assert_eq!(record["foregate.peer"], "spiffe://mesh.test/ns/crm/sa/web");
        assert_eq!(record["url.scheme"], "https");
        let other = domain.svid("/ns/billing/sa/web").client(&[alpn]);
        let reply = Client::tls(address, HOST, &other).await.unwrap().get("/").await;
        assert_eq!((reply.status, reply.reason().as_str()), (403, "AccessDenied"), "{alpn}");
        let (_, page) = gateway.admin_page(&format!("/decisions/{}", reply.decision())).await;
        assert!(page.contains("spiffe://mesh.test/ns/billing/sa/web"), "{page}");
    }
    assert_eq!(upstream.received().len(), 2);
    let (_, page) = gateway.admin_page("/config").await;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["identity"]["spiffe_id"], "spiffe://mesh.test/ns/edge/sa/gateway");
    assert_eq!(page["identity"]["expires"], "2099-01-01T00:00:00.000000Z");
    assert_eq!(page["identity"]["trust_domains"][0], "mesh.test");
    gateway.wait_sample("foregate_identity_expires_timestamp_seconds", |at| at > 4_070_000_000.0).await;
}

#[tokio::test]
async fn who_proves_nothing_reaches_nothing() {
    let (domain, stranger) = (Domain::new("mesh.test"), Domain::new("mesh.test"));
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let revoked = domain.svid("/revoked");
    folder.write("mesh.crl", domain.revocations(&[&revoked]));
    // The list before it is still there, and in force: it takes nothing back.
    folder.write("earlier.crl", domain.revocations(&[]));
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&mesh(&upstream, "true"), identified(&folder)).await;
    let address = gateway.address("edge/mesh");
    let id = domain.id("/web");
    let own = [id.as_str()];
    let bad = [
        ("another authority", stranger.svid("/web")),
        ("expired", domain.svid_with(&own, |svid| svid.not_after = date_time_ymd(2021, 1, 1))),
        ("not yet valid", domain.svid_with(&own, |svid| svid.not_before = date_time_ymd(2098, 1, 1))),
        ("revoked", revoked),
        ("no URI", domain.svid_with(&[], |_| ())),
        ("two URIs", domain.svid_with(&[&id, &domain.id("/other")], |_| ())),
        ("two URIs, one of them no SPIFFE id", domain.svid_with(&[&id, "https://mesh.test/"], |_| ())),
        ("no SPIFFE id", domain.svid_with(&["https://mesh.test/web"], |_| ())),
        ("a trust domain only", domain.svid_with(&["spiffe://mesh.test"], |_| ())),
        ("an unknown trust domain", domain.svid_with(&["spiffe://other.test/web"], |_| ())),
        (
            "an authority",
            domain.svid_with(&own, |svid| svid.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        ("no EKU", domain.svid_with(&own, |svid| svid.extended_key_usages.clear())),
        (
            "EKU of a server only",
            domain
                .svid_with(&own, |svid| svid.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        ("no key usage", domain.svid_with(&own, |svid| svid.key_usages.clear())),
        (
            "a key that signs others",
            domain.svid_with(&own, |svid| svid.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ),
    ];
    for version in VERSIONS {
        let nobody = client(None, &["http/1.1"], &[version]);
        assert!(ask(address, &nobody).await.is_err(), "no certificate, {version:?}");
        for (what, svid) in &bad {
            let config = client(Some(svid), &["http/1.1"], &[version]);
            let answer = ask(address, &config).await;
            assert!(answer.is_err(), "{what}, {version:?}: {answer:?}");
        }
        let good = client(Some(&domain.svid("/web")), &["http/1.1"], &[version]);
        assert_eq!(status(address, &good).await, Some(200), "{version:?}");
    }
    assert_eq!(upstream.received().len(), 2, "the good ones alone");
    for (reason, times) in
        [("none", 2.0), ("authority", 4.0), ("expired", 2.0), ("not_yet_valid", 2.0), ("revoked", 2.0)]
    {
        let series = format!("foregate_client_certificates_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(gateway.sample(&series).await, Some(times), "{reason}");
    }
}

#[tokio::test]
async fn a_bundle_vouches_for_its_own_domain_alone() {
    let (domain, partner) = (Domain::new("mesh.test"), Domain::new("partner.test"));
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    folder.write("bundles/partner.test.pem", &partner.bundle);
    let upstream = Upstream::answering("hello").await;
    let rule = r#"peer.id == "spiffe://partner.test/web""#;
    let gateway = Foregate::start(&mesh(&upstream, rule), identified(&folder)).await;
    let address = gateway.address("edge/mesh");
    let alpn = &["http/1.1"][..];
    assert_eq!(status(address, &partner.svid("/web").client(alpn)).await, Some(200));
    assert_eq!(status(address, &domain.svid("/web").client(alpn)).await, Some(403));
    // Each authority signs for the other's domain.
    for (signer, id) in [(&partner, "spiffe://mesh.test/web"), (&domain, "spiffe://partner.test/web")] {
        let forged = signer.svid_with(&[id], |_| ());
        assert_eq!(status(address, &forged.client(alpn)).await, None, "{id}");
    }
    folder.remove("bundles/partner.test.pem");
    gateway.event("identity published").await;
    assert_eq!(status(address, &partner.svid("/web").client(alpn)).await, None);
}

#[tokio::test]
async fn each_domain_revokes_its_own() {
    // Both authorities have one name, as those of SPIRE have where nobody gave them another.
    let [domain, partner] = ["mesh.test", "partner.test"].map(|name| Domain::named(name, "SPIFFE"));
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let (gone, theirs) = (domain.svid("/gone"), partner.svid("/gone"));
    folder.write("mesh.crl", domain.revocations(&[&gone]));
    folder.write("bundles/partner.test.pem", &partner.bundle);
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&mesh(&upstream, "true"), identified(&folder)).await;
    let address = gateway.address("edge/mesh");
    let alpn = &["http/1.1"][..];
    for (svid, wanted) in [
        (&domain.svid("/web"), Some(200)),
        (&gone, None),
        (&partner.svid("/web"), Some(200)),
        (&theirs, Some(200)),
    ] {
        assert_eq!(status(address, &svid.client(alpn)).await, wanted);
    }
    folder.write("bundles/partner.test.crl", partner.revocations(&[&theirs]));
    gateway.event("identity published").await;
    assert_eq!(status(address, &theirs.client(alpn)).await, None);
    assert_eq!(status(address, &partner.svid("/web").client(alpn)).await, Some(200));
}

#[tokio::test]
async fn sessions_are_taken_up_again_by_whom_they_began_with() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let upstream = Upstream::answering("hello").await;
    let rule = r#"peer.id == "spiffe://mesh.test/web""#;
    let gateway = Foregate::start(&mesh(&upstream, rule), identified(&folder)).await;
    let address = gateway.address("edge/mesh");
    let web = domain.svid_for("/web", Duration::from_secs(20));
    for version in VERSIONS {
        let config = client(Some(&web), &["http/1.1"], &[version]);
        let once = async || {
            let mut stream = tls(address, HOST, &config).await.unwrap();
            let kind = stream.get_ref().1.handshake_kind();
            let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
            let mut answer = String::new();
            let outcome = match stream.write_all(request.as_bytes()).await {
                Ok(()) => within("an answer", stream.read_to_string(&mut answer)).await,
                Err(error) => Err(error),
            };
            (kind, outcome.is_ok() && answer.starts_with("HTTP/1.1 200"))
        };
        assert_eq!(once().await, (Some(HandshakeKind::Full), true), "{version:?}");
        assert_eq!(once().await, (Some(HandshakeKind::Resumed), true), "{version:?}");
        // Another set: what was sealed before is of no use.
        let published = |event: &serde_json::Value| event["event.name"] == "identity published";
        let count = gateway.events().all().iter().filter(|event| published(event)).count();
        folder.put(&domain.svid("/gateway"), &domain.bundle);
        gateway.events().wait_count("the new identity", count + 1, published).await;
        assert_eq!(once().await, (Some(HandshakeKind::Full), true), "{version:?}");
        if version == VERSIONS[1] {
            // The certificate runs out, and a session that began with it is none any more.
            within("the end of the certificate", async { while once().await.1 {} }).await;
            let refused = "foregate_client_certificates_refused_total{reason=\"expired\"}";
            gateway.wait_sample(refused, |count| count >= 1.0).await;
        }
    }
}

#[tokio::test]
async fn key_exchange_is_hybrid_where_the_client_can() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&mesh(&upstream, "true"), identified(&folder)).await;
    let config = hybrid(&domain.svid("/web").client(&["http/1.1"]));
    let stream = tls(gateway.address("edge/mesh"), HOST, &config).await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
}

#[tokio::test]
async fn a_process_without_an_identity_does_not_serve_with_one() {
    let upstream = Upstream::answering("hello").await;
    let policies = mesh(&upstream, "true");
    let (status, text) = Foregate::refused(&policies, crate::support::process::Options::default()).await;
    assert_eq!(status.code(), Some(3), "{text}");
    assert!(text.contains("FG0221") && text.contains("--identity"), "{text}");
    let empty = tempfile::tempdir().unwrap();
    let origin = format!("dir:{}", empty.path().display());
    let options = crate::support::process::Options::default().args(&["--identity", &origin]);
    let (status, text) = Foregate::refused(&policies, options).await;
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("svid.pem"), "{text}");
}

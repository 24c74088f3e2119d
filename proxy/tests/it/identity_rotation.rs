//! Identities that change while requests pass: certificates, authorities, revocations, and where they come from.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use http::Response;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::mtls::{MESH, identified, status};
use crate::support::client::{Client, HOST, shown, tls};
use crate::support::guarded::guarded;
use crate::support::policies::{self, GATEWAY};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Speak, Upstream, full};
use crate::support::within;
use crate::support::workload_api::Agent;
use crate::support::workloads::{Domain, Folder, Svid};

const PUBLISHED: &str = "identity published";
const DRAINED: &str = "foregate_connections_no_longer_vouched_total";

/// Everything behind a mesh listener to one upstream, for every workload.
fn mesh(upstream: &Upstream) -> String {
    guarded(upstream.address, "authorize: [{ name: peers, allow: 'true' }]").replace(GATEWAY, MESH)
}

fn count(gateway: &Foregate, name: &str) -> usize {
    gateway.events().all().iter().filter(|event| event["event.name"] == name).count()
}

/// Waits for one more event of a name than there were.
async fn another(gateway: &Foregate, name: &str, before: usize) {
    gateway.events().wait_count(name, before + 1, |event: &Value| event["event.name"] == name).await;
}

/// Sends requests until told to stop, on connections that end when the gateway says so; gives their number,
/// all of which passed.
async fn load(address: SocketAddr, config: Arc<ClientConfig>, stop: &AtomicBool) -> usize {
    let mut client = Client::tls(address, HOST, &config).await.unwrap();
    let (mut sent, mut on_this) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        if on_this == 40 || (client.is_http2() && !client.ready().await) {
            client = Client::tls(address, HOST, &config).await.unwrap();
            on_this = 0;
        }
        let reply = client.get("/").await;
        assert_eq!(reply.status, 200, "request {sent}: {}", reply.text());
        (sent, on_this) = (sent + 1, on_this + 1);
        if reply.header("connection") == "close" {
            client = Client::tls(address, HOST, &config).await.unwrap();
            on_this = 0;
        }
    }
    sent
}

#[tokio::test]
async fn certificates_authorities_and_revocations_rotate_under_load_and_no_request_fails() {
    let (domain, next) = (Domain::new("mesh.test"), Domain::new("mesh.test"));
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let backend = domain.svid("/crm");
    // The upstream is a workload as well, and trusts both authorities.
    let server = backend.server(&["http/1.1"], &[&domain, &next]);
    let upstream = Upstream::speaking(Speak::Tls(server), |_| async { Response::new(full("hello")) }).await;
    let peers = "tls: { mode: Mutual, peers: [\"spiffe://mesh.test/crm\"] }";
    let text = policies::to(upstream.address, peers).replace(GATEWAY, MESH);
    let gateway = Foregate::start(&text, identified(&folder)).await;
    let (address, stop) = (gateway.address("edge/mesh"), AtomicBool::new(false));
    let clients = ["h2", "http/1.1", "h2", "http/1.1"].map(|alpn| domain.svid("/web").client(&[alpn]));
    let clients = join_all(clients.map(|config| load(address, config, &stop)));
    let both = [domain.bundle.as_str(), next.bundle.as_str()].concat();
    let changes = async {
        let mut ours = domain.svid("/gateway");
        for round in 0..6 {
            let before = count(&gateway, PUBLISHED);
            if round % 3 != 1 {
                ours = if round % 3 == 0 { domain.svid("/gateway") } else { next.svid("/gateway") };
            }
            match round % 3 {
                1 => folder.write("crl.pem", domain.revocations(&[&domain.svid("/other")])),
                _ => folder.put(&ours, &both),
            }
            another(&gateway, PUBLISHED, before).await;
            let leaf = shown(&tls(address, HOST, &next.svid("/new").client(&["h2"])).await.unwrap());
            let certificate = CertificateDer::from_pem_slice(ours.leaf.certificate.as_bytes()).unwrap();
            assert_eq!(leaf, certificate, "round {round}");
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (sent, ()) = tokio::join!(clients, changes);
    assert!(sent.iter().all(|sent| *sent > 0), "{sent:?}");
    assert_eq!(gateway.sample(DRAINED).await, Some(0.0), "all were vouched for all the time");
    assert!(upstream.connections() > 6, "connections of every identity: {}", upstream.connections());
}

#[tokio::test]
async fn whom_nothing_vouches_for_any_more_is_told_to_go() {
    let (domain, next) = (Domain::new("mesh.test"), Domain::new("mesh.test"));
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let upstream = Upstream::answering("hello").await;
    let options = identified(&folder).args(&["--drain-notice", "8s"]);
    let gateway = Foregate::start(&mesh(&upstream), options).await;
    let address = gateway.address("edge/mesh");
    let (one, two) = (domain.svid("/one"), domain.svid("/two"));
    let open = async |svid: &Svid| {
        let mut pair = Vec::new();
        for alpn in ["http/1.1", "h2"] {
            let mut client = Client::tls(address, HOST, &svid.client(&[alpn])).await.unwrap();
            let reply = client.get("/").await;
            assert_eq!((reply.status, reply.header("connection")), (200, ""));
            pair.push(client);
        }
        pair
    };
    let (mut of_one, mut of_two) = (open(&one).await, open(&two).await);

    // One is revoked: its connections end, announced, and no new one begins.
    let before = count(&gateway, PUBLISHED);
    folder.write("mesh.crl", domain.revocations(&[&one]));
    another(&gateway, PUBLISHED, before).await;
    gateway.wait_sample(DRAINED, |count| count > 1.5).await;
    let reply = of_one[0].get("/").await;
    assert_eq!((reply.status, reply.header("connection")), (200, "close"));
    for mut client in of_one {
        let _ = client.ended().await;
    }
    assert_eq!(status(address, &one.client(&["http/1.1"])).await, None);
    for client in &mut of_two {
        assert_eq!(client.get("/").await.status, 200);
    }

    // The authority is removed: so do those of two, the idle ones as well.
    let before = count(&gateway, PUBLISHED);
    folder.put(&next.svid("/gateway"), &next.bundle);
    another(&gateway, PUBLISHED, before).await;
    gateway.wait_sample(DRAINED, |count| count > 3.5).await;
    for mut client in of_two {
        let _ = client.ended().await;
    }
    assert_eq!(status(address, &two.client(&["http/1.1"])).await, None);
    assert_eq!(status(address, &next.svid("/two").client(&["http/1.1"])).await, Some(200));
}

#[tokio::test]
async fn an_authority_may_change_its_key_and_keep_its_name() {
    let [old, new] = ["a", "a"].map(|authority| Domain::named("mesh.test", authority));
    let folder = Folder::new(&old.svid("/gateway"), &old);
    folder.write("svid_bundle.pem", [old.bundle.as_str(), new.bundle.as_str()].concat());
    let (gone_old, gone_new) = (old.svid("/gone"), new.svid("/gone"));
    folder.write("old.crl", old.revocations(&[&gone_old]));
    folder.write("new.crl", new.revocations(&[&gone_new]));
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&mesh(&upstream), identified(&folder)).await;
    let address = gateway.address("edge/mesh");
    for (svid, wanted) in
        [(&old.svid("/web"), Some(200)), (&new.svid("/web"), Some(200)), (&gone_old, None), (&gone_new, None)]
    {
        assert_eq!(status(address, &svid.client(&["http/1.1"])).await, wanted);
    }
    // With a list of the other key alone nobody can tell who is revoked.
    folder.remove("new.crl");
    gateway.event(PUBLISHED).await;
    assert_eq!(status(address, &new.svid("/web").client(&["http/1.1"])).await, None);
    assert_eq!(status(address, &old.svid("/web").client(&["http/1.1"])).await, Some(200));
}

#[tokio::test]
async fn connections_end_with_the_certificate_they_began_with() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let upstream = Upstream::answering("hello").await;
    let options = identified(&folder).args(&["--drain-notice", "1s"]);
    let gateway = Foregate::start(&mesh(&upstream), options).await;
    let address = gateway.address("edge/mesh");
    let short = domain.svid_for("/web", Duration::from_secs(12));
    let mut client = Client::tls(address, HOST, &short.client(&["h2"])).await.unwrap();
    assert_eq!(client.get("/").await.status, 200);
    let _ = client.ended().await;
    assert_eq!(gateway.sample(DRAINED).await, Some(1.0));
    assert_eq!(status(address, &short.client(&["http/1.1"])).await, None);
}

#[tokio::test]
async fn half_an_identity_is_none() {
    let domain = Domain::new("mesh.test");
    let (old, new) = (domain.svid("/gateway"), domain.svid("/gateway"));
    let folder = Folder::new(&old, &domain);
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&mesh(&upstream), identified(&folder)).await;
    let address = gateway.address("edge/mesh");
    let config = domain.svid("/web").client(&["http/1.1"]);
    let serving = async || shown(&tls(address, HOST, &config).await.unwrap());
    let half = &new.leaf.certificate[..new.leaf.certificate.len() / 2];
    let foreign = Domain::new("mesh.test");
    let changes: [(&str, &dyn Fn()); 7] = [
        ("certificate alone", &|| folder.write("svid.pem", &new.leaf.certificate)),
        ("half a certificate", &|| folder.write("svid.pem", half)),
        ("no certificate", &|| folder.remove("svid.pem")),
        ("another bundle", &|| folder.put(&new, &foreign.bundle)),
        ("an empty bundle", &|| folder.put(&new, "")),
        ("a list that is none", &|| {
            folder.put(&new, &domain.bundle);
            folder.write("a.crl", "no list");
        }),
        ("another set of names", &|| {
            folder.remove("a.crl");
            folder.write("tls.crt", &new.leaf.certificate);
        }),
    ];
    for (what, change) in changes {
        let failed = "foregate_identity_updates_failed_total";
        let before = gateway.sample(failed).await.unwrap();
        change();
        gateway.wait_sample(failed, |count| count > before).await;
        assert_eq!(serving().await, old.leaf.der(), "{what}");
        let (_, page) = gateway.admin_page("/config").await;
        let page: Value = serde_json::from_str(&page).unwrap();
        assert!(page["identity"]["failure"].is_string(), "{what}: {page}");
        assert!(!page.to_string().contains("PRIVATE"), "{page}");
    }
    folder.remove("tls.crt");
    gateway.event(PUBLISHED).await;
    assert_eq!(serving().await, new.leaf.der());
    let (_, page) = gateway.admin_page("/config").await;
    assert!(!page.contains("failure"), "{page}");
}

#[tokio::test]
async fn an_identity_rotates_whatever_the_policies_are_like() {
    let domain = Domain::new("mesh.test");
    let new = domain.svid("/gateway");
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&mesh(&upstream), identified(&folder)).await;
    gateway.write("policies.yaml", "kind: Nonsense");
    gateway.event("policies refused").await;
    folder.put(&new, &domain.bundle);
    gateway.event(PUBLISHED).await;
    let config = domain.svid("/web").client(&["http/1.1"]);
    let stream = tls(gateway.address("edge/mesh"), HOST, &config).await.unwrap();
    assert_eq!(shown(&stream), new.leaf.der());
}

#[tokio::test]
async fn a_folder_is_swapped_as_kubernetes_does() {
    let domain = Domain::new("mesh.test");
    let mount = tempfile::tempdir().unwrap();
    let put = |version: &str, svid: &Svid| {
        let folder = mount.path().join(version);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("tls.crt"), &svid.leaf.certificate).unwrap();
        std::fs::write(folder.join("tls.key"), &svid.leaf.key).unwrap();
        std::fs::write(folder.join("ca.crt"), &domain.bundle).unwrap();
        std::os::unix::fs::symlink(version, mount.path().join("..new")).unwrap();
        std::fs::rename(mount.path().join("..new"), mount.path().join("..data")).unwrap();
    };
    put("..1", &domain.svid("/gateway"));
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), mount.path().join(name)).unwrap();
    }
    let upstream = Upstream::answering("hello").await;
    let origin = format!("dir:{}", mount.path().display());
    let gateway = Foregate::start(&mesh(&upstream), Options::default().args(&["--identity", &origin])).await;
    let new = domain.svid("/gateway");
    put("..2", &new);
    gateway.event(PUBLISHED).await;
    let config = domain.svid("/web").client(&["http/1.1"]);
    let stream = tls(gateway.address("edge/mesh"), HOST, &config).await.unwrap();
    assert_eq!(shown(&stream), new.leaf.der());
}

#[tokio::test]
async fn upstream_connections_of_an_old_identity_are_let_go() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let server = domain.svid("/crm").server(&["http/1.1"], &[&domain]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&seen);
    let upstream = Upstream::raw(move |stream, _| {
        let (server, tell) = (Arc::clone(&server), Arc::clone(&tell));
        async move {
            let mut stream = tokio_rustls::TlsAcceptor::from(server).accept(stream).await.unwrap();
            let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
            tell.lock().unwrap().push(certificate);
            answer_all(&mut stream).await;
        }
    })
    .await;
    let peers = "tls: { mode: Mutual, peers: [\"spiffe://mesh.test/crm\"] }";
    let options = identified(&folder).args(&["--threads", "1"]);
    let gateway = Foregate::start(&policies::to(upstream.address, peers), options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let new = domain.svid("/gateway");
    folder.put(&new, &domain.bundle);
    gateway.event(PUBLISHED).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let seen = seen.lock().unwrap().clone();
    assert_eq!((seen.len(), &seen[1]), (2, &new.leaf.der()), "one connection of each identity");
    assert_ne!(seen[0], seen[1]);
}

/// Answers HTTP/1.1 requests without bodies until the other side ends the connection.
async fn answer_all<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                return;
            }
            let _ = stream.flush().await;
        }
    }
}

#[tokio::test]
async fn tunnels_end_as_well() {
    let domain = Domain::new("mesh.test");
    let folder = Folder::new(&domain.svid("/gateway"), &domain);
    let upstream = Upstream::raw(|mut stream, _| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let options = identified(&folder).args(&["--drain-notice", "1s"]);
    let gateway = Foregate::start(&mesh(&upstream), options).await;
    let web = domain.svid("/web");
    let mut stream = tls(gateway.address("edge/mesh"), HOST, &web.client(&["http/1.1"])).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: crm.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("a head", stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{:?}", String::from_utf8_lossy(&head));
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    within("an echo", stream.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"ping");

    folder.write("mesh.crl", domain.revocations(&[&web]));
    gateway.event(PUBLISHED).await;
    let ended = within("the end of the tunnel", stream.read(&mut echoed)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn an_agent_gives_the_identity_and_every_later_one() {
    let (domain, partner) = (Domain::new("mesh.test"), Domain::new("partner.test"));
    let first = domain.svid("/gateway");
    let agent = Agent::start();
    agent.give(&first, &domain, &[&partner], &[]);
    let upstream = Upstream::answering("hello").await;
    let options = Options::default().args(&["--identity", &agent.origin(), "--drain-notice", "1s"]);
    let gateway = Foregate::start(&mesh(&upstream), options).await;
    let address = gateway.address("edge/mesh");
    let (web, theirs) = (domain.svid("/web"), partner.svid("/web"));
    let alpn = &["http/1.1"][..];
    assert_eq!(shown(&tls(address, HOST, &web.client(alpn)).await.unwrap()), first.leaf.der());
    assert_eq!(status(address, &theirs.client(alpn)).await, Some(200));

    let second = domain.svid("/gateway");
    agent.give(&second, &domain, &[], &[&web]);
    gateway.event(PUBLISHED).await;
    assert_eq!(status(address, &theirs.client(alpn)).await, None, "the federated bundle is gone");
    assert_eq!(status(address, &web.client(alpn)).await, None, "revoked");
    let other = domain.svid("/other");
    assert_eq!(shown(&tls(address, HOST, &other.client(alpn)).await.unwrap()), second.leaf.der());

    // The agent goes and comes again: the identity stays, and the next one is taken over.
    let agent = agent.restart().await;
    gateway.event("identity not renewed").await;
    assert_eq!(status(address, &other.client(alpn)).await, Some(200));
    let before = count(&gateway, PUBLISHED);
    let third = domain.svid("/gateway");
    agent.give(&third, &domain, &[], &[]);
    another(&gateway, PUBLISHED, before).await;
    assert_eq!(shown(&tls(address, HOST, &web.client(alpn)).await.unwrap()), third.leaf.der());
}

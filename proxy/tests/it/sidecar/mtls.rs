//! The sidecar at another machine: each side shows who it is, and is asked who.

use std::path::Path;

use super::{Place, Server, Stand};
use crate::support::guarded::bundle;
use crate::support::process::{Foregate, Options};
use crate::support::workloads::{Domain, Folder, Svid};

/// The inference server with this certificate, for clients of this domain.
fn serve(models: &Path, svid: &Svid, clients: &Domain) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (chain, key) = (file("tls.crt", &svid.leaf.certificate), file("tls.key", &svid.leaf.key));
    let ca = file("ca.crt", &clients.bundle);
    (Server::start(models, &["--tls-cert", &chain, "--tls-key", &key, "--client-ca", &ca]), folder)
}

fn options(server: &Server, peer: &str, identity: &Folder) -> Options {
    let place = format!("https://{}", server.grpc);
    let identity = identity.origin();
    let args = ["--inference-sidecar", &place, "--inference-sidecar-peer", peer, "--identity", &identity];
    Options::default().args(&args)
}

#[tokio::test]
async fn scores_come_over_mutual_tls_from_the_peer_that_is_named_alone() {
    let place = Place::new(&["lead-score"]);
    let domain = Domain::new("corp.example");
    let (server, _files) = serve(&place.models(), &domain.svid("/ns/ai/sa/inference"), &domain);
    let ours = Folder::new(&domain.svid("/ns/crm/sa/gateway"), &domain);
    let peer = domain.id("/ns/ai/sa/inference");
    let stand = Stand::with(options(&server, &peer, &ours), &bundle("lead-score")).await;
    stand.wait_scored().await;
    // The next certificate is shown on a connection of its own, and no request waits for it.
    let connected = |event: &serde_json::Value| event["event.name"] == "inference sidecar connected";
    ours.put(&domain.svid("/ns/crm/sa/gateway"), &domain.bundle);
    stand.gateway.events().wait_count("a second connection", 2, connected).await;
    stand.wait_scored().await;
    // Another workload of the same domain is not whom we asked for.
    let other = domain.id("/ns/ai/sa/other");
    let stand = Stand::with(options(&server, &other, &ours), &bundle("lead-score")).await;
    let told = stand.gateway.event("inference sidecar unavailable").await;
    assert!(told["error"].as_str().unwrap().contains("certificate"), "{told}");
    let mut client = stand.client().await;
    assert_eq!(stand.lenient(&mut client).await.0, "default;cause=model");
    // Nor does a sidecar answer a workload of a domain that it does not trust.
    let foreign = Domain::new("foreign.example");
    let (server, _files) = serve(&place.models(), &domain.svid("/ns/ai/sa/inference"), &foreign);
    let stand = Stand::with(options(&server, &peer, &ours), &bundle("lead-score")).await;
    stand.gateway.event("inference sidecar unavailable").await;
    let mut client = stand.client().await;
    assert_eq!(stand.lenient(&mut client).await.0, "default;cause=model");
}

#[tokio::test]
async fn tls_without_an_identity_or_a_peer_is_refused() {
    let place = ["--inference-sidecar", "https://127.0.0.1:8001"];
    let peer = ["--inference-sidecar-peer", "spiffe://corp.example/inference"];
    for (args, says) in [
        (place.to_vec(), "needs --inference-sidecar-peer"),
        ([place, peer].concat(), "needs --identity"),
        (peer.to_vec(), "--inference-sidecar"),
    ] {
        let (status, said) = Foregate::refused("", Options::default().args(&args)).await;
        assert!(!status.success() && said.contains(says), "{args:?}: {said}");
    }
}

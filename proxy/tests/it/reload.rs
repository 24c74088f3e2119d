//! Policies, models and listeners that change while requests pass.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::guarded::{bundle, copy_bundle, guarded, model, policy};
use crate::support::policies::{GATEWAY, route, upstream};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, full};
use crate::support::within;

const SUCCEEDED: &str = "foregate_config_reloads_total{outcome=\"success\"}";
const FAILED: &str = "foregate_config_reloads_total{outcome=\"failure\"}";

/// Everybody may call; the rule that says so has this name, and requests with a header of it are refused.
fn generation(number: usize) -> String {
    format!(
        "authorize:
- {{ name: everybody, allow: 'true' }}
- {{ name: generation-{number}, deny: '\"x-generation-{number}\" in request.headers' }}\n"
    )
}

/// Tries again until it is so.
async fn until<F: Future<Output = bool>>(what: &str, mut fact: impl FnMut() -> F) {
    within(what, async {
        while !fact().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn config(gateway: &Foregate) -> Value {
    let (status, text) = gateway.admin_page("/config").await;
    assert_eq!(status, 200);
    serde_json::from_str(&text).unwrap()
}

/// True where the policy of this generation is in force.
async fn in_force(address: SocketAddr, number: usize) -> bool {
    let mut client = Client::http1(address).await;
    let request = client.request("GET", "/").header(format!("x-generation-{number}"), "1");
    client.send_empty(request).await.status == 403
}

/// Sends requests until told to stop; gives their number, all of which passed.
async fn load(address: SocketAddr, number: usize, stop: &AtomicBool) -> usize {
    let mut client =
        if number.is_multiple_of(2) { Client::http1(address).await } else { Client::http2(address).await };
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        // Bodies and new connections now and then: they too must outlive a change.
        let reply = if sent % 5 == 0 { client.post("/", "body").await } else { client.get("/").await };
        assert_eq!(reply.status, 200, "request {sent} of client {number}: {}", reply.text());
        sent += 1;
        if sent % 50 == 0 {
            client =
                if sent % 100 == 0 { Client::http1(address).await } else { Client::http2(address).await };
        }
    }
    sent
}

#[tokio::test]
async fn policies_change_under_load_and_no_request_fails() {
    let upstreams = [Upstream::answering("one").await, Upstream::answering("two").await];
    let text = |number: usize| guarded(upstreams[number % 2].address, &generation(number));
    let gateway = Foregate::start(&text(0), Options::default()).await;
    let (address, stop) = (gateway.address("edge/http"), AtomicBool::new(false));
    let clients = join_all((0..10).map(|number| load(address, number, &stop)));
    let changes = async {
        for number in 1..=4 {
            let before = upstreams[number % 2].received().len();
            if number == 3 {
                // A faulty one between: nobody notices but the operator.
                gateway.write("policies.yaml", text(3).replace("allow: 'true'", "allow: 'treu'"));
                gateway.wait_sample(FAILED, |failed| failed >= 1.0).await;
            }
            gateway.write("policies.yaml", text(number));
            until("the new policy", || in_force(address, number)).await;
            assert!(!in_force(address, number - 1).await, "the old rule is gone");
            upstreams[number % 2].wait_received(before + 20).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (sent, ()) = tokio::join!(clients, changes);
    let received: usize = upstreams.iter().map(|upstream| upstream.received().len()).sum();
    // Every attempt of `in_force` that found another generation passed, too.
    assert!(received >= sent.iter().sum(), "{received} received");
    let records = gateway.access_log().all();
    let failed = records.iter().filter(|record| record["http.response.status_code"].as_u64() >= Some(500));
    assert_eq!(failed.count(), 0);
}

#[tokio::test]
async fn a_faulty_policy_changes_nothing_is_told_in_full_and_can_be_mended() {
    let upstream = Upstream::answering("ok").await;
    let text = |number: usize| guarded(upstream.address, &generation(number));
    let gateway = Foregate::start(&text(0), Options::default()).await;
    let address = gateway.address("edge/http");
    let good = config(&gateway).await;
    assert_eq!((good.get("failure"), &good["listeners"], &good["routes"]), (None, &json!(1), &json!(1)));
    // Two faults in two files.
    gateway.write(
        "more.yaml",
        "apiVersion: foregate.dev/v1alpha1\nkind: Polcy\nmetadata: { name: x }\nspec: {}\n",
    );
    let faulty = text(1).replace("allow: 'true'", "allow: 'request.methd == \"GET\"'");
    gateway.write("policies.yaml", &faulty);
    until("both faults", async || {
        config(&gateway).await["failure"]["diagnostics"].as_array().is_some_and(|all| all.len() >= 2)
    })
    .await;
    let status = config(&gateway).await;
    assert_eq!((&status["revision"], &status["loaded_at"]), (&good["revision"], &good["loaded_at"]));
    let told = status["failure"]["diagnostics"].as_array().unwrap().iter().map(|it| it.as_str().unwrap());
    let told: Vec<&str> = told.collect();
    let line = faulty.lines().position(|line| line.contains("methd")).unwrap() + 1;
    let column = faulty.lines().nth(line - 1).unwrap().find("methd").unwrap() + 1;
    let place = format!("policies.yaml:{line}:{column}: ");
    assert!(
        told.iter().any(|it| it.starts_with("FG04") && it.contains(&place)),
        "{place} is not in {told:?}"
    );
    assert!(told.iter().any(|it| it.contains("more.yaml:2:7: ") && it.contains("Polcy")), "{told:?}");
    assert!(gateway.sample(FAILED).await >= Some(1.0));
    let event = gateway.event("policies refused").await;
    assert!(event["diagnostics"].as_array().is_some_and(|all| !all.is_empty()), "{event}");
    assert!(in_force(address, 0).await && !in_force(address, 1).await, "the old policy is in force");
    let revision =
        format!("foregate_config_revision_info{{revision=\"{}\"}}", good["revision"].as_str().unwrap());
    assert_eq!(gateway.sample(&revision).await, Some(1.0));
    // Mended: in force at once, and the failure is forgotten.
    std::fs::remove_file(gateway.folder().join("more.yaml")).unwrap();
    gateway.write("policies.yaml", text(1));
    until("the mended policy", || in_force(address, 1)).await;
    until("the failure to be forgotten", async || config(&gateway).await.get("failure").is_none()).await;
    assert_ne!(config(&gateway).await["revision"], good["revision"]);
    assert_eq!(gateway.sample(&revision).await, None);
}

#[tokio::test]
async fn a_hangup_reads_everything_again() {
    let upstream = Upstream::answering("ok").await;
    let gateway = Foregate::start(&guarded(upstream.address, &generation(0)), Options::default()).await;
    for times in [2.0, 3.0] {
        let before = config(&gateway).await;
        gateway.signal("HUP");
        gateway.wait_sample(SUCCEEDED, |reloads| reloads >= times).await;
        until("the new time", async || config(&gateway).await["loaded_at"] != before["loaded_at"]).await;
        assert_eq!(config(&gateway).await["revision"], before["revision"]);
    }
    assert!(in_force(gateway.address("edge/http"), 0).await);
}

#[tokio::test]
async fn listeners_come_and_go_and_connections_of_a_closed_one_go_on() {
    let upstream = Upstream::answering("ok").await;
    let gateway = Foregate::start(&guarded(upstream.address, &generation(0)), Options::default()).await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let with = |listener: &str| {
        guarded(upstream.address, &generation(1))
            .replace("port: 8080 }", &format!("port: 8080 }}{listener}"))
            .replace(
                "gatewayClassName: foregate",
                "gatewayClassName: foregate\n  addresses: [{ value: 127.0.0.1 }]",
            )
    };
    let second = format!("\n  - {{ name: second, protocol: HTTP, port: {} }}", free.port());
    gateway.write("policies.yaml", with(&second));
    until("the new listener", async || TcpStream::connect(free).await.is_ok()).await;
    let mut clients = [Client::http1(free).await, Client::http2(free).await];
    for client in &mut clients {
        let reply = client.get("/").await;
        assert_eq!(reply.status, 200);
        assert_eq!(gateway.record(reply.decision()).await["foregate.listener"], "edge/second");
    }
    gateway.write("policies.yaml", with(""));
    until("the listener to be gone", async || TcpStream::connect(free).await.is_err()).await;
    for client in &mut clients {
        // No route is attached to it any more; the connection is answered, not dropped.
        let reply = client.get("/").await;
        assert!([200, 404].contains(&reply.status), "{reply:?}");
    }
    assert!(in_force(gateway.address("edge/http"), 1).await, "the other listener never closed");
}

/// Makes `..data` point to a new folder with these policies, as the kubelet updates a mounted `ConfigMap`.
fn swap(folder: &Path, version: &str, text: &str) {
    let data = folder.join(format!("..{version}"));
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("policies.yaml"), text).unwrap();
    symlink(data.file_name().unwrap(), folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[tokio::test]
async fn a_mounted_folder_is_swapped_as_kubernetes_does() {
    let upstream = Upstream::answering("ok").await;
    let text = |number: usize| guarded(upstream.address, &generation(number));
    let gateway = Foregate::start(&text(0), Options::default()).await;
    let (folder, address) = (gateway.folder(), gateway.address("edge/http"));
    swap(folder, "v1", &text(1));
    symlink("..data/policies.yaml", folder.join("link")).unwrap();
    std::fs::rename(folder.join("link"), folder.join("policies.yaml")).unwrap();
    until("the first version", || in_force(address, 1)).await;
    for number in 2..5 {
        swap(folder, &format!("v{number}"), &text(number));
        std::fs::remove_dir_all(folder.join(format!("..v{}", number - 1))).unwrap();
        until("the next version", || in_force(address, number)).await;
    }
    assert_eq!(
        gateway.sample(FAILED).await.filter(|failed| *failed > 0.0),
        None,
        "every file is read once it is there"
    );
}

/// A policy that scores with this bundle.
fn scoring(upstream: &Upstream, bundle: &Path) -> String {
    let spec = "insecure: { anonymous: true }
enrich: [{ name: lead, model: lead, deadline: 900ms, set: { header: x-lead-score } }]";
    [guarded(upstream.address, spec), model("lead", bundle)].concat()
}

/// Copies a shipped bundle under another version.
fn install(name: &str, version: &str, to: &Path) {
    let edit = |manifest: String| manifest.replace("version: \"1.0.0\"", &format!("version: \"{version}\""));
    copy_bundle(&bundle(name), to, edit, |_| true);
}

/// Has one lead scored; gives the score that the upstream got, and the version that made it.
async fn scored(gateway: &Foregate, upstream: &Upstream) -> (String, String) {
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let request = client.request("POST", "/").header("content-type", "application/json");
    let reply = client.send(request.body(full(r#"{"Title":"CFO","Country":"US"}"#)).unwrap()).await;
    assert_eq!((reply.status, upstream.last().header("x-lead-score-status")), (200, "scored"));
    let record = gateway.record(reply.decision()).await;
    let version = record["foregate.scores"][0]["version"].as_str().unwrap().to_owned();
    (upstream.last().header("x-lead-score").to_owned(), version)
}

#[tokio::test]
async fn a_model_is_replaced_in_place_and_a_damaged_one_is_not_taken() {
    let upstream = Upstream::answering("ok").await;
    let models = tempfile::tempdir().unwrap();
    let (served, next) = (models.path().join("served"), models.path().join("next"));
    install("lead-score", "1", &served);
    let gateway = Foregate::start(&scoring(&upstream, &served), Options::default()).await;
    let first = scored(&gateway, &upstream).await;
    assert_eq!(first.1, "1");
    // A file damaged beside an unchanged description is found out.
    let graph = std::fs::read(served.join("model.onnx")).unwrap();
    std::fs::write(served.join("model.onnx"), &graph[..graph.len() / 2]).unwrap();
    gateway.wait_sample(FAILED, |failed| failed >= 1.0).await;
    assert_eq!(scored(&gateway, &upstream).await, first, "the old model goes on");
    let status = config(&gateway).await;
    let diagnostic = status["failure"]["diagnostics"][0].as_str().unwrap();
    assert!(diagnostic.contains("sha256") && diagnostic.contains("policies.yaml:"), "{diagnostic}");
    std::fs::write(served.join("model.onnx"), &graph).unwrap();
    until("the failure to be mended", async || config(&gateway).await.get("failure").is_none()).await;
    assert_eq!(scored(&gateway, &upstream).await, first);
    // Another model takes the place of the first, all files at once.
    install("lead-score-logistic", "2", &next);
    std::fs::rename(&served, models.path().join("old")).unwrap();
    std::fs::rename(&next, &served).unwrap();
    until("the next model", async || scored(&gateway, &upstream).await.1 == "2").await;
    assert_ne!(scored(&gateway, &upstream).await.0, first.0, "another model, another score");
    // And again: the new folder is watched as the old one was.
    install("lead-score", "3", &served);
    until("the third model", async || scored(&gateway, &upstream).await == (first.0.clone(), "3".to_owned()))
        .await;
}

#[tokio::test]
async fn a_link_to_a_model_may_be_turned_to_another_one() {
    let upstream = Upstream::answering("ok").await;
    let models = tempfile::tempdir().unwrap();
    let at = |name: &str| models.path().join(name);
    symlink("v1", at("current")).unwrap();
    install("lead-score", "1", &at("v1"));
    let gateway = Foregate::start(&scoring(&upstream, &at("current")), Options::default()).await;
    for version in ["2", "3"] {
        let folder = format!("v{version}");
        install("lead-score-logistic", version, &at(&folder));
        symlink(&folder, at("next")).unwrap();
        std::fs::rename(at("next"), at("current")).unwrap();
        until("the model behind the link", async || scored(&gateway, &upstream).await.1 == version).await;
    }
}

#[tokio::test]
async fn a_policy_folder_that_is_deleted_and_made_anew_is_watched_again() {
    let upstream = Upstream::answering("ok").await;
    let text = |number: usize| guarded(upstream.address, &generation(number));
    let gateway = Foregate::start(&text(0), Options::default()).await;
    let address = gateway.address("edge/http");
    std::fs::remove_dir_all(gateway.folder()).unwrap();
    gateway.wait_sample(FAILED, |failures| failures >= 1.0).await;
    assert!(in_force(address, 0).await, "the last good policy stays");
    std::fs::create_dir(gateway.folder()).unwrap();
    for number in 1..3 {
        gateway.write("policies.yaml", text(number));
        until("the new policy", async || in_force(address, number).await).await;
    }
}

#[tokio::test]
async fn a_gateway_with_faulty_policies_does_not_start_and_points_at_every_fault() {
    let rules = "  - backendRefs: [{ group: foregate.dev, kind: Upstream, name: crn }]";
    let text = [
        GATEWAY,
        &route("all", rules),
        &upstream("crm", "127.0.0.1:1", "timeout: { connect: 1s }"),
        &policy("all", "authorize: [{ name: a, allow: 'request.methd == \"GET\"' }]"),
    ]
    .concat();
    let (status, told) = Foregate::refused(&text, Options::default()).await;
    assert_eq!(status.code(), Some(3), "{told}");
    for (wrong, help) in [("methd", "request.method"), ("crn", "`crm`"), ("timeout:", "`timeouts`")] {
        let line = text.lines().position(|line| line.contains(wrong)).unwrap() + 1;
        assert!(told.contains(&format!("policies.yaml:{line}:")), "{wrong}: {told}");
        assert!(told.contains(&format!("did you mean {help}?")), "{help}: {told}");
    }
    assert!(
        told.lines().filter(|line| line.trim_start_matches([' ', '|']).starts_with('^')).count() >= 3,
        "{told}"
    );
    assert!(!told.contains("listening"), "a socket was opened: {told}");
}

//! What reaches which proxy, and what stays in force when something is wrong.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::{EVERYTHING, Place, serving};
use crate::support::client::Client;
use crate::support::control::Control;
use crate::support::policies::{GATEWAY, plain, route, upstream};
use crate::support::process::Foregate;
use crate::support::upstream::Upstream;
use crate::support::within;
use crate::support::workloads::Domain;

/// What `/config` says of the control plane.
async fn fleet(gateway: &Foregate) -> Value {
    let (status, page) = gateway.admin_page("/config").await;
    assert_eq!(status, 200);
    serde_json::from_str::<Value>(&page).unwrap()["fleet"].take()
}

async fn wait_fleet(gateway: &Foregate, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    within(what, async {
        loop {
            let fleet = fleet(gateway).await;
            if fits(&fleet) {
                return fleet;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// A route with a header of this value on every response.
fn marked(endpoint: impl std::fmt::Display, mark: &str) -> String {
    let rules = format!(
        "  - backendRefs: [{{ group: foregate.dev, kind: Upstream, name: crm }}]\n    filters:\n    - type: ResponseHeaderModifier\n      responseHeaderModifier: {{ set: [{{ name: x-mark, value: {mark} }}] }}"
    );
    [GATEWAY, &route("all", &rules), &upstream("crm", endpoint, "")].concat()
}

async fn mark(gateway: &Foregate) -> String {
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let reply = client.get("/").await;
    assert_eq!(reply.status, 200);
    reply.header("x-mark").to_owned()
}

#[tokio::test]
async fn policies_reach_a_proxy_change_while_it_runs_and_outlive_both() {
    let (domain, crm) = (Domain::new("example.org"), Upstream::answering("ok").await);
    let policies = marked(crm.address, "one");
    let mut control = Control::start(&domain, EVERYTHING, &[("policies.yaml", &policies)]).await;
    let place = Place::new(&domain, "/ns/crm/sa/edge");
    let gateway = serving(&place, &control, &policies).await;
    assert_eq!(mark(&gateway).await, "one");
    let first = fleet(&gateway).await;
    assert_eq!((&first["connected"], &first["control"]), (&true.into(), &control.url().into()));
    control.write("policies.yaml", marked(crm.address, "two"));
    let second = wait_fleet(&gateway, "another revision", |now| now["revision"] != first["revision"]).await;
    assert_eq!(mark(&gateway).await, "two");
    let status = control
        .wait_status("the proxy has it", |status| status["proxies"][0]["inForce"] == second["revision"])
        .await;
    assert_eq!(status["proxies"][0]["identity"], "spiffe://example.org/ns/crm/sa/edge");
    assert_eq!(status["current"], second["revision"]);
    assert!(
        String::from_utf8(control.command(&["status"]).stdout)
            .unwrap()
            .contains("proxies: 1 known, 1 connected")
    );
    control.wait_status("a report", |status| status["proxies"][0]["requests"].as_u64() >= Some(2)).await;
    // Nobody is there any more: what runs goes on, and what starts begins with what is kept.
    control.kill();
    wait_fleet(&gateway, "the end of the control plane", |now| now["connected"] == false).await;
    assert_eq!(mark(&gateway).await, "two");
    drop(gateway);
    let gateway = serving(&place, &control, &policies).await;
    assert_eq!(mark(&gateway).await, "two");
    let now = fleet(&gateway).await;
    assert_eq!((&now["connected"], &now["revision"]), (&false.into(), &second["revision"]));
    // The policies changed while nobody looked.
    control.write("policies.yaml", marked(crm.address, "three"));
    control.run().await;
    wait_fleet(&gateway, "the control plane", |now| now["revision"] != second["revision"]).await;
    assert_eq!(mark(&gateway).await, "three");
    let modes = modes(place.state());
    assert!(modes.iter().all(|(_, mode)| mode.trailing_zeros() >= 6), "{modes:?}");
}

/// Permissions of everything below a folder, links left out.
fn modes(folder: &Path) -> Vec<(String, u32)> {
    use std::os::unix::fs::PermissionsExt;
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let metadata = entry.path().symlink_metadata().unwrap();
        if metadata.is_symlink() {
            continue;
        }
        all.push((entry.path().display().to_string(), metadata.permissions().mode()));
        if metadata.is_dir() {
            all.extend(modes(&entry.path()));
        }
    }
    all
}

#[tokio::test]
async fn a_proxy_without_policies_is_not_ready_and_says_what_it_waits_for() {
    let (domain, crm) = (Domain::new("example.org"), Upstream::answering("ok").await);
    let policies = plain(crm.address);
    let mut control = Control::start(&domain, EVERYTHING, &[("policies.yaml", "kind: Nonsense\n")]).await;
    control.event("revision refused").await;
    assert_eq!(control.command(&["status"]).status.code(), Some(1));
    let place = Place::new(&domain, "/ns/crm/sa/edge");
    let mut gateway = place.start(&control, &policies, &[]).await;
    wait_fleet(&gateway, "the stream", |now| now["connected"] == true).await;
    let (status, page) = gateway.admin_page("/readyz").await;
    assert_eq!((status, page.as_str()), (503, "waiting for policies of the control plane\n"));
    control.write("policies.yaml", &policies);
    gateway.wait_serving(&policies).await;
    assert_eq!(Client::http1(gateway.address("edge/http")).await.get("/").await.status, 200);
    control.kill();
}

#[tokio::test]
async fn what_does_not_compile_here_is_refused_shown_and_not_sent_again() {
    let (domain, crm) = (Domain::new("example.org"), Upstream::answering("ok").await);
    let good = marked(crm.address, "good");
    let control = Control::start(&domain, EVERYTHING, &[("policies.yaml", &good)]).await;
    let place = Place::new(&domain, "/ns/crm/sa/edge");
    let gateway = serving(&place, &control, &good).await;
    // What stands on the machine of a proxy is taken as declared by the control plane.
    let endpoints = format!("endpoints: [\"{}\"]", crm.address);
    let there = format!("{endpoints}, tls: {{ mode: Simple, caFile: /nowhere/edge-cert.pem }}");
    let bad = marked(crm.address, "bad").replace(&endpoints, &there);
    control.write("policies.yaml", &bad);
    let status =
        control.wait_status("the refusal", |status| status["proxies"][0]["refusal"].is_object()).await;
    let finding = &status["proxies"][0]["refusal"]["findings"][0];
    let line = bad.lines().position(|line| line.contains("edge-cert")).unwrap() + 1;
    assert_eq!(
        (finding["file"].as_str(), finding["line"].as_u64()),
        (Some("policies.yaml"), Some(line as u64))
    );
    assert_eq!(mark(&gateway).await, "good");
    let human = String::from_utf8(control.command(&["status"]).stdout).unwrap();
    assert!(human.contains(finding["code"].as_str().unwrap()), "{human}");
    assert_eq!(gateway.sample("foregate_control_changes_refused_total").await, Some(1.0));
    // Something else changes, so it is tried again, and once.
    control.write("policies.yaml", marked(crm.address, "mended"));
    wait_fleet(&gateway, "the mended one", |now| now["refused"].is_null()).await;
    assert_eq!(mark(&gateway).await, "mended");
    assert_eq!(gateway.sample("foregate_control_changes_refused_total").await, Some(1.0));
    control.wait_status("no refusal any more", |status| status["proxies"][0]["refusal"].is_null()).await;
}

#[tokio::test]
async fn endpoints_change_without_anything_being_compiled() {
    let domain = Domain::new("example.org");
    let (first, second) = (Upstream::answering("first").await, Upstream::answering("second").await);
    let policies =
        plain("127.0.0.1:1").replace("endpoints: [\"127.0.0.1:1\"]", "endpointsFile: crm.endpoints");
    let endpoints = |upstream: &Upstream| format!("endpoints: [\"{}\"]\n", upstream.address);
    let files = [("policies.yaml", policies.as_str()), ("crm.endpoints", &endpoints(&first))];
    let control = Control::start(&domain, EVERYTHING, &files).await;
    let place = Place::new(&domain, "/ns/crm/sa/edge");
    let gateway = serving(&place, &control, &policies).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(client.get("/").await.text(), "first");
    let reloads = "foregate_config_reloads_total{outcome=\"success\"}";
    let before = gateway.sample(reloads).await;
    control.write("crm.endpoints", endpoints(&second));
    within("the other endpoint", async {
        while client.get("/").await.text() != "second" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(gateway.sample(reloads).await, before);
    // What is no endpoint is refused, and the last ones stay.
    control.write("crm.endpoints", "endpoints: [nowhere]\n");
    control.wait_status("the refusal", |status| status["proxies"][0]["refusal"].is_object()).await;
    assert_eq!(client.get("/").await.text(), "second");
}

/// Policies of a team: a gateway, a secret, a consumer.
fn team(name: &str, port: u16, endpoint: impl std::fmt::Display) -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge, namespace: {name} }}
spec: {{ gatewayClassName: foregate, listeners: [{{ name: http, protocol: HTTP, port: {port} }}] }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: all, namespace: {name} }}
spec:
  parentRefs: [{{ name: edge }}]
  rules: [{{ backendRefs: [{{ group: foregate.dev, kind: Upstream, name: crm }}] }}]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: {{ name: crm, namespace: {name} }}
spec:
  endpoints: ["{endpoint}"]
  credentials: {{ static: {{ header: x-key, value: {{ secretRef: {{ name: {name}-key, key: value }} }} }} }}
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: all, namespace: {name} }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: all }}]
  apiKey: {{}}
  authorize: [{{ name: all, allow: "true" }}]
---
apiVersion: foregate.dev/v1alpha1
kind: Consumer
metadata: {{ name: partner-of-{name}, namespace: {name} }}
spec: {{ keys: [{{ prefix: {name}00000000, hash: "sha256:{hash}" }}] }}
"#,
        hash = "0".repeat(64),
    )
}

/// All text below a folder, names included.
fn everything(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        all.push_str(&entry.path().display().to_string());
        if entry.path().symlink_metadata().unwrap().is_dir() {
            all.push_str(&everything(&entry.path()));
        } else if let Ok(content) = fs::read(entry.path()) {
            all.push_str(&String::from_utf8_lossy(&content));
        }
    }
    all
}

#[tokio::test]
async fn a_proxy_of_one_team_never_receives_what_is_another_teams() {
    let (domain, crm) = (Domain::new("example.org"), Upstream::answering("ok").await);
    let grants = "grants:\n\
                  - { identities: [\"spiffe://example.org/ns/amber/*\"], gateways: [\"amber/*\"] }\n\
                  - { identities: [\"spiffe://example.org/ns/cobalt/*\"], gateways: [\"cobalt/*\"] }\n";
    let (amber, cobalt) = (team("amber", 8080, crm.address), team("cobalt", 8080, crm.address));
    let files = [
        ("amber.yaml", amber.as_str()),
        ("cobalt.yaml", &cobalt),
        ("secrets/amber-key/value", "scarlet"),
        ("secrets/cobalt-key/value", "azure"),
    ];
    let control = Control::start(&domain, grants, &files).await;
    for (mine, secret, other, theirs) in
        [("amber", "scarlet", "cobalt", "azure"), ("cobalt", "azure", "amber", "scarlet")]
    {
        let place = Place::new(&domain, &format!("/ns/{mine}/sa/edge"));
        let policies = team(mine, 8080, crm.address);
        let gateway =
            place.start(&control, &policies, &["--bind", &format!("{mine}/edge/http=127.0.0.1:0")]).await;
        gateway.wait_status("/readyz", 200).await;
        let kept = everything(place.state());
        assert!(kept.contains(secret) && kept.contains(&format!("partner-of-{mine}")), "{kept}");
        assert!(!kept.contains(theirs) && !kept.contains(other), "{kept}");
        // Asking for more by label gives nothing.
        let asking = Place::new(&domain, &format!("/ns/{mine}/sa/asking"));
        let label = format!("gateway={other}/edge");
        let greedy = asking.start(&control, &policies, &["--label", &label]).await;
        wait_fleet(&greedy, "the stream", |now| now["connected"] == true).await;
        control
            .wait_status("the proxy that asks", |status| {
                let asking = |proxy: &&Value| {
                    proxy["identity"].as_str().unwrap().ends_with(&format!("{mine}/sa/asking"))
                };
                let proxies = status["proxies"].as_array().unwrap();
                proxies.iter().find(asking).is_some_and(|proxy| proxy["wanted"] == "")
            })
            .await;
        assert_eq!(greedy.admin_page("/readyz").await.0, 503);
        assert!(!everything(asking.state()).contains("partner-of"));
    }
}

#[tokio::test]
async fn traffic_goes_on_while_the_control_plane_is_killed_and_comes_back() {
    let (domain, crm) = (Domain::new("example.org"), Upstream::answering("ok").await);
    let policies = marked(crm.address, "round-0");
    let mut control = Control::start(&domain, EVERYTHING, &[("policies.yaml", &policies)]).await;
    let place = Place::new(&domain, "/ns/crm/sa/edge");
    let gateway = serving(&place, &control, &policies).await;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (address, stop, sent) = (gateway.address("edge/http"), Arc::clone(&stop), Arc::clone(&sent));
        tokio::spawn(async move {
            let mut client = Client::http1(address).await;
            while !stop.load(Ordering::Acquire) {
                let reply = client.get("/").await;
                assert_eq!(reply.status, 200);
                sent.fetch_add(1, Ordering::AcqRel);
            }
        })
    };
    for round in 1..=3 {
        control.kill();
        let round = format!("round-{round}");
        control.write("policies.yaml", marked(crm.address, &round));
        // Read anew from disk meanwhile.
        gateway.signal("HUP");
        let before = sent.load(Ordering::Acquire);
        within("requests without a control plane", async {
            while sent.load(Ordering::Acquire) < before + 50 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        control.run().await;
        within("the new policies", async {
            while mark(&gateway).await != round {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    stop.store(true, Ordering::Release);
    load.await.unwrap();
}

#[test]
fn policies_of_a_control_plane_need_a_place_and_an_identity() {
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_foregate"));
        let output = command.args(["run", "--admin", "127.0.0.1:0"]).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let control = ["--control", "https://127.0.0.1:1", "--control-ca", "roots.pem"];
    let (code, said) = run(&[]);
    assert!(code == Some(2) && said.contains("FOLDER"), "{said}");
    let (code, said) = run(&control);
    assert!(code == Some(2) && said.contains("--state-dir"), "{said}");
    let state = tempfile::tempdir().unwrap();
    let (code, said) = run(&[&control[..], &["--state-dir", state.path().to_str().unwrap()]].concat());
    assert!(code == Some(1) && said.contains("need --identity"), "{said}");
}

#[tokio::test]
async fn what_was_damaged_on_disk_is_not_started_from() {
    let (domain, crm) = (Domain::new("example.org"), Upstream::answering("ok").await);
    let policies = marked(crm.address, "one");
    let mut control = Control::start(&domain, EVERYTHING, &[("policies.yaml", &policies)]).await;
    let place = Place::new(&domain, "/ns/crm/sa/edge");
    drop(serving(&place, &control, &policies).await);
    control.kill();
    let file = place.state().join("policies/current/policies.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("value: one", "value: evil")).unwrap();
    let mut gateway = place.start(&control, &policies, &[]).await;
    gateway.event("kept policies not used").await;
    assert_eq!(gateway.admin_page("/readyz").await.0, 503);
    control.run().await;
    gateway.wait_serving(&policies).await;
    assert_eq!(mark(&gateway).await, "one");
}

/// Another process that follows in this place, as during an upgrade, until it is dropped.
fn another(place: &Place) -> fs::File {
    let lock = place.state().join("policies/lock");
    let file = fs::OpenOptions::new().append(true).open(lock).unwrap();
    file.try_lock().unwrap();
    file
}

#[tokio::test]
async fn a_grant_that_was_lost_before_a_hand_over_is_lost_whatever_else_was_left() {
    let (domain, crm) = (Domain::new("example.org"), Upstream::answering("ok").await);
    let policies = marked(crm.address, "one");
    let lost = async |gateway: &Foregate| {
        wait_fleet(gateway, "the loss", |now| now["withheld"] == "why").await;
        let refused = async {
            loop {
                let reply = Client::http1(gateway.address("edge/http")).await.get("/").await;
                if reply.text().contains("GrantLost") {
                    return;
                }
            }
        };
        within("refusals", refused).await;
    };

    // What was accepted last cannot be read: all of it is asked for again.
    let mut control = Control::start(&domain, EVERYTHING, &[("policies.yaml", &policies)]).await;
    let place = Place::new(&domain, "/ns/crm/sa/edge");
    drop(serving(&place, &control, &policies).await);
    control.kill();
    let before = another(&place);
    let mut gateway = place.start(&control, &policies, &[]).await;
    gateway.wait_listening(&policies).await;
    assert_eq!(mark(&gateway).await, "one");
    let kept = place.state().join("policies");
    fs::write(kept.join("withheld"), "why").unwrap();
    let file = kept.join("current/policies.yaml");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("value: one", "value: evil")).unwrap();
    drop(before);
    gateway.event("kept policies not used").await;
    lost(&gateway).await;
    control.run().await;
    wait_fleet(&gateway, "the grant", |now| now["withheld"].is_null()).await;
    assert_eq!(mark(&gateway).await, "one");
    drop(gateway);

    // It does not compile here any more.
    let authority = tempfile::tempdir().unwrap();
    let file = authority.path().join("ca.pem");
    fs::copy(control.roots(), &file).unwrap();
    let endpoints = format!("endpoints: [\"{}\"]", crm.address);
    let there = format!("{endpoints}, tls: {{ mode: Simple, caFile: {} }}", file.display());
    let first = control.status()["current"].take();
    control.write("policies.yaml", policies.replace(&endpoints, &there));
    control.wait_status("another revision", |status| status["current"] != first).await;
    let place = Place::new(&domain, "/ns/crm/sa/other");
    drop(serving(&place, &control, &policies).await);
    control.kill();
    let before = another(&place);
    let mut gateway = place.start(&control, &policies, &[]).await;
    gateway.wait_listening(&policies).await;
    fs::write(place.state().join("policies/withheld"), "why").unwrap();
    drop((authority, before));
    lost(&gateway).await;
}

#[tokio::test]
async fn who_loses_its_grant_refuses_everything_until_it_is_granted_again() {
    let (domain, crm) = (Domain::new("example.org"), Upstream::answering("ok").await);
    let policies = marked(crm.address, "one");
    let mut control = Control::start(&domain, EVERYTHING, &[("policies.yaml", &policies)]).await;
    let place = Place::new(&domain, "/ns/crm/sa/edge");
    let keeping = Place::new(&domain, "/ns/crm/sa/keeps");
    let gateway = serving(&place, &control, &policies).await;
    let mut other = keeping.start(&control, &policies, &["--on-lost-grant", "keep"]).await;
    other.wait_serving(&policies).await;
    let first = fleet(&gateway).await;
    let mut open = Client::http1(gateway.address("edge/http")).await;
    assert_eq!(open.get("/").await.status, 200);

    control.reconfigure("spiffe://example.org/*", "spiffe://example.org/ns/other/*").await;
    let lost = wait_fleet(&gateway, "the loss", |now| now["withheld"].is_string()).await;
    let why = "no grant of the control plane is for spiffe://example.org/ns/crm/sa/edge with its labels";
    assert_eq!(lost["withheld"], why);
    wait_fleet(&other, "the loss there", |now| now["withheld"].is_string()).await;
    let told = gateway.event("grant lost").await;
    assert_eq!((&told["reason"], &told["serving"]), (&why.into(), &false.into()));
    let said_so = |status: &Value| {
        let proxy = &status["proxies"][0];
        proxy["withheld"] == why && proxy["inForce"] == ""
    };
    control.wait_status("the proxy said so", said_so).await;
    assert!(String::from_utf8(control.command(&["status"]).stdout).unwrap().contains(why));
    // Connections of before and new ones, and nothing of it depends on the control plane being there.
    let refused = async |gateway: &Foregate| {
        let reply = Client::http1(gateway.address("edge/http")).await.get("/").await;
        assert_eq!(reply.status, 503);
        assert!(reply.text().contains("GrantLost") && !reply.text().contains("spiffe"), "{}", reply.text());
        let (status, page) = gateway.admin_page("/readyz").await;
        assert_eq!((status, page.as_str()), (503, "the control plane grants nothing to this proxy\n"));
        assert_eq!(gateway.sample("foregate_control_withheld").await, Some(1.0));
    };
    assert_eq!(open.get("/").await.status, 503);
    refused(&gateway).await;
    control.kill();
    drop(gateway);
    let mut gateway = place.start(&control, &policies, &[]).await;
    gateway.wait_listening(&policies).await;
    refused(&gateway).await;

    // Whoever would rather go on does, and says so.
    assert_eq!(mark(&other).await, "one");
    assert_eq!(other.admin_page("/readyz").await.0, 200);
    assert_eq!(other.sample("foregate_control_withheld").await, Some(1.0));

    control.reconfigure("spiffe://example.org/ns/other/*", "spiffe://example.org/*").await;
    let again = wait_fleet(&gateway, "the grant", |now| now["withheld"].is_null()).await;
    assert_eq!(again["revision"], first["revision"]);
    assert_eq!(mark(&gateway).await, "one");
    assert_eq!(gateway.admin_page("/readyz").await.0, 200);
    control.write("policies.yaml", marked(crm.address, "two"));
    wait_fleet(&gateway, "another revision", |now| now["revision"] != first["revision"]).await;
    assert_eq!(mark(&gateway).await, "two");

    // A Gateway that is gone is one that is not granted.
    control.write("policies.yaml", "# none\n");
    control.write("other.yaml", upstream("crm", crm.address, ""));
    let lost = wait_fleet(&gateway, "the end of the Gateway", |now| now["withheld"].is_string()).await;
    assert!(lost["withheld"].as_str().unwrap().contains("no Gateway is there"), "{lost}");
    refused(&gateway).await;
}

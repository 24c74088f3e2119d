//! Lost API servers, stale watches, kinds that are missing: what was known goes on.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use crate::apiserver::{Cluster, until};
use crate::kubernetes::{
    CLASS, GATEWAY, POLICY, ROUTE, SERVICE, condition, control, is_yaml, parent_is, slice,
};

const ENDPOINTS: &str = "kubernetes/crm/Service/leads.80.endpoints";

async fn filled() -> Cluster {
    let cluster = Cluster::in_process();
    for text in [CLASS, GATEWAY, ROUTE, POLICY, SERVICE] {
        cluster.apply(text).await;
    }
    cluster.put(&slice("leads-1", &["10.0.0.1"])).await;
    cluster
}

#[tokio::test]
async fn a_lost_api_server_takes_nothing_away_and_is_found_again() {
    let cluster = filled().await;
    let controlled = control(&cluster);
    let before =
        controlled.tree("there are endpoints", |tree| tree.text(ENDPOINTS).contains("10.0.0.1")).await;
    cluster.lose();
    let health = Arc::clone(&controlled.running.health);
    until("it is seen that the watches fail", async || (health.faults().len() > 10).then_some(())).await;
    assert_eq!(*controlled.running.tree.borrow(), before, "what was known goes on");
    let metrics = controlled.process.metrics.text();
    assert!(metrics.contains("foregate_control_kubernetes_watch_up{kind=\"HTTPRoute\"} 0"), "{metrics}");
    assert!(controlled.process.readiness.missing().is_empty(), "it stays ready");
    // What happened meanwhile is seen once it is back.
    cluster.find_again().await;
    cluster.put(&slice("leads-1", &["10.0.0.2"])).await;
    controlled.tree("the change arrives", |tree| tree.text(ENDPOINTS).contains("10.0.0.2")).await;
    until("all watches are up again", async || health.faults().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_watch_that_is_too_old_lists_anew_and_sees_what_is_gone() {
    let cluster = filled().await;
    cluster.put(&slice("leads-2", &["10.0.0.2"])).await;
    let controlled = control(&cluster);
    controlled.tree("there are endpoints", |tree| tree.text(ENDPOINTS).contains("10.0.0.2")).await;
    cluster.lose();
    cluster.store().compact();
    // Nobody can be told of what happens now: it happened before the events that are left.
    let slices = ("discovery.k8s.io".to_owned(), "v1".to_owned(), "endpointslices".to_owned());
    cluster.store().delete(&slices, &("crm".to_owned(), "leads-2".to_owned())).unwrap();
    cluster.store().compact();
    cluster.find_again().await;
    controlled.tree("the deletion is seen", |tree| !tree.text(ENDPOINTS).contains("10.0.0.2")).await;
}

#[tokio::test]
async fn bookmarks_keep_a_quiet_watch_from_becoming_too_old() {
    let cluster = filled().await;
    let controlled = control(&cluster);
    controlled.tree("there are endpoints", |tree| tree.text(ENDPOINTS).contains("10.0.0.1")).await;
    let lists = || {
        cluster
            .store()
            .requests()
            .iter()
            .filter(|request| *request == "GET /apis/discovery.k8s.io/v1/endpointslices")
            .count()
    };
    assert_eq!(lists(), 1);
    // Another kind changes often; the watch of slices learns by bookmarks how far it is.
    let mark = async |number: usize| {
        let object =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": format!("n{number}") } });
        cluster.put(&object).await;
    };
    for number in 0..20 {
        mark(number).await;
    }
    let latest = *cluster.store().latest.borrow();
    until("a bookmark was sent", async || cluster.store().marked(latest, "endpointslices").then_some(()))
        .await;
    cluster.lose();
    cluster.store().compact_to(latest);
    cluster.find_again().await;
    cluster.put(&slice("leads-1", &["10.0.0.9"])).await;
    controlled.tree("the change arrives", |tree| tree.text(ENDPOINTS).contains("10.0.0.9")).await;
    assert_eq!(lists(), 1, "it went on from the bookmark");
}

#[tokio::test]
async fn kinds_that_are_not_installed_and_secrets_that_are_not_shown_hold_up_nothing() {
    let cluster = filled().await;
    for plural in ["tcproutes", "tlsroutes", "grpcroutes"] {
        cluster.store().uninstall(plural);
    }
    cluster.store().forbid("secrets");
    let https = GATEWAY.replace(
        "- { name: http,",
        "- { name: https, protocol: HTTPS, port: 8443, tls: { certificateRefs: [{ name: hidden }] } }\n  - { name: http,",
    );
    cluster.apply(&https).await;
    let controlled = control(&cluster);
    controlled.tree("there are endpoints", |tree| tree.text(ENDPOINTS).contains("10.0.0.1")).await;
    assert!(controlled.running.health.faults().contains_key("TCPRoute"));
    parent_is(&cluster, "leads", "Accepted", "True Accepted").await;
    let gateway = cluster.read("gateway.networking.k8s.io/v1", "Gateway", "crm", "edge").await;
    let listeners = gateway["status"]["listeners"].as_array().unwrap();
    let listener = listeners.iter().find(|listener| listener["name"] == "https").unwrap();
    let (resolved, message) = condition(&listener["conditions"], "ResolvedRefs");
    assert_eq!(resolved, "False InvalidCertificateRef");
    assert!(message.contains("cannot be read"), "{message}");
}

#[tokio::test]
async fn a_kind_that_guards_and_is_served_in_another_version_holds_everything_as_it_is() {
    let cluster = filled().await;
    cluster.store().serve_as("foregate.dev", "v1beta1", "policies");
    let controlled = control(&cluster);
    let health = Arc::clone(&controlled.running.health);
    let why = until("it is seen", async || health.faults().get("Policy").cloned()).await;
    assert!(why.contains("foregate-control crds"), "{why}");
    until("all else is listed", async || {
        let asked = cluster.store().requests();
        let watched: BTreeSet<&String> = asked.iter().filter(|asked| asked.starts_with("WATCH ")).collect();
        (watched.len() == 15).then_some(())
    })
    .await;
    cluster.store().install("policies");
    let first = controlled.tree("there is a tree", |tree| tree.revision > 0).await;
    assert!(
        first.files.contains_key("kubernetes/crm/Policy/leads.yaml"),
        "nothing came before what guards it"
    );
}

#[tokio::test]
async fn a_kind_that_was_seen_is_not_taken_for_removed_when_it_is_not_found() {
    let cluster = filled().await;
    let controlled = control(&cluster);
    let before =
        controlled.tree("there are endpoints", |tree| tree.text(ENDPOINTS).contains("10.0.0.1")).await;
    cluster.store().serve_as("foregate.dev", "v1beta1", "policies");
    // Whatever is watched is too old, and listed anew.
    cluster.store().compact();
    let health = Arc::clone(&controlled.running.health);
    until("it is not found", async || {
        health.faults().get("Policy").is_some_and(|why| why.contains("other")).then_some(())
    })
    .await;
    cluster.put(&slice("leads-1", &["10.0.0.2"])).await;
    let after = controlled.tree("the change arrives", |tree| tree.text(ENDPOINTS).contains("10.0.0.2")).await;
    let documents = |tree: &foregate_control::kubernetes::tree::Tree| {
        tree.files.keys().filter(|path| is_yaml(path)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(documents(&after), documents(&before), "what was known goes on");
}

#[tokio::test]
async fn statuses_are_written_when_they_change_and_those_of_others_stay() {
    let cluster = filled().await;
    let route = ("gateway.networking.k8s.io".to_owned(), "v1".to_owned(), "httproutes".to_owned());
    let at = ("crm".to_owned(), "leads".to_owned());
    let other =
        json!({ "parentRef": { "name": "edge" }, "controllerName": "example.com/other", "conditions": [] });
    let said = json!({ "status": { "parents": [other] } });
    cluster.store().change(&route, &at, true, crate::apiserver::store::Change::Merge(said)).unwrap();
    let controlled = control(&cluster);
    let ours = async || {
        let route = cluster.read("gateway.networking.k8s.io/v1", "HTTPRoute", "crm", "leads").await;
        let parents = route["status"]["parents"].as_array()?.clone();
        (parents.len() == 2).then_some(parents)
    };
    let parents = until("our parent stands beside the other", ours).await;
    assert_eq!(parents[0], other);
    assert_eq!(condition(&parents[1]["conditions"], "Accepted").0, "True Accepted");
    let writes = || {
        let requests = cluster.store().requests();
        requests.iter().filter(|request| request.starts_with("PATCH") && request.ends_with("/status")).count()
    };
    until("all statuses are written", async || (writes() >= 4).then_some(())).await;
    let before = writes();
    let objects = |tree: &foregate_control::kubernetes::tree::Tree| tree.revision;
    let revision = objects(&controlled.running.tree.borrow());
    // Endpoints and other objects change; no status does.
    for last in 2..6 {
        cluster.put(&slice("leads-1", &[&format!("10.0.0.{last}")])).await;
    }
    let more = SERVICE.replace("name: leads,", "name: unused,");
    cluster.apply(&more).await;
    controlled.tree("all of it was seen", |tree| tree.text(ENDPOINTS).contains("10.0.0.5")).await;
    assert!(controlled.running.tree.borrow().revision > revision);
    assert_eq!(writes(), before);
    // Somebody else's pen is corrected.
    let class = ("gateway.networking.k8s.io".to_owned(), "v1".to_owned(), "gatewayclasses".to_owned());
    let at = (String::new(), "foregate".to_owned());
    let said = json!({ "status": { "conditions": [{ "type": "Accepted", "status": "False", "reason": "No", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
    cluster.store().change(&class, &at, true, crate::apiserver::store::Change::Merge(said)).unwrap();
    until("it says Accepted again", async || {
        let class = cluster.store().get(&class, &at).unwrap();
        (condition(&class["status"]["conditions"], "Accepted").0 == "True Accepted").then_some(())
    })
    .await;
}

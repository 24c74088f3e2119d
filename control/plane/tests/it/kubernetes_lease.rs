//! Replicas that share a Lease: one leads, another takes over.

use std::time::Duration;

use foregate_control::kubernetes::controller::{Running, Settings, start};
use foregate_control::kubernetes::lease;
use foregate_control::process::{Process, Trigger};
use serde_json::json;

use crate::apiserver::{Cluster, until};
use crate::kubernetes::{CLASS, GATEWAY, POLICY, ROUTE, SERVICE, parent_is};

fn replica(cluster: &Cluster, identity: &str) -> (Running, Process, Trigger) {
    let (process, trigger) = Process::new();
    let lease = lease::Settings {
        namespace: "default".to_owned(),
        name: "foregate-control".to_owned(),
        identity: identity.to_owned(),
        duration: Duration::from_secs(3),
        retry: Duration::from_millis(100),
    };
    let settings = Settings {
        lease: Some(lease),
        addresses: vec![json!({ "type": "IPAddress", "value": "192.0.2.1" })],
    };
    (start(cluster.client(), &process, settings), process, trigger)
}

async fn holder(cluster: &Cluster) -> String {
    let lease = cluster.read("coordination.k8s.io/v1", "Lease", "default", "foregate-control").await;
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_replica_writes_statuses_and_gives_the_lease_away_when_it_ends() {
    let cluster = Cluster::start().await;
    for text in [CLASS, GATEWAY, ROUTE, POLICY, SERVICE] {
        cluster.apply(text).await;
    }
    let (first, _process, trigger) = replica(&cluster, "first");
    until("the first leads", async || first.leading.borrow().then_some(())).await;
    let (second, other, _trigger) = replica(&cluster, "second");
    parent_is(&cluster, "leads", "Accepted", "True Accepted").await;
    let route = "kubernetes/crm/HTTPRoute/leads.yaml";
    until("the second serves the same", async || {
        second.tree.borrow().files.contains_key(route).then_some(())
    })
    .await;
    assert!(!*second.leading.borrow());
    assert_eq!(holder(&cluster).await, "first");
    let gateway = cluster.read("gateway.networking.k8s.io/v1", "Gateway", "crm", "edge").await;
    assert_eq!(gateway["status"]["addresses"][0]["value"], "192.0.2.1");
    assert!(other.metrics.text().contains("foregate_control_kubernetes_leading 0"));

    trigger.begin();
    first.ended.await.unwrap();
    until("the second leads", async || second.leading.borrow().then_some(())).await;
    assert_eq!(holder(&cluster).await, "second");
    cluster.apply(&ROUTE.replace("PathPrefix, value: /", "RegularExpression, value: '('")).await;
    parent_is(&cluster, "leads", "Accepted", "False UnsupportedValue").await;
}

#[tokio::test]
async fn a_replica_that_is_cut_off_gives_up_and_another_takes_over() {
    let cluster = Cluster::in_process();
    let (first, _first_process, _trigger) = replica(&cluster, "first");
    until("the first leads", async || first.leading.borrow().then_some(())).await;
    cluster.lose();
    until("the first gives up by itself", async || (!*first.leading.borrow()).then_some(())).await;
    cluster.find_again().await;
    until("it leads again", async || first.leading.borrow().then_some(())).await;
    // One that stops without a word: its Lease runs out by the clock of whoever waits.
    let dead = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "silent", "namespace": "default" },
        "spec": { "holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "2099-01-01T00:00:00.000000Z", "leaseTransitions": 4 }
    });
    cluster.put(&dead).await;
    let (process, _trigger) = Process::new();
    let settings = lease::Settings {
        namespace: "default".to_owned(),
        name: "silent".to_owned(),
        identity: "heir".to_owned(),
        duration: Duration::from_secs(3),
        retry: Duration::from_millis(50),
    };
    let (election, leading) = lease::Election::new(cluster.client(), settings);
    let election = tokio::spawn(election.run(process.shutdown.clone()));
    until("the heir leads", async || leading.borrow().then_some(())).await;
    let lease = cluster.read("coordination.k8s.io/v1", "Lease", "default", "silent").await;
    assert_eq!(lease["spec"]["holderIdentity"], "heir");
    assert_eq!(lease["spec"]["leaseTransitions"], 5);
    election.abort();
}

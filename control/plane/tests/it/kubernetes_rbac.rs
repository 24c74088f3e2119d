//! What is asked of the API server is what rules allow, and all of it.

use std::collections::BTreeSet;

use foregate_control::kubernetes::part::KubernetesConfig;
use foregate_control::kubernetes::rbac::{RULES, WEBHOOKS, allows};
use foregate_control::process::Process;
use serde_json::json;
use tokio::sync::watch;

use crate::apiserver::store::Change;
use crate::apiserver::{Cluster, until};
use crate::kubernetes::{CLASS, GATEWAY, POLICY, ROUTE, SERVICE};

/// One object of every kind that was not there yet.
const REST: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: calls, namespace: crm }
spec: { parentRefs: [{ name: edge }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: { name: tls, namespace: crm }
spec: { parentRefs: [{ name: edge }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: { name: tcp, namespace: crm }
spec: { parentRefs: [{ name: edge }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: { name: leads, namespace: crm }
spec:
  targetRefs: [{ group: '', kind: Service, name: leads }]
  validation: { hostname: leads.crm.test, caCertificateRefs: [{ group: '', kind: ConfigMap, name: roots }] }
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: partner, namespace: crm }
spec:
  endpoints: ['10.0.0.1:80']
  insecure: { plainCredentials: true }
  credentials: { static: { header: authorization, value: { secretRef: { name: token, key: value } } } }
---
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: { name: lead-score, namespace: crm }
spec: { bundle: { path: /bundles/lead-score } }
---
apiVersion: foregate.dev/v1alpha1
kind: Consumer
metadata: { name: partner, namespace: crm }
spec: { groups: [partners] }
---
apiVersion: foregate.dev/v1alpha1
kind: Store
metadata: { name: redis, namespace: crm }
spec: { redis: { addresses: ['10.0.0.2:6379'] } }
---
apiVersion: v1
kind: Namespace
metadata: { name: injected, labels: { foregate.dev/inject: enabled } }
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: { name: foregate }
webhooks: [{ name: inject.foregate.dev, clientConfig: {} }]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: { name: foregate }
webhooks: [{ name: validate.foregate.dev, clientConfig: {} }]
";

/// Group, resource and verb of a request as the log has it.
fn asked(request: &str) -> (String, String, &'static str) {
    let (method, path) = request.split_once(' ').unwrap();
    let mut parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let group = if parts[0] == "api" { "" } else { parts[1] }.to_owned();
    parts.drain(..if group.is_empty() && parts[0] == "api" { 2 } else { 3 });
    if parts[0] == "namespaces" && parts.len() > 2 {
        parts.drain(..2);
    }
    let named = parts.len() > 1;
    let resource = if parts.len() > 2 { format!("{}/{}", parts[0], parts[2]) } else { parts[0].to_owned() };
    let verb = match (method, named) {
        ("WATCH", _) => "watch",
        ("GET", false) => "list",
        ("GET", true) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        _ => panic!("{request}"),
    };
    (group, resource, verb)
}

fn config(identity: &str) -> KubernetesConfig {
    serde_json::from_value(json!({
        "namespace": "foregate", "identity": identity, "addresses": ["192.0.2.1", "edge.example.com"],
        "webhooks": {
            "listen": "127.0.0.1:0", "names": ["foregate-control.foregate.svc"],
            "injection": { "image": "foregate:test", "control": "https://foregate-control.foregate.svc:8443" }
        }
    }))
    .unwrap()
}

#[tokio::test]
async fn every_request_is_allowed_by_a_rule_and_every_rule_is_needed() {
    let cluster = Cluster::in_process();
    for text in [CLASS, GATEWAY, ROUTE, POLICY, SERVICE, REST] {
        cluster.seed(text);
    }
    let (process, _trigger) = Process::new();
    let (_roots, roots) = watch::channel(Some("PEM".to_owned()));
    let first = config("first").start_with(cluster.client(), &process, roots.clone()).await.unwrap();
    let secrets = (String::new(), "v1".to_owned(), "secrets".to_owned());
    let at = ("foregate".to_owned(), "foregate-webhooks".to_owned());
    until("there is a certificate", async || cluster.store().get(&secrets, &at).ok()).await;
    // One that nobody can use is made anew by whoever comes next.
    let nonsense = json!({ "data": { "tls.crt": "AAAA" } });
    cluster.store().change(&secrets, &at, false, Change::Merge(nonsense)).unwrap();
    let second = config("second").start_with(cluster.client(), &process, roots).await.unwrap();
    let wanted: BTreeSet<(String, String, &str)> = RULES
        .iter()
        .chain(&[WEBHOOKS])
        .flat_map(|rule| {
            let pairs = rule
                .resources
                .iter()
                .flat_map(|resource| rule.verbs.iter().map(move |verb| (resource, verb)));
            pairs.map(|(resource, verb)| (rule.group.to_owned(), (*resource).to_owned(), *verb))
        })
        .collect();
    let seen = || -> BTreeSet<(String, String, &str)> {
        cluster.store().requests().iter().map(|request| asked(request)).collect()
    };
    let patience = tokio::time::timeout(crate::apiserver::PATIENCE, async {
        while !wanted.is_subset(&seen()) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let in_time = patience.await.is_ok();
    assert!(in_time, "never asked for: {:?}", wanted.difference(&seen()).collect::<Vec<_>>());
    for (group, resource, verb) in seen() {
        assert!(allows(&group, &resource, verb), "no rule allows to {verb} {group}/{resource}");
    }
    assert!(*first.leading.borrow() != *second.leading.borrow(), "one of the two leads");
    let maps = (String::new(), "v1".to_owned(), "configmaps".to_owned());
    let at = ("injected".to_owned(), "foregate-roots".to_owned());
    let held = || cluster.store().get(&maps, &at).ok().map(|map| map["data"]["ca.crt"].clone());
    assert_eq!(held(), Some(json!("PEM")));
    // Whatever becomes of it, new pods find it as it was.
    cluster.store().delete(&maps, &at).unwrap();
    until("it is there again", async || held().filter(|pem| pem == "PEM")).await;
    let other = json!({ "data": { "ca.crt": "of somebody else" } });
    cluster.store().change(&maps, &at, false, Change::Merge(other)).unwrap();
    until("it is mended", async || held().filter(|pem| pem == "PEM")).await;
}

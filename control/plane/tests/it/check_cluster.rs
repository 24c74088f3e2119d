//! What `foregate-control check --cluster` finds, and nothing where all is well.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use foregate_control::injection::certificate::Material;
use foregate_control::inspect::{Names, inspect};
use foregate_control::kubernetes::crds::definition;
use foregate_control::kubernetes::kinds::Resource;
use foregate_policy::diagnostic::{Diagnostic, Severity};
use serde_json::{Value, json};

use crate::apiserver::Cluster;
use crate::apiserver::store::Change;
use crate::support::api_server::kubeconfig;

const SERVICE: &str = "foregate-control.foregate.svc";
const DENIED: &str = "admission webhook \"validate.foregate.dev\" denied the request: FG0303";

fn now() -> Duration {
    foregate_control::clock::now().unix
}

fn rfc3339(time: Duration) -> String {
    foregate_control::clock::rfc3339(time)
}

fn material(now: Duration) -> Material {
    Material::make(&[SERVICE.to_owned()], now).unwrap()
}

fn hook(name: &str, authority: &str) -> Value {
    json!([{
        "name": name,
        "clientConfig": {
            "service": { "namespace": "foregate", "name": "foregate-control", "port": 443 },
            "caBundle": STANDARD.encode(authority),
        },
        "failurePolicy": "Fail",
        "namespaceSelector": { "matchLabels": { "foregate.dev/inject": "enabled" } },
    }])
}

fn put(cluster: &Cluster, group: &str, plural: &str, namespace: &str, object: Value) {
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let collection = (group.to_owned(), "v1".to_owned(), plural.to_owned());
    let at = (namespace.to_owned(), name);
    if cluster.store().create(&collection, &at, object.clone()).is_err() {
        cluster.store().change(&collection, &at, false, Change::Merge(object)).unwrap();
    }
}

const HOOKS: &str = "admissionregistration.k8s.io";
const CRDS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");

/// A cluster in which all is well.
fn well() -> Cluster {
    let cluster = Cluster::in_process();
    for resource in Resource::ALL {
        let definition = if resource.is_ours() {
            definition(resource)
        } else {
            json!({
                "metadata": { "name": format!("{}.{}", resource.plural(), resource.group()) },
                "spec": { "versions": [{ "name": "v1beta1", "served": false }, { "name": "v1", "served": true }] },
            })
        };
        put(&cluster, CRDS.0, CRDS.1, "", definition);
    }
    let kept = material(now());
    let secret = serde_json::to_value(kept.secret("foregate-webhooks")).unwrap();
    put(&cluster, "", "secrets", "foregate", secret);
    for (plural, name) in [
        ("mutatingwebhookconfigurations", "inject.foregate.dev"),
        ("validatingwebhookconfigurations", "validate.foregate.dev"),
    ] {
        let hooks = hook(name, &kept.authority);
        put(&cluster, HOOKS, plural, "", json!({ "metadata": { "name": "foregate" }, "webhooks": hooks }));
    }
    let service =
        json!({ "metadata": { "name": "foregate-control" }, "spec": { "ports": [{ "port": 443 }] } });
    put(&cluster, "", "services", "foregate", service);
    let slice = json!({
        "metadata": { "name": "foregate-control-1", "labels": { "kubernetes.io/service-name": "foregate-control" } },
        "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": true } }],
    });
    put(&cluster, "discovery.k8s.io", "endpointslices", "foregate", slice);
    let lease = json!({
        "metadata": { "name": "foregate-control" },
        "spec": { "holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": rfc3339(now()) },
    });
    put(&cluster, "coordination.k8s.io", "leases", "foregate", lease);
    put(&cluster, "", "namespaces", "", json!({ "metadata": { "name": "foregate", "labels": {} } }));
    let labels =
        json!({ "foregate.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "privileged" });
    put(&cluster, "", "namespaces", "", json!({ "metadata": { "name": "crm", "labels": labels } }));
    let roots = json!({ "metadata": { "name": "foregate-roots" }, "data": { "ca.crt": kept.authority } });
    put(&cluster, "", "configmaps", "crm", roots);
    cluster.store().admission(DENIED);
    cluster
}

async fn found(cluster: &Cluster) -> Vec<Diagnostic> {
    inspect(cluster.client(), Names::usual("foregate")).await
}

/// Code, object and part of the message of each finding.
fn assert_found(findings: &[Diagnostic], wanted: &[(&str, &str, &str)]) {
    assert_eq!(findings.len(), wanted.len(), "{findings:#?}");
    for (code, object, part) in wanted {
        let is = |finding: &&Diagnostic| {
            finding.code.to_string() == *code && finding.file == *object && finding.message.contains(part)
        };
        let finding =
            findings.iter().find(is).unwrap_or_else(|| panic!("no {code} {object} {part}: {findings:#?}"));
        assert!(finding.help.is_some(), "{finding:?}");
        assert!(foregate_policy::codes::find(code).is_some(), "{code}");
    }
}

#[tokio::test]
async fn where_all_is_well_nothing_is_found_and_nothing_is_written() {
    let cluster = well();
    let before = *cluster.store().latest.subscribe().borrow();
    assert_found(&found(&cluster).await, &[]);
    assert_eq!(*cluster.store().latest.subscribe().borrow(), before);
    let strange = cluster.store().requests().into_iter().find(|request| {
        !request.starts_with("GET") && !request.ends_with("reviews") && !request.ends_with("/policies")
    });
    assert_eq!(strange, None);
}

#[tokio::test]
async fn versions_and_definitions_that_are_others_are_named() {
    let cluster = well();
    let store = cluster.store();
    store.uninstall("discovery.k8s.io");
    let collection = (CRDS.0.to_owned(), "v1".to_owned(), CRDS.1.to_owned());
    let at = |name: &str| (String::new(), name.to_owned());
    store.delete(&collection, &at("tlsroutes.gateway.networking.k8s.io")).unwrap();
    let old = json!({ "spec": { "versions": [{ "name": "v1beta1", "served": true }] } });
    store.change(&collection, &at("gateways.gateway.networking.k8s.io"), false, Change::Merge(old)).unwrap();
    let mut stale = definition(Resource::Store);
    stale["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        .as_object_mut()
        .unwrap()
        .clear();
    store
        .change(&collection, &at("stores.foregate.dev"), false, Change::Merge(json!({ "spec": null })))
        .unwrap();
    store.change(&collection, &at("stores.foregate.dev"), false, Change::Merge(stale)).unwrap();
    let findings = found(&cluster).await;
    assert_found(
        &findings,
        &[
            ("FG0775", "apiservice/v1.discovery.k8s.io", "discovery.k8s.io/v1"),
            ("FG0775", "customresourcedefinition/tlsroutes.gateway.networking.k8s.io", "not installed"),
            (
                "FG0775",
                "customresourcedefinition/gateways.gateway.networking.k8s.io",
                "as v1, but as v1beta1",
            ),
            ("FG0776", "customresourcedefinition/stores.foregate.dev", "`properties.spec.properties."),
        ],
    );
    let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning);
    assert_eq!(
        warnings.map(|finding| finding.file.as_str()).collect::<Vec<_>>(),
        ["customresourcedefinition/tlsroutes.gateway.networking.k8s.io"]
    );
}

#[tokio::test]
async fn webhooks_that_nobody_trusts_reaches_or_bounds_are_found() {
    let cluster = well();
    let mut injecting = hook("inject.foregate.dev", "another authority");
    injecting[0]["namespaceSelector"] = json!({});
    let object = |hooks: &Value| json!({ "metadata": { "name": "foregate" }, "webhooks": hooks });
    put(&cluster, HOOKS, "mutatingwebhookconfigurations", "", object(&injecting));
    cluster.store().admission("failed calling webhook \"validate.foregate.dev\": context deadline exceeded");
    let mutating = "mutatingwebhookconfiguration/foregate";
    let validating = "validatingwebhookconfiguration/foregate";
    assert_found(
        &found(&cluster).await,
        &[
            ("FG0778", mutating, "caBundle"),
            ("FG0780", mutating, "every pod of the cluster"),
            ("FG0779", validating, "context deadline exceeded"),
        ],
    );

    // Nobody behind the Service, and another port.
    let cluster = well();
    let slice = json!({
        "metadata": { "name": "foregate-control-1" },
        "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": false } }],
    });
    put(&cluster, "discovery.k8s.io", "endpointslices", "foregate", slice);
    let mut injecting = cluster
        .store()
        .list(&(HOOKS.to_owned(), "v1".to_owned(), "mutatingwebhookconfigurations".to_owned()), "", None)
        .1
        .remove(0);
    injecting["webhooks"][0]["clientConfig"]["service"]["port"] = 9443.into();
    injecting["webhooks"][0]["failurePolicy"] = "Ignore".into();
    put(&cluster, HOOKS, "mutatingwebhookconfigurations", "", object(&injecting["webhooks"]));
    assert_found(
        &found(&cluster).await,
        &[
            ("FG0779", mutating, "no port 9443"),
            ("FG0780", mutating, "failurePolicy is Ignore"),
            ("FG0779", validating, "no endpoint of the Service foregate/foregate-control is ready"),
        ],
    );
}

#[tokio::test]
async fn what_lets_an_object_with_a_fault_through_is_no_webhook() {
    let cluster = well();
    let collection = (HOOKS.to_owned(), "v1".to_owned(), "mutatingwebhookconfigurations".to_owned());
    cluster.store().delete(&collection, &(String::new(), "foregate".to_owned())).unwrap();
    let other = well();
    other.store().admission("policies is forbidden: User \"maya\" cannot create resource");
    assert_found(
        &found(&other).await,
        &[("FG0774", "validatingwebhookconfiguration/foregate", "cannot create resource")],
    );
    assert_found(
        &found(&cluster).await,
        &[("FG0777", "mutatingwebhookconfiguration", "inject.foregate.dev")],
    );
}

#[tokio::test]
async fn certificates_clocks_and_the_lease_are_judged_by_the_time() {
    let cluster = well();
    let old = material(now().saturating_sub(Duration::from_hours(25 * 24)));
    let secret = serde_json::to_value(old.secret("foregate-webhooks")).unwrap();
    put(&cluster, "", "secrets", "foregate", secret);
    for (plural, name) in [
        ("mutatingwebhookconfigurations", "inject.foregate.dev"),
        ("validatingwebhookconfigurations", "validate.foregate.dev"),
    ] {
        let hooks = hook(name, &old.authority);
        put(&cluster, HOOKS, plural, "", json!({ "metadata": { "name": "foregate" }, "webhooks": hooks }));
    }
    let lease = json!({ "metadata": { "name": "foregate-control" }, "spec": { "renewTime": rfc3339(now().saturating_sub(Duration::from_hours(1))) } });
    put(&cluster, "coordination.k8s.io", "leases", "foregate", lease);
    cluster.store().set_date("Tue, 15 Nov 1994 08:12:31 GMT");
    assert_found(
        &found(&cluster).await,
        &[
            ("FG0781", "secret/foregate/foregate-webhooks", "nobody has renewed it"),
            ("FG0782", "apiserver", "ahead of that of the API server"),
            ("FG0785", "lease/foregate/foregate-control", "has not renewed it for 36"),
        ],
    );
}

#[tokio::test]
async fn namespaces_whose_pods_cannot_be_injected_are_found() {
    let cluster = well();
    let labels =
        json!({ "foregate.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "restricted" });
    put(&cluster, "", "namespaces", "", json!({ "metadata": { "name": "leads", "labels": labels } }));
    put(
        &cluster,
        "",
        "namespaces",
        "",
        json!({ "metadata": { "name": "foregate", "labels": { "foregate.dev/inject": "enabled" } } }),
    );
    let kept = material(now());
    put(
        &cluster,
        "",
        "configmaps",
        "foregate",
        json!({ "metadata": { "name": "foregate-roots" }, "data": { "ca.crt": kept.authority } }),
    );
    let findings = found(&cluster).await;
    assert_found(
        &findings,
        &[
            ("FG0780", "namespace/foregate", "pods of the control plane"),
            ("FG0783", "namespace/leads", "`restricted`"),
            ("FG0786", "configmap/leads/foregate-roots", "there is none"),
        ],
    );
    let none = Names {
        interception: foregate_control::injection::settings::Interception::None,
        ..Names::usual("foregate")
    };
    let calmer = inspect(cluster.client(), none).await;
    assert!(!calmer.iter().any(|finding| finding.code.0 == 783), "{calmer:#?}");
}

#[tokio::test]
async fn rights_that_are_missing_are_told_by_resource() {
    let cluster = well();
    cluster.store().deny("httproutes", "watch");
    cluster.store().deny("gateways/status", "patch");
    cluster.store().deny("secrets", "list");
    let findings = found(&cluster).await;
    assert_found(
        &findings,
        &[
            ("FG0784", "selfsubjectaccessreview", "watch of httproutes.gateway.networking.k8s.io"),
            ("FG0784", "selfsubjectaccessreview", "patch of gateways/status.gateway.networking.k8s.io"),
            ("FG0784", "selfsubjectaccessreview", "list of secrets is not allowed"),
        ],
    );
    let warned = findings.iter().filter(|finding| finding.severity == Severity::Warning).count();
    assert_eq!(warned, 1, "rights to Secrets may be bound by namespace");
    let account = Names { account: Some("control".to_owned()), ..Names::usual("foregate") };
    let findings = inspect(cluster.client(), account).await;
    assert!(
        findings.iter().all(|finding| finding.file == "serviceaccount/foregate/control"),
        "{findings:#?}"
    );
}

fn command(arguments: &[&str]) -> (Option<i32>, String, String) {
    let command = env!("CARGO_BIN_EXE_foregate-control");
    let Output { status, stdout, stderr } =
        Command::new(command).args(["check", "--cluster"]).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_has_exit_codes_and_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = well();
    let address = cluster.url().strip_prefix("http://").unwrap().parse().unwrap();
    let file = kubeconfig(folder.path(), address);
    let file = file.to_str().unwrap();
    assert_eq!(command(&["--kubeconfig", file]), (Some(0), String::new(), String::new()));
    cluster.store().deny("httproutes", "watch");
    let (code, out, _) = command(&["--kubeconfig", file]);
    assert_eq!(code, Some(1));
    assert!(out.contains("error[FG0784]") && out.contains("help: install the ClusterRole"), "{out}");
    let (code, out, _) = command(&["--kubeconfig", file, "--format", "json"]);
    let line: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!((code, &line["code"], &line["severity"]), (Some(1), &json!("FG0784"), &json!("error")));
    let (_, out, _) = command(&["--kubeconfig", file, "--format", "sarif"]);
    let log: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(log["runs"][0]["results"][0]["ruleId"], "FG0784");
    let (_, out, _) = command(&["--kubeconfig", file, "--format", "github"]);
    assert!(out.starts_with("::error file=selfsubjectaccessreview,title=FG0784::"), "{out}");

    // The configuration says what everything is called.
    let config = folder.path().join("control.yaml");
    let text = format!(
        "trustDomain: example.org
listen: 127.0.0.1:8443
names: [control.example.org]
stateDir: state
insecure: {{ generateAuthority: true }}
kubernetes:
  namespace: elsewhere
  identity: one
  kubeconfig: {file}
"
    );
    std::fs::write(&config, text).unwrap();
    let (code, out, _) = command(&["--config", config.to_str().unwrap()]);
    assert!(code == Some(1) && out.contains("lease/elsewhere/foregate-control"), "{out}");
    assert!(!out.contains("webhook"), "it serves none: {out}");

    cluster.lose();
    let (code, out, _) = command(&["--kubeconfig", file]);
    assert!(code == Some(1) && out.contains("FG0774"), "{out}");
    let nowhere = Path::new("no-such-file");
    let (code, _, error) = command(&["--kubeconfig", nowhere.to_str().unwrap()]);
    assert!(code == Some(1) && error.contains("no way to the API server"), "{error}");
    assert_eq!(command(&["folder"]).0, Some(2));
}

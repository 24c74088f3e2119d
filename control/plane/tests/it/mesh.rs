//! Pods from webhook to wire: injected, redirected, served by one control plane.

use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::apiserver::{Cluster, PATIENCE, until};
use crate::kubernetes::CLASS;
use crate::support::api_server::kubeconfig;
use crate::support::pods::{HERE, Pod, allowed, network};
use crate::support::process::Control;
use crate::support::webhook::post;

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: crm, labels: { foregate.dev/inject: enabled } }
---
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { foregate.dev/inject: enabled } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: orders, namespace: crm }
spec:
  gatewayClassName: foregate
  listeners: [{ name: inbound, protocol: foregate.dev/Inbound, port: 15006 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: orders, namespace: crm }
spec:
  parentRefs: [{ name: orders, port: 8080 }]
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: application }] }]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: application, namespace: crm }
spec: { captured: Address }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: web, namespace: shop }
spec:
  gatewayClassName: foregate
  listeners: [{ name: outbound, protocol: foregate.dev/Outbound, port: 15001 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: orders, namespace: shop }
spec:
  parentRefs: [{ name: web, port: 8080 }]
  hostnames: [orders.test]
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: orders }] }]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: { name: orders, namespace: shop }
spec:
  endpoints: ["10.77.0.2:8080"]
  tls: { mode: Mutual, peers: ["spiffe://example.org/ns/crm/sa/orders"] }
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: outbound, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: web }]
  authorize: [{ name: application, allow: 'destination.port == 8080' }]
"#;

/// Who may call.
fn rule(workload: &str) -> String {
    format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: orders, namespace: crm }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: orders }}]
  authorize: [{{ name: web, allow: 'peer.id == \"spiffe://example.org/ns/{workload}\"' }}]
"
    )
}

fn config(kubeconfig: &std::path::Path) -> String {
    format!(
        "trustDomain: example.org
listen: {HERE}:8443
admin: 127.0.0.1:9091
names: [{HERE}]
stateDir: state
insecure: {{ generateAuthority: true }}
tokenReview: {{ kubeconfig: '{0}' }}
kubernetes:
  namespace: foregate
  identity: one
  kubeconfig: '{0}'
  webhooks:
    listen: 127.0.0.1:9443
    names: [foregate-control.foregate.svc]
    injection: {{ image: \"foregate:test\", control: \"https://{HERE}:8443\" }}
grants:
- {{ identities: ['spiffe://example.org/ns/crm/sa/orders'], gateways: ['crm/*'] }}
- {{ identities: ['spiffe://example.org/ns/shop/sa/web'], gateways: ['shop/*'] }}
",
        kubeconfig.display()
    )
}

/// What the API server makes of a pod that is created: it asks the webhook, and carries out its patch.
async fn created(cluster: &Cluster, namespace: &str, account: &str) -> Value {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": account, "namespace": namespace },
        "spec": { "serviceAccountName": account, "containers": [{ "name": "app", "image": "app", "ports": [{ "containerPort": 8080 }] }] },
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": { "uid": "1", "namespace": namespace, "operation": "CREATE", "object": pod },
    });
    let secret = until("the certificate of the webhooks", async || {
        let secrets = (String::new(), "v1".to_owned(), "secrets".to_owned());
        cluster.store().get(&secrets, &("foregate".to_owned(), "foregate-webhooks".to_owned())).ok()
    })
    .await;
    let roots =
        String::from_utf8(STANDARD.decode(secret["data"]["ca.crt"].as_str().unwrap()).unwrap()).unwrap();
    let at = "127.0.0.1:9443".parse().unwrap();
    let name = "foregate-control.foregate.svc";
    let (status, body) = post(at, (name, &roots), "/inject", review.to_string().into()).await;
    assert_eq!(status, 200, "{body}");
    let response = serde_json::from_str::<Value>(&body).unwrap()["response"].take();
    assert_eq!(response["allowed"], true, "{response}");
    let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut injected = pod;
    json_patch::patch(&mut injected, &patch).unwrap();
    injected
}

/// A token of the account for the audience that the volume of the pod asks for, as the kubelet gets one.
async fn token(cluster: &Cluster, namespace: &str, account: &str, pod: &Value) -> String {
    use k8s_openapi::api::authentication::v1::TokenRequest;
    use k8s_openapi::api::core::v1::ServiceAccount;
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["projected"].is_object()).unwrap();
    let audience = &volume["projected"]["sources"][0]["serviceAccountToken"]["audience"];
    let asked: TokenRequest =
        serde_json::from_value(json!({ "metadata": {}, "spec": { "audiences": [audience] } })).unwrap();
    let accounts: kube::Api<ServiceAccount> = kube::Api::namespaced(cluster.client(), namespace);
    let given = accounts.create_token_request(account, &kube::api::PostParams::default(), &asked).await;
    given.unwrap().status.unwrap().token.unwrap()
}

/// Starts what a pod has besides its application, and waits until its sidecar is ready.
async fn start(cluster: &Cluster, pod: &mut Pod, namespace: &str, account: &str) {
    let injected = created(cluster, namespace, account).await;
    let roots = until("the roots in the namespace", async || {
        let maps = (String::new(), "v1".to_owned(), "configmaps".to_owned());
        cluster.store().get(&maps, &(namespace.to_owned(), "foregate-roots".to_owned())).ok()
    })
    .await;
    let token = token(cluster, namespace, account, &injected).await;
    let roots = roots["data"]["ca.crt"].as_str().unwrap();
    pod.start(&injected, &[("foregate-token", "token", &token), ("foregate-roots", "ca.crt", roots)]);
    let probe = &injected["spec"]["initContainers"][1]["readinessProbe"]["httpGet"];
    let (path, port) = (probe["path"].as_str().unwrap(), probe["port"].as_u64().unwrap());
    let url = format!("http://{}:{port}{path}", pod.address);
    // As the kubelet asks: from outside of the pod.
    let asked = async {
        while Command::new("curl").args(["-s", "-m", "2", &url]).output().unwrap().stdout != b"ready\n" {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let ready = tokio::time::timeout(PATIENCE, asked).await;
    assert!(ready.is_ok(), "{account} is not ready: {}", pod.said("events"));
}

/// True where these bytes are somewhere in those.
fn holds(all: &[u8], part: &str) -> bool {
    all.windows(part.len()).any(|window| window == part.as_bytes())
}

#[test]
fn a_pod_that_the_webhook_changed_speaks_plain_inside_and_mutual_tls_on_the_wire() {
    if !allowed() {
        return;
    }
    // In a network of its own: everything that listens is in it, the API server and the control plane included.
    let mut command = Command::new("unshare");
    command.arg("--net").arg(std::env::current_exe().unwrap());
    command.args(["--exact", "mesh::in_a_network_of_its_own", "--ignored", "--nocapture"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the test above runs it in a network of its own"]
async fn in_a_network_of_its_own() {
    network();
    let cluster = Cluster::in_process();
    for text in [CLASS, OBJECTS, &rule("shop/sa/web")] {
        cluster.apply(text).await;
    }
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let kubeconfig =
        kubeconfig(folder.path(), cluster.url().strip_prefix("http://").unwrap().parse().unwrap());
    let _control = Control::start_with(Arc::clone(&folder), &config(&kubeconfig)).await;
    let (mut web, mut orders) = (Pod::new("web", 1), Pod::new("orders", 2));
    start(&cluster, &mut orders, "crm", "orders").await;
    start(&cluster, &mut web, "shop", "web").await;
    orders.application(&["serve", "8080", "2525", "9000"]);
    let wire = folder.path().join("wire");
    orders.application(&["listen", "eth0", wire.to_str().unwrap()]);

    let call = |web: &Pod| {
        let url = "http://orders.test:8080/orders-in-the-clear";
        web.curl(&["--resolve", "orders.test:8080:10.77.0.2", "-d", "question-in-the-clear", url])
    };
    let (status, body) = call(&web);
    assert_eq!(status, 200, "{body}\n{}\n{}", web.said("records"), orders.said("records"));
    assert!(body.contains("question-in-the-clear") && body.contains("answer-in-the-clear"), "{body}");
    until("the record of the serving side", async || {
        let records = orders.said("records");
        (records.contains("/orders-in-the-clear") && records.contains("spiffe://example.org/ns/shop/sa/web"))
            .then_some(())
    })
    .await;
    // What nobody seals is heard, so that the ear is known to hear; nobody answers it.
    let bare =
        Command::new("curl").args(["-s", "-m", "5", "http://10.77.0.2:8080/unsealed"]).output().unwrap();
    assert!(!bare.status.success(), "nobody comes in without a certificate");
    let heard = until("the ear to hear what is not sealed", async || {
        let heard = std::fs::read(&wire).unwrap_or_default();
        holds(&heard, "GET /unsealed HTTP/1.1").then_some(heard)
    })
    .await;
    assert!(!holds(&heard, "in-the-clear"), "something was sent in the clear");
    assert!(heard.windows(3).any(|bytes| bytes == b"\x17\x03\x03"), "no TLS was seen");

    // The rule of another object, and of another workload: it reaches the sidecar by way of the control plane.
    cluster.apply(&rule("shop/sa/jobs")).await;
    until("the caller to be refused", async || (call(&web).0 == 403).then_some(())).await;
    assert!(orders.said("records").contains("AccessDenied"));
    cluster.apply(&rule("shop/sa/web")).await;
    until("the caller to be let in again", async || (call(&web).0 == 200).then_some(())).await;
}

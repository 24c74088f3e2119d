//! Objects of a cluster become a tree of policies, and statuses tell of them.

use std::sync::Arc;

use foregate_control::kubernetes::controller::{Running, Settings, start};
use foregate_control::kubernetes::tree::Tree;
use foregate_control::process::{Process, Trigger};
use foregate_policy::load::Sources;
use serde_json::{Value, json};

use crate::apiserver::{Cluster, until};

pub const CLASS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: foregate }
spec: { controllerName: foregate.dev/gateway-controller }
---
apiVersion: v1
kind: Namespace
metadata: { name: crm, labels: { team: crm } }
---
apiVersion: v1
kind: Namespace
metadata: { name: other }
---
apiVersion: v1
kind: Namespace
metadata: { name: foregate }
";

pub const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge, namespace: crm }
spec:
  gatewayClassName: foregate
  listeners:
  - { name: http, protocol: HTTP, port: 8080, allowedRoutes: { namespaces: { from: Same } } }
";

pub const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: leads, namespace: crm }
spec:
  parentRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }]
  rules:
  - matches: [{ path: { type: PathPrefix, value: / } }]
    backendRefs: [{ group: '', kind: Service, name: leads, port: 80, weight: 1 }]
";

pub const POLICY: &str = "
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: { name: leads, namespace: crm }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: leads }]
  authorize: [{ name: all, allow: 'true' }]
";

pub const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: leads, namespace: crm }
spec: { ports: [{ name: http, port: 80, targetPort: 8080 }, { name: grpc, port: 81, targetPort: 8081 }] }
";

/// The endpoints of the Service, of one port.
pub fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({ "addresses": [address], "conditions": { "ready": true }, "zone": "a" }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": "crm", "labels": { "kubernetes.io/service-name": "leads" } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints
    })
}

/// A controller that runs, and what ends it.
pub struct Controlled {
    pub running: Running,
    pub process: Process,
    pub trigger: Trigger,
}

pub fn control(cluster: &Cluster) -> Controlled {
    let (process, trigger) = Process::new();
    let running = start(cluster.client(), &process, Settings::default());
    Controlled { running, process, trigger }
}

impl Controlled {
    /// The first tree that this is true of.
    pub async fn tree(&self, what: &str, mut good: impl FnMut(&Tree) -> bool) -> Arc<Tree> {
        let receiver = self.running.tree.clone();
        until(what, async || {
            let tree = Arc::clone(&receiver.borrow());
            good(&tree).then_some(tree)
        })
        .await
    }
}

/// Of nobody in particular, in PEM.
fn certificate() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(vec!["crm.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
}

pub fn is_yaml(path: &str) -> bool {
    std::path::Path::new(path).extension().is_some_and(|end| end == "yaml")
}

/// The tree as the compiler reads it.
pub fn sources(tree: &Tree) -> Sources {
    let mut sources = Sources::default();
    for path in tree.files.keys().filter(|path| is_yaml(path)) {
        sources.add(path.to_string().into(), tree.text(path).to_owned());
    }
    sources
}

/// A condition as `STATUS REASON`, and its message.
pub fn condition(list: &Value, kind: &str) -> (String, String) {
    let found = list.as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
    let Some(found) = found else { return (String::new(), String::new()) };
    assert!(found["lastTransitionTime"].as_str().unwrap().ends_with('Z'), "{found}");
    let word = |field: &str| found[field].as_str().unwrap().to_owned();
    (format!("{} {}", word("status"), word("reason")), word("message"))
}

/// The conditions of the first parent of a route, once its status is about its current generation.
pub async fn parent(cluster: &Cluster, kind: &str, name: &str) -> Value {
    let version = "gateway.networking.k8s.io/v1";
    until(&format!("the {kind} {name} has a status"), async || {
        let route = cluster.read(version, kind, "crm", name).await;
        let conditions = route["status"]["parents"][0]["conditions"].clone();
        (conditions[0]["observedGeneration"] == route["metadata"]["generation"]).then_some(conditions)
    })
    .await
}

/// Waits until a condition of the first parent is this one; gives its message.
pub async fn parent_is(cluster: &Cluster, name: &str, kind: &str, wanted: &str) -> String {
    let mut last = String::new();
    let found = tokio::time::timeout(crate::apiserver::PATIENCE, async {
        loop {
            let conditions = parent(cluster, "HTTPRoute", name).await;
            let (now, message) = condition(&conditions, kind);
            if now == wanted {
                return message;
            }
            last = format!("{now}: {message}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    found.unwrap_or_else(|_| panic!("{kind} of {name} is {last}, not {wanted}"))
}

#[tokio::test]
async fn objects_become_a_tree_that_compiles_and_endpoints_a_file_of_their_own() {
    let cluster = Cluster::start().await;
    for text in [CLASS, GATEWAY, ROUTE, POLICY, SERVICE] {
        cluster.apply(text).await;
    }
    cluster.put(&slice("leads-1", &["10.0.0.1", "10.0.0.2"])).await;
    let controlled = control(&cluster);
    let route = "kubernetes/crm/HTTPRoute/leads.yaml";
    let endpoints = "kubernetes/crm/Service/leads.80.endpoints";
    let tree =
        controlled.tree("there are endpoints", |tree| tree.text(endpoints).contains("10.0.0.2:8080")).await;
    assert!(controlled.process.readiness.missing().is_empty());
    let paths: Vec<&str> = tree.files.keys().map(AsRef::as_ref).collect();
    assert_eq!(
        paths,
        [
            "kubernetes/crm/Gateway/edge.yaml",
            route,
            "kubernetes/crm/Policy/leads.yaml",
            endpoints,
            "kubernetes/crm/Service/leads.80.yaml",
        ]
    );
    let compiled = foregate_policy::compile::compile(
        &sources(&tree),
        &foregate_control::declared::Declared::default(),
        foregate_policy::compile::Options::default(),
    );
    let snapshot = compiled.unwrap();
    assert_eq!(&*snapshot.upstreams[0].name, "crm/service.leads.80");
    assert!(snapshot.upstreams[0].endpoints_file.as_ref().unwrap().ends_with("leads.80.endpoints"));

    let documents = |tree: &Tree| -> Vec<(String, String)> {
        let yaml = tree.files.keys().filter(|path| is_yaml(path));
        yaml.map(|path| (path.to_string(), tree.text(path).to_owned())).collect()
    };
    let before = documents(&tree);
    cluster.put(&slice("leads-1", &["10.0.0.3"])).await;
    let tree = controlled.tree("the change arrives", |tree| tree.text(endpoints).contains("10.0.0.3")).await;
    assert!(!tree.text(endpoints).contains("10.0.0.2"));
    assert_eq!(documents(&tree), before, "no document changes with endpoints");

    let gateway = until("the Gateway has a status", async || {
        let gateway = cluster.read("gateway.networking.k8s.io/v1", "Gateway", "crm", "edge").await;
        (gateway["status"]["listeners"][0]["attachedRoutes"] == 1).then_some(gateway)
    })
    .await;
    let status = &gateway["status"];
    assert_eq!(condition(&status["conditions"], "Accepted").0, "True Accepted");
    assert_eq!(condition(&status["conditions"], "Programmed").0, "True Programmed");
    let listener = &status["listeners"][0];
    assert_eq!(listener["supportedKinds"][0]["kind"], "HTTPRoute");
    for (kind, wanted) in [
        ("Accepted", "True Accepted"),
        ("Programmed", "True Programmed"),
        ("ResolvedRefs", "True ResolvedRefs"),
        ("Conflicted", "False NoConflicts"),
    ] {
        assert_eq!(condition(&listener["conditions"], kind).0, wanted);
    }
    let conditions = parent(&cluster, "HTTPRoute", "leads").await;
    assert_eq!(condition(&conditions, "Accepted").0, "True Accepted");
    assert_eq!(condition(&conditions, "ResolvedRefs").0, "True ResolvedRefs");
    let policy = cluster.read("foregate.dev/v1alpha1", "Policy", "crm", "leads").await;
    assert_eq!(condition(&policy["status"]["ancestors"][0]["conditions"], "Accepted").0, "True Accepted");
    let class = cluster.read("gateway.networking.k8s.io/v1", "GatewayClass", "", "foregate").await;
    assert_eq!(condition(&class["status"]["conditions"], "Accepted").0, "True Accepted");
    controlled.trigger.begin();
    controlled.running.ended.await.unwrap();
}

#[tokio::test]
async fn what_does_not_compile_is_left_out_alone_and_its_status_says_why() {
    let cluster = Cluster::start().await;
    for text in [CLASS, GATEWAY, ROUTE, POLICY, SERVICE] {
        cluster.apply(text).await;
    }
    let controlled = control(&cluster);
    let (good, bad) = ("kubernetes/crm/HTTPRoute/leads.yaml", "kubernetes/crm/HTTPRoute/bad.yaml");
    controlled.tree("the route is served", |tree| tree.files.contains_key(good)).await;
    cluster
        .apply(
            &ROUTE
                .replace("name: leads, namespace", "name: bad, namespace")
                .replace("PathPrefix, value: /", "RegularExpression, value: '('"),
        )
        .await;
    let message = parent_is(&cluster, "bad", "Accepted", "False UnsupportedValue").await;
    assert!(message.starts_with("FG"), "{message}");
    assert!(message.contains("(at spec.rules[0].matches[0].path.value)"), "{message}");
    let tree = Arc::clone(&controlled.running.tree.borrow());
    assert!(tree.files.contains_key(good) && !tree.files.contains_key(bad));

    // A policy with a fault takes with it what it guards: without it, all would be open.
    let wrong = POLICY.replace("'true'", "'jwt.nothing'");
    cluster.apply(&wrong).await;
    let message = parent_is(&cluster, "leads", "Accepted", "False PolicyRefused").await;
    assert!(
        message.starts_with("FG0794: the Policy `crm/leads` that guards it is refused: FG04"),
        "{message}"
    );
    controlled.tree("it is served no more", |tree| !tree.files.contains_key(good)).await;
    let policy = cluster.read("foregate.dev/v1alpha1", "Policy", "crm", "leads").await;
    let (accepted, message) = condition(&policy["status"]["ancestors"][0]["conditions"], "Accepted");
    assert_eq!(accepted, "False Invalid");
    assert!(message.contains("(at spec.authorize[0].allow)"), "{message}");
    cluster.apply(POLICY).await;
    parent_is(&cluster, "leads", "Accepted", "True Accepted").await;
    controlled.tree("it is served again", |tree| tree.files.contains_key(good)).await;
}

#[tokio::test]
async fn references_that_lead_nowhere_refuse_their_requests_and_no_others() {
    let cluster = Cluster::start().await;
    for text in [CLASS, GATEWAY, POLICY] {
        cluster.apply(text).await;
    }
    cluster.apply(ROUTE).await;
    let controlled = control(&cluster);
    let message = parent_is(&cluster, "leads", "ResolvedRefs", "False BackendNotFound").await;
    assert_eq!(message, "the Service `crm/leads` does not exist");
    let nowhere = "kubernetes/crm/Service/unresolved.0.endpoints";
    let tree = controlled.tree("the route leads nowhere", |tree| tree.files.contains_key(nowhere)).await;
    assert_eq!(tree.text(nowhere), "endpoints: []\n");
    assert!(tree.text("kubernetes/crm/HTTPRoute/leads.yaml").contains("service.unresolved.0"));

    cluster.apply(SERVICE).await;
    parent_is(&cluster, "leads", "ResolvedRefs", "True ResolvedRefs").await;
    controlled.tree("it leads to the Service", |tree| !tree.files.contains_key(nowhere)).await;

    // A Service of another namespace needs a grant there.
    let far = SERVICE.replace("namespace: crm", "namespace: other").replace("name: leads,", "name: far,");
    cluster.apply(&far).await;
    cluster.apply(&ROUTE.replace("name: leads, port: 80,", "name: far, namespace: other, port: 80,")).await;
    let message = parent_is(&cluster, "leads", "ResolvedRefs", "False RefNotPermitted").await;
    assert!(
        message.starts_with("no ReferenceGrant in the namespace `other` lets a HTTPRoute of `crm`"),
        "{message}"
    );
    cluster
        .apply(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: { name: crm, namespace: other }
spec:
  from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: crm }, { group: gateway.networking.k8s.io, kind: Gateway, namespace: crm }]
  to: [{ group: '', kind: Service, name: far }, { group: '', kind: Secret }]
",
        )
        .await;
    parent_is(&cluster, "leads", "ResolvedRefs", "True ResolvedRefs").await;
    let far = "kubernetes/other/Service/far.80.yaml";
    controlled.tree("the Service of the other namespace is there", |tree| tree.files.contains_key(far)).await;
}

#[tokio::test]
async fn listeners_take_routes_of_chosen_namespaces_and_lose_conflicts_to_older_ones() {
    let cluster = Cluster::start().await;
    for text in [CLASS, ROUTE, POLICY, SERVICE] {
        cluster.apply(text).await;
    }
    let selector = GATEWAY
        .replace("namespace: crm }", "namespace: other }")
        .replace("{ from: Same }", "{ from: Selector, selector: { matchLabels: { team: crm } } }");
    cluster.apply(&selector).await;
    cluster.apply(&ROUTE.replace("name: edge", "name: edge, namespace: other")).await;
    let controlled = control(&cluster);
    let route = "kubernetes/crm/HTTPRoute/leads.yaml";
    controlled.tree("the label lets it attach", |tree| tree.files.contains_key(route)).await;
    let second = GATEWAY.replace("name: edge", "name: late").replace(
        "- { name: http,",
        "- { name: https, protocol: HTTPS, port: 8443, tls: { certificateRefs: [{ name: missing }] } }\n  - { name: http,",
    );
    cluster.apply(&second).await;
    let version = "gateway.networking.k8s.io/v1";
    let status = until("the second has a status", async || {
        let gateway = cluster.read(version, "Gateway", "crm", "late").await;
        (gateway["status"]["listeners"].as_array()?.len() == 2).then_some(gateway["status"].clone())
    })
    .await;
    let of = |name: &str| {
        let all = status["listeners"].as_array().unwrap();
        all.iter().find(|listener| listener["name"] == name).unwrap()["conditions"].clone()
    };
    let (resolved, message) = condition(&of("https"), "ResolvedRefs");
    assert_eq!(
        (&*resolved, &*message),
        ("False InvalidCertificateRef", "the Secret `crm/missing` does not exist")
    );
    assert_eq!(condition(&of("http"), "Conflicted").0, "True HostnameConflict");
    assert_eq!(condition(&status["conditions"], "Accepted").0, "False ListenersNotValid");
    assert_eq!(condition(&status["conditions"], "Programmed").0, "False Invalid");
    assert!(!controlled.running.tree.borrow().files.contains_key("kubernetes/crm/Gateway/late.yaml"));

    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["crm.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": { "name": "missing", "namespace": "crm" },
        "data": { "tls.crt": encoded(&certificate.pem()), "tls.key": encoded(&key.serialize_pem()) }
    });
    cluster.put(&secret).await;
    let tree = controlled
        .tree("the certificate is there", |tree| tree.files.contains_key("kubernetes/crm/Gateway/late.yaml"))
        .await;
    assert_eq!(tree.text("secrets/secret.crm.missing/tls.crt"), certificate.pem());
    assert_eq!(tree.text("secrets/secret.crm.missing/tls.key"), key.serialize_pem());
    assert!(tree.text("kubernetes/crm/Gateway/late.yaml").contains("secret.crm.missing"));
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let mut wrong = secret.clone();
    wrong["data"]["tls.key"] = encoded(&other).into();
    cluster.put(&wrong).await;
    controlled
        .tree("a key that does not fit is not served", |tree| {
            !tree.files.contains_key("kubernetes/crm/Gateway/late.yaml")
        })
        .await;
    assert!(!controlled.running.tree.borrow().files.values().any(|file| *file == *other.as_bytes()));
}

pub fn encoded(text: &str) -> String {
    k8s_openapi::serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec()))
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn tls_to_a_service_is_checked_as_a_policy_says_or_nobody_reaches_it() {
    let cluster = Cluster::start().await;
    for text in [CLASS, GATEWAY, ROUTE, POLICY, SERVICE] {
        cluster.apply(text).await;
    }
    cluster
        .apply(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: { name: leads, namespace: crm }
spec:
  targetRefs: [{ group: '', kind: Service, name: leads, sectionName: http }]
  validation: { hostname: leads.crm.test, caCertificateRefs: [{ group: '', kind: ConfigMap, name: roots }] }
",
        )
        .await;
    let controlled = control(&cluster);
    let message = parent_is(&cluster, "leads", "ResolvedRefs", "False BackendNotFound").await;
    assert_eq!(message, "a BackendTLSPolicy of it is refused: the ConfigMap `crm/roots` does not exist");
    let version = "gateway.networking.k8s.io/v1";
    let policy = cluster.read(version, "BackendTLSPolicy", "crm", "leads").await;
    let conditions = policy["status"]["ancestors"][0]["conditions"].clone();
    assert_eq!(condition(&conditions, "Accepted").0, "False NoValidCACertificate");
    assert_eq!(condition(&conditions, "ResolvedRefs").0, "False InvalidCACertificateRef");
    let pem = certificate();
    cluster.put(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "roots", "namespace": "crm" }, "data": { "ca.crt": pem } })).await;
    parent_is(&cluster, "leads", "ResolvedRefs", "True ResolvedRefs").await;
    let tree = controlled
        .tree("the policy is there", |tree| {
            tree.files.contains_key("kubernetes/crm/BackendTLSPolicy/leads.yaml")
        })
        .await;
    assert_eq!(tree.text("secrets/configmap.crm.roots/ca.crt"), pem);
    let policy = until("the policy names the Gateway", async || {
        let policy = cluster.read(version, "BackendTLSPolicy", "crm", "leads").await;
        (policy["status"]["ancestors"][0]["ancestorRef"]["kind"] == "Gateway").then_some(policy)
    })
    .await;
    assert_eq!(condition(&policy["status"]["ancestors"][0]["conditions"], "Accepted").0, "True Accepted");
    let upstream = &sources(&tree);
    let compiled = foregate_policy::compile::compile(
        upstream,
        &foregate_control::declared::Declared::default(),
        foregate_policy::compile::Options::default(),
    )
    .unwrap();
    let tls = compiled.upstreams[0].tls.clone().unwrap();
    assert_eq!(tls.server_name.as_deref(), Some("leads.crm.test"));
}

#[tokio::test]
async fn objects_cannot_name_files_of_proxies_and_get_secrets_of_their_own_namespace() {
    // A real one refuses them by the rules of the definitions.
    let cluster = Cluster::in_process();
    for text in [CLASS, GATEWAY, POLICY] {
        cluster.apply(text).await;
    }
    let upstream = |value: &str| {
        format!(
            "
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: {{ name: leads, namespace: crm }}
spec:
  endpoints: ['10.0.0.1:80']
  insecure: {{ plainCredentials: true }}
  credentials: {{ static: {{ header: authorization, value: {value} }} }}
"
        )
    };
    cluster
        .apply(&ROUTE.replace(
            "group: '', kind: Service, name: leads, port: 80",
            "group: foregate.dev, kind: Upstream, name: leads",
        ))
        .await;
    cluster.apply(&upstream("{ file: /etc/shadow }")).await;
    let controlled = control(&cluster);
    let said = async |wanted: &str| {
        until(&format!("the Upstream is {wanted}"), async || {
            let upstream = cluster.read("foregate.dev/v1alpha1", "Upstream", "crm", "leads").await;
            let (now, message) = condition(&upstream["status"]["conditions"], "Accepted");
            (now == wanted).then_some(message)
        })
        .await
    };
    let message = said("False Invalid").await;
    assert!(message.starts_with("FG0792: spec.credentials.static.value.file: "), "{message}");
    parent_is(&cluster, "leads", "ResolvedRefs", "False BackendNotFound").await;
    cluster.apply(&upstream("{ secretRef: { name: token, key: value } }")).await;
    let message = said("False InvalidSecretRef").await;
    assert_eq!(message, "FG0794: the Secret `crm/token` does not exist");
    cluster.put(&json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "token", "namespace": "crm" }, "data": { "value": encoded("s3cret"), "more": encoded("unasked") } })).await;
    said("True Accepted").await;
    let tree = controlled
        .tree("the secret is there", |tree| tree.files.contains_key("secrets/secret.crm.token/value"))
        .await;
    assert_eq!(tree.text("secrets/secret.crm.token/value"), "s3cret");
    assert!(!tree.files.contains_key("secrets/secret.crm.token/more"), "only what is asked for");
    assert!(tree.text("kubernetes/crm/Upstream/leads.yaml").contains("secret.crm.token"));
    parent_is(&cluster, "leads", "ResolvedRefs", "True ResolvedRefs").await;
}

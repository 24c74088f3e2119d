//! The webhooks over TLS, as the API server calls them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use foregate_control::injection::certificate::{Keeper, Settings};
use foregate_control::injection::configurations;
use foregate_control::injection::serve::serve;
use foregate_control::kubernetes::controller::{Running, Settings as ControllerSettings, start};
use foregate_control::process::{Process, Trigger};
use http_body_util::Full;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::apiserver::{Cluster, until};
use crate::injection::settings;
use crate::kubernetes::{CLASS, GATEWAY, POLICY, ROUTE};
use crate::support::webhook;

const NAME: &str = "foregate-control.foregate.svc";

/// Webhooks that run, and what the API server knows them by.
struct Hooks {
    at: std::net::SocketAddr,
    roots: String,
    _running: Running,
    _trigger: Trigger,
}

async fn hooks(cluster: &Cluster) -> Hooks {
    let (process, trigger) = Process::new();
    let running = start(cluster.client(), &process, ControllerSettings::default());
    let secret = Settings {
        namespace: "foregate".to_owned(),
        secret: "foregate-webhooks".to_owned(),
        names: vec![NAME.to_owned()],
    };
    let (keeper, served, authority) = Keeper::new(cluster.client(), secret);
    tokio::spawn(keeper.run(process.shutdown.clone()));
    tokio::spawn(configurations::keep(cluster.client(), "foregate".to_owned(), authority.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, served, settings(), running.world.clone(), process));
    let world = running.world.clone();
    until("the controller has seen the class", async || (!world.borrow().objects.is_empty()).then_some(()))
        .await;
    let roots = until("there is an authority", async || authority.borrow().clone()).await;
    Hooks { at, roots, _running: running, _trigger: trigger }
}

impl Hooks {
    /// A connection from this address of the machine.
    async fn stream(&self, from: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.roots.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let connector =
            TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()));
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        connector.connect(ServerName::try_from(NAME).unwrap(), socket.connect(self.at).await?).await
    }

    async fn connect(&self) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
        webhook::connect(self.at, (NAME, &self.roots)).await
    }

    async fn post(&self, path: &str, body: Bytes) -> (u16, String) {
        webhook::post(self.at, (NAME, &self.roots), path, body).await
    }

    /// The response of a review, which is asked for twice and answered alike.
    async fn review(&self, path: &str, operation: &str, object: &Value) -> Value {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": { "uid": "4711", "namespace": "crm", "operation": operation, "object": object, "dryRun": true }
        });
        let mut answers = Vec::new();
        for _ in 0..2 {
            let (status, body) = self.post(path, review.to_string().into()).await;
            assert_eq!(status, 200, "{body}");
            answers.push(serde_json::from_str::<Value>(&body).unwrap());
        }
        assert_eq!(answers[0], answers[1]);
        assert_eq!(answers[0]["kind"], "AdmissionReview");
        assert_eq!(answers[0]["response"]["uid"], "4711");
        answers[0]["response"].clone()
    }
}

fn document(yaml: &str) -> Value {
    foregate_policy::parse::parse(yaml).documents.remove(0).to_json()
}

#[tokio::test]
async fn pods_are_patched_and_unclear_ones_refused() {
    let cluster = Cluster::start().await;
    cluster.apply(CLASS).await;
    let hooks = hooks(&cluster).await;
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "leads-" }, "spec": { "containers": [{ "name": "app" }] } });
    let response = hooks.review("/inject", "CREATE", &pod).await;
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut injected = pod.clone();
    json_patch::patch(&mut injected, &patch).unwrap();
    assert_eq!(injected["spec"]["initContainers"][1]["name"], "foregate-proxy");
    let again = hooks.review("/inject", "CREATE", &injected).await;
    assert_eq!(again, json!({ "uid": "4711", "allowed": true }), "nothing is left to do");
    let mut unclear = pod.clone();
    unclear["metadata"]["annotations"] = json!({ "foregate.dev/skip-subnets": "all" });
    let response = hooks.review("/inject", "CREATE", &unclear).await;
    assert_eq!(response["allowed"], false);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.contains("metadata.annotations[foregate.dev/skip-subnets]: `all` is no subnet"),
        "{message}"
    );
    let mut host = pod;
    host["spec"]["hostNetwork"] = true.into();
    let response = hooks.review("/inject", "CREATE", &host).await;
    assert!(
        response["patch"].is_null()
            && response["warnings"][0].as_str().unwrap().contains("network of its node")
    );
}

#[tokio::test]
async fn objects_are_refused_for_their_own_faults_with_code_and_place() {
    let cluster = Cluster::start().await;
    for text in [CLASS, GATEWAY] {
        cluster.apply(text).await;
    }
    let hooks = hooks(&cluster).await;
    let allowed = json!({ "uid": "4711", "allowed": true });
    // What they refer to may come later.
    for text in [GATEWAY, ROUTE, POLICY] {
        let response = hooks.review("/validate", "CREATE", &document(text)).await;
        assert_eq!(response, allowed, "{text}");
    }
    let upstream = "apiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: { name: leads }\nspec: { endpoints: ['leads:80'] }";
    for (text, told) in [
        (POLICY.replace("'true'", "'request.x == 1'"), "FG0402: "),
        (
            POLICY.replace("authorize", "authorise"),
            "FG0102: unknown field `authorise` (at spec.authorise); did you mean `authorize`?",
        ),
        (ROUTE.replace("value: /", "value: x"), "(at spec.rules[0].matches[0].path.value)"),
        (
            GATEWAY.replace("protocol: HTTP,", "protocol: HTTPS,"),
            "FG0203: an HTTPS listener needs a certificate (at spec.listeners[0].protocol)",
        ),
        (upstream.replace("leads:80", "leads"), "FG0301: `leads` is not host:port (at spec.endpoints[0])"),
        (upstream.replace("name: leads", "name: service.leads.80"), "FG0793: "),
        (
            upstream.replace("spec: {", "spec: { tls: { mode: Simple, caFile: /etc/ssl/x }, "),
            "FG0792: spec.tls.caFile",
        ),
    ] {
        let response = hooks.review("/validate", "CREATE", &document(&text)).await;
        assert_eq!(response["allowed"], false, "{text}");
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("the ") && message.contains(told), "{message}");
        assert_eq!(response["status"]["code"], 422);
    }
    assert_eq!(hooks.review("/validate", "CREATE", &document(upstream)).await, allowed);
    let weak = POLICY.replace(
        "authorize:",
        "inject: [{ name: late, when: 'true', delay: 10ms, percent: 1 }]\n  authorize:",
    );
    let response = hooks.review("/validate", "CREATE", &document(&weak)).await;
    assert!(
        response["allowed"] == true && response["warnings"][0].as_str().unwrap().starts_with("FG0716: "),
        "{response}"
    );
    // Routes and Gateways of others are none of our business.
    let others = GATEWAY
        .replace("gatewayClassName: foregate", "gatewayClassName: other")
        .replace("protocol: HTTP,", "protocol: HTTPS,");
    assert_eq!(hooks.review("/validate", "CREATE", &document(&others)).await, allowed);
    let others = ROUTE.replace("name: edge", "name: unknown").replace("value: /", "value: x");
    assert_eq!(hooks.review("/validate", "CREATE", &document(&others)).await, allowed);
    let gone = document(&POLICY.replace("'true'", "'request.x == 1'"));
    assert_eq!(hooks.review("/validate", "DELETE", &gone).await, allowed);
}

#[tokio::test]
async fn reviews_are_bounded_and_nonsense_is_refused() {
    let cluster = Cluster::start().await;
    cluster.apply(CLASS).await;
    let hooks = hooks(&cluster).await;
    let (status, body) = hooks.post("/inject", "{}".into()).await;
    assert_eq!(status, 400, "{body}");
    let old = json!({ "apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": { "uid": "1" } });
    assert_eq!(hooks.post("/validate", old.to_string().into()).await.0, 400);
    assert_eq!(hooks.post("/validate", vec![b' '; 5 << 20].into()).await.0, 413);
    // A client that never finishes its handshake keeps no other from being served.
    let idle = TcpStream::connect(hooks.at).await.unwrap();
    assert_eq!(hooks.post("/inject", "{}".into()).await.0, 400);
    drop(idle);
}

#[tokio::test]
async fn an_authority_that_could_not_be_written_is_written_soon() {
    let cluster = Cluster::in_process();
    cluster.apply(CLASS).await;
    let webhooks = "apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: { name: foregate }
webhooks: [{ name: inject.foregate.dev, clientConfig: {} }]
";
    cluster.apply(webhooks).await;
    cluster.store().fail("mutatingwebhookconfigurations", 2);
    let hooks = hooks(&cluster).await;
    let bundle = STANDARD.encode(&hooks.roots);
    until("the authority is there", async || {
        let version = "admissionregistration.k8s.io/v1";
        let object = cluster.read(version, "MutatingWebhookConfiguration", "", "foregate").await;
        (object["webhooks"][0]["clientConfig"]["caBundle"] == bundle.as_str()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_says_nothing_keeps_neither_memory_nor_places_of_others() {
    let cluster = Cluster::start().await;
    cluster.apply(CLASS).await;
    let hooks = hooks(&cluster).await;
    let head = format!("POST /inject HTTP/1.1\r\nhost: {NAME}\r\ncontent-length: 4000000\r\n\r\n{{");
    let mut slow = Vec::new();
    // An eighth of all connections is what one address gets. Two of them are as many as questions that are answered at once.
    for from in [["127.0.0.3"; 16].as_slice(), &["127.0.0.2"; 32]].concat() {
        let mut stream = hooks.stream(from).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let more = async {
        let mut more = hooks.stream("127.0.0.2").await?;
        more.read(&mut [0; 1]).await
    };
    assert!(!matches!(more.await, Ok(1)), "it is closed");
    assert_eq!(hooks.post("/inject", "{}".into()).await.0, 400, "others are answered meanwhile");
    // Nobody had to be given up for that.
    let mut byte = [0; 1];
    assert!(futures_util::poll!(Box::pin(slow[0].read(&mut byte))).is_pending());
    for mut stream in slow {
        let mut answer = String::new();
        // However the end of it comes: what counts is the answer.
        let _ =
            tokio::time::timeout(Duration::from_mins(1), stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
    hooks.stream("127.0.0.2").await.unwrap();
}

#[tokio::test]
async fn all_replicas_share_one_authority_which_stands_in_the_configurations() {
    let cluster = Cluster::start().await;
    cluster.apply(CLASS).await;
    cluster
        .apply(
            "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: { name: foregate }
webhooks:
- { name: inject.foregate.dev, admissionReviewVersions: [v1], sideEffects: None, clientConfig: { service: { name: foregate-control, namespace: foregate, path: /inject } } }
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: { name: foregate }
webhooks:
- { name: validate.foregate.dev, admissionReviewVersions: [v1], sideEffects: None, clientConfig: { service: { name: foregate-control, namespace: foregate, path: /validate } } }
",
        )
        .await;
    let (first, second) = tokio::join!(hooks(&cluster), hooks(&cluster));
    assert_eq!(first.roots, second.roots);
    for hooks in [&first, &second] {
        assert_eq!(hooks.post("/inject", "{}".into()).await.0, 400);
    }
    let bundle = STANDARD.encode(&first.roots);
    let version = "admissionregistration.k8s.io/v1";
    for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
        let current = async || {
            let object = cluster.read(version, kind, "", "foregate").await;
            let client = &object["webhooks"][0]["clientConfig"];
            (client["caBundle"] == bundle.as_str() && client["service"]["name"] == "foregate-control")
                .then_some(object)
        };
        let mut object = until("the authority is there", current).await;
        // Somebody takes it away.
        object["webhooks"][0]["clientConfig"]["caBundle"] = "AAAA".into();
        object["metadata"].as_object_mut().unwrap().retain(|field, _| field == "name");
        cluster.put(&object).await;
        until("it is there again", current).await;
    }
    tokio::time::timeout(Duration::from_secs(5), first.connect()).await.unwrap();
}

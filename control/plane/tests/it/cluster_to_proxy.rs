//! Objects of a cluster on their way to a proxy, through a running control plane.

use std::collections::BTreeMap;
use std::path::Path;

use foregate_policy::fleet::{Content, Node, PolicyRequest, PolicyResponse, Refusal};
use futures_util::FutureExt;
use futures_util::stream::unfold;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::apiserver::{Cluster, until};
use crate::kubernetes::{CLASS, GATEWAY, POLICY, ROUTE, SERVICE, condition, parent_is, slice};
use crate::support::api_server::kubeconfig;
use crate::support::client::{join, policies, sign};
use crate::support::process::Control;
use crate::support::within;

const ENDPOINTS: &str = "kubernetes/crm/Service/leads.80.endpoints";

/// What a proxy has been given.
struct Given {
    answers: Streaming<PolicyResponse>,
    requests: mpsc::Sender<PolicyRequest>,
    files: BTreeMap<String, String>,
}

impl Given {
    /// Takes up changes until this is true of the files.
    async fn until(&mut self, what: &str, good: impl Fn(&BTreeMap<String, String>) -> bool) {
        while !good(&self.files) {
            let answer = within(what, self.answers.message()).await.unwrap().expect("the stream goes on");
            for resource in answer.changed {
                let text = match resource.content.expect("a resource has a content") {
                    Content::Document(document) => document.text,
                    Content::File(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                };
                self.files.insert(resource.name, text);
            }
            for name in answer.removed {
                self.files.remove(&name);
            }
            let nonce = PolicyRequest { nonce: answer.nonce, ..PolicyRequest::default() };
            self.requests.send(nonce).await.unwrap();
        }
    }
}

fn settings(kubeconfig: &Path) -> String {
    format!(
        "insecure: {{ generateAuthority: true }}
joinTokens: {{}}
kubernetes: {{ namespace: foregate, identity: one, kubeconfig: '{}' }}
grants: [{{ identities: ['spiffe://example.org/ns/crm/*'], gateways: ['crm/*'] }}]
",
        kubeconfig.display()
    )
}

/// A stream of a proxy that has nothing yet.
async fn open(control: &Control, identity: &str) -> Given {
    let workload = sign(control, None, join(&control.token(identity, &[]))).await.unwrap();
    let (requests, receiver) = mpsc::channel(4);
    let node = Node { id: identity.replace('/', "-"), ..Node::default() };
    requests.send(PolicyRequest { node: Some(node), ..PolicyRequest::default() }).await.unwrap();
    let sent = Box::pin(unfold(receiver, async |mut receiver: mpsc::Receiver<PolicyRequest>| {
        Some((receiver.recv().await?, receiver))
    }));
    let mut client = policies(control, Some(&workload)).await;
    let answers = client.stream(sent).await.unwrap().into_inner();
    Given { answers, requests, files: BTreeMap::new() }
}

fn any(files: &BTreeMap<String, String>, part: &str) -> bool {
    files.values().any(|text| text.contains(part))
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_reach_the_proxies_that_may_have_them_and_endpoints_follow_alone() {
    let cluster = Cluster::in_process();
    for text in [CLASS, GATEWAY, ROUTE, POLICY, SERVICE] {
        cluster.apply(text).await;
    }
    cluster.put(&slice("leads-1", &["10.0.0.1"])).await;
    let folder = tempfile::tempdir().unwrap();
    let server = cluster.url().strip_prefix("http://").unwrap().parse().unwrap();
    let config = kubeconfig(folder.path(), server);
    let control = Control::start(&settings(&config)).await;
    let mut given = open(&control, "ns/crm/sa/edge").await;
    given.until("the policies", |files| any(files, "kind: \"HTTPRoute\"") && any(files, "10.0.0.1")).await;
    assert!(any(&given.files, "kind: \"Policy\""), "{:?}", given.files.keys());
    parent_is(&cluster, "leads", "Accepted", "True Accepted").await;

    // Another address is another file, and no other document.
    let before = given.files.clone();
    cluster.put(&slice("leads-1", &["10.0.0.2"])).await;
    given.until("the new endpoints", |files| any(files, "10.0.0.2")).await;
    let changed: Vec<_> = given.files.iter().filter(|(name, text)| before.get(*name) != Some(text)).collect();
    assert_eq!(changed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [ENDPOINTS]);

    // Nobody else gets anything.
    let mut other = open(&control, "ns/other/sa/edge").await;
    let told = within("why nothing is granted", other.answers.message()).await.unwrap().unwrap();
    assert!(
        told.withheld.contains("no grant of the control plane is for spiffe://example.org/ns/other/sa/edge")
    );
    assert!(told.changed.is_empty(), "{told:?}");
    until("the other proxy is known", async || {
        let told = control.command(&["status"], &["--format", "json"]);
        String::from_utf8_lossy(&told.stdout).contains("ns/other/sa/edge").then_some(())
    })
    .await;
    cluster.put(&slice("leads-1", &["10.0.0.3"])).await;
    given.until("still newer endpoints", |files| any(files, "10.0.0.3")).await;
    assert!(other.answers.message().now_or_never().is_none(), "what is not granted is not sent");

    // The API server is gone: what was known stays.
    cluster.lose();
    until("readiness is told", async || (control.page("/readyz").await.0 == 200).then_some(())).await;
    let mut late = open(&control, "ns/crm/sa/late").await;
    late.until("the policies", |files| any(files, "kind: \"HTTPRoute\"") && any(files, "10.0.0.3")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_programmed_once_a_proxy_has_acknowledged_it() {
    let cluster = Cluster::in_process();
    for text in [CLASS, GATEWAY, ROUTE, POLICY, SERVICE] {
        cluster.apply(text).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = kubeconfig(folder.path(), cluster.url().strip_prefix("http://").unwrap().parse().unwrap());
    let control = Control::start(&settings(&config)).await;
    let programmed = async |wanted: &str| {
        until(&format!("Programmed is {wanted}"), async || {
            let gateway = cluster.read("gateway.networking.k8s.io/v1", "Gateway", "crm", "edge").await;
            let conditions = gateway["status"]["conditions"].clone();
            let found = conditions.is_array().then(|| condition(&conditions, "Programmed"))?;
            (found.0 == wanted).then_some(found.1)
        })
        .await
    };
    let given = open(&control, "ns/crm/sa/edge").await;
    let mut answers = given.answers;
    let first = within("the policies", answers.message()).await.unwrap().expect("the stream goes on");
    let told = programmed("False Pending").await;
    assert!(told.contains("none of 1 proxies has it in force yet"), "{told}");
    // Refused, it stays so and says it.
    let refusal = Some(Refusal::default());
    let nonce = first.nonce;
    let no = PolicyRequest { nonce, refusal, ..PolicyRequest::default() };
    given.requests.send(no).await.unwrap();
    until("the refusal is told", async || {
        programmed("False Pending").await.contains("1 refused it").then_some(())
    })
    .await;
    // The next proxy takes it.
    let mut other = open(&control, "ns/crm/sa/other").await;
    other.until("the policies", |files| any(files, "kind: \"HTTPRoute\"")).await;
    programmed("True Programmed").await;
}

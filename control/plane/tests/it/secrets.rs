//! Keys that are renewed: at proxies, on the disk, and in no revision.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use foregate_policy::fleet::{Content, Node, PolicyRequest, PolicyResponse};
use futures_util::stream::unfold;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::support::client::{join, policies, sign};
use crate::support::process::Control;
use crate::support::within;

const SETTINGS: &str = "insecure: { generateAuthority: true }
joinTokens: {}
sources: [{ name: files, folder: { path: policies } }]
grants: [{ identities: ['spiffe://example.org/*'], gateways: ['*/*'] }]
rollout: { steps: [50], interval: 1h }
";

const KEY: &str = "secrets/edge/tls.key";

fn gateway(port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge }}
spec:
  gatewayClassName: foregate
  listeners: [{{ name: https, protocol: HTTPS, port: {port}, tls: {{ certificateRefs: [{{ name: edge }}] }} }}]
"
    )
}

/// A certificate and its key.
fn pair() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    (chain.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Puts a whole state of the policies in its place, as a mounted volume does.
fn put(folder: &Path, state: &str, port: u16, (chain, key): (&str, &str)) {
    let place = folder.join(state);
    std::fs::create_dir_all(place.join("secrets/edge")).unwrap();
    std::fs::write(place.join("edge.yaml"), gateway(port)).unwrap();
    std::fs::write(place.join("secrets/edge/tls.crt"), chain).unwrap();
    std::fs::write(place.join(KEY), key).unwrap();
    std::os::unix::fs::symlink(state, folder.join("link.new")).unwrap();
    std::fs::rename(folder.join("link.new"), folder.join("policies")).unwrap();
}

/// A stream of a proxy.
struct Proxy {
    answers: Streaming<PolicyResponse>,
    requests: mpsc::Sender<PolicyRequest>,
    files: BTreeMap<String, String>,
    revision: String,
}

impl Proxy {
    async fn open(control: &Control) -> Self {
        let svid = sign(control, None, join(&control.token("ns/crm/sa/edge", &[]))).await.unwrap();
        let (requests, receiver) = mpsc::channel(4);
        let node = Some(Node { id: "edge".to_owned(), ..Node::default() });
        requests.send(PolicyRequest { node, ..PolicyRequest::default() }).await.unwrap();
        let sent = Box::pin(unfold(receiver, async |mut receiver: mpsc::Receiver<PolicyRequest>| {
            Some((receiver.recv().await?, receiver))
        }));
        let answers = policies(control, Some(&svid)).await.stream(sent).await.unwrap().into_inner();
        Self { answers, requests, files: BTreeMap::new(), revision: String::new() }
    }

    /// Takes up changes until the key is this one.
    async fn until_key(&mut self, key: &str) {
        while self.files.get(KEY).map(String::as_str) != Some(key) {
            let answer = within("a change", self.answers.message()).await.unwrap().expect("it goes on");
            for resource in answer.changed {
                let text = match resource.content.unwrap() {
                    Content::Document(document) => document.text,
                    Content::File(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                };
                self.files.insert(resource.name, text);
            }
            self.revision = answer.revision;
            let taken = PolicyRequest { nonce: answer.nonce, ..PolicyRequest::default() };
            self.requests.send(taken).await.unwrap();
        }
    }
}

/// Ways below the state of the control plane that hold this.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if std::fs::read_to_string(&path).is_ok_and(|content| content.contains(text)) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn status(control: &Control) -> Value {
    let output = control.command(&["status"], &["--format", "json"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_key_reaches_proxies_without_a_roll_out_and_the_old_one_is_on_no_disk() {
    let folder: Arc<TempDir> = Arc::new(tempfile::tempdir().unwrap());
    let (first, second, third) = (pair(), pair(), pair());
    put(folder.path(), "one", 8443, (&first.0, &first.1));
    let mut control = Control::start_in(Arc::clone(&folder), SETTINGS).await;
    control.event("revision adopted").await;
    let mut proxy = Proxy::open(&control).await;
    proxy.until_key(&first.1).await;
    let (revision, state) = (proxy.revision.clone(), folder.path().join("state"));
    assert_eq!(holding(&state, &first.1), [state.join(KEY).display().to_string()]);

    put(folder.path(), "two", 8443, (&second.0, &second.1));
    proxy.until_key(&second.1).await;
    assert_eq!(proxy.revision, revision, "the same policies");
    control.event("secrets renewed").await;
    let told = status(&control);
    assert_eq!(told["current"], revision.as_str());
    assert!(told["rollout"].is_null(), "{told}");
    assert_eq!(told["revisions"].as_array().unwrap().len(), 1, "{told}");
    within("the old key to go", async {
        while !holding(&state, &first.1).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;

    // One that does not fit is refused, and told.
    put(folder.path(), "three", 8443, (&first.0, &second.1));
    let refused = control.event("revision refused").await;
    assert!(refused["diagnostics"][0].as_str().unwrap().contains("do not fit"), "{refused}");
    assert!(status(&control)["refused"]["revision"].is_string());

    // A start begins with the key of late, though the sources have nothing sound to give.
    control.terminate().await;
    let control = Control::start_in(Arc::clone(&folder), SETTINGS).await;
    let mut proxy = Proxy::open(&control).await;
    proxy.until_key(&second.1).await;
    assert_eq!(proxy.revision, revision);

    // Going back to a revision of before brings no key of before back.
    put(folder.path(), "four", 8444, (&second.0, &second.1));
    control.event("revision adopted").await;
    put(folder.path(), "five", 8444, (&third.0, &third.1));
    proxy.until_key(&third.1).await;
    let newest = status(&control)["rollout"]["revision"].as_str().unwrap().to_owned();
    let start = control.command(&["rollout", "start"], &[&newest, "--steps", "100", "--interval", "0s"]);
    assert!(start.status.success(), "{}", String::from_utf8_lossy(&start.stderr));
    within("the roll-out", async {
        while status(&control)["current"] != newest.as_str() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    let back = control.command(&["revert"], &[&revision]);
    assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    let mut proxy = Proxy::open(&control).await;
    proxy.until_key(&third.1).await;
    assert_eq!(proxy.revision, revision);
    assert!(holding(&state, &second.1).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_could_not_be_replaced_on_the_disk_is_replaced_as_soon_as_it_can_be() {
    let folder: Arc<TempDir> = Arc::new(tempfile::tempdir().unwrap());
    let (first, second) = (pair(), pair());
    put(folder.path(), "one", 8443, (&first.0, &first.1));
    let control = Control::start_in(Arc::clone(&folder), SETTINGS).await;
    control.event("revision adopted").await;
    let state = folder.path().join("state");
    // Something is in the way of what is about to take the place of those that are kept.
    std::fs::write(state.join("secrets.new"), "").unwrap();
    put(folder.path(), "two", 8443, (&second.0, &second.1));
    let fault = control.event("secrets not kept").await;
    assert!(fault["help"].as_str().unwrap().contains("stateDir"), "{fault}");
    let mut proxy = Proxy::open(&control).await;
    proxy.until_key(&second.1).await;
    assert_eq!(holding(&state, &first.1), [state.join(KEY).display().to_string()]);
    within("the metric", async {
        while control.sample("foregate_control_secrets_unkept").await < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // No source and no plan changes any more.
    std::fs::remove_file(state.join("secrets.new")).unwrap();
    control.event("secrets kept").await;
    assert!(holding(&state, &first.1).is_empty());
    assert_eq!(holding(&state, &second.1), [state.join(KEY).display().to_string()]);
    assert_eq!(control.text().matches("\"secrets not kept\"").count(), 1, "{}", control.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_disagrees_with_what_is_in_force_is_told_of() {
    let folder: Arc<TempDir> = Arc::new(tempfile::tempdir().unwrap());
    let pair = pair();
    put(folder.path(), "one", 8443, (&pair.0, &pair.1));
    std::fs::create_dir(folder.path().join("more")).unwrap();
    let two = "policies } }, { name: more, folder: { path: more } }]";
    let settings = SETTINGS.replace("policies } }]", two);
    let control = Control::start_in(Arc::clone(&folder), &settings).await;
    control.event("revision adopted").await;
    std::fs::write(folder.path().join("more/edge.yaml"), gateway(8444)).unwrap();
    let refused = control.event("revision refused").await;
    let why = refused["diagnostics"][0].as_str().unwrap();
    assert!(why.starts_with("FG0750 edge.yaml") && why.contains("`files` and `more`"), "{refused}");
}

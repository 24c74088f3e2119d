//! Models scored by the inference server: as in process, and never late when it fails.

mod liar;
mod mtls;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use foregate::clock::monotonic;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{Client, Reply};
use crate::support::command::foregate;
use crate::support::guarded::{bundle, copy_bundle, model, routes};
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, full};
use crate::support::within;

const JSON: &str = "application/json";
/// Of the rules here.
const SCORE_DEADLINE: Duration = Duration::from_millis(400);
/// What a request may take besides its score: the machine may be busy with other tests.
const BESIDE: Duration = Duration::from_secs(2);
const DEFAULT: &str = "0.24";

/// The inference server, as it is shipped.
struct Server {
    child: Child,
    grpc: SocketAddr,
}

impl Server {
    /// Serves the bundles of a folder, and waits until it does.
    fn start(models: &Path, words: &[&str]) -> Self {
        // A run of the whole workspace builds it beside the gateway.
        let binary = Path::new(env!("CARGO_BIN_EXE_foregate")).with_file_name("foregate-inference");
        assert!(binary.is_file(), "{binary:?} is not there: cargo build -p foregate-inference makes it");
        let mut command = Command::new(binary);
        command.args(["serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--models"]).arg(models);
        let child = command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut this = Self { child, grpc: SocketAddr::from(([127, 0, 0, 1], 0)) };
        for line in BufReader::new(this.child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(address) = line.strip_prefix("grpc ") {
                this.grpc = address.parse().unwrap();
            }
            if line == "ready" {
                return this;
            }
        }
        panic!("the inference server ended before it was ready");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A process that is stopped is killed as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with bundles, and a place for the socket.
struct Place(TempDir);

impl Place {
    fn new(models: &[&str]) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(this.models()).unwrap();
        for model in models {
            std::os::unix::fs::symlink(bundle(model), this.models().join(model)).unwrap();
        }
        this
    }

    fn models(&self) -> PathBuf {
        self.0.path().join("models")
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("inference.sock")
    }

    fn option(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    fn serve(&self) -> Server {
        Server::start(&self.models(), &["--grpc-socket", self.socket().to_str().unwrap()])
    }
}

fn rule(model: &str, more: &str) -> String {
    format!(
        "insecure: {{ anonymous: true }}
enrich: [{{ name: it, model: {model}, deadline: {}ms, set: {{ header: X-Score, body: /Score__c }}{more} }}]\n",
        SCORE_DEADLINE.as_millis()
    )
}

/// A model placed in the sidecar.
fn placed(name: &str, folder: &Path) -> String {
    model(name, folder).replace("spec: { bundle", "spec: { placement: Sidecar, bundle")
}

/// A gateway with leads at `/strict`, which are refused without a score, and at `/lenient`.
struct Stand {
    upstream: Upstream,
    gateway: Foregate,
}

impl Stand {
    async fn start(sidecar: &str) -> Self {
        Self::with(Options::default().args(&["--inference-sidecar", sidecar]), &bundle("lead-score")).await
    }

    async fn with(options: Options, folder: &Path) -> Self {
        let upstream = Upstream::answering("ok").await;
        let lenient = rule("lead-score", &format!(", onError: continue, default: {DEFAULT}"));
        let rules = [("strict", rule("lead-score", "")), ("lenient", lenient)];
        let rules = rules.each_ref().map(|(name, rule)| (*name, rule.as_str()));
        let policies = routes(upstream.address, &rules) + &placed("lead-score", folder);
        let gateway = Foregate::start(&policies, options).await;
        Self { upstream, gateway }
    }

    async fn client(&self) -> Client {
        Client::http1(self.gateway.address("edge/http")).await
    }

    /// The status of the score of a lead, and what the record says of it.
    async fn lenient(&self, client: &mut Client) -> (String, Value) {
        let reply = post(client, "/lenient", &lead(7)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let status = self.upstream.last().header("x-score-status").to_owned();
        (status, self.gateway.record(reply.decision()).await["foregate.scores"][0].clone())
    }

    /// Posts leads until one has a score of the sidecar.
    async fn wait_scored(&self) {
        let mut client = self.client().await;
        within("a score of the sidecar", async { while self.lenient(&mut client).await.0 != "scored" {} })
            .await;
    }

    /// Posts leads from eight connections until `until`, which is given the statuses so far; none may fail or be late.
    async fn load(&self, mut until: impl FnMut(&[String]) -> bool) -> Vec<String> {
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(self.client().await);
        }
        let mut statuses = Vec::new();
        let start = monotonic();
        while !until(&statuses) {
            assert!(monotonic().saturating_sub(start) < crate::support::DEADLINE, "in vain: {statuses:?}");
            let before = self.upstream.received().len();
            let round = clients.iter_mut().enumerate().map(|(number, client)| async move {
                let start = monotonic();
                let reply = post(client, "/lenient", &lead(number)).await;
                (reply, monotonic().saturating_sub(start))
            });
            for (reply, took) in join_all(round).await {
                assert_eq!(reply.status, 200, "{}", reply.text());
                assert!(took < SCORE_DEADLINE + BESIDE, "{took:?}");
            }
            let seen = self.upstream.received();
            let round = &seen[before..];
            assert_eq!(round.len(), clients.len());
            for seen in round {
                let status = seen.header("x-score-status").to_owned();
                assert!(status == "scored" || seen.header("x-score") == DEFAULT, "{status}");
                statuses.push(status);
            }
        }
        statuses
    }
}

async fn post(client: &mut Client, target: &str, lead: &Value) -> Reply {
    let request = client.request("POST", target).header("content-type", JSON);
    client.send(request.body(full(lead.to_string())).unwrap()).await
}

fn lead(number: usize) -> Value {
    json!({ "Id": format!("00Q5g00000a{number:04}"), "Website_Visits__c": number % 20, "Country": "US" })
}

/// Many records in one body.
fn collection(object: &str, records: &[Value]) -> Value {
    let typed = records.iter().map(|record| {
        let mut record = record.clone();
        record["attributes"] = json!({ "type": object });
        record
    });
    json!({ "allOrNone": false, "records": typed.collect::<Vec<_>>() })
}

/// Records of the golden vectors of a bundle.
fn records(name: &str) -> Vec<Value> {
    let text = std::fs::read(bundle(name).join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&text).unwrap();
    golden["vectors"].as_array().unwrap().iter().take(40).map(|it| it["record"].clone()).collect()
}

fn is_default(status: &str) -> bool {
    status.starts_with("default;cause=")
}

#[tokio::test]
async fn the_sidecar_says_what_the_gateway_itself_would() {
    let place = Place::new(&["lead-score", "case-queue"]);
    let _server = place.serve();
    let upstream = Upstream::answering("ok").await;
    let class = ", set: { header: X-Score, class: { header: X-Class } }";
    let queue = |model: &str| rule(model, "").replace(", set: { header: X-Score, body: /Score__c }", class);
    let explained = |model: &str| {
        let rule = rule(model, ", explain: { percent: 100 }");
        rule.replace("body: /Score__c", "body: /Score__c, reasons: { body: /Why__c }")
    };
    let names = ["lead-score", "lead-here", "case-queue", "case-here", "explained", "explained-here"];
    let rules = [
        rule("lead-score", ""),
        rule("lead-here", ""),
        queue("case-queue"),
        queue("case-here"),
        explained("lead-score"),
        explained("lead-here"),
    ];
    let rules: Vec<_> = names.into_iter().zip(rules.iter().map(String::as_str)).collect();
    let mut policies = routes(upstream.address, &rules);
    for (object, here) in [("lead-score", "lead-here"), ("case-queue", "case-here")] {
        policies += &placed(object, &bundle(object));
        policies += &model(here, &bundle(object));
    }
    let options = Options::default().args(&["--inference-sidecar", &place.option()]);
    let gateway = Foregate::start(&policies, options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let mut asked = 0;
    for (bundle, object, sidecar, here) in [
        ("lead-score", "Lead", "/lead-score", "/lead-here"),
        ("case-queue", "Case", "/case-queue", "/case-here"),
        ("lead-score", "Lead", "/explained", "/explained-here"),
    ] {
        let mut bodies = records(bundle);
        if !sidecar.starts_with("/explained") {
            bodies.push(collection(object, &bodies));
        }
        for body in bodies {
            let mut seen = Vec::new();
            for target in [sidecar, here] {
                let reply = post(&mut client, target, &body).await;
                assert_eq!(reply.status, 200, "{target}: {}", reply.text());
                let last = upstream.last();
                assert_eq!(last.header("x-score-status"), "scored");
                let class: Vec<_> = last.headers.get_all("x-class").iter().cloned().collect();
                let body = String::from_utf8_lossy(&last.body).into_owned();
                seen.push((last.header("x-score").to_owned(), class, body));
            }
            assert_eq!(seen[0], seen[1], "{sidecar}: {body}");
            assert!(!sidecar.starts_with("/explained") || seen[0].2.contains("contributionValue"));
            asked += 1;
        }
    }
    let calls = gateway.sample("foregate_inference_sidecar_calls_total").await.unwrap();
    assert!((calls - f64::from(asked)).abs() < 0.5, "{calls} calls for {asked} bodies");
    for kind in ["unavailable", "late", "busy", "refused", "answer", "bundle"] {
        let faults = format!("foregate_inference_sidecar_faults_total{{kind=\"{kind}\"}}");
        assert_eq!(gateway.sample(&faults).await, Some(0.0), "{kind}");
    }
    let (_, page) = gateway.admin_page("/models").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    let runs = |name: &str| {
        let model = page.as_array().unwrap().iter().find(|model| model["name"] == name).unwrap();
        model["versions"][0]["runs"].clone()
    };
    // Where the machine is busy, the other one may have moved to threads.
    assert!(runs("lead-score") == "sidecar" && runs("lead-here") != "sidecar");
}

#[tokio::test]
async fn a_sidecar_that_is_killed_costs_no_request_more_than_its_deadline() {
    let place = Place::new(&["lead-score"]);
    let server = place.serve();
    let stand = Stand::start(&place.option()).await;
    let mut server = Some(server);
    let statuses = stand
        .load(|statuses| {
            if statuses.iter().filter(|status| *status == "scored").count() > 200 && server.is_some() {
                server.as_ref().unwrap().signal("KILL");
                server = None;
            }
            server.is_none()
                && statuses.iter().filter(|status| *status == "default;cause=model").count() > 200
        })
        .await;
    assert!(statuses.iter().all(|status| status == "scored" || is_default(status)), "{statuses:?}");
    let lost = stand.gateway.event("inference sidecar unavailable").await;
    assert!(lost["error"].as_str().unwrap().starts_with("the sidecar"), "{lost}");
    let connected = "foregate_inference_sidecar_connected";
    stand.gateway.wait_sample(connected, |value| value < 0.5).await;
    // Who wants no record without a score refuses it, at once.
    let mut client = stand.client().await;
    let reply = post(&mut client, "/strict", &lead(1)).await;
    assert_eq!((reply.status, reply.reason().as_str()), (503, "ScoreUnavailable"));
    // The next process takes the socket over from the one that could not remove it.
    let _server = place.serve();
    stand.wait_scored().await;
    assert_eq!(post(&mut client, "/strict", &lead(1)).await.status, 200);
    stand.gateway.wait_sample(connected, |value| value > 0.5).await;
}

#[tokio::test]
async fn a_sidecar_that_is_stopped_costs_no_request_more_than_its_deadline() {
    let place = Place::new(&["lead-score"]);
    let server = place.serve();
    let stand = Stand::start(&place.option()).await;
    let mut stopped = false;
    let statuses = stand
        .load(|statuses| {
            if statuses.iter().filter(|status| *status == "scored").count() > 200 && !stopped {
                server.signal("STOP");
                stopped = true;
            }
            statuses.iter().filter(|status| *status == "default;cause=model").count() > 100
        })
        .await;
    // Late at first; once it is found out that nobody answers, at once.
    assert!(statuses.iter().any(|status| status == "default;cause=late"), "{statuses:?}");
    let late = "foregate_inference_sidecar_faults_total{kind=\"late\"}";
    assert!(stand.gateway.sample(late).await.unwrap() > 0.5);
    server.signal("CONT");
    stand.wait_scored().await;
}

#[tokio::test]
async fn a_model_placed_in_a_sidecar_needs_one_and_must_not_rank() {
    let upstream = Upstream::answering("ok").await;
    let policies = |name: &str| {
        routes(upstream.address, &[("leads", rule(name, "").as_str())]) + &placed(name, &bundle(name))
    };
    let (status, said) = Foregate::refused(&policies("lead-score"), Options::default()).await;
    assert!(!status.success());
    assert!(said.contains("FG0736") && said.contains("--inference-sidecar unix:"), "{said}");
    let place = Place::new(&[]);
    let options = Options::default().args(&["--inference-sidecar", &place.option()]);
    let (_, said) = Foregate::refused(&policies("product-next"), options.clone()).await;
    assert!(said.contains("FG0736") && said.contains("ranks"), "{said}");
    // On a socket nobody shows a certificate.
    let peer = options.args(&["--inference-sidecar-peer", "spiffe://corp.example/inference"]);
    let (status, said) = Foregate::refused(&policies("lead-score"), peer).await;
    assert!(!status.success() && said.contains("--inference-sidecar-peer is for https"), "{said}");
    // Who only checks policies has no sidecar, and needs none.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("policies.yaml"), policies("lead-score")).unwrap();
    let checked = foregate(&["check", folder.path().to_str().unwrap()]);
    assert_eq!(checked.code, 0, "{checked:?}");
}

#[tokio::test]
async fn another_version_is_no_score_and_is_told_once() {
    let place = Place::new(&[]);
    let edit = |text: String| text.replace("version: \"1.0.0\"", "version: \"0.9.0\"");
    copy_bundle(&bundle("lead-score"), &place.models().join("lead-score"), edit, |_| true);
    let _server = place.serve();
    let stand = Stand::start(&place.option()).await;
    let told = stand.gateway.event("inference sidecar does not fit").await;
    assert_eq!(told["error"], "the sidecar has version 0.9.0, not 1.0.0");
    let mut client = stand.client().await;
    for _ in 0..3 {
        let (status, _) = stand.lenient(&mut client).await;
        assert_eq!(status, "default;cause=model");
    }
    let of_misfit = |event: &&Value| event["event.name"] == "inference sidecar does not fit";
    assert_eq!(stand.gateway.events().all().iter().filter(of_misfit).count(), 1);
}

#[tokio::test]
async fn another_bundle_of_the_same_name_and_version_is_no_score() {
    let place = Place::new(&[]);
    let folder = place.models().join("lead-score");
    copy_bundle(&bundle("lead-score"), &folder, |text| text + "# trained anew\n", |_| true);
    let _server = place.serve();
    let stand = Stand::start(&place.option()).await;
    let told = stand.gateway.event("inference sidecar does not fit").await;
    let error = told["error"].as_str().unwrap();
    assert!(error.starts_with("the sidecar has another bundle under this name and version"), "{error}");
    let mut client = stand.client().await;
    let (status, score) = stand.lenient(&mut client).await;
    assert_eq!(status, "default;cause=model");
    assert!(score.to_string().contains("another bundle"), "{score}");
    let of_misfit = |event: &&Value| event["event.name"] == "inference sidecar does not fit";
    let told = stand.gateway.events().all().iter().filter(of_misfit).count();
    assert!((1..=2).contains(&told), "at the connection, and at the first answer: {told}");
    let faults = "foregate_inference_sidecar_faults_total{kind=\"bundle\"}";
    stand.gateway.wait_sample(faults, |count| count > 0.5).await;
}

#[tokio::test]
async fn versions_of_a_rollout_are_asked_by_name_and_version() {
    let place = Place::new(&["lead-score"]);
    let newer = ["2.0.0", "3.0.0"].map(|version| {
        let folder = place.models().join(version);
        let edit = |text: String| text.replace("version: \"1.0.0\"", &format!("version: \"{version}\""));
        copy_bundle(&bundle("lead-score"), &folder, edit, |_| true);
        folder
    });
    let _server = place.serve();
    let upstream = Upstream::answering("ok").await;
    let models = format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: {{ name: lead-score }}
spec:
  placement: Sidecar
  versions:
  - {{ name: v1, bundle: {{ path: {} }} }}
  - {{ name: v2, bundle: {{ path: {} }} }}
  - {{ name: v3, bundle: {{ path: {} }} }}
  rollout: {{ production: v1, canary: {{ version: v2, percent: 50 }}, shadow: {{ version: v3 }} }}
---",
        bundle("lead-score").display(),
        newer[0].display(),
        newer[1].display()
    );
    let policies = routes(upstream.address, &[("leads", rule("lead-score", "").as_str())]) + &models;
    let options = Options::default().args(&["--inference-sidecar", &place.option()]);
    let gateway = Foregate::start(&policies, options).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let mut versions = std::collections::BTreeSet::new();
    for number in 0..60 {
        let reply = post(&mut client, "/leads", &lead(number)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let record = gateway.record(reply.decision()).await;
        versions.insert(record["foregate.scores"][0]["version"].as_str().unwrap().to_owned());
    }
    assert_eq!(versions.into_iter().collect::<Vec<_>>(), ["v1", "v2"]);
    // What is compared beside the requests is asked there too.
    let compared = "foregate_model_comparisons_total{model=\"lead-score\",version=\"v3\",role=\"shadow\"}";
    gateway.wait_sample(compared, |count| count > 10.0).await;
    let differ = compared.replace("comparisons", "disagreements");
    assert_eq!(gateway.sample(&differ).await, Some(0.0));
    let calls = gateway.sample("foregate_inference_sidecar_calls_total").await.unwrap();
    assert!(calls > 60.0 + 10.0, "{calls}");
}

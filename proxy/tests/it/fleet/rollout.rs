//! Revisions that reach proxies step by step, and are taken back where they do worse.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use foregate::fleet::call::Call;
use foregate::fleet::channel::Channel;
use foregate::fleet::endpoint::ControlOptions;
use foregate::identity::directory::Directory;
use foregate::identity::{Identity, Source};
use foregate_policy::fleet::{Finding, Node, PolicyRequest, PolicyResponse, Refusal, Report};
use serde_json::Value;

use super::{EVERYTHING, Place, serving};
use crate::support::client::Client;
use crate::support::control::{Control, identity};
use crate::support::policies::{plain, upstream};
use crate::support::upstream::Upstream;
use crate::support::within;
use crate::support::workloads::Domain;

const STEPS: &str = "rollout: { steps: [50], interval: 1h, guardrails: { minRequests: 100 } }\n";

/// A proxy that takes or refuses what it gets, and serves nobody.
struct Simulated {
    call: Policies,
    /// Of the last change that was taken.
    revision: String,
}

type Policies = Call<PolicyRequest, PolicyResponse>;

/// A stream that begins with this message.
async fn open(control: &Control, domain: &Domain, first: &PolicyRequest) -> Policies {
    let folder = identity(domain, &domain.svid("/ns/crm/sa/edge"));
    let set = Directory::new(folder.path().to_owned()).next().await.unwrap();
    let (endpoint, retry) = (control.url().parse().unwrap(), Duration::from_secs(1));
    let options = ControlOptions { endpoint, roots: control.roots(), retry };
    let channel = Channel::of(options, Arc::new(Identity::new(set)));
    within("a stream", channel.stream("/foregate.fleet.v1.Policies/Stream", first)).await.unwrap()
}

impl Simulated {
    async fn start(control: &Control, domain: &Domain, id: &str) -> Self {
        let node = Node { id: id.to_owned(), labels: HashMap::new(), ..Node::default() };
        let first = PolicyRequest { node: Some(node), ..PolicyRequest::default() };
        Self { call: open(control, domain, &first).await, revision: String::new() }
    }

    /// Waits for a whole change, and answers it.
    async fn answer(&mut self, findings: Option<Vec<Finding>>) -> String {
        loop {
            let part = within("a change", self.call.answers.next()).await.unwrap().unwrap();
            if !part.last {
                continue;
            }
            if findings.is_none() {
                self.revision.clone_from(&part.revision);
            }
            let refusal = findings.map(|findings| Refusal { findings });
            let answer = PolicyRequest { nonce: part.nonce, refusal, ..PolicyRequest::default() };
            assert!(self.call.requests.send(&answer).await);
            return part.revision;
        }
    }

    async fn report(&self, requests: u64, failed: u64) {
        let report = Report { revision: self.revision.clone(), requests, refused: 0, failed };
        let message = PolicyRequest { report: Some(report), ..PolicyRequest::default() };
        assert!(self.call.requests.send(&message).await);
    }
}

/// Proxies that all took the first revision.
async fn fleet(control: &Control, domain: &Domain, count: usize) -> Vec<Simulated> {
    let mut all = Vec::new();
    for number in 0..count {
        let mut proxy = Simulated::start(control, domain, &format!("proxy-{number}")).await;
        proxy.answer(None).await;
        all.push(proxy);
    }
    all
}

/// Waits until the first half has been given something else; gives those that have.
async fn reached(control: &Control, proxies: &mut [Simulated]) -> Vec<usize> {
    let status = control.wait_status("the rollout", |status| status["rollout"].is_object()).await;
    let new = status["rollout"]["revision"].as_str().unwrap().to_owned();
    let mut wanted = Vec::new();
    for proxy in control
        .wait_status("all proxies know what they want", |status| {
            status["proxies"].as_array().unwrap().iter().any(|proxy| proxy["wanted"] == new.as_str())
        })
        .await["proxies"]
        .as_array()
        .unwrap()
    {
        if proxy["wanted"] == new.as_str() {
            let id = proxy["id"].as_str().unwrap().strip_prefix("proxy-").unwrap();
            wanted.push(id.parse::<usize>().unwrap());
        }
    }
    assert!(wanted.len() < proxies.len(), "not all at once");
    wanted
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_revision_that_fails_more_is_taken_back_by_itself() {
    let domain = Domain::new("example.org");
    let more = format!("{EVERYTHING}{STEPS}");
    let control = Control::start(&domain, &more, &[("policies.yaml", &plain("127.0.0.1:1"))]).await;
    let mut proxies = fleet(&control, &domain, 8).await;
    let old = proxies[0].revision.clone();
    for proxy in &proxies {
        proxy.report(100, 1).await;
    }
    control.write("policies.yaml", plain("127.0.0.1:2"));
    let reached = reached(&control, &mut proxies).await;
    for index in &reached {
        assert_ne!(proxies[*index].answer(None).await, old);
        proxies[*index].report(200, 60).await;
    }
    let status = control.wait_status("the revert", |status| status["reverted"].is_object()).await;
    assert_eq!(text(&status["current"]), old);
    assert!(text(&status["reverted"]["reason"]).contains("failed"), "{status}");
    for index in &reached {
        assert_eq!(proxies[*index].answer(None).await, old, "they go back");
    }
    // The same files are not rolled out again by themselves, and another change is.
    control.write("policies.yaml", plain("127.0.0.1:3"));
    control.wait_status("the next rollout", |status| status["rollout"].is_object()).await;
}

#[tokio::test]
async fn what_all_got_at_once_is_looked_at_where_that_is_asked_for() {
    let domain = Domain::new("example.org");
    let watch = "rollout: { watch: 1h, guardrails: { refused: 1, minRequests: 100 } }\n";
    let more = format!("{EVERYTHING}{watch}");
    let control = Control::start(&domain, &more, &[("policies.yaml", &plain("127.0.0.1:1"))]).await;
    let mut proxies = fleet(&control, &domain, 2).await;
    let old = proxies[0].revision.clone();
    for proxy in &proxies {
        proxy.report(100, 1).await;
    }
    let known =
        |status: &Value| status["proxies"].as_array().unwrap().iter().all(|one| one["requests"] == 100);
    control.wait_status("reports of before", known).await;
    control.write("policies.yaml", plain("127.0.0.1:2"));
    for proxy in &mut proxies {
        assert_ne!(proxy.answer(None).await, old, "all of them get it");
        proxy.report(100, 30).await;
    }
    let status = control.wait_status("the revert", |status| status["reverted"].is_object()).await;
    assert!(text(&status["reverted"]["reason"]).contains("30.0 % of requests failed"), "{status}");
    for proxy in &mut proxies {
        assert_eq!(proxy.answer(None).await, old, "they go back");
    }
}

#[tokio::test]
async fn a_revision_that_proxies_refuse_is_taken_back_and_operators_steer() {
    let domain = Domain::new("example.org");
    let more = format!("{EVERYTHING}{STEPS}");
    let mut control = Control::start(&domain, &more, &[("policies.yaml", &plain("127.0.0.1:1"))]).await;
    let mut proxies = fleet(&control, &domain, 8).await;
    let old = proxies[0].revision.clone();
    control.write("policies.yaml", plain("127.0.0.1:2"));
    let first = reached(&control, &mut proxies).await;
    let finding =
        Finding { code: "FG0304".to_owned(), file: "policies.yaml".to_owned(), ..Finding::default() };
    let bad = proxies[first[0]].answer(Some(vec![finding])).await;
    let status = control.wait_status("the revert", |status| status["reverted"].is_object()).await;
    assert_eq!(text(&status["reverted"]["revision"]), bad);
    assert!(text(&status["reverted"]["reason"]).contains("refused it"), "{status}");
    for index in &first[1..] {
        proxies[*index].answer(None).await;
        proxies[*index].answer(None).await;
    }
    // By hand: started, paused, and given up.
    let run = |args: &[&str]| {
        let output = control.command(args);
        let all = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(all).unwrap())
    };
    assert_eq!(run(&["rollout", "pause"]).0, Some(1), "nothing is rolled out");
    let (code, page) = run(&["rollout", "start", &bad, "--steps", "50,100", "--interval", "1h"]);
    assert!(code == Some(0) && page.contains("to 50 % of the proxies"), "{page}");
    assert!(run(&["rollout", "pause"]).1.contains("paused"));
    assert_eq!(run(&["rollout", "resume"]).0, Some(0));
    let (code, page) = run(&["diff", &bad]);
    assert!(code == Some(1) && page.contains("+spec: { endpoints: [\"127.0.0.1:2\"] }"), "{page}");
    assert_eq!(run(&["diff", &old]), (Some(0), String::new()));
    let (code, page) = run(&["revert"]);
    assert!(code == Some(0) && page.contains("an operator asked for it"), "{page}");
    assert_eq!(run(&["rollout", "start", "no-such-one"]).0, Some(1));
    // What is decided outlives the process.
    control.kill();
    control.run().await;
    let status = control.wait_status("the state of before", |status| text(&status["current"]) == old).await;
    assert!(status["rollout"].is_null(), "{status}");
}

#[tokio::test]
async fn a_revision_that_takes_gateways_away_is_taken_back() {
    let domain = Domain::new("example.org");
    let more = format!("{EVERYTHING}{STEPS}");
    let control = Control::start(&domain, &more, &[("policies.yaml", &plain("127.0.0.1:1"))]).await;
    let proxies = fleet(&control, &domain, 8).await;
    control.write("policies.yaml", upstream("crm", "127.0.0.1:1", ""));
    let status = control.wait_status("the revert", |status| status["reverted"].is_object()).await;
    assert!(text(&status["reverted"]["reason"]).contains("have no Gateway in it"), "{status}");
    assert_eq!(text(&status["current"]), proxies[0].revision);
}

#[tokio::test]
async fn what_a_lost_gateway_refuses_is_charged_to_no_revision() {
    let (domain, crm) = (Domain::new("example.org"), Upstream::answering("ok").await);
    // Every proxy is reached at once, and nothing is taken back.
    let lenient = "rollout: { steps: [99.9999], interval: 1h, guardrails: { failed: 1, proxies: 1 } }\n";
    let (policies, more) = (plain(crm.address), format!("{EVERYTHING}{lenient}"));
    let control = Control::start(&domain, &more, &[("policies.yaml", &policies)]).await;
    let place = Place::new(&domain, "/ns/crm/sa/edge");
    let gateway = serving(&place, &control, &policies).await;
    let ask = async || Client::http1(gateway.address("edge/http")).await.get("/").await.status;
    assert_eq!(ask().await, 200);
    let told = |status: &Value, what: &str| status["proxies"][0][what].as_u64().unwrap_or_default();
    control.wait_status("a report", |status| told(status, "requests") == 1).await;
    control.write("policies.yaml", upstream("crm", crm.address, ""));
    control.wait_status("the loss", |status| status["proxies"][0]["withheld"].is_string()).await;
    within("a refusal", async { while ask().await != 503 {} }).await;
    for _ in 0..4 {
        assert_eq!(ask().await, 503);
    }
    let status = control.wait_status("the next report", |status| told(status, "failed") >= 5).await;
    let rollout = &status["rollout"];
    assert_eq!(
        (&rollout["leftOut"], &rollout["old"]["failed"], &rollout["new"]["failed"]),
        (&1.into(), &0.into(), &0.into())
    );
    assert!(rollout["old"]["requests"].as_u64() >= Some(1), "{status}");
}

#[tokio::test]
async fn a_proxy_that_answers_nothing_holds_up_nobody_and_a_later_stream_takes_its_place() {
    let domain = Domain::new("example.org");
    let control = Control::start(&domain, EVERYTHING, &[("policies.yaml", &plain("127.0.0.1:1"))]).await;
    let mut silent = Simulated::start(&control, &domain, "silent").await;
    let mut proxies = fleet(&control, &domain, 2).await;
    let old = proxies[0].revision.clone();
    control.write("policies.yaml", plain("127.0.0.1:2"));
    for proxy in &mut proxies {
        assert_ne!(proxy.answer(None).await, old);
    }
    // What it has not answered is all that it was sent.
    let first = within("the first change", silent.call.answers.next()).await.unwrap().unwrap();
    assert_eq!(first.revision, old);
    let mut again = Simulated::start(&control, &domain, "silent").await;
    assert_eq!(again.answer(None).await, proxies[0].revision);
    let ended = within("the end of the first stream", silent.call.answers.next()).await.unwrap_err();
    assert!(ended.to_string().contains("another stream of this proxy"), "{ended}");
}

#[tokio::test]
async fn who_says_nothing_sensible_of_itself_is_refused() {
    let domain = Domain::new("example.org");
    let control = Control::start(&domain, EVERYTHING, &[("policies.yaml", &plain("127.0.0.1:1"))]).await;
    let node = |id: &str| Some(Node { id: id.to_owned(), ..Node::default() });
    for (node, why) in
        [(None, "has no node"), (node(""), "1 to 253 bytes"), (node(&"x".repeat(254)), "1 to 253 bytes")]
    {
        let first = PolicyRequest { node, ..PolicyRequest::default() };
        let mut call = open(&control, &domain, &first).await;
        let refused = within("a refusal", call.answers.next()).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
}

#[tokio::test]
async fn a_folder_is_compared_with_what_is_in_force() {
    let domain = Domain::new("example.org");
    let control = Control::start(&domain, EVERYTHING, &[("policies.yaml", &plain("127.0.0.1:1"))]).await;
    control.wait_status("a revision", |status| status["current"].is_string()).await;
    let folder = tempfile::tempdir().unwrap();
    let diff = |content: &str| {
        std::fs::write(folder.path().join("policies.yaml"), content).unwrap();
        let path: &Path = folder.path();
        let output = control.command(&["diff", "--folder", path.to_str().unwrap(), "--format", "json"]);
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default())
    };
    assert_eq!(diff(&plain("127.0.0.1:1")), (Some(0), Value::Array(Vec::new())));
    let (code, found) = diff(&plain("127.0.0.1:9"));
    assert_eq!((code, text(&found[0]["name"])), (Some(1), "Upstream:default/crm"));
    assert_eq!(diff("kind: Nonsense\n").0, Some(3));
}

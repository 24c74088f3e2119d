//! The console in a browser and in a terminal, under load: same numbers, same words.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::command::foregate;
use crate::support::guarded::{bundle, model, routes};
use crate::support::lines::Lines;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Upstream, full};
use crate::support::within;

const LEAD: &str = r#"{"Title":"CFO","Country":"US"}"#;

/// The folder of the page, its sources and what they are built with.
fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("console")
}

/// `/leads` scored, `/cases` for those who read, `/limited` for few.
fn policies(upstream: &Upstream) -> String {
    let open = "insecure: { anonymous: true }\n";
    let leads = "enrich: [{ name: lead, model: lead-score, deadline: 900ms, set: { header: x-lead-score } }]
authorize:
- { name: anyone, allow: 'true' }
- { name: low, deny: 'enrich.lead.score < 0.05' }\n";
    let cases = "authorize: [{ name: readers, allow: 'request.method == \"GET\"' }]\n";
    let limited = format!("{open}rateLimit: [{{ name: few, key: source.address, limit: 3, per: 24h }}]\n");
    let specs = [("leads", leads), ("cases", cases), ("limited", &*limited)];
    [routes(upstream.address, &specs), model("lead-score", &bundle("lead-score"))].concat()
}

async fn gateway(upstream: &Upstream) -> Foregate {
    let options = Options::default().args(&["--decision-sample", "1/1"]);
    Foregate::start(&policies(upstream), options).await
}

/// One round of requests, most of which pass.
async fn round(client: &mut Client) {
    for (method, path, body) in [
        ("POST", "/leads/1", LEAD),
        ("GET", "/cases/1", ""),
        ("POST", "/cases/1", "x"),
        ("GET", "/limited/<img src=x onerror=alert(1)>", ""),
        ("GET", "/limited/1", ""),
        ("GET", "/elsewhere", ""),
    ] {
        let target: String = path.replace(['<', '>', ' '], "%3C");
        let request = client.request(method, &target).header("content-type", "application/json");
        client.send(request.body(full(body)).unwrap()).await;
    }
}

/// Requests, one after the other, until told to stop.
fn load(gateway: &Foregate) -> (Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
    let (address, stop) = (gateway.address("edge/http"), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let running = tokio::spawn(async move {
        let mut client = Client::http1(address).await;
        while !stopped.load(Ordering::Relaxed) {
            round(&mut client).await;
        }
    });
    (stop, running)
}

/// A browser that looks at the console, and stops at each stage.
struct Browser {
    child: Child,
    out: Lines,
    complaints: Lines,
}

impl Browser {
    fn open(gateway: &Foregate) -> Self {
        let python =
            std::env::var("FOREGATE_PYTHON").expect("FOREGATE_PYTHON names a Python; .ci/test makes it");
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
        let axe = peers.join("node_modules/axe-core/axe.min.js");
        assert!(axe.is_file(), "run `npm ci` in {}, as .ci/test does", peers.display());
        let mut child = Command::new(python)
            .arg(peers.join("console.py"))
            .arg(format!("http://{}", gateway.admin()))
            .arg(axe)
            .args(std::env::var_os("FOREGATE_SCREENSHOT"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = Lines::read(child.stdout.take().unwrap());
        let complaints = Lines::read(child.stderr.take().unwrap());
        Self { child, out, complaints }
    }

    /// Waits until it comes to this stage, as long as it comes to others before.
    async fn comes_to(&self, stage: &str) {
        for count in 1.. {
            let told = self.out.find_count("its next stage", count, |line| line["stage"].is_string()).await;
            let Some(told) = told else {
                self.complaints.ended().await;
                panic!("before {stage}:\n{}", self.complaints.text());
            };
            if told.iter().any(|line| line["stage"] == stage) {
                return;
            }
        }
    }

    fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Waits for the end, and asserts that everything held.
    async fn held(mut self) {
        self.complaints.ended().await;
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}", self.complaints.text());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn an_operator_sees_in_a_browser_what_the_metrics_say_and_why_requests_were_refused() {
    let upstream = Upstream::answering("ok").await;
    let gateway = gateway(&upstream).await;
    let (stop, running) = load(&gateway);
    let mut browser = Browser::open(&gateway);
    if std::env::var_os("FOREGATE_SCREENSHOT").is_some() {
        browser.comes_to("screenshot").await;
        browser.go_on();
    }
    browser.comes_to("quiet").await;
    stop.store(true, Ordering::Relaxed);
    running.await.unwrap();
    browser.go_on();
    browser.comes_to("break").await;
    gateway.write("policies.yaml", policies(&upstream).replace("kind: HTTPRoute", "kind: HTTPRoot"));
    browser.go_on();
    browser.held().await;
}

#[test]
fn the_committed_page_is_what_its_sources_give() {
    let folder = page();
    let packages = folder.join("node_modules/esbuild");
    assert!(packages.is_dir(), "run `npm ci` in {}, as .ci/test does", folder.display());
    for (program, argument) in [("node_modules/.bin/tsc", "--noEmit"), ("bundle.mjs", "--check")] {
        let output = Command::new("node").args([program, argument]).current_dir(&folder).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&told));
    }
    let notice = std::fs::read_to_string(folder.join("dist/THIRD-PARTY.txt")).unwrap();
    for library in ["preact ", "@preact/signals ", "@preact/signals-core ", "uplot "] {
        assert!(notice.lines().any(|line| line.starts_with(library)), "{library}");
    }
}

/// The numbers of `foregate top`, once they are those of this many requests.
async fn top(admin: &str, requests: u64) -> Value {
    within("the numbers of all requests", async {
        loop {
            let admin = admin.to_owned();
            let ask = move || foregate(&["top", "--once", "--format", "json", "--admin", &admin]);
            let ended = tokio::task::spawn_blocking(ask).await.unwrap().is(0, &[], &[]);
            let seen: Value = serde_json::from_str(&ended.out).unwrap();
            if seen["total"]["requests"] == requests {
                break seen;
            }
        }
    })
    .await
}

#[tokio::test]
async fn top_tells_the_numbers_of_the_metrics_in_a_terminal() {
    let upstream = Upstream::answering("ok").await;
    let gateway = gateway(&upstream).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..5 {
        round(&mut client).await;
    }
    let admin = gateway.admin().to_string();
    let seen = top(&admin, 30).await;
    let refused = |step: &str| {
        let routes = seen["routes"].as_array().unwrap().iter();
        routes.filter_map(|route| route["refused_in"][step].as_u64()).sum::<u64>()
    };
    // Five of `/elsewhere`; five that write cases, and all but three of the limited ones.
    assert_eq!((refused("route"), refused("admit"), refused("guard")), (5, 5, 7));
    assert_eq!(seen["total"]["refused"], 17);
    let in_all = json!({ "admit": 5, "guard": 7, "route": 5 });
    assert_eq!(seen["refused_in"], in_all);
    let of = |list: &str, name: &str| {
        let all = seen[list].as_array().unwrap();
        all.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("{name} in {list}")).clone()
    };
    let limited = of("policies", "limited");
    assert_eq!((&limited["routes"], &limited["requests"]), (&1.into(), &10.into()));
    assert_eq!(limited["refused_in"], json!({ "guard": 7 }));
    let brings = limited["brings"].as_array().unwrap();
    assert!(brings.contains(&json!({ "step": "guard", "filters": ["rateLimit"] })), "{limited}");
    let brings = of("policies", "leads")["brings"].clone();
    let brings = brings.as_array().unwrap();
    assert!(brings.contains(&json!({ "step": "enrich", "filters": ["enrich"] })), "{brings:?}");
    assert_eq!(of("routes", "limited/rule")["policies"], json!(["limited"]));
    assert_eq!(of("routes", "")["policies"], json!([]));
    assert_eq!(seen["endpoints"]["fit"], 1);
    let model = &seen["models"][0];
    assert_eq!((&model["name"], &model["role"]), (&"lead-score".into(), &"production".into()));
    let now: u64 = model["scores"]["now"].as_array().unwrap().iter().map(|it| it.as_u64().unwrap()).sum();
    assert_eq!(now, 5);
    assert_eq!(
        model["scores"]["edges"].as_array().unwrap().len() + 1,
        model["scores"]["now"].as_array().unwrap().len()
    );

    let shown = tokio::task::spawn_blocking(move || foregate(&["top", "--admin", &admin])).await.unwrap();
    let shown =
        shown.is(0, &["ready  revision ", "1 of 1 endpoints fit", "of 30 requests", "lead-score"], &[]);
    let limited = shown.out.lines().find(|line| line.starts_with("limited/rule")).unwrap();
    assert_eq!(
        limited.split_whitespace().rev().take(3).collect::<Vec<_>>(),
        ["0", "7", "10"],
        "{}",
        shown.out
    );
    for wanted in [
        ["limited/rule", "guard", "RateLimited", "few", "7"].as_slice(),
        // Of 30, five find no route; what is refused in guard comes no further.
        &["guard", "25", "7"],
        &["dispatch", "13", "0"],
        &["limited", "guard", "rateLimit", "10", "7"],
        &["SCORES", "OF", "VERSION", "NOW", "TRAINING", "EDGES", "RECORDS"],
    ] {
        let found = shown.out.lines().any(|line| line.split_whitespace().eq(wanted.iter().copied()));
        assert!(found, "{wanted:?}\n{}", shown.out);
    }
}

#[tokio::test]
async fn tap_prints_what_fits_as_it_comes() {
    let upstream = Upstream::answering("ok").await;
    let gateway = gateway(&upstream).await;
    let admin = gateway.admin().to_string();
    let tap = |words: &[&str]| {
        let words = [&["tap", "--admin", &admin, "--count", "2"], words].concat();
        let mut child = Command::new(env!("CARGO_BIN_EXE_foregate"))
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = Lines::read(child.stdout.take().unwrap());
        (child, lines)
    };
    let (mut limited, told) = tap(&["--route", "limited", "--refused"]);
    let (mut all, objects) = tap(&["--format", "json", "--status", "4xx"]);
    let (stop, running) = load(&gateway);
    told.ended().await;
    objects.ended().await;
    stop.store(true, Ordering::Relaxed);
    running.await.unwrap();
    assert!(limited.wait().unwrap().success() && all.wait().unwrap().success());
    let text = told.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines.iter().all(|line| line.contains(" 429 GET /limited/")
            && line.contains(" limited/rule guard RateLimited few ")),
        "{text}"
    );
    let id = lines[0].rsplit(' ').next().unwrap().to_owned();
    for object in objects.all() {
        assert!((400..500).contains(&object["http.response.status_code"].as_u64().unwrap()), "{object}");
    }
    let explain =
        tokio::task::spawn_blocking(move || foregate(&["explain", &id, "--admin", &admin])).await.unwrap();
    explain.is(0, &["refused in guard as RateLimited"], &[]);
}

#[tokio::test]
async fn whoever_cannot_be_asked_is_told_so() {
    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for word in ["top", "tap"] {
        let told = ["cannot be asked: ", "name that with --admin"];
        foregate(&[word, "--admin", &gone]).is(1, &[], &told);
    }
    foregate(&["tap", "--step", "admitt"]).is(2, &[], &["--step `admitt` is not known; did you mean admit?"]);
    foregate(&["tap", "--admin", "ftp://a"]).is(2, &[], &["expected an http URL"]);
    let upstream = Upstream::answering("ok").await;
    let other = format!("http://{}", upstream.address);
    let ask = move || foregate(&["top", "--once", "--admin", &other]);
    tokio::task::spawn_blocking(ask).await.unwrap().is(1, &[], &["is no admin endpoint of foregate"]);
}

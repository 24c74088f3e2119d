//! Traffic of every kind while policies, identities and endpoints change: nothing fails, nothing grows.
//!
//! A few rounds by default. `FOREGATE_SOAK=3600` goes on for that many seconds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foregate::clock;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::mtls::identified;
use crate::support::client::{Client, HOST, Reply, connect};
use crate::support::guarded::{bundle, golden, model, policy};
use crate::support::idp::Idp;
use crate::support::policies::{route_below, upstream};
use crate::support::process::Foregate;
use crate::support::upstream::{Body, Speak, Upstream, empty, full};
use crate::support::workloads::{Domain, Folder};
use crate::support::{DEADLINE, within};

/// Rounds where nothing else is asked for: a third to warm up, a third to compare with, a third to compare.
const ROUNDS: usize = 9;

/// Answers that traffic of each kind gets between two changes.
const BETWEEN: usize = 15;

/// Memory that later rounds may take beyond earlier ones, in bytes: caches that fill, fragments of the allocator.
const SLACK: u64 = 8 << 20;

/// Bytes of the large bodies.
const LARGE: usize = 256 << 10;

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners:
  - { name: http, protocol: HTTP, port: 8080 }
  - { name: mesh, protocol: HTTPS, port: 15443, tls: { options: { foregate.dev/identity: workload } } }
---";

/// One kind of traffic: what is sent, over what, and what may come back.
#[derive(Clone)]
struct Kind {
    name: &'static str,
    path: &'static str,
    token: Option<String>,
    body: Option<Vec<u8>>,
    over: Over,
    fits: fn(&Reply) -> bool,
}

#[derive(Clone)]
enum Over {
    Http1,
    Http2,
    Mesh(Arc<ClientConfig>),
    /// Half a body, and nothing more.
    Abandoned,
}

impl Kind {
    fn new(name: &'static str, path: &'static str, over: Over, fits: fn(&Reply) -> bool) -> Self {
        Self { name, path, token: None, body: None, over, fits }
    }

    fn request(&self, client: &Client) -> Request<Body> {
        let mut request = client.request(if self.body.is_some() { "POST" } else { "GET" }, self.path);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        match &self.body {
            Some(body) => request.header("content-type", "application/json").body(full(body.clone())),
            None => request.body(empty()),
        }
        .unwrap()
    }
}

/// Traffic of every kind at once, until told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Vec<(&'static str, Arc<AtomicUsize>)>,
    clients: JoinSet<Result<(), String>>,
}

impl Traffic {
    fn start(gateway: &Foregate, kinds: Vec<Kind>) -> Self {
        let (plain, mesh) = (gateway.address("edge/http"), gateway.address("edge/mesh"));
        let mut this = Self { stop: Arc::default(), answered: Vec::new(), clients: JoinSet::new() };
        for kind in kinds {
            let (stop, answered) = (Arc::clone(&this.stop), Arc::new(AtomicUsize::new(0)));
            this.answered.push((kind.name, Arc::clone(&answered)));
            let address = if matches!(kind.over, Over::Mesh(_)) { mesh } else { plain };
            this.clients.spawn(async move { client(address, &kind, &stop, &answered).await });
        }
        this
    }

    /// Waits until each kind has had so many answers more; a client that saw what it must not see ends the test.
    async fn more(&mut self) {
        let begun: Vec<usize> = self.answered.iter().map(|(_, count)| count.load(Ordering::SeqCst)).collect();
        let wait = async {
            loop {
                if let Some(ended) = self.clients.try_join_next() {
                    panic!("a client ended: {ended:?}");
                }
                let behind = self.answered.iter().zip(&begun);
                let behind: Vec<&str> = behind
                    .filter(|((_, count), begun)| count.load(Ordering::SeqCst) < **begun + BETWEEN)
                    .map(|((name, _), _)| *name)
                    .collect();
                if behind.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, wait).await;
        assert!(waited.is_ok(), "traffic got stuck: {:?}", self.answered);
    }

    async fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        let mut faults = Vec::new();
        while let Some(ended) = within("the clients", self.clients.join_next()).await {
            faults.extend(ended.unwrap().err());
        }
        faults
    }
}

/// Sends until told to stop, on a new connection where the last one was closed as announced.
async fn client(
    address: SocketAddr,
    kind: &Kind,
    stop: &AtomicBool,
    answered: &AtomicUsize,
) -> Result<(), String> {
    while !stop.load(Ordering::SeqCst) {
        let mut client = match &kind.over {
            Over::Abandoned => {
                abandon(address, kind).await;
                answered.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            Over::Http1 => Client::http1(address).await,
            Over::Http2 => Client::http2(address).await,
            Over::Mesh(config) => Client::tls(address, HOST, config)
                .await
                .map_err(|error| format!("{}: handshake: {error}", kind.name))?,
        };
        // Not every connection lives for long.
        for _ in 0..200 {
            if stop.load(Ordering::SeqCst) || (client.is_http2() && !client.ready().await) {
                break;
            }
            let reply = match client.exchange(kind.request(&client)).await {
                Ok(response) => Reply::read(response).await,
                // It was told to go, and has not sent this one.
                Err(error) if client.is_http2() && (error.is_canceled() || error.is_closed()) => break,
                Err(error) => Err(error),
            };
            let reply = reply.map_err(|error| format!("{}: {error:?}", kind.name))?;
            if !(kind.fits)(&reply) {
                return Err(format!("{}: {} {}", kind.name, reply.status, reply.text()));
            }
            answered.fetch_add(1, Ordering::SeqCst);
            if reply.header("connection") == "close" {
                break;
            }
        }
    }
    Ok(())
}

async fn abandon(address: SocketAddr, kind: &Kind) {
    let mut stream = connect(address).await;
    let head = format!("POST {} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LARGE}\r\n\r\n", kind.path);
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b'x'; 1_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // Reset or closed: either way the gateway has let go of it.
    let _ = within("the end of an abandoned connection", stream.read_to_end(&mut answer)).await;
}

/// Answers with what arrived of it: the score, and the length of the body.
async fn echo() -> Upstream {
    Upstream::streaming(Speak::Http1, |request: Request<Incoming>| async {
        let score = request.headers().get("x-lead-score").cloned();
        let length = request.into_body().collect().await?.to_bytes().len();
        let mut response = Response::new(full(length.to_string()));
        if let Some(score) = score {
            response.headers_mut().insert("x-seen-score", score);
        }
        Ok(response)
    })
    .await
}

/// Policies of a round: the same routes before other endpoints, with a rule of that round.
fn policies(round: usize, endpoints: &[SocketAddr], steady: SocketAddr, idp: &Idp) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    let mut text = format!(
        "{GATEWAY}
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: {{ name: flaky }}
spec: {{ endpoints: [{}], circuitBreaker: {{ consecutiveFailures: 2 }} }}
---{}{}",
        endpoints.join(", "),
        upstream("steady", steady, ""),
        model("lead-score", &bundle("lead-score"))
    );
    let jwt = format!("jwt:\n{}", idp.by_url());
    let scored =
        "enrich: [{ name: lead, model: lead-score, deadline: 900ms, set: { header: X-Lead-Score } }]";
    let limit = "rateLimit: [{ name: few, key: source.address, limit: 50, per: 1s }]";
    let specs = [
        ("flaky", "flaky", format!("authorize: [{{ name: round-{round}, allow: 'true' }}]")),
        ("leads", "steady", format!("{jwt}{scored}\nauthorize: [{{ name: all, allow: 'true' }}]")),
        ("limited", "steady", format!("insecure: {{ anonymous: true }}\n{limit}")),
        ("large", "steady", "insecure: { anonymous: true }".to_owned()),
    ];
    for (name, backend, spec) in specs {
        let mut route = route_below(name, backend);
        if backend == "flaky" {
            let retry = "    timeouts: { request: 20s, backendRequest: 2s }\n    retry: { attempts: 3 }\n---";
            route = route.replace("---", retry);
        }
        text += &(route + &policy(name, &spec));
    }
    text
}

fn kinds(idp: &Idp, domain: &Domain) -> Vec<Kind> {
    let served: fn(&Reply) -> bool = |reply| reply.status == 200;
    let lead = serde_json::to_vec(&golden(&bundle("lead-score"))[0].0).unwrap();
    let token = Some(idp.sign(&serde_json::json!({ "exp": 4_000_000_000_u64 })));
    let mesh = |alpn| Over::Mesh(domain.svid("/web").client(&[alpn]));
    let scored: fn(&Reply) -> bool = |reply| reply.status == 200 && !reply.header("x-seen-score").is_empty();
    let limited: fn(&Reply) -> bool = |reply| match reply.status {
        200 => true,
        429 => !reply.header("retry-after").is_empty(),
        _ => false,
    };
    let echoed: fn(&Reply) -> bool = |reply| reply.status == 200 && reply.text() == LARGE.to_string();
    let mut kinds = vec![
        Kind::new("HTTP/1.1", "/flaky", Over::Http1, served),
        Kind::new("HTTP/2", "/flaky", Over::Http2, served),
        Kind::new("mesh HTTP/1.1", "/flaky", mesh("http/1.1"), served),
        Kind::new("mesh HTTP/2", "/flaky", mesh("h2"), served),
        Kind::new("scored", "/leads", Over::Http1, scored),
        Kind::new("no token", "/leads", Over::Http1, |reply| reply.status == 401),
        Kind::new("limited", "/limited", Over::Http1, limited),
        Kind::new("large", "/large", Over::Http2, echoed),
        Kind::new("nowhere", "/nowhere", Over::Http1, |reply| reply.status == 404),
        Kind::new("abandoned", "/large", Over::Abandoned, served),
    ];
    for kind in &mut kinds {
        match kind.name {
            "scored" => (kind.token, kind.body) = (token.clone(), Some(lead.clone())),
            "no token" => kind.body = Some(lead.clone()),
            "large" => kind.body = Some(vec![b'x'; LARGE]),
            _ => {}
        }
    }
    kinds
}

/// Changes what is in force in every way that a running gateway takes.
struct Changes {
    gateway: Foregate,
    idp: Idp,
    steady: Upstream,
    flaky: Vec<Upstream>,
    domains: [Domain; 2],
    identity: Folder,
}

impl Changes {
    fn policies(&self, round: usize) -> String {
        let endpoints: Vec<SocketAddr> = self.flaky.iter().map(|upstream| upstream.address).collect();
        policies(round, &endpoints, self.steady.address, &self.idp)
    }

    /// An endpoint dies and another takes its place, an identity of the other authority comes, faulty policies are
    /// refused, and everything is read anew.
    async fn round(&mut self, round: usize, traffic: &mut Traffic) {
        let place = round % self.flaky.len();
        let dead = std::mem::replace(&mut self.flaky[place], echo().await);
        drop(dead);
        traffic.more().await;
        self.gateway.publish(&self.policies(round)).await;
        traffic.more().await;

        let [one, other] = &self.domains;
        let ours = if round.is_multiple_of(2) { other } else { one };
        let published = |event: &Value| event["event.name"] == "identity published";
        let before = self.gateway.events().all().iter().filter(|event| published(event)).count();
        self.identity.put(&ours.svid("/gateway"), &[one.bundle.as_str(), other.bundle.as_str()].concat());
        self.gateway.events().wait_count("another identity", before + 1, published).await;
        traffic.more().await;

        let failed = "foregate_config_reloads_total{outcome=\"failure\"}";
        let before = self.gateway.sample(failed).await.unwrap_or_default();
        self.gateway.write("policies.yaml", self.policies(round).replace("rateLimit", "rateLimits"));
        self.gateway.wait_sample(failed, |count| count > before).await;
        traffic.more().await;
        self.gateway.publish(&self.policies(round)).await;
        self.gateway.signal("HUP");
        traffic.more().await;
    }
}

fn elapsed(begun: Duration) -> Duration {
    clock::monotonic().saturating_sub(begun)
}

/// How long rounds go on, where an environment variable says so.
fn duration() -> Option<Duration> {
    let seconds = std::env::var("FOREGATE_SOAK").ok()?;
    Some(Duration::from_secs(seconds.parse().expect("FOREGATE_SOAK is a number of seconds")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_fails_and_nothing_grows_while_everything_changes() {
    let idp = Idp::start().await;
    let (domains, steady) = ([Domain::new("mesh.test"), Domain::new("mesh.test")], echo().await);
    let flaky = vec![echo().await, echo().await, echo().await];
    let identity = Folder::new(&domains[0].svid("/gateway"), &domains[0]);
    identity.put(&domains[0].svid("/gateway"), &[&*domains[0].bundle, &*domains[1].bundle].concat());
    let endpoints: Vec<SocketAddr> = flaky.iter().map(|upstream| upstream.address).collect();
    let text = policies(0, &endpoints, steady.address, &idp);
    let options = identified(&identity).quiet().args(&["--decisions", "64", "--threads", "2"]);
    let gateway = Foregate::start(&text, options).await;
    let mut traffic = Traffic::start(&gateway, kinds(&idp, &domains[0]));
    let mut changes = Changes { gateway, idp, steady, flaky, domains, identity };

    let begun = clock::monotonic();
    let mut seen: Vec<(u64, usize)> = Vec::new();
    while seen.len() < ROUNDS || duration().is_some_and(|duration| elapsed(begun) < duration) {
        changes.round(seen.len() + 1, &mut traffic).await;
        seen.push((changes.gateway.memory().0, changes.gateway.open_files()));
    }
    let answered: Vec<(&str, usize)> =
        traffic.answered.iter().map(|(name, count)| (*name, count.load(Ordering::SeqCst))).collect();
    assert_eq!(traffic.end().await, Vec::<String>::new());

    let gateway = &changes.gateway;
    let third = seen.len() / 3;
    let most = |part: &[(u64, usize)]| {
        (part.iter().map(|it| it.0).max().unwrap(), part.iter().map(|it| it.1).max().unwrap())
    };
    let (earlier, later) = (most(&seen[third..2 * third]), most(&seen[2 * third..]));
    let (kib, rounds) = (seen.iter().map(|it| it.0 >> 10).collect::<Vec<_>>(), seen.len());
    println!("{rounds} rounds in {:?}, answers {answered:?}, resident KiB {kib:?}", elapsed(begun));
    assert!(later.0 <= earlier.0 + earlier.0 / 20 + SLACK, "memory grew: {kib:?} KiB");
    assert!(later.1 <= earlier.1 + 16, "files stay open: {seen:?}");
    assert!(gateway.sample("foregate_request_panics_total").await.is_none_or(|panics| panics < 0.5));
    let unexplained: Vec<Value> = gateway
        .events()
        .all()
        .into_iter()
        .filter(|event| event["severity"] == "ERROR" && event["event.name"] != "policies refused")
        .collect();
    assert_eq!(unexplained, Vec::<Value>::new());
}

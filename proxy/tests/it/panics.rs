//! A filter that panics costs one request a 500, never the process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foregate::admission::capacity::{Bounds, Capacity};
use foregate::admission::clients::Seat;
use foregate::connection::{Entry, serve};
use foregate::drain::{Drain, DrainStart, drain};
use foregate::gateway::Gateway;
use foregate::handshake::tally::Tally;
use foregate::live::Live;
use foregate::open::Publications;
use foregate::panics;
use foregate::policies::{Policies, PolicySource};
use foregate::shared::Shared;
use foregate::stream::Deadlines;
use foregate::streams::tally::StreamTally;
use foregate::telemetry::access_log::AccessLog;
use foregate::telemetry::record::Record;
use foregate::telemetry::{Telemetry, TelemetryOptions};
use foregate_filters::chain::{Chain, Link};
use foregate_filters::context::RequestContext;
use foregate_filters::filter::{Filter, Pending};
use foregate_filters::step::Step;
use foregate_filters::verdict::Verdict;
use foregate_policy::compile::Options;
use foregate_policy::routes::matcher::{Conditions, PathMatcher};
use foregate_policy::routes::paths::{Candidate, Order};
use foregate_policy::routes::{Place, RouteTable, TableBuilder};
use foregate_policy::store::Store;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::support::client::Client;
use crate::support::policies;
use crate::support::upstream::Upstream;
use crate::support::within;

/// Panics where the path asks for it.
#[derive(Debug, Default)]
struct Bomb {
    lit: AtomicBool,
}

impl Filter for Bomb {
    fn on_request(&self, head: &http::request::Parts, _: &mut RequestContext) -> Verdict {
        match head.uri.path() {
            "/request" => panic!("secret-{}", head.uri.path()),
            "/wait" => return Verdict::Wait,
            "/response" => self.lit.store(true, Ordering::SeqCst),
            _ => {}
        }
        Verdict::Continue
    }

    fn resume<'a>(&'a self, _: &'a http::request::Parts, _: &'a mut RequestContext) -> Pending<'a> {
        Box::pin(async {
            tokio::task::yield_now().await;
            panic!("secret after waiting")
        })
    }

    fn on_response(&self, _: &http::response::Parts, _: &mut RequestContext) {
        assert!(!self.lit.swap(false, Ordering::SeqCst), "secret in the response");
    }
}

/// A gateway in this process whose one route has a bomb in its chain.
struct Mined {
    telemetry: Arc<Telemetry>,
    address: SocketAddr,
    _start: DrainStart,
}

fn mine(mut live: Live) -> Live {
    let mut snapshot = Arc::try_unwrap(live.snapshot).unwrap();
    let [route] = snapshot.routes.all() else { panic!("one route is wanted") };
    let route = Arc::clone(route);
    snapshot.routes = RouteTable::default();
    let mut route = Arc::try_unwrap(route).unwrap();
    let filter = Box::new(Bomb::default());
    route.chain = Chain::new(vec![Link { step: Step::Guard, policy: 0, section: "addresses", filter }]);
    let mut builder = TableBuilder::default();
    builder.listener(8080, false, None);
    let order = Order { route: "default/all".into(), rule: 0, index: 0, grpc: false };
    builder.route(route);
    let candidate = Candidate { conditions: Conditions::default(), order, route: 0 };
    builder.insert(
        Place { door: 8080.into(), tls: false, listener: None, host: None },
        PathMatcher::Prefix("".into()),
        candidate,
    );
    (snapshot.routes, _) = builder.build();
    live.snapshot = Arc::new(snapshot);
    live
}

async fn mined(upstream: SocketAddr) -> Mined {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("policies.yaml"), policies::plain(upstream)).unwrap();
    let options = TelemetryOptions { access_log: AccessLog::Off, ..TelemetryOptions::default() };
    let telemetry = Telemetry::new(options).unwrap();
    panics::export(&telemetry);
    let shared = Arc::new(Shared::new(None, Some(Arc::clone(&telemetry))));
    let source =
        PolicySource { folder: folder.path().to_owned(), options: Options::default(), bind: HashMap::new() };
    let live = mine(Policies::new(source, shared, Arc::clone(&telemetry)).load().unwrap());
    let gateway = Arc::new(Gateway {
        live: Store::new(live),
        tally: Tally::new(Arc::clone(&telemetry)),
        published: watch::channel(()).0,
        publications: Publications::default(),
        capacity: Capacity::new(Bounds::default(), &telemetry),
        streams: StreamTally::new(Arc::clone(&telemetry)),
        telemetry: Arc::clone(&telemetry),
        deadlines: Deadlines::default(),
    });
    let (start, drain) = drain(Duration::ZERO);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(accept(listener, gateway, drain));
    Mined { telemetry, address, _start: start }
}

async fn accept(listener: TcpListener, gateway: Arc<Gateway>, drain: Drain) {
    let permits = Arc::new(Semaphore::new(100));
    while let Ok(accepted) = listener.accept().await {
        let permit = async || Arc::clone(&permits).acquire_owned().await.unwrap();
        let seat = Seat::new([permit().await, permit().await], None);
        let entry = Entry { port: 8080, listener: "edge/http".into(), ..Entry::default() };
        tokio::spawn(serve(Arc::clone(&gateway), entry, accepted, drain.clone(), seat));
    }
}

impl Mined {
    /// The record of a decision.
    async fn record(&self, decision: &str) -> Arc<Record> {
        let id = decision.parse().unwrap();
        within("the record", async {
            loop {
                match self.telemetry.decisions().find(id) {
                    Some(record) => return record,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn a_panic_costs_its_request_a_500_and_the_connection_goes_on() {
    let upstream = Upstream::answering("fine").await;
    let mined = mined(upstream.address).await;
    for http2 in [false, true] {
        let mut client =
            if http2 { Client::http2(mined.address).await } else { Client::http1(mined.address).await };
        for (path, step) in [("/request", Step::Guard), ("/wait", Step::Guard), ("/response", Step::Respond)]
        {
            let reply = client.get(path).await;
            assert_eq!((reply.status, reply.reason().as_str()), (500, "Internal"), "{path}");
            assert!(!reply.text().contains("secret"), "{}", reply.text());
            let decision = reply.json()["decision"].as_str().unwrap().to_owned();
            let record = mined.record(&decision).await;
            let refusal = record.refusal.as_ref().unwrap();
            assert_eq!((record.status, refusal.step), (500, step), "{path}");
            assert!(refusal.detail.contains("panic") && !refusal.detail.contains("secret"), "{refusal:?}");
            // The same connection serves on.
            let reply = client.get("/").await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "fine"), "after {path}");
        }
    }
    within("nothing to be under way", async {
        while !mined.telemetry.exposition(false).contains("http_server_active_requests 0") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let metrics = mined.telemetry.exposition(false);
    let line = metrics.lines().find(|line| line.starts_with("foregate_request_panics_total "));
    let count: f64 = line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_default();
    assert!(count >= 6.0, "{metrics}");
}

#[tokio::test]
async fn streams_beside_a_panic_are_answered() {
    let upstream = Upstream::answering("fine").await;
    let mined = mined(upstream.address).await;
    let mut client = Client::http2(mined.address).await;
    let paths = ["/", "/request", "/a", "/wait", "/b", "/c"];
    let requests =
        paths.map(|path| client.request("GET", path).body(crate::support::upstream::empty()).unwrap()).into();
    let replies = client.send_all(requests).await;
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [200, 500, 200, 500, 200, 200]);
}

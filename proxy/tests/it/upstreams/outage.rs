//! Endpoints that die, hang, crawl or answer with errors, and come back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use serde_json::Value;

use super::{ask_until, documents, endpoints, shown, unused_address, wait_state};
use crate::support::client::Client;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::{Speak, Upstream, empty, full};

/// A process of its own that answers everything with 302.
async fn process() -> (Foregate, SocketAddr) {
    let rule = "  - filters: [{ type: RequestRedirect, requestRedirect: { hostname: crm.test } }]";
    let documents = [policies::GATEWAY, &policies::route("all", rule)].concat();
    let process = Foregate::start(&documents, Options::default()).await;
    let address = process.address("edge/http");
    (process, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_one_is_killed_one_stopped_one_slow_and_nobody_sees_it() {
    let (killed, dead) = process().await;
    let (stopped, hung) = process().await;
    let slow = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        Response::builder().status(302).body(empty()).unwrap()
    })
    .await;
    let rule = "timeouts: { request: 20s, backendRequest: 500ms }, retry: { attempts: 3 }";
    let spec =
        format!("{}, circuitBreaker: {{ consecutiveFailures: 2 }}", endpoints(&[dead, hung, slow.address]));
    let gateway = Arc::new(Foregate::start(&documents(rule, &spec), Options::default()).await);
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..6)
        .map(|_| {
            let (address, done, answered) =
                (gateway.address("edge/http"), Arc::clone(&done), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut client = Client::http1(address).await;
                while !done.load(Ordering::SeqCst) {
                    let reply = client.get("/").await;
                    assert_eq!(reply.status, 302, "{}", reply.text());
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let more = async |count: usize| {
        let until = answered.load(Ordering::SeqCst) + count;
        crate::support::within("requests to be answered", async {
            while answered.load(Ordering::SeqCst) < until {
                assert!(!load.iter().any(tokio::task::JoinHandle::is_finished), "a client saw an error");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    more(50).await;
    killed.signal("KILL");
    stopped.signal("STOP");
    wait_state(&gateway, dead, "ejected").await;
    wait_state(&gateway, hung, "ejected").await;
    more(50).await;
    stopped.signal("CONT");
    wait_state(&gateway, hung, "fit").await;
    more(50).await;
    done.store(true, Ordering::SeqCst);
    for client in load {
        client.await.unwrap();
    }
    let fit = format!("foregate_endpoint_fit{{upstream=\"crm\",endpoint=\"{hung}\"}}");
    assert_eq!(gateway.sample(&fit).await, Some(1.0));
    assert!(gateway.sample("foregate_upstream_ejections_total{upstream=\"crm\"}").await.unwrap() >= 2.0);
}

#[tokio::test]
async fn what_cannot_be_connected_to_is_left_alone_and_found_again() {
    let good = Upstream::answering("good").await;
    let dead = unused_address().await;
    let spec = format!(
        "{}, circuitBreaker: {{ consecutiveFailures: 2, baseOpenTime: 100ms }}",
        endpoints(&[good.address, dead])
    );
    let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    // Even a request that must not be repeated: it never left.
    for _ in 0..20 {
        let reply = client.post("/", "body").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "good"));
    }
    ask_until(&gateway, &mut client, dead, "ejected").await;
    let event = gateway.event("endpoint ejected").await;
    assert_eq!(
        (event["cause"].as_str(), event["endpoint"].as_str()),
        (Some("failures"), Some(&*dead.to_string()))
    );
    // Somebody listens there now.
    let listener = tokio::net::TcpListener::bind(dead).await.unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer).await, Ok(1..)) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback").await;
                }
            });
        }
    });
    ask_until(&gateway, &mut client, dead, "fit").await;
    gateway.event("endpoint back").await;
}

#[tokio::test]
async fn errors_eject_an_endpoint_until_it_answers_well() {
    let status = Arc::new(AtomicU16::new(500));
    let told = Arc::clone(&status);
    let bad = Upstream::start(move |_| {
        let status = told.load(Ordering::SeqCst);
        async move { Response::builder().status(status).body(empty()).unwrap() }
    })
    .await;
    let good = Upstream::answering("good").await;
    let spec = format!(
        "{}, loadBalancing: {{ policy: RoundRobin }}, outlierDetection: {{ consecutiveErrors: 3, baseEjectionTime: 1s }}",
        endpoints(&[bad.address, good.address])
    );
    let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let mut errors = 0;
    for _ in 0..10 {
        errors += u32::from(client.get("/").await.status == 500);
    }
    assert_eq!(errors, 3, "the client sees as many as it takes, and no more");
    assert_eq!(gateway.event("endpoint ejected").await["cause"], "errors");
    status.store(200, Ordering::SeqCst);
    ask_until(&gateway, &mut client, bad.address, "fit").await;
}

#[tokio::test]
async fn an_endpoint_that_asks_for_a_rest_gets_it() {
    let asks = Upstream::start(|_| async {
        Response::builder().status(503).header("retry-after", "60").body(empty()).unwrap()
    })
    .await;
    let good = Upstream::answering("good").await;
    let spec =
        format!("{}, loadBalancing: {{ policy: RoundRobin }}", endpoints(&[asks.address, good.address]));
    let gateway = Foregate::start(&documents("retry: { codes: [503] }", &spec), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "good");
    }
    assert_eq!(asks.received().len(), 1);
    let resting = shown(&gateway).await;
    let resting = resting.iter().find(|endpoint| endpoint["address"] == asks.address.to_string()).unwrap();
    assert_eq!(
        (resting["state"].as_str(), resting["cause"].as_str()),
        (Some("ejected"), Some("retry_after"))
    );
    assert!((50.0..=60.0).contains(&resting["seconds"].as_f64().unwrap()), "{resting}");
}

#[tokio::test]
async fn the_only_endpoint_is_always_used() {
    let status = Arc::new(AtomicU16::new(503));
    let told = Arc::clone(&status);
    let only = Upstream::start(move |_| {
        let status = told.load(Ordering::SeqCst);
        async move { Response::builder().status(status).header("retry-after", "60").body(full("x")).unwrap() }
    })
    .await;
    let gateway = Foregate::start(&documents("", &endpoints(&[only.address])), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 503);
    }
    status.store(200, Ordering::SeqCst);
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn bodies_that_clients_break_blame_no_endpoint() {
    for (protocol, speak) in [("Http1", Speak::Http1), ("Http2", Speak::Http2)] {
        let serve = async || Upstream::speaking(speak.clone(), |_| async { Response::new(empty()) }).await;
        let upstreams = [serve().await, serve().await];
        let addresses = upstreams.each_ref().map(|upstream| upstream.address);
        let spec = format!(
            "{}, protocol: {protocol}, circuitBreaker: {{ consecutiveFailures: 2 }}",
            endpoints(&addresses)
        );
        let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
        for _ in 0..8 {
            let mut client = RawClient::connect(gateway.address("edge/http")).await;
            let head = "POST / HTTP/1.1\r\nHost: crm.test\r\nTransfer-Encoding: chunked\r\n\r\n";
            client.send(format!("{head}2\r\nhi\r\n")).await;
            client.send("zz\r\n").await;
            client.rest().await;
        }
        let told = |line: &Value| line["foregate.reason"] == "BodyMalformed";
        gateway.access_log().wait_count("what broke", 8, told).await;
        let shown = shown(&gateway).await;
        assert!(shown.iter().all(|endpoint| endpoint["state"] == "fit"), "{protocol}: {shown:?}");
    }
}

#[tokio::test]
async fn deadlines_of_callers_find_an_endpoint_that_hangs() {
    let silent = Upstream::speaking(Speak::Http2, |_| std::future::pending()).await;
    let good = Upstream::speaking(Speak::Http2, |_| async { Response::new(empty()) }).await;
    let spec = format!(
        "{}, protocol: Http2, loadBalancing: {{ policy: RoundRobin }}, circuitBreaker: {{ consecutiveFailures: 2 }}",
        endpoints(&[silent.address, good.address])
    );
    let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
    let mut client = Client::http2(gateway.address("edge/http")).await;
    let mut call = async |timeout: &str| {
        let request = client.request("POST", "/crm.Leads/Get").header("content-type", "application/grpc");
        client.send_empty(request.header("grpc-timeout", timeout)).await
    };
    // A caller in a hurry says nothing of the endpoint.
    for _ in 0..8 {
        call("20m").await;
    }
    assert!(shown(&gateway).await.iter().all(|endpoint| endpoint["state"] == "fit"));
    for _ in 0..4 {
        call("1100m").await;
    }
    wait_state(&gateway, silent.address, "ejected").await;
    silent.forget();
    assert_eq!(call("1100m").await.header("grpc-status"), "");
    assert!(silent.received().is_empty());
}

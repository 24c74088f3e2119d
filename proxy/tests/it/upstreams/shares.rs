//! Who gets how much: by request, not by connection.

use std::net::SocketAddr;

use super::{documents, endpoints};
use crate::support::client::Client;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::{Speak, Upstream, full};

fn counts(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(|upstream| upstream.received().len()).collect()
}

fn addresses(upstreams: &[Upstream]) -> Vec<SocketAddr> {
    upstreams.iter().map(|upstream| upstream.address).collect()
}

#[tokio::test]
async fn every_request_is_balanced_on_kept_connections() {
    for (speak, protocol) in [(Speak::Http1, "Http1"), (Speak::Http2, "Http2")] {
        let mut upstreams = Vec::new();
        for _ in 0..2 {
            let answer = |_| async { http::Response::new(full("x")) };
            upstreams.push(Upstream::speaking(speak.clone(), answer).await);
        }
        let spec = format!(
            "{}, protocol: {protocol}, loadBalancing: {{ policy: RoundRobin }}",
            endpoints(&addresses(&upstreams))
        );
        let options = Options::default().args(&["--threads", "1"]);
        let gateway = Foregate::start(&documents("", &spec), options).await;
        let mut client = Client::http1(gateway.address("edge/http")).await;
        for _ in 0..50 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!(counts(&upstreams), [25, 25], "{protocol}");
        let connections: Vec<usize> = upstreams.iter().map(Upstream::connections).collect();
        assert_eq!(connections, [1, 1], "{protocol}");
    }
}

#[tokio::test]
async fn weights_are_kept() {
    let upstreams = [Upstream::answering("a").await, Upstream::answering("b").await];
    let spec = format!(
        "endpoints: [{{ address: \"{}\", weight: 3 }}, \"{}\"], loadBalancing: {{ policy: RoundRobin }}",
        upstreams[0].address, upstreams[1].address
    );
    let gateway = Foregate::start(&documents("", &spec), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..40 {
        client.get("/").await;
    }
    assert_eq!(counts(&upstreams), [30, 10]);
}

#[tokio::test]
async fn a_slow_endpoint_gets_less_by_default() {
    let slow = Upstream::start(|_| async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        http::Response::new(full("slow"))
    })
    .await;
    let upstreams = [slow, Upstream::answering("a").await, Upstream::answering("b").await];
    let gateway =
        Foregate::start(&documents("", &endpoints(&addresses(&upstreams))), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..100 {
        client.get("/").await;
    }
    let counts = counts(&upstreams);
    assert!(counts[0] <= 5 && counts[1] > 10 && counts[2] > 10, "{counts:?}");
}

#[tokio::test]
async fn the_zone_of_the_gateway_comes_first_and_the_next_priority_last() {
    let upstreams = [
        Upstream::answering("near").await,
        Upstream::answering("far").await,
        Upstream::answering("spare").await,
    ];
    let [near, far, spare] = [0, 1, 2].map(|index: usize| upstreams[index].address);
    let spec = format!(
        "endpoints: [{{ address: \"{far}\", zone: b }}, {{ address: \"{near}\", zone: a }}, {{ address: \"{spare}\", priority: 1 }}], circuitBreaker: {{ consecutiveFailures: 1, baseOpenTime: 1h }}"
    );
    let options = Options::default().args(&["--zone", "a"]);
    let gateway = Foregate::start(&documents("", &spec), options).await;
    let [first, second, third] = upstreams;
    let mut served = Vec::new();
    for upstream in [Some(first), Some(second), Some(third)] {
        let mut client = Client::http1(gateway.address("edge/http")).await;
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10 {
            seen.insert(client.get("/").await.text());
        }
        served.push(seen);
        drop(upstream);
    }
    let names: Vec<Vec<&str>> = served.iter().map(|seen| seen.iter().map(String::as_str).collect()).collect();
    assert_eq!(names, [["near"], ["far"], ["spare"]]);
}

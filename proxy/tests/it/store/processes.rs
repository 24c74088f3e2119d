//! Three gateways, each a process of its own, that count together.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;

use crate::support::client::{Client, Reply};
use crate::support::command::foregate;
use crate::support::guarded::guarded;
use crate::support::process::{Foregate, Options};
use crate::support::redis::Redis;
use crate::support::upstream::{Upstream, empty};
use crate::support::within;

/// What all of them may admit together.
const LIMIT: usize = 137;

/// Requests at once, to all of them.
const REQUESTS: usize = 1_000;

fn policies(upstream: SocketAddr, redis: SocketAddr, shared: &str) -> String {
    let limit = format!(
        "{{ name: all, key: '\"everybody\"', limit: {LIMIT}, per: 24h, shared: {{ store: redis{shared} }} }}"
    );
    let policy = guarded(upstream, &format!("insecure: {{ anonymous: true }}\nrateLimit: [{limit}]\n"));
    let store = format!(
        "\napiVersion: foregate.dev/v1alpha1\nkind: Store\nmetadata: {{ name: redis }}\nspec: {{ redis: {{ addresses: [\"{redis}\"], timeout: 5s }} }}\n---"
    );
    policy + &store
}

async fn three(upstream: &Upstream, redis: &Redis, shared: &str) -> Vec<Foregate> {
    let policies = policies(upstream.address, redis.address, shared);
    let mut gateways = Vec::new();
    for _ in 0..3 {
        let gateway = Foregate::start(&policies, Options::default().args(&["--threads", "1"])).await;
        gateway.event("store connected").await;
        gateways.push(gateway);
    }
    gateways
}

/// So many requests at once, spread over the gateways.
async fn storm(gateways: &[Foregate], requests: usize) -> Vec<Reply> {
    let addresses: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.address("edge/http")).collect();
    let connections = requests.div_ceil(10);
    let replies = join_all((0..connections).map(async |number| {
        let mut client = Client::http2(addresses[number % addresses.len()]).await;
        let requests = (0..10).map(|_| client.request("GET", "/").body(empty()).unwrap());
        client.send_all(requests.collect()).await
    }));
    within("all answers", replies).await.into_iter().flatten().collect()
}

fn count(replies: &[Reply], status: u16) -> usize {
    replies.iter().filter(|reply| reply.status == status).count()
}

#[test]
fn a_check_prints_the_bound_and_asks_nobody() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), policies(nobody, nobody, ", lease: 10")).unwrap();
    let bound = "all/all: each process holds at most 10 in advance, so that P processes admit at most 137 at once and 137 per \
                 86400s, and 10 x P more in any period\n";
    foregate(&["check", folder.path().to_str().unwrap()]).is(0, &[bound], &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_admit_together_what_one_would() {
    let (upstream, redis) = (Upstream::answering("ok").await, Redis::start(&[]).await);
    let gateways = three(&upstream, &redis, "").await;
    let replies = storm(&gateways, REQUESTS).await;
    assert_eq!((count(&replies, 200), count(&replies, 429)), (LIMIT, REQUESTS - LIMIT));
    assert_eq!(upstream.received().len(), LIMIT, "what reached the upstream");
    let asked = redis.calls("evalsha");
    assert!((LIMIT as u64..=REQUESTS as u64).contains(&asked), "{asked}: one round trip a request at most");
    assert_eq!(redis.calls("eval"), 0);
    let mut answered = 0.0;
    for gateway in &gateways {
        let (status, page) = gateway.admin_page("/stores").await;
        assert_eq!(status, 200);
        assert!(page.contains("\"circuit\":\"closed\""), "{page}");
        answered += gateway.sample("foregate_store_requests_total{store=\"redis\"}").await.unwrap();
    }
    #[expect(clippy::cast_precision_loss, reason = "a thousand is exact")]
    let asked = asked as f64;
    assert!((answered - asked).abs() < 0.5, "{answered} requests and {asked} round trips");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_leases_they_admit_no_more_than_the_bound_that_is_told() {
    const LEASE: usize = 10;
    let (upstream, redis) = (Upstream::answering("ok").await, Redis::start(&[]).await);
    let gateways = three(&upstream, &redis, &format!(", lease: {LEASE}")).await;
    let told = gateways[0].event("limit leased").await;
    assert!(
        told["bound"].as_str().unwrap().ends_with(&format!("and {LEASE} x P more in any period")),
        "{told}"
    );
    let replies = storm(&gateways, REQUESTS).await;
    let mut admitted = count(&replies, 200);
    assert_eq!(admitted + count(&replies, 429), REQUESTS);
    assert!(admitted <= LIMIT + 3 * LEASE, "{admitted}");
    assert!(admitted >= LIMIT - 3 * LEASE, "{admitted}");
    // What was held back comes back; in all it is the limit, and one now and then that time has given.
    within("the rest", async {
        while admitted < LIMIT {
            admitted += count(&storm(&gateways, 30).await, 200);
        }
    })
    .await;
    assert!(admitted <= LIMIT + 3 * LEASE, "{admitted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_dies_in_the_middle_hangs_nobody_and_counts_again() {
    let (upstream, mut redis) = (Upstream::answering("ok").await, Redis::start(&[]).await);
    let gateways = three(&upstream, &redis, "").await;
    let first = storm(&gateways, 60).await;
    assert_eq!(count(&first, 200), 60);
    let load = async {
        let mut all = Vec::new();
        for _ in 0..5 {
            all.extend(storm(&gateways, 200).await);
        }
        all
    };
    let failure = async {
        redis.kill();
        for gateway in &gateways {
            gateway.event("store lost").await;
        }
        redis.restart().await;
    };
    let (replies, ()) = tokio::join!(load, failure);
    let [admitted, refused, unavailable] = [200, 429, 503].map(|status| count(&replies, status));
    assert_eq!(admitted + refused + unavailable, 1_000);
    // The first counter, and the one that begins anew.
    assert!(60 + admitted <= 2 * LIMIT, "{admitted}");
    within("a request that is counted", async {
        loop {
            let replies = storm(&gateways, 30).await;
            if count(&replies, 503) == 0 && count(&replies, 200) + count(&replies, 429) == 30 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(upstream.received().len() <= 2 * LIMIT);
}

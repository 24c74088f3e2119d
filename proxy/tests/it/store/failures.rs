//! A Redis that is gone, slow, read-only or back: every request ends, and soon.

use std::time::Duration;

use foregate::clock;
use foregate::store::counters::Counters;
use foregate_policy::snapshot::Endpoint;

use super::{admits, decide, of, rate};
use crate::support::redis::{Redis, open};
use crate::support::{unused_address, within};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn nobody_waits_for_a_server_that_is_not_there() {
    let redis = Redis::start(&[]).await;
    let mut spec = redis.spec();
    spec.servers = vec![Endpoint::parse(&unused_address().await.to_string()).unwrap()];
    let store = open(&spec);
    let counters = Counters::new(store.clone());
    let limit = rate("p/a", 5, HOUR, 5);
    let error = decide(&counters, &[of(&limit, "k", 1)]).await.unwrap_err();
    assert!(error.0.starts_with("store `redis`: not connected: "), "{error:?}");
    assert_eq!(store.open_circuits(), 1);
}

#[tokio::test]
async fn a_server_that_hangs_costs_no_request_more_than_the_timeout_and_then_nothing() {
    let redis = Redis::start(&[]).await;
    let mut spec = redis.spec();
    spec.timeout = Duration::from_millis(300);
    let store = open(&spec);
    let counters = Counters::new(store.clone());
    let limit = rate("p/a", 50, HOUR, 50);
    within("the first answer", async { while decide(&counters, &[of(&limit, "k", 1)]).await.is_err() {} })
        .await;
    redis.signal("STOP");
    let began = clock::monotonic();
    // Five at once, as many as open the circuit.
    let takes: Vec<_> = (0..5).map(|number| [of(&limit, &format!("{number}"), 1)]).collect();
    let errors = futures_util::future::join_all(takes.iter().map(|take| decide(&counters, take))).await;
    assert!(errors.iter().all(Result::is_err));
    // With room for a busy machine.
    assert!(clock::monotonic().saturating_sub(began) < Duration::from_secs(5));
    within("the circuit to open", async {
        while store.open_circuits() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let error = decide(&counters, &[of(&limit, "k", 1)]).await.unwrap_err();
    assert!(error.0.contains("not connected: no answer in time"), "{error:?}");
    redis.signal("CONT");
    within("the server again", async {
        while decide(&counters, &[of(&limit, "k", 1)]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(store.open_circuits(), 0);
}

#[tokio::test]
async fn a_server_that_was_killed_is_found_again() {
    let mut redis = Redis::start(&[]).await;
    let counters = Counters::new(redis.store());
    let limit = rate("p/a", 5, HOUR, 5);
    assert!(admits(&counters, of(&limit, "k", 5)).await);
    redis.kill();
    within("an error", async { while decide(&counters, &[of(&limit, "j", 1)]).await.is_ok() {} }).await;
    redis.restart().await;
    within("the server again", async {
        while decide(&counters, &[of(&limit, "j", 1)]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // It has forgotten all, scripts and counters.
    within("the counter anew", async {
        while !admits(&counters, of(&limit, "k", 5)).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_first_server_that_can_be_written_to_is_used() {
    let primary = Redis::start(&[]).await;
    let port = primary.address.port().to_string();
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &port]).await;
    let mut spec = replica.spec();
    let alone = open(&spec);
    let counters = Counters::new(alone);
    let limit = rate("p/a", 5, HOUR, 5);
    // Before it has joined its primary it says so in other words.
    within("what it is", async {
        let told = "not connected: the server is a read-only replica";
        while !decide(&counters, &[of(&limit, "k", 1)]).await.unwrap_err().0.ends_with(told) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    spec.servers.extend(primary.spec().servers);
    let counters = Counters::new(open(&spec));
    within("the primary", async {
        while decide(&counters, &[of(&limit, "k", 1)]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(replica.calls("evalsha"), 0);
    // It fails over: the replica takes its place.
    drop(primary);
    let _: () = replica.ask(&["REPLICAOF", "NO", "ONE"]);
    within("the new primary", async {
        while decide(&counters, &[of(&limit, "k", 1)]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(replica.calls("evalsha") > 0);
}

#[tokio::test]
async fn a_server_that_turns_read_only_is_left_for_the_other() {
    let (one, other) = (Redis::start(&[]).await, Redis::start(&[]).await);
    let mut spec = one.spec();
    spec.servers.extend(other.spec().servers);
    let counters = Counters::new(open(&spec));
    let limit = rate("p/a", 500, HOUR, 500);
    assert!(admits(&counters, of(&limit, "k", 1)).await);
    let _: () = one.ask(&["REPLICAOF", "127.0.0.1", &other.address.port().to_string()]);
    within("the other", async {
        while other.calls("evalsha") == 0 {
            let _ = decide(&counters, &[of(&limit, "k", 1)]).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_out_of_memory_refuses_and_is_used_again() {
    let redis = Redis::start(&["--maxmemory-policy", "noeviction"]).await;
    let counters = Counters::new(redis.store());
    let limit = rate("p/a", 500, HOUR, 500);
    assert!(admits(&counters, of(&limit, "k", 1)).await);
    let _: () = redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = decide(&counters, &[of(&limit, "j", 1)]).await.unwrap_err();
    assert!(error.0.ends_with("the server is out of memory"), "{error:?}");
    let _: () = redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(admits(&counters, of(&limit, "j", 1)).await);
}

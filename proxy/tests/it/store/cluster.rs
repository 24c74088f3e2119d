//! A cluster of three: keys are spread, those taken together stay together, slots move.

use std::sync::Arc;
use std::time::Duration;

use foregate::store::counters::Counters;
use foregate_filters::rate_limit::shared::Counter;
use foregate_policy::redis_store::RedisStore;

use super::{admits, daily, decide, of, rate};
use crate::support::redis::{Redis, open};
use crate::support::within;

const HOUR: Duration = Duration::from_hours(1);

/// First and last slot of each server.
const SLOTS: [(u16, u16); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

async fn cluster() -> (Vec<Redis>, RedisStore) {
    let mut nodes = Vec::new();
    for _ in SLOTS {
        // The bus listens beside it: not on the port plus 10,000, which may be over 65,535.
        let bus = crate::support::unused_address().await.port().to_string();
        nodes.push(Redis::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await);
    }
    for (node, (first, last)) in nodes.iter().zip(SLOTS) {
        let _: () = node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
    }
    for node in &nodes[1..] {
        let bus: Vec<String> = node.ask(&["CONFIG", "GET", "cluster-port"]);
        let port = node.address.port().to_string();
        let _: () = nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus[1]]);
    }
    within("the cluster", async {
        for node in &nodes {
            loop {
                let told: String = node.ask(&["CLUSTER", "INFO"]);
                if told.contains("cluster_state:ok") && told.contains("cluster_known_nodes:3") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    })
    .await;
    let spec = RedisStore { cluster: true, ..nodes[0].spec() };
    (nodes, spec)
}

#[tokio::test]
async fn a_cluster_spreads_keys_and_answers_in_one_round_trip() {
    let (nodes, spec) = cluster().await;
    let store = open(&spec);
    let counters = Counters::new(store.clone());
    let limit = rate("p/a", 5, HOUR, 5);
    for key in 0..60 {
        assert!(admits(&counters, of(&limit, &key.to_string(), 1)).await);
    }
    let calls: Vec<u64> = nodes.iter().map(|node| node.calls("evalsha")).collect();
    assert_eq!(calls.iter().sum::<u64>(), 60);
    assert!(calls.iter().all(|calls| *calls > 0), "{calls:?}");
    for key in 0..20 {
        let (key, value) = (format!("key-{key}"), format!("value-{key}"));
        store.set(&key, value.as_bytes(), HOUR).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap().unwrap(), value);
    }
}

#[tokio::test]
async fn counters_of_one_group_are_taken_together() {
    let (_nodes, spec) = cluster().await;
    let counters = Counters::new(open(&spec));
    let group: Arc<str> = "p".into();
    let of_group =
        |counter: Arc<Counter>| Arc::new(Counter { group: Arc::clone(&group), ..Counter::clone(&counter) });
    let (wide, narrow) = (of_group(rate("p/wide", 100, HOUR, 100)), of_group(daily("p/narrow", 2)));
    for number in 0..3 {
        let takes = [of(&wide, &format!("org-{number}"), 1), of(&narrow, "all", 1)];
        let decisions = decide(&counters, &takes).await.unwrap();
        assert_eq!(decisions[1].admitted, number < 2);
    }
}

#[tokio::test]
async fn a_slot_that_moves_is_followed() {
    let (nodes, spec) = cluster().await;
    let store = open(&spec);
    store.set("moving", b"one", HOUR).await.unwrap();
    let slot: u16 = nodes[0].ask(&["CLUSTER", "KEYSLOT", "test:value:moving"]);
    let from = SLOTS.iter().position(|(first, last)| (*first..=*last).contains(&slot)).unwrap();
    let to = (from + 1) % 3;
    let ids: Vec<String> = nodes.iter().map(|node| node.ask(&["CLUSTER", "MYID"])).collect();
    let slot = slot.to_string();
    let _: () = nodes[to].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[from]]);
    let _: () = nodes[from].ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[to]]);
    // Half way: what has gone already is asked for where it goes.
    let port = nodes[to].address.port().to_string();
    let _: String = nodes[from].ask(&["MIGRATE", "127.0.0.1", &port, "test:value:moving", "0", "5000"]);
    assert_eq!(store.get("moving").await.unwrap().unwrap(), "one");
    for node in [to, from] {
        let _: () = nodes[node].ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[to]]);
    }
    assert_eq!(store.get("moving").await.unwrap().unwrap(), "one");
    within("the new place to be known", async {
        loop {
            let rejected = nodes[from].rejected("getrange");
            assert_eq!(store.get("moving").await.unwrap().unwrap(), "one");
            if nodes[from].rejected("getrange") == rejected {
                break;
            }
        }
    })
    .await;
    assert!(nodes[from].rejected("getrange") > 0, "it was sent on");
}

#[tokio::test]
async fn a_server_of_the_cluster_that_is_gone_takes_its_slots_with_it_and_no_others() {
    let (mut nodes, spec) = cluster().await;
    for node in &nodes {
        let _: () = node.ask(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    let store = open(&spec);
    let mut keys: Vec<Option<String>> = vec![None; 3];
    for number in 0..200 {
        let key = format!("k{number}");
        let slot: u16 = nodes[0].ask(&["CLUSTER", "KEYSLOT", &format!("test:value:{key}")]);
        let place = SLOTS.iter().position(|(first, last)| (*first..=*last).contains(&slot)).unwrap();
        keys[place] = Some(key);
    }
    let keys: Vec<String> = keys.into_iter().map(Option::unwrap).collect();
    for key in &keys {
        store.set(key, b"v", HOUR).await.unwrap();
    }
    nodes[2].kill();
    within("an error", async { while store.get(&keys[2]).await.is_ok() {} }).await;
    for key in &keys[..2] {
        assert_eq!(store.get(key).await.unwrap().unwrap(), "v");
    }
}

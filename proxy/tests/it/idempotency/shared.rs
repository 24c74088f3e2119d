//! Keys that two gateways share through a real Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use http::Response;

use super::{once, order, replayed};
use crate::support::client::{Client, Reply};
use crate::support::gate::Gate;
use crate::support::guarded::guarded;
use crate::support::process::{Foregate, Options};
use crate::support::redis::Redis;
use crate::support::upstream::{Upstream, full};

/// The policies of one gateway, whose keys stand in this Redis.
fn policies(upstream: &Upstream, redis: &Redis, more: &str) -> String {
    let store = format!(
        "
apiVersion: foregate.dev/v1alpha1
kind: Store
metadata: {{ name: redis }}
spec: {{ redis: {{ addresses: [\"{}\"], timeout: 5s }} }}
---",
        redis.address
    );
    guarded(upstream.address, &once(&format!(", store: redis{more}"))) + &store
}

async fn start(policies: &str) -> (Foregate, Client) {
    let gateway = Foregate::start(policies, Options::default()).await;
    gateway.event("store connected").await;
    let client = Client::http1(gateway.address("edge/http")).await;
    (gateway, client)
}

/// Sends until it is no longer told that the first request is under way: what became of it is written beside the answer.
async fn settled(client: &mut Client, key: &str) -> Reply {
    loop {
        let reply = client.send(order(client, key, "{}")).await;
        if reply.status != 409 || reply.reason() != "IdempotencyConflict" {
            return reply;
        }
    }
}

/// Answers once the gate is open, with the number of the request.
async fn gated(gate: &Gate) -> Upstream {
    let (gate, count) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    Upstream::start(move |_| {
        let (gate, number) = (gate.clone(), count.fetch_add(1, Ordering::SeqCst));
        async move {
            gate.passed().await;
            Response::builder().status(201).header("x-number", number).body(full("made")).unwrap()
        }
    })
    .await
}

#[tokio::test]
async fn of_many_at_once_at_two_gateways_one_reaches_the_upstream() {
    let (redis, gate) = (Redis::start(&[]).await, Gate::closed());
    let upstream = gated(&gate).await;
    let text = policies(&upstream, &redis, ", concurrent: Wait");
    let ((one, _), (two, _)) = (start(&text).await, start(&text).await);
    let addresses = [one.address("edge/http"), two.address("edge/http")];
    let storm = join_all((0..100).map(|number| async move {
        let mut client = Client::http1(addresses[number % 2]).await;
        client.send(order(&client, "k", "{}")).await
    }));
    let opened = async {
        upstream.wait_received(1).await;
        gate.open();
    };
    let (replies, ()) = tokio::join!(storm, opened);
    assert!(replies.iter().all(|reply| reply.status == 201 && reply.text() == "made"));
    assert!(replies.iter().all(|reply| reply.header("x-number") == "0"));
    assert_eq!(replies.iter().filter(|reply| !replayed(reply)).count(), 1);
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test]
async fn what_one_gateway_carried_out_another_gives_again() {
    let (redis, gate) = (Redis::start(&[]).await, Gate::closed());
    let upstream = gated(&gate).await;
    let text = policies(&upstream, &redis, "");
    let ((one, mut first), (_two, mut second)) = (start(&text).await, start(&text).await);
    let running = tokio::spawn(async move {
        let reply = first.send(order(&first, "k", "{}")).await;
        (first, reply)
    });
    upstream.wait_received(1).await;
    let busy = second.send(order(&second, "k", "{}")).await;
    assert_eq!((busy.status, busy.reason().as_str()), (409, "IdempotencyConflict"));
    let keys: Vec<String> = redis.ask(&["KEYS", "foregate:value:*"]);
    assert!(
        matches!(&keys[..], [key] if key.starts_with("foregate:value:once:") && key.len() == 84),
        "{keys:?}"
    );
    let ttl: i64 = redis.ask(&["PTTL", &keys[0]]);
    assert!((60_000..=120_000).contains(&ttl), "a run whose gateway dies is forgotten: {ttl}");
    gate.open();
    let (mut first, made) = running.await.unwrap();
    let again = settled(&mut second, "k").await;
    assert_eq!((again.status, again.body == made.body, replayed(&again)), (201, true, true));
    assert_eq!(again.header("x-number"), "0");
    let ttl: i64 = redis.ask(&["PTTL", &keys[0]]);
    assert!(ttl > 23 * 3_600_000, "{ttl}");
    let other = first.send(order(&first, "k", "{ }")).await;
    assert_eq!(other.status, 422);
    assert_eq!(upstream.received().len(), 1);
    drop(one);
}

#[tokio::test]
async fn the_run_of_a_gateway_that_died_is_forgotten_with_its_lock() {
    let (redis, gate) = (Redis::start(&[]).await, Gate::closed());
    let upstream = gated(&gate).await;
    let text = policies(&upstream, &redis, "");
    let ((one, first), (_two, mut second)) = (start(&text).await, start(&text).await);
    let mut first = first;
    let running = tokio::spawn(async move { first.exchange(order(&first, "k", "{}")).await.is_ok() });
    upstream.wait_received(1).await;
    // Killed, as a machine that fails.
    drop(one);
    assert!(!running.await.unwrap());
    assert_eq!(second.send(order(&second, "k", "{}")).await.status, 409);
    let keys: Vec<String> = redis.ask(&["KEYS", "foregate:value:*"]);
    let _: i64 = redis.ask(&["PEXPIRE", &keys[0], "1"]);
    gate.open();
    let reply = settled(&mut second, "k").await;
    assert_eq!((reply.status, reply.header("x-number"), replayed(&reply)), (201, "1", false));
}

#[tokio::test]
async fn while_the_store_is_gone_requests_are_refused_unless_the_policy_goes_on() {
    let upstream = Upstream::answering("ok").await;
    for (more, status) in [("", 503), (", onError: continue", 200)] {
        let mut redis = Redis::start(&[]).await;
        let (gateway, mut client) = start(&policies(&upstream, &redis, more)).await;
        assert_eq!(client.send(order(&client, "a", "{}")).await.status, 200);
        assert!(replayed(&settled(&mut client, "a").await));
        redis.kill();
        let reply = client.send(order(&client, "b", "{}")).await;
        assert_eq!(reply.status, status, "{more}");
        let record = gateway.record(reply.decision()).await;
        if status == 503 {
            assert_eq!(reply.reason(), "IdempotencyUnavailable");
            assert_eq!(record["foregate.rule"], "idempotency");
        } else {
            assert_eq!(record["foregate.idempotency"], "unguarded");
            let series = "foregate_idempotency_requests_total{outcome=\"unguarded\"}";
            assert_eq!(gateway.sample(series).await, Some(1.0));
        }
        redis.restart().await;
        let back = async {
            while !client.send(order(&client, "c", "{}")).await.headers.contains_key("idempotency-replayed") {
                tokio::task::yield_now().await;
            }
        };
        crate::support::within("the store to be used again", back).await;
    }
}

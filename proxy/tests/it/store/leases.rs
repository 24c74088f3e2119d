//! Units taken in advance: few round trips, and no more than the bound.

use std::sync::Arc;
use std::time::Duration;

use foregate::clock;
use foregate::store::counters::Counters;
use foregate::store::kept::Stores;
use foregate_filters::rate_limit::shared::SharedCounters;
use foregate_policy::redis_store::RedisStore;
use tokio::task::JoinSet;

use super::{admits, daily, decide, leased, of, rate};
use crate::support::redis::Redis;
use crate::support::within;

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn a_busy_key_is_decided_without_round_trips() {
    let redis = Redis::start(&[]).await;
    let store = redis.store();
    let counters = Counters::new(store.clone());
    let limit = leased(&rate("p/a", 1_000_000, HOUR, 1_000_000), 100);
    for _ in 0..5_000 {
        assert!(admits(&counters, of(&limit, "k", 1)).await);
        // Refills need a turn of the runtime.
        tokio::task::yield_now().await;
    }
    let asked = redis.calls("evalsha");
    assert!(asked < 1_500, "{asked} round trips for 5,000 requests");
    assert!(store.units_held() <= 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_admitted_of_a_quota_is_never_more_than_the_quota() {
    let redis = Redis::start(&[]).await;
    let quota = leased(&daily("p/q", 500), 20);
    let stores: Vec<_> = (0..3).map(|_| Counters::new(redis.store())).collect();
    let mut all = JoinSet::new();
    for number in 0..1_500 {
        let (counters, take) = (stores[number % 3].clone(), of(&quota, "k", 1));
        all.spawn(async move { admits(&counters, take).await });
    }
    let mut admitted = 0;
    while let Some(outcome) = all.join_next().await {
        admitted += usize::from(outcome.unwrap());
    }
    assert!(admitted <= 500, "{admitted}");
    assert!(admitted >= 500 - 3 * 20, "{admitted}: leases keep back no more than they hold");
    // What was held and not used is given back, and then used by whoever asks.
    within("all of the quota", async {
        while admitted < 500 {
            for counters in &stores {
                admitted += usize::from(admits(counters, of(&quota, "k", 1)).await);
            }
        }
    })
    .await;
    assert!(!admits(&stores[0], of(&quota, "k", 1)).await);
    assert_eq!(admitted, 500);
}

#[tokio::test]
async fn what_nobody_uses_is_given_back() {
    let redis = Redis::start(&[]).await;
    let store = redis.store();
    let counters = Counters::new(store.clone());
    let (quota, all) = (leased(&daily("p/q", 100), 20), daily("p/q", 100));
    for _ in 0..10 {
        assert!(admits(&counters, of(&quota, "k", 1)).await);
    }
    assert!(store.stats().units_leased() > 0);
    within("units to be given back", async {
        while store.units_held() > 0 || store.stats().units_returned() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let other = Counters::new(redis.store());
    let decision = decide(&other, &[of(&all, "k", 90)]).await.unwrap()[0];
    assert!(decision.admitted, "ten were used, and no more: {decision:?}");
    assert_eq!(decision.remaining, 0);
}

#[tokio::test]
async fn what_was_taken_for_nothing_is_given_back() {
    let redis = Redis::start(&[]).await;
    let counters = Counters::new(redis.store());
    for counter in [rate("p/a", 5, HOUR, 5), daily("p/q", 5)] {
        let take = of(&counter, "k", 5);
        assert!(admits(&counters, take.clone()).await);
        counters.give_back(std::slice::from_ref(&take), clock::now());
        within("the units", async { while !admits(&counters, of(&counter, "k", 4)).await {} }).await;
        assert!(!admits(&counters, of(&counter, "k", 2)).await);
    }
}

#[tokio::test]
async fn a_rate_gets_back_no_more_than_is_still_missing() {
    const SCRIPT: &str = include_str!("../../../src/store/give.lua");
    let redis = Redis::start(&[]).await;
    let counters = Counters::new(redis.store());
    // Twelve minutes each.
    let limit = rate("p/a", 5, HOUR, 5);
    assert!(admits(&counters, of(&limit, "k", 5)).await);
    let key = redis.ask::<Vec<String>>(&["KEYS", "test:*p/a"]).remove(0);
    let full_at = || -> u64 {
        let value: String = redis.ask(&["GET", &key]);
        value.split_once(':').unwrap().0.parse().unwrap()
    };
    for (units, minutes, gives) in [(3, 12, 24), (2, 36, 0), (2, 24, 0), (1, 0, 12)] {
        let before = full_at();
        let (units, age) = (units.to_string(), (minutes * 60_000_000_u64).to_string());
        let _: u64 = redis.ask(&["EVAL", SCRIPT, "1", &key, "r", &units, "5", "3600000000", &age]);
        assert_eq!(before - full_at(), gives * 60_000_000, "{units} of {minutes} minutes ago");
    }
}

#[tokio::test]
async fn a_store_that_no_document_names_any_more_gives_back_what_it_took() {
    let redis = Redis::start(&[]).await;
    let stores = Stores::default();
    let spec = redis.spec();
    stores.begin();
    let first = stores.note(&Arc::new(spec.clone()), || Some(redis.store())).unwrap();
    stores.commit();
    let quota = leased(&daily("p/q", 100), 20);
    let counters = Counters::new(first.clone());
    for _ in 0..10 {
        assert!(admits(&counters, of(&quota, "k", 1)).await);
    }
    assert!(first.units_held() > 0);
    stores.begin();
    let other = RedisStore { timeout: Duration::from_secs(4), ..spec };
    stores.note(&Arc::new(other), || Some(redis.store())).unwrap();
    stores.commit();
    // Nobody else has it: without a word it would end here, and its units with it.
    drop((counters, first));
    let fresh = Counters::new(redis.store());
    within("what was not used", async {
        while decide(&fresh, &[of(&daily("p/q", 100), "k", 0)]).await.unwrap()[0].remaining < 90 {}
    })
    .await;
    let decision = decide(&fresh, &[of(&daily("p/q", 100), "k", 0)]).await.unwrap()[0];
    assert_eq!(decision.remaining, 90);
}

#[tokio::test]
async fn several_leases_are_spent_all_or_none() {
    let redis = Redis::start(&[]).await;
    let counters = Counters::new(redis.store());
    let (wide, narrow) = (leased(&daily("p/wide", 1_000), 50), leased(&daily("p/narrow", 40), 50));
    let mut admitted = 0;
    for _ in 0..200 {
        let takes = [of(&wide, "k", 1), of(&narrow, "k", 1)];
        let decisions = decide(&counters, &takes).await.unwrap();
        admitted += u32::from(decisions.iter().all(|it| it.admitted));
        tokio::task::yield_now().await;
    }
    assert!((20..=40).contains(&admitted), "{admitted}");
    drop(counters);
    let fresh = Counters::new(redis.store());
    let decision = decide(&fresh, &[of(&wide, "k", 0)]).await.unwrap()[0];
    assert!(decision.remaining >= 1_000 - 40 - 50, "refused requests took nothing: {decision:?}");
}

//! Counters in one Redis: exact, all or none, one round trip, nothing left behind.

use std::time::Duration;

use foregate::store::counters::Counters;
use tokio::task::JoinSet;

use super::{admits, daily, decide, of, rate};
use crate::support::redis::Redis;
use crate::support::within;

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn a_burst_is_admitted_then_refused_until_units_come_back() {
    let redis = Redis::start(&[]).await;
    let counters = Counters::new(redis.store());
    let limit = rate("p/a", 10, Duration::from_secs(1), 3);
    for remaining in [2, 1, 0] {
        let decision = decide(&counters, &[of(&limit, "k", 1)]).await.unwrap()[0];
        assert!(decision.admitted);
        assert!((remaining..=3).contains(&decision.remaining), "{decision:?}");
    }
    within("a unit to come back", async { while !admits(&counters, of(&limit, "k", 1)).await {} }).await;
    assert!(admits(&counters, of(&limit, "another", 3)).await, "another key has its own counter");
}

#[tokio::test]
async fn a_thousand_at_once_are_admitted_exactly_as_often_as_the_limit_says() {
    let redis = Redis::start(&[]).await;
    let (limit, quota) = (rate("p/a", 137, HOUR, 137), daily("p/q", 90));
    let stores: Vec<_> = (0..3).map(|_| Counters::new(redis.store())).collect();
    for (counter, most) in [(limit, 137), (quota, 90)] {
        let mut all = JoinSet::new();
        for number in 0..1_000 {
            let (counters, take) = (stores[number % 3].clone(), of(&counter, "k", 1));
            all.spawn(async move { admits(&counters, take).await });
        }
        let mut admitted = 0;
        while let Some(outcome) = all.join_next().await {
            admitted += usize::from(outcome.unwrap());
        }
        assert_eq!(admitted, most);
    }
}

#[tokio::test]
async fn several_are_taken_all_or_none_with_their_costs() {
    let redis = Redis::start(&[]).await;
    let counters = Counters::new(redis.store());
    let (wide, narrow) = (rate("p/wide", 100, HOUR, 100), daily("p/narrow", 10));
    let both = |cost| [of(&wide, "k", cost), of(&narrow, "k", cost)];
    let decisions = decide(&counters, &both(7)).await.unwrap();
    assert_eq!(
        decisions.iter().map(|it| (it.admitted, it.remaining)).collect::<Vec<_>>(),
        [(true, 93), (true, 3)]
    );
    let decisions = decide(&counters, &both(4)).await.unwrap();
    assert_eq!(
        decisions.iter().map(|it| (it.admitted, it.remaining)).collect::<Vec<_>>(),
        [(true, 93), (false, 3)]
    );
    let day = Duration::from_hours(24);
    assert!(decisions[1].retry_after > Duration::ZERO && decisions[1].retry_after <= day, "{decisions:?}");
    // Nothing was taken from the first, and a smaller cost still fits.
    let decisions = decide(&counters, &both(3)).await.unwrap();
    assert_eq!(
        decisions.iter().map(|it| (it.admitted, it.remaining)).collect::<Vec<_>>(),
        [(true, 90), (true, 0)]
    );
    // Free of charge: it only asks.
    let decisions = counters_only(&counters, &both(0)).await;
    assert_eq!(decisions, [(true, 90), (true, 0)]);
    // A cost that never fits.
    let decision = decide(&counters, &[of(&wide, "k", 101)]).await.unwrap()[0];
    assert!(!decision.admitted);
}

/// Asks the store whatever is known here.
async fn counters_only(
    counters: &Counters,
    takes: &[foregate_filters::rate_limit::shared::Take],
) -> Vec<(bool, u64)> {
    use foregate_filters::rate_limit::shared::SharedCounters;
    let decisions = counters.take(takes, foregate::clock::now()).await.unwrap();
    decisions.iter().map(|it| (it.admitted, it.remaining)).collect()
}

#[tokio::test]
async fn every_request_is_one_round_trip_and_refusals_are_remembered() {
    let redis = Redis::start(&[]).await;
    let store = redis.store();
    let counters = Counters::new(store.clone());
    let limit = rate("p/a", 5, HOUR, 5);
    let other = rate("p/b", 100, HOUR, 100);
    for _ in 0..5 {
        assert!(decide(&counters, &[of(&limit, "k", 1), of(&other, "k", 1)]).await.unwrap()[0].admitted);
    }
    assert_eq!((redis.calls("evalsha"), redis.calls("eval")), (5, 0));
    assert!(!admits(&counters, of(&limit, "k", 1)).await);
    assert_eq!(redis.calls("evalsha"), 6);
    // What the store refused a moment ago it is not asked about again.
    for _ in 0..100 {
        assert!(!admits(&counters, of(&limit, "k", 1)).await);
    }
    let asked = redis.calls("evalsha");
    assert!((6..=7).contains(&asked), "{asked}");
    assert!(store.stats().here() >= 99);
}

#[tokio::test]
async fn a_refusal_writes_nothing_and_idle_keys_vanish() {
    let redis = Redis::start(&[]).await;
    let counters = Counters::new(redis.store());
    let (short, full) = (rate("p/short", 1000, Duration::from_secs(1), 20), daily("p/full", 1));
    assert!(admits(&counters, of(&full, "k", 1)).await);
    let before: String = redis.ask(&["INFO", "commandstats"]);
    assert!(!admits(&counters, of(&full, "k", 1)).await);
    let sets = |stats: &str| stats.lines().find(|line| line.starts_with("cmdstat_set:")).map(str::to_owned);
    let after: String = redis.ask(&["INFO", "commandstats"]);
    assert_eq!(sets(&before).map(|it| calls(&it)), sets(&after).map(|it| calls(&it)));
    assert!(admits(&counters, of(&short, "k", 20)).await);
    let keys: Vec<String> = redis.ask(&["KEYS", "test:*"]);
    for key in keys {
        let ttl: i64 = redis.ask(&["PTTL", &key]);
        assert!((1..=25 * 3600 * 1000).contains(&ttl) || ttl == -2, "{key} lives for {ttl} ms");
    }
    within("the idle key to vanish", async {
        while !redis.ask::<Vec<String>>(&["KEYS", "*short*"]).is_empty() {}
    })
    .await;
}

fn calls(line: &str) -> String {
    line.split(',').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_server_that_forgot_scripts_and_counters_begins_anew() {
    let redis = Redis::start(&[]).await;
    let counters = Counters::new(redis.store());
    let limit = rate("p/a", 2, HOUR, 2);
    assert!(admits(&counters, of(&limit, "k", 2)).await);
    let _: () = redis.ask(&["SCRIPT", "FLUSH"]);
    assert!(admits(&counters, of(&limit, "other", 1)).await, "the text is sent where the name is not known");
    assert_eq!(redis.calls("eval"), 1);
    assert!(admits(&counters, of(&limit, "third", 1)).await);
    assert_eq!(redis.calls("eval"), 1, "and known from then on");
    let _: () = redis.ask(&["FLUSHALL"]);
    assert!(admits(&counters, of(&limit, "k", 2)).await, "lost counters are full ones");
}

#[tokio::test]
async fn a_key_that_holds_something_else_is_an_error_and_changes_nothing() {
    let redis = Redis::start(&[]).await;
    let counters = Counters::new(redis.store());
    let limit = rate("p/a", 5, HOUR, 5);
    assert!(admits(&counters, of(&limit, "k", 1)).await);
    let key: Vec<String> = redis.ask(&["KEYS", "test:*p/a"]);
    let _: () = redis.ask(&["DEL", &key[0]]);
    let _: () = redis.ask(&["LPUSH", &key[0], "x"]);
    let error = decide(&counters, &[of(&limit, "k", 1)]).await.unwrap_err();
    assert_eq!(&*error.0, "store `redis`: a key holds something else than it should");
    let _: () = redis.ask(&["SET", &key[0], "garbage"]);
    assert!(decide(&counters, &[of(&limit, "k", 1)]).await.is_err());
    assert_eq!(redis.ask::<String>(&["GET", &key[0]]), "garbage");
}

#[tokio::test]
async fn a_clock_that_went_back_locks_nobody_out_for_longer_than_a_burst_takes() {
    let redis = Redis::start(&[]).await;
    let counters = Counters::new(redis.store());
    let limit = rate("p/a", 10, Duration::from_secs(1), 5);
    assert!(admits(&counters, of(&limit, "k", 1)).await);
    let key: Vec<String> = redis.ask(&["KEYS", "test:*p/a"]);
    // As it would stand if the clock had been a year ahead.
    let ahead = foregate::clock::now().unix + Duration::from_hours(24 * 365);
    let _: () = redis.ask(&["SET", &key[0], &format!("{}:0", ahead.as_micros())]);
    let decision = decide(&counters, &[of(&limit, "k", 1)]).await.unwrap()[0];
    assert!(!decision.admitted);
    assert!(decision.retry_after <= Duration::from_millis(100), "{decision:?}");
    assert!(decision.reset_after <= Duration::from_millis(500), "{decision:?}");
}

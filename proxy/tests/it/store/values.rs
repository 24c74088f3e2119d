//! Values by key.

use std::time::Duration;

use foregate::store::error::StoreError;
use foregate::store::{MAX_KEY, MAX_VALUE};
use tokio::task::JoinSet;

use crate::support::redis::Redis;
use crate::support::within;

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_value_is_set_once_replaced_by_its_holder_and_deleted() {
    let redis = Redis::start(&[]).await;
    let store = redis.store();
    assert_eq!(store.get("a").await.unwrap(), None);
    assert!(store.set_if_absent("a", b"one", LONG).await.unwrap());
    assert!(!store.set_if_absent("a", b"two", LONG).await.unwrap());
    assert_eq!(store.get("a").await.unwrap().unwrap(), "one");
    assert!(!store.replace("a", b"two", b"three", LONG).await.unwrap());
    assert!(store.replace("a", b"one", b"three", LONG).await.unwrap());
    assert_eq!(store.get("a").await.unwrap().unwrap(), "three");
    let ttl: i64 = redis.ask(&["PTTL", "test:value:a"]);
    assert!((50_000..=60_000).contains(&ttl), "{ttl}");
    assert!(store.replace("a", b"three", b"", LONG).await.unwrap());
    assert!(!store.delete("a").await.unwrap());
    store.set("a", &[0, 255, b'\r', b'\n'], LONG).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap(), &[0, 255, b'\r', b'\n'][..]);
    assert!(store.delete("a").await.unwrap());
}

#[tokio::test]
async fn one_of_many_sets_what_is_absent() {
    let redis = Redis::start(&[]).await;
    let (one, other) = (redis.store(), redis.store());
    let mut all = JoinSet::new();
    for number in 0..200 {
        let store = if number % 2 == 0 { one.clone() } else { other.clone() };
        all.spawn(async move { store.set_if_absent("key", format!("{number}").as_bytes(), LONG).await });
    }
    let mut set = 0;
    while let Some(outcome) = all.join_next().await {
        set += usize::from(outcome.unwrap().unwrap());
    }
    assert_eq!(set, 1);
}

#[tokio::test]
async fn a_value_is_gone_after_its_time() {
    let redis = Redis::start(&[]).await;
    let store = redis.store();
    store.set("a", b"one", Duration::from_millis(20)).await.unwrap();
    within("the end of the value", async { while store.get("a").await.unwrap().is_some() {} }).await;
    assert!(store.set_if_absent("a", b"two", LONG).await.unwrap());
}

#[tokio::test]
async fn keys_and_values_are_bounded() {
    let redis = Redis::start(&[]).await;
    let store = redis.store();
    let too_large = |what| Err(StoreError::TooLarge(what));
    let long = "k".repeat(MAX_KEY);
    store.set(&long, &vec![1; MAX_VALUE], LONG).await.unwrap();
    assert_eq!(store.get(&long).await.unwrap().unwrap().len(), MAX_VALUE);
    assert_eq!(store.set("a", &vec![1; MAX_VALUE + 1], LONG).await, too_large("value"));
    assert_eq!(store.set("a", b"", LONG).await, too_large("value"));
    assert_eq!(store.set(&format!("{long}k"), b"v", LONG).await, too_large("key"));
    let _: () = redis.ask(&["SETRANGE", "test:value:b", &MAX_VALUE.to_string(), "x"]);
    assert_eq!(store.get("b").await, Err(StoreError::TooLarge("value")));
    let _: () = redis.ask(&["LPUSH", "test:value:c", "x"]);
    assert_eq!(store.get("c").await, Err(StoreError::WrongType));
}

//! Limits that processes share: one question, all or nothing, and what happens without an answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::OPEN;
use crate::chain::Chain;
use crate::rate_limit::OnError;
use crate::rate_limit::fake::{FakeCounters, Meanwhile};
use crate::testing::{TestResources, build, faults, get, run, verdict};

fn with_store(policy: &str) -> (Arc<FakeCounters>, Chain) {
    let store = Arc::new(FakeCounters::default());
    let stores = HashMap::from([("redis".to_owned(), Arc::clone(&store))]);
    let chain = build(&format!("{OPEN}{policy}"), &TestResources { stores, ..TestResources::default() });
    (store, chain.unwrap())
}

const TWO: &str = "
rateLimit:
- { name: wide, key: '\"all\"', limit: 3, per: 1h, shared: { store: redis } }
- { name: narrow, key: source.address, limit: 1, per: 1h, shared: { store: redis } }
- { name: here, key: 'request.path', limit: 2, per: 1h }
";

#[test]
fn a_request_asks_once_for_all_its_shared_limits() {
    let (store, chain) = with_store(TWO);
    assert_eq!(verdict(&chain, &get("/")), "continue");
    assert_eq!((store.trips.load(Relaxed), store.at_once.load(Relaxed)), (1, 1));
    assert_eq!(*store.groups.lock().unwrap(), ["policy-0", "policy-0"], "one place of the store");
    assert_eq!(verdict(&chain, &get("/")), "guard: RateLimited by narrow");
    assert_eq!(verdict(&chain, &get("/").peer("192.0.2.2")), "continue");
    // The limit of this process refuses before the store is asked.
    let trips = store.trips.load(Relaxed);
    assert_eq!(verdict(&chain, &get("/").peer("192.0.2.3")), "guard: RateLimited by here");
    assert_eq!(store.trips.load(Relaxed), trips);
    assert_eq!(verdict(&chain, &get("/b").peer("192.0.2.3")), "continue");
    assert_eq!(verdict(&chain, &get("/b").peer("192.0.2.4")), "guard: RateLimited by wide");
    assert_eq!(run(&chain, &get("/c").peer("192.0.2.4")).0.limits[0].rule.to_string(), "wide");
}

#[test]
fn nobody_waits_where_a_lease_suffices() {
    let (store, chain) = with_store(TWO);
    store.leased.store(true, Relaxed);
    assert_eq!(verdict(&chain, &get("/")), "continue");
    assert_eq!(verdict(&chain, &get("/")), "guard: RateLimited by narrow");
    assert_eq!(store.trips.load(Relaxed), 0);
}

#[test]
fn a_later_limit_that_refuses_gives_back_to_the_store() {
    let policy = "
rateLimit:
- { name: sized, key: source.address, cost: request.body.size, limit: 5, per: 1h }
- { name: shared, key: 'string(request.body.size > 100)', limit: 2, per: 1h, shared: { store: redis } }
";
    let (store, chain) = with_store(policy);
    assert_eq!(verdict(&chain, &get("/").body("abcdef")), "admit: RateLimited by sized");
    assert_eq!(store.trips.load(Relaxed), 0, "a limit here is looked at first");
    assert_eq!(verdict(&chain, &get("/").body("abcde")), "continue");
    let earlier = "rateLimit: [{ name: shared, key: 'string(request.body.size > 100)', limit: 2, per: 1h, shared: { store: redis } }]";
    let store = Arc::new(FakeCounters::default());
    let stores = HashMap::from([("redis".to_owned(), Arc::clone(&store))]);
    let resources = TestResources { stores, ..TestResources::default() };
    let later = format!(
        "{OPEN}rateLimit: [{{ name: sized, key: source.address, cost: request.body.size, limit: 5, per: 1h }}]"
    );
    let chain = crate::testing::build_all(&[&format!("{OPEN}{earlier}"), &later], &resources).unwrap();
    for _ in 0..5 {
        assert_eq!(verdict(&chain, &get("/").body("abcdef")), "admit: RateLimited by sized");
    }
    assert_eq!(store.given_back.load(Relaxed), 5);
    assert_eq!(verdict(&chain, &get("/").body("a")), "continue");
}

#[test]
fn what_the_store_has_given_goes_back_where_a_limit_here_was_used_up_meanwhile() {
    let policy = "
rateLimit:
- { name: shared, key: '\"all\"', limit: 9, per: 1h, when: 'request.path == \"/shared\"', shared: { store: redis } }
- { name: here, key: '\"all\"', limit: 1, per: 1h }
";
    let (store, chain) = with_store(policy);
    let chain = Arc::new(chain);
    let other = Arc::clone(&chain);
    let first = move || assert_eq!(verdict(&other, &get("/here")), "continue");
    *store.meanwhile.lock().unwrap() = Some(Meanwhile(Box::new(first)));
    assert_eq!(verdict(&chain, &get("/shared")), "guard: RateLimited by here");
    assert_eq!((store.trips.load(Relaxed), store.given_back.load(Relaxed)), (1, 1));
}

#[test]
fn without_an_answer_a_limit_does_what_it_says() {
    let rule = |on_error: &str| {
        format!(
            "rateLimit: [{{ name: a, key: source.address, limit: 1, per: 1h, shared: {{ store: redis{on_error} }} }}]"
        )
    };
    for (on_error, expected, fact) in [
        ("", ["guard: LimitUnavailable by a"; 2], OnError::Reject),
        (", onError: continue", ["continue"; 2], OnError::Continue),
        (", onError: local", ["continue", "guard: RateLimited by a"], OnError::Local),
    ] {
        let (store, chain) = with_store(&rule(on_error));
        store.down.store(true, Relaxed);
        assert_eq!([verdict(&chain, &get("/")), verdict(&chain, &get("/"))], expected, "{on_error}");
        let (ctx, _) = run(&chain, &get("/"));
        assert_eq!(ctx.limits[0].unavailable, Some(fact));
        store.down.store(false, Relaxed);
        assert_eq!(verdict(&chain, &get("/")), "continue", "{on_error}");
    }
}

#[test]
fn an_audited_limit_is_asked_apart_and_refuses_nobody() {
    let policy = "
rateLimit:
- { name: tried, key: source.address, limit: 1, per: 1h, mode: audit, shared: { store: redis } }
- { name: real, key: '\"all\"', limit: 2, per: 1h, shared: { store: redis } }
";
    let (store, chain) = with_store(policy);
    let audited = || {
        let (ctx, outcome) = run(&chain, &get("/"));
        (outcome.is_ok(), ctx.audits.len())
    };
    assert_eq!([audited(), audited(), audited()], [(true, 0), (true, 1), (false, 0)]);
    store.down.store(true, Relaxed);
    assert_eq!(audited(), (false, 0));
    assert_eq!(store.trips.load(Relaxed), 6, "what is refused anyway is not asked about");
}

#[test]
fn audited_limits_are_asked_at_once() {
    let policy = "
rateLimit:
- { name: a, key: source.address, limit: 1, per: 1h, mode: audit, shared: { store: redis } }
- { name: b, key: source.address, limit: 9, per: 1h, mode: audit, shared: { store: redis } }
- { name: c, key: source.address, limit: 1, per: 1h, mode: audit, shared: { store: redis } }
";
    let (store, chain) = with_store(policy);
    for (trips, refused) in [(3, &[][..]), (6, &["a", "c"])] {
        // Asked one after another, the first would never be answered.
        store.after.store(trips, Relaxed);
        let (ctx, outcome) = run(&chain, &get("/"));
        assert!(outcome.is_ok());
        assert!(ctx.limits.iter().all(|fact| fact.unavailable.is_none()), "{:?}", ctx.limits);
        let audited: Vec<&str> = ctx.audits.iter().map(|audit| &*audit.rule).collect();
        assert_eq!(audited, refused);
        assert_eq!(store.trips.load(Relaxed), trips);
    }
}

#[test]
fn a_quota_can_be_shared_and_a_store_must_be_there_and_one() {
    let (_, chain) = with_store(
        "quota: [{ name: q, key: source.address, limit: 1, per: Day, shared: { store: redis, lease: 5 } }]",
    );
    assert_eq!(verdict(&chain, &get("/")), "continue");
    assert_eq!(verdict(&chain, &get("/")), "guard: QuotaExceeded by q");
    let missing = format!(
        "{OPEN}rateLimit: [{{ name: a, key: source.address, limit: 1, per: 1h, shared: {{ store: x, lease: 0 }} }}, {{ name: b, key: source.address, limit: 1, per: 1h, shared: {{ store: y }} }}]"
    );
    assert_eq!(
        faults(&missing),
        [
            "FG0302 spec.rateLimit[1].shared.store: the limits of a policy share one store, and y is another than x",
            "FG0301 spec.rateLimit[0].shared.lease: lease must be from 1 to 1000000, and this is 0",
            "FG0304 spec.rateLimit[1].shared.store: no store y",
        ]
    );
}

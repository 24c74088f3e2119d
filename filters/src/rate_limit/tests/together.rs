//! All limits of a request are taken, or none.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::OPEN;
use crate::testing::{Call, TestResources, build, build_all, get, run, verdict};

const TOKENLESS: &str = "apiKey: {}\nauthorize: [{ name: all, allow: 'true' }]\n";

fn from(address: u32) -> Call {
    get("/").peer(&format!("10.0.{}.{}", address / 250, address % 250 + 1))
}

#[test]
fn what_one_limit_refuses_is_not_counted_in_the_others() {
    let policy = format!(
        "{OPEN}rateLimit: [{{ name: wide, key: '\"all\"', limit: 3, per: 1h }}, {{ name: narrow, key: source.address, limit: 1, per: 1h }}]"
    );
    let chain = build(&policy, &TestResources::default()).unwrap();
    for (number, expected) in [
        (1, "continue"),
        (1, "guard: RateLimited by narrow"),
        (1, "guard: RateLimited by narrow"),
        (2, "continue"),
        (3, "continue"),
        (4, "guard: RateLimited by wide"),
    ] {
        assert_eq!(verdict(&chain, &from(number)), expected);
    }
    let (ctx, _) = run(&chain, &from(1));
    let told: Vec<_> = ctx.limits.iter().map(|fact| (&*fact.rule, fact.admitted)).collect();
    assert_eq!(told, [("wide", false)], "the first that refuses is told, and no other");
}

#[test]
fn limits_of_other_policies_and_steps_get_back_what_a_later_one_refuses() {
    let resources = TestResources::default().consumer("ann", &[]);
    let first = format!("{TOKENLESS}rateLimit: [{{ name: wide, key: consumer.name, limit: 2, per: 1h }}]");
    let second = "authorize: [{ name: all, allow: 'true' }]\nquota: [{ name: narrow, key: consumer.name, limit: 5, per: Day }]
rateLimit: [{ name: sized, key: source.address, cost: request.body.size, limit: 10, per: 1h }]";
    let chain = build_all(&[&first, second], &resources).unwrap();
    let call = |body: &'static str| get("/").header("x-api-key", resources.key("ann")).body(body);
    for _ in 0..9 {
        assert_eq!(verdict(&chain, &call("far too large")), "admit: RateLimited by sized");
    }
    let (ctx, outcome) = run(&chain, &call("far too large"));
    assert!(outcome.is_err());
    let rules: Vec<_> = ctx.limits.iter().map(|fact| &*fact.rule).collect();
    assert_eq!(rules, ["sized"], "what was given back is not told of");
    let told = |line: &&crate::edits::HeaderEdit| format!("{line:?}").contains("wide");
    assert_eq!(ctx.edits.response.iter().filter(told).count(), 0);
    assert_eq!(verdict(&chain, &call("12345")), "continue");
    assert_eq!(verdict(&chain, &call("12345")), "continue");
    assert_eq!(verdict(&chain, &call("")), "admit: RateLimited by wide");
}

#[test]
fn a_flood_limit_keeps_what_a_later_step_refuses() {
    let resources = TestResources::default().consumer("ann", &[]);
    let policy = format!(
        "{TOKENLESS}rateLimit: [{{ name: flood, key: source.address, limit: 3, per: 1h }}, {{ name: per-client, key: consumer.name, limit: 1, per: 1h }}]"
    );
    let chain = build(&policy, &resources).unwrap();
    let call = get("/").header("x-api-key", resources.key("ann"));
    for expected in [
        "continue",
        "admit: RateLimited by per-client",
        "admit: RateLimited by per-client",
        "guard: RateLimited by flood",
    ] {
        assert_eq!(verdict(&chain, &call), expected);
    }
}

#[test]
fn an_audited_limit_takes_what_the_request_takes_and_holds_nobody_up() {
    let policy = format!(
        "{OPEN}rateLimit: [{{ name: tried, key: '\"all\"', limit: 2, per: 1h, mode: audit }}, {{ name: real, key: source.address, limit: 1, per: 1h }}]"
    );
    let chain = build(&policy, &TestResources::default()).unwrap();
    let audited = |number: u32| {
        let (ctx, outcome) = run(&chain, &from(number));
        (outcome.is_ok(), ctx.audits.len())
    };
    assert_eq!([audited(1), audited(1), audited(1)], [(true, 0), (false, 0), (false, 0)]);
    assert_eq!([audited(2), audited(3), audited(3)], [(true, 0), (true, 1), (false, 1)]);
}

/// Many threads ask for two limits in both orders: the wide one is used up to its last, and not further,
/// although most requests are refused by the other.
#[test]
fn threads_take_all_or_nothing_exactly() {
    const WIDE: usize = 300;
    for lists in [["wide", "narrow"], ["narrow", "wide"]] {
        let rule = |name: &str| match name {
            "wide" => format!("{{ name: wide, key: '\"all\"', limit: {WIDE}, per: 24h }}"),
            _ => "{ name: narrow, key: source.address, limit: 2, per: 24h }".to_owned(),
        };
        let policy = format!("{OPEN}rateLimit: [{}, {}]", rule(lists[0]), rule(lists[1]));
        let chain = build(&policy, &TestResources::default()).unwrap();
        let (admitted, start) = (AtomicUsize::new(0), Barrier::new(8));
        thread::scope(|scope| {
            for thread in 0..8_u32 {
                let (chain, admitted, start) = (&chain, &admitted, &start);
                scope.spawn(move || {
                    start.wait();
                    // 200 callers, each of whom may come twice: 400 would pass but for the wide limit.
                    for number in 0..1_000 {
                        let call = from((number * 7 + thread * 13) % 200);
                        admitted.fetch_add(usize::from(run(chain, &call).1.is_ok()), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), WIDE, "{lists:?}");
    }
}

#[test]
fn threads_that_give_back_never_let_more_pass() {
    let resources = TestResources::default();
    let first = format!("{OPEN}rateLimit: [{{ name: wide, key: '\"all\"', limit: 100, per: 24h }}]");
    let second = format!("{OPEN}rateLimit: [{{ name: narrow, key: source.address, limit: 1, per: 24h }}]");
    let chain = build_all(&[&first, &second], &resources).unwrap();
    let admitted = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for number in 0..1_000 {
                    let passed = run(&chain, &from(number % 150)).1.is_ok();
                    admitted.fetch_add(usize::from(passed), Ordering::Relaxed);
                }
            });
        }
    });
    let passed = admitted.into_inner();
    // Nobody else comes now: what was given back is there.
    let rest = (0..150).filter(|number| run(&chain, &from(*number)).1.is_ok()).count();
    assert_eq!(passed + rest, 100);
}

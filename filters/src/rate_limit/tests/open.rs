//! Requests that are open at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::OPEN;
use crate::rate_limit::concurrency::OpenRequests;
use crate::step::Step;
use crate::testing::{TestResources, build, build_all, faults, get, run, verdict};

fn at_most(limit: u32) -> String {
    format!("{OPEN}concurrency: [{{ name: open, key: source.address, limit: {limit} }}]")
}

#[test]
fn a_key_has_so_many_requests_open_until_their_contexts_end() {
    let chain = build(&at_most(2), &TestResources::default()).unwrap();
    let (first, _) = run(&chain, &get("/"));
    let (second, _) = run(&chain, &get("/"));
    assert_eq!((first.counted.open(), first.limits[0].remaining, second.limits[0].remaining), (1, 1, 0));
    let (refused, outcome) = run(&chain, &get("/"));
    let reply = outcome.unwrap_err().reply;
    assert_eq!((reply.reason.name(), &*reply.rule, reply.headers.len()), ("ConcurrencyLimited", "open", 0));
    assert_eq!(refused.counted.open(), 0);
    assert_eq!(verdict(&chain, &get("/").peer("192.0.2.2")), "continue");
    drop(first);
    let (third, outcome) = run(&chain, &get("/"));
    assert!(outcome.is_ok());
    assert_eq!(verdict(&chain, &get("/")), "guard: ConcurrencyLimited by open");
    drop((second, third));
    assert_eq!(verdict(&chain, &get("/")), "continue");
}

#[test]
fn a_bound_that_a_later_limit_refuses_is_left_at_once() {
    let second = "authorize: [{ name: all, allow: 'true' }]\nrateLimit: [{ name: sized, key: source.address, cost: request.body.size, limit: 1, per: 1h }]";
    let first = "authorize: [{ name: all, allow: 'true' }]\nconcurrency: [{ name: open, key: 'request.body.size > 0', limit: 1 }]";
    let chain = build_all(&[first, second], &TestResources::default()).unwrap();
    let (ctx, outcome) = run(&chain, &get("/").body("ab"));
    assert!(outcome.is_err());
    assert_eq!(ctx.counted.open(), 0);
    let (held, _) = run(&chain, &get("/").body("a"));
    assert_eq!(verdict(&chain, &get("/").body("b")), "admit: ConcurrencyLimited by open");
    drop(held);
}

#[test]
fn a_shadow_holds_its_own_requests_open() {
    let shadow = format!("mode: shadow\n{}", at_most(1));
    let chain = build_all(&[OPEN, &shadow], &TestResources::default()).unwrap();
    let (first, _) = run(&chain, &get("/"));
    let (second, outcome) = run(&chain, &get("/"));
    assert!(outcome.is_ok());
    let words = [&first, &second].map(|ctx| ctx.shadows[0].verdict.name());
    assert_eq!(words, ["allow", "refuse"]);
    drop(first);
    assert_eq!(run(&chain, &get("/")).0.shadows[0].verdict.name(), "allow");
}

#[test]
fn audit_tells_and_refuses_nobody() {
    let policy = format!("{OPEN}concurrency: [{{ name: open, key: source.address, limit: 1, mode: audit }}]");
    let chain = build(&policy, &TestResources::default()).unwrap();
    let (first, _) = run(&chain, &get("/"));
    let (second, outcome) = run(&chain, &get("/"));
    assert_eq!((outcome.is_ok(), first.audits.len(), second.audits.len()), (true, 0, 1));
    assert_eq!(second.counted.open(), 0, "what is over the bound is not counted");
}

#[test]
fn threads_never_have_more_open_than_may_be_and_leave_nothing_behind() {
    let chain = build(&at_most(3), &TestResources::default()).unwrap();
    let (open, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let (ctx, outcome) = run(&chain, &get("/"));
                    if outcome.is_ok() {
                        most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        open.fetch_sub(1, Ordering::SeqCst);
                    }
                    drop(ctx);
                }
            });
        }
    });
    assert!((1..=3).contains(&most.into_inner()));
    assert_eq!(run(&chain, &get("/")).0.limits[0].remaining, 2, "all of them are closed");
}

#[test]
fn nobody_is_forgotten_for_want_of_room() {
    let open = Arc::new(OpenRequests::new(64));
    let mut held = Vec::new();
    let mut turned_away = 0;
    for number in 0..1_000 {
        let mut opening = open.hold(open.key(&number.to_string()));
        if open.decide(&opening, 1).admitted {
            held.push(open.commit(&mut opening, Step::Guard));
        } else {
            turned_away += 1;
        }
    }
    assert!(held.len() <= 64 && turned_away >= 936);
    assert_eq!((open.turned_away(), open.live_keys()), (turned_away, held.len() as u64));
    held.clear();
    assert_eq!((open.open(), open.live_keys()), (0, 0));
}

#[test]
fn values_out_of_bounds_are_faults() {
    assert_eq!(
        faults(&at_most(0)),
        ["FG0301 spec.concurrency[0].limit: limit must be from 1 to 1000000, and this is 0"]
    );
}

#[test]
fn a_request_that_panics_leaves_its_place() {
    let chain = build(&at_most(1), &TestResources::default()).unwrap();
    let ended = thread::scope(|scope| {
        let request = scope.spawn(|| {
            let (ctx, outcome) = run(&chain, &get("/"));
            assert!(outcome.is_ok() && ctx.counted.open() == 1);
            panic!("a defect");
        });
        request.join()
    });
    assert!(ended.is_err());
    assert_eq!(verdict(&chain, &get("/")), "continue");
}

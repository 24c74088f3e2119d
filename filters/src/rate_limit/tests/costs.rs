//! Requests that take more or less than one.

use super::{OPEN, answers};
use crate::testing::{Call, TestResources, build, check, faults, get, run, verdict};

fn costing(cost: &str) -> String {
    format!("{OPEN}rateLimit: [{{ name: a, key: source.address, limit: 10, per: 10s, cost: '{cost}' }}]")
}

fn costs(cost: u32) -> Call {
    get("/").header("x-cost", cost.to_string())
}

#[test]
fn a_request_takes_its_cost_and_a_free_one_nothing() {
    let chain = build(&costing("int(request.headers[\"x-cost\"])"), &TestResources::default()).unwrap();
    for (cost, expected, left) in [
        (4, "continue", 6),
        (0, "continue", 6),
        (7, "guard: RateLimited by a", 6),
        (6, "continue", 0),
        (0, "continue", 0),
        (1, "guard: RateLimited by a", 0),
    ] {
        let (ctx, _) = run(&chain, &costs(0));
        let before = ctx.limits[0].remaining;
        assert_eq!(verdict(&chain, &costs(cost)), expected, "{cost}");
        let (ctx, _) = run(&chain, &costs(0));
        assert_eq!(ctx.limits[0].remaining, left, "{cost} after {before}");
    }
}

#[test]
fn whoever_asks_for_more_than_there_ever_is_is_not_told_to_come_back() {
    let policy = "rateLimit: [{ name: a, key: source.address, limit: 10, per: 10s, cost: 'int(request.headers[\"x-cost\"])' }]";
    assert_eq!(
        answers(policy, &[costs(11)]),
        ["ratelimit-policy: \"a\";q=10;w=10", "ratelimit: \"a\";r=10;t=0", "RateLimited a"]
    );
    let lines = answers(policy, &[costs(8), costs(5)]);
    assert_eq!(lines.last().unwrap(), "retry-after: 3");
}

#[test]
fn a_cost_that_is_none_refuses() {
    let policy = costing("int(request.headers[\"x-cost\"]) - 5");
    check(&policy, &costs(5), "continue");
    check(&policy, &costs(4), "guard: RuleError by a");
    check(&policy, &costs(2_000_000), "guard: RuleError by a");
    check(&policy, &get("/"), "guard: RuleError by a");
    check(&policy, &get("/").header("x-cost", "many"), "guard: RuleError by a");
}

#[test]
fn the_body_is_counted_once_it_is_there() {
    let sized = costing("request.body.size");
    check(&sized, &get("/").body("1234567890"), "continue");
    check(&sized, &get("/").body("12345678901"), "admit: RateLimited by a");
    let records = costing("request.body.records");
    for (body, expected) in [
        (r#"{"records":[{},{},{}]}"#, "continue"),
        (r#"{"allOrNone":false,"records":[1,2,3,4,5,6,7,8,9,10]}"#, "continue"),
        (r#"{"records":[1,2,3,4,5,6,7,8,9,10,11]}"#, "admit: RateLimited by a"),
        (r#"{"\u0072ecords":[1,2,3,4,5,6,7,8,9,10,11]}"#, "admit: RateLimited by a"),
        (r#"{"LastName":"Okafor"}"#, "continue"),
        (r#"{"records":[1],"records":[1]}"#, "admit: RuleError by a"),
        (r#"{"records":7}"#, "admit: RuleError by a"),
        (r#"{"records":[1]} {}"#, "admit: RuleError by a"),
        (r#"[{"records":[1]}]"#, "admit: RuleError by a"),
        ("", "admit: RuleError by a"),
    ] {
        check(&records, &get("/").body(body), expected);
    }
    let encoded = get("/").header("content-encoding", "gzip").body("{}");
    check(&records, &encoded, "admit: RuleError by a");
    let (ctx, _) = run(
        &build(&records, &TestResources::default()).unwrap(),
        &get("/").header("content-encoding", "identity").body(r#"{"records":[1,2,3]}"#),
    );
    assert_eq!(ctx.limits[0].remaining, 7);
}

#[test]
fn what_is_no_cost_is_a_fault() {
    let message = |cost: &str| faults(&costing(cost)).remove(0);
    assert_eq!(
        message("request.path"),
        "FG0403 spec.rateLimit[0].cost: a cost must be of type int, and this is of type string"
    );
    assert_eq!(
        message("request.body"),
        "FG0403 spec.rateLimit[0].cost: request.body is not a value by itself"
    );
    assert_eq!(
        message("request.body.length"),
        "FG0402 spec.rateLimit[0].cost: unknown field request.body.length"
    );
    assert_eq!(
        faults("authorize: [{ name: small, allow: 'request.body.size < 10' }]"),
        ["FG0402 spec.authorize[0].allow: request.body cannot be read here: the body is not there yet"]
    );
}

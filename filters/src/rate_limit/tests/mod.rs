//! Limits as policies write them, against whole requests.

mod costs;
mod models;
mod open;
mod quotas;
mod sharing;
mod together;

use std::time::Duration;

use crate::edits::HeaderEdit;
use crate::testing::{TestResources, build, check, faults, get, run, verdict};

pub(super) const OPEN: &str = "insecure: { anonymous: true }\n";

/// The response headers asked for, and the refusal, as lines.
pub(super) fn answers(policy: &str, calls: &[crate::testing::Call]) -> Vec<String> {
    let chain = build(&format!("{OPEN}{policy}"), &TestResources::default()).unwrap();
    let one = |call: &crate::testing::Call| {
        let (ctx, outcome) = run(&chain, call);
        let mut lines: Vec<String> = ctx
            .edits
            .response
            .iter()
            .map(|edit| match edit {
                HeaderEdit::Add(name, value) | HeaderEdit::Set(name, value) => {
                    format!("{name}: {}", value.to_str().unwrap())
                }
                HeaderEdit::Remove(name) => format!("no {name}"),
            })
            .collect();
        if let Err(refusal) = outcome {
            lines.push(format!("{} {}", refusal.reply.reason, refusal.reply.rule));
            let headers = refusal.reply.headers.iter();
            lines.extend(headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
        }
        lines
    };
    calls.iter().flat_map(one).collect()
}

#[test]
fn callers_are_told_how_they_stand() {
    let policy = "rateLimit: [{ name: per-client, key: source.address, limit: 2, per: 3s }]";
    let lines = answers(policy, &[get("/"), get("/"), get("/"), get("/").after(Duration::from_millis(1500))]);
    assert_eq!(
        lines,
        [
            "ratelimit-policy: \"per-client\";q=2;w=3",
            "ratelimit: \"per-client\";r=1;t=2",
            "ratelimit-policy: \"per-client\";q=2;w=3",
            "ratelimit: \"per-client\";r=0;t=3",
            "ratelimit-policy: \"per-client\";q=2;w=3",
            "ratelimit: \"per-client\";r=0;t=2",
            "RateLimited per-client",
            "retry-after: 2",
            "ratelimit-policy: \"per-client\";q=2;w=3",
            "ratelimit: \"per-client\";r=0;t=3",
        ]
    );
    let short = "rateLimit: [{ name: a, key: source.address, limit: 1, per: 100ms }]";
    let lines = answers(short, &[get("/"), get("/")]);
    assert_eq!(lines.first().unwrap(), "ratelimit-policy: \"a\";q=10;w=1");
    assert_eq!(lines.last().unwrap(), "retry-after: 1");
}

#[test]
fn older_fields_tell_of_the_limit_that_leaves_least_and_nothing_is_told_where_that_is_said() {
    let policy = "rateLimit: [{ name: wide, key: source.address, limit: 9, per: 9s, headers: Legacy }, { name: narrow, key: source.address, limit: 2, per: 4s, headers: Both }, { name: quiet, key: source.address, limit: 5, per: 1s, headers: Hidden }]";
    let lines = answers(policy, &[get("/"), get("/"), get("/")]);
    let last: Vec<&str> = lines.iter().rev().map(String::as_str).take(7).collect();
    assert_eq!(
        last,
        [
            "retry-after: 2",
            "RateLimited narrow",
            "x-ratelimit-reset: 2",
            "x-ratelimit-remaining: 0",
            "x-ratelimit-limit: 2",
            "ratelimit: \"narrow\";r=0;t=2",
            "ratelimit-policy: \"narrow\";q=2;w=4",
        ]
    );
    assert!(lines.iter().all(|line| !line.contains("quiet")), "{lines:?}");
    let hidden = "rateLimit: [{ name: quiet, key: source.address, limit: 1, per: 1s, headers: Hidden }]";
    assert_eq!(answers(hidden, &[get("/"), get("/")]), ["RateLimited quiet"]);
}

#[test]
fn every_key_has_its_own_counter_and_when_skips() {
    let policy = format!(
        "{OPEN}rateLimit: [{{ name: writes, key: 'request.headers[\"x-org\"]', limit: 1, per: 1h, when: 'request.method == \"POST\"' }}]"
    );
    let chain = build(&policy, &TestResources::default()).unwrap();
    let write = |org: &str| get("/").method("POST").header("x-org", org);
    assert_eq!(verdict(&chain, &write("a")), "continue");
    assert_eq!(verdict(&chain, &write("a")), "guard: RateLimited by writes");
    assert_eq!(verdict(&chain, &write("b")), "continue");
    assert_eq!(verdict(&chain, &get("/")), "continue");
    assert_eq!(verdict(&chain, &write("a").after(Duration::from_hours(1))), "continue");
}

#[test]
fn a_key_that_is_absent_or_empty_refuses() {
    let policy =
        format!("{OPEN}rateLimit: [{{ name: a, key: 'request.headers[\"x-org\"]', limit: 1, per: 1s }}]");
    check(&policy, &get("/"), "guard: RuleError by a");
    check(&policy, &get("/").header("x-org", ""), "guard: RuleError by a");
}

#[test]
fn audit_counts_and_refuses_nobody() {
    let policy =
        format!("{OPEN}rateLimit: [{{ name: a, key: source.address, limit: 1, per: 1h, mode: audit }}]");
    let chain = build(&policy, &TestResources::default()).unwrap();
    for (admitted, audits) in [(true, 0), (false, 1)] {
        let (ctx, outcome) = run(&chain, &get("/"));
        assert_eq!(outcome, Ok(()));
        assert_eq!((ctx.limits[0].admitted, ctx.audits.len()), (admitted, audits));
        assert!(ctx.edits.response.is_empty());
    }
}

#[test]
fn values_out_of_bounds_are_faults() {
    for (limit, expected) in [
        (
            "limit: 0, per: 1s",
            "FG0301 spec.rateLimit[0].limit: limit must be from 1 to 1000000, and this is 0",
        ),
        (
            "limit: 1000001, per: 1s",
            "FG0301 spec.rateLimit[0].limit: limit must be from 1 to 1000000, and this is 1000001",
        ),
        (
            "limit: 1, per: 1s, burst: 0",
            "FG0301 spec.rateLimit[0].burst: burst must be from 1 to 1000000, and this is 0",
        ),
        (
            "limit: 1, per: 999us",
            "FG0301 spec.rateLimit[0].per: per must be from 1ms to 24h, and this is 999us",
        ),
        (
            "limit: 1, per: 25h",
            "FG0301 spec.rateLimit[0].per: per must be from 1ms to 24h, and this is 90000s",
        ),
        (
            "limit: 1, per: 24h, burst: 32",
            "FG0302 spec.rateLimit[0].burst: a spent burst would take more than 31 days to come back",
        ),
        (
            "limit: 1, per: 1s, when: 'request.path'",
            "FG0403 spec.rateLimit[0].when: an access rule or condition must be of type bool, and this is of type string",
        ),
    ] {
        let policy = format!("{OPEN}rateLimit: [{{ name: a, key: source.address, {limit} }}]");
        assert_eq!(faults(&policy), [expected], "{limit}");
    }
    let list = format!("{OPEN}rateLimit: [{{ name: a, key: request.headers, limit: 1, per: 1s }}]");
    assert_eq!(
        faults(&list),
        [
            "FG0403 spec.rateLimit[0].key: a key must be a string, int, bool or double, and this is of type map of string"
        ]
    );
    let twice = format!(
        "{OPEN}rateLimit: [{{ name: a, key: source.address, limit: 1, per: 1s }}, {{ name: a, key: source.peer, limit: 1, per: 1s }}]"
    );
    assert_eq!(faults(&twice), ["FG0302 spec.rateLimit[1].name: a second rateLimit rule named a"]);
}

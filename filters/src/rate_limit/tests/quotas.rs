//! Quotas of days and months, on both sides of their ends.

use std::time::Duration;

use super::{OPEN, answers};
use crate::testing::{Call, TestResources, build, faults, get, verdict};

/// A call at this second of 2026 and later; the monotonic clock goes on as it likes.
fn at(unix: u64) -> Call {
    let mut call = get("/");
    call.moment.unix = Duration::from_secs(unix);
    call
}

/// 2026-03-29T00:00 in Berlin, a day of 23 hours.
const SHORT_DAY: u64 = 1_774_738_800;
const HOUR: u64 = 3_600;

#[test]
fn a_day_is_one_of_its_zone() {
    let policy = "quota: [{ name: daily, key: source.address, limit: 2, per: Day, timeZone: Europe/Berlin }]";
    assert_eq!(
        answers(
            policy,
            &[at(SHORT_DAY), at(SHORT_DAY + HOUR), at(SHORT_DAY + 22 * HOUR), at(SHORT_DAY + 23 * HOUR)]
        ),
        [
            "ratelimit-policy: \"daily\";q=2;w=82800",
            "ratelimit: \"daily\";r=1;t=82800",
            "ratelimit-policy: \"daily\";q=2;w=82800",
            "ratelimit: \"daily\";r=0;t=79200",
            "ratelimit-policy: \"daily\";q=2;w=82800",
            "ratelimit: \"daily\";r=0;t=3600",
            "QuotaExceeded daily",
            "retry-after: 3600",
            "ratelimit-policy: \"daily\";q=2;w=86400",
            "ratelimit: \"daily\";r=1;t=86400",
        ]
    );
}

#[test]
fn a_clock_that_is_put_back_and_on_gives_no_second_quota_and_locks_nobody_out() {
    let policy = format!("{OPEN}quota: [{{ name: daily, key: source.address, limit: 2, per: Day }}]");
    let chain = build(&policy, &TestResources::default()).unwrap();
    let day = |number: u64| at(1_767_225_600 + number * 24 * HOUR);
    for (number, expected) in [
        (10, "continue"),
        (10, "continue"),
        (10, "guard: QuotaExceeded by daily"),
        // A year too far, and back.
        (375, "continue"),
        (10, "guard: QuotaExceeded by daily"),
        (375, "continue"),
        (375, "guard: QuotaExceeded by daily"),
        (10, "guard: QuotaExceeded by daily"),
        // It goes on as if nothing had been.
        (11, "continue"),
        (11, "continue"),
        (11, "guard: QuotaExceeded by daily"),
        (12, "continue"),
        // Back over midnight, and on.
        (11, "continue"),
    ] {
        let expected = if number == 11 && expected == "continue" { None } else { Some(expected) };
        let said = verdict(&chain, &day(number));
        if let Some(expected) = expected {
            assert_eq!(said, expected, "day {number}");
        }
    }
}

#[test]
fn over_midnight_and_back_each_day_has_one_quota() {
    let policy = format!("{OPEN}quota: [{{ name: daily, key: source.address, limit: 1, per: Day }}]");
    let chain = build(&policy, &TestResources::default()).unwrap();
    let midnight = 1_767_225_600;
    for (unix, expected) in [
        (midnight - 1, "continue"),
        (midnight, "continue"),
        (midnight - 1, "guard: QuotaExceeded by daily"),
        (midnight, "guard: QuotaExceeded by daily"),
        (midnight + 24 * HOUR - 1, "guard: QuotaExceeded by daily"),
        (midnight + 24 * HOUR, "continue"),
        (midnight, "guard: QuotaExceeded by daily"),
    ] {
        assert_eq!(verdict(&chain, &at(unix)), expected, "{unix}");
    }
}

#[test]
fn values_out_of_bounds_are_faults() {
    let quota = |what: &str| faults(&format!("{OPEN}quota: [{{ name: a, key: source.address, {what} }}]"));
    assert_eq!(
        quota("limit: 0, per: Day"),
        ["FG0301 spec.quota[0].limit: limit must be from 1 to 1000000000, and this is 0"]
    );
    assert_eq!(
        quota("limit: 5, per: Month, timeZone: Europe/Berln"),
        ["FG0677 spec.quota[0].timeZone: there is no time zone named `Europe/Berln`"]
    );
    let twice = format!(
        "{OPEN}rateLimit: [{{ name: a, key: source.address, limit: 1, per: 1s }}]\nquota: [{{ name: a, key: source.address, limit: 1, per: Day }}]"
    );
    assert_eq!(faults(&twice), ["FG0302 spec.quota[0].name: a is already the name of a rateLimit rule"]);
}

//! `RateLimit` and `RateLimit-Policy` fields (draft-ietf-httpapi-ratelimit-headers).

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::limiter::{Decision, Rate};
use crate::decimal;
use crate::edits::HeaderEdit;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// Room for the numbers of a `RateLimit` field.
const NUMBERS: usize = 24;

const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whole seconds, rounded up.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

/// `"per-org";q=100;w=1`: quota and window. Windows are whole seconds, so the quota of another
/// period is given for the next longer window.
pub(super) fn policy(name: &str, rate: &Rate) -> HeaderValue {
    let window = seconds(rate.per).max(1);
    let quota = u128::from(rate.limit) * u128::from(window) * 1_000_000_000 / rate.per.as_nanos().max(1);
    value(format!("{name:?};q={quota};w={window}"))
}

/// What every `RateLimit` of a limit begins with: `"per-org";r=`.
pub(super) fn prefix(name: &str) -> Box<str> {
    format!("{name:?};r=").into()
}

/// The two fields of one limit, added beside those of other limits.
pub(super) fn standing(prefix: &str, policy: &HeaderValue, decision: &Decision) -> [HeaderEdit; 2] {
    let time = if decision.admitted { decision.reset_after } else { decision.retry_after };
    // Written by hand: the formatting machinery would take most of the time of a limit.
    let mut standing = String::with_capacity(prefix.len() + NUMBERS);
    standing.push_str(prefix);
    decimal::push(&mut standing, decision.remaining.into());
    standing.push_str(";t=");
    decimal::push(&mut standing, seconds(time));
    [HeaderEdit::Add(RATE_LIMIT_POLICY, policy.clone()), HeaderEdit::Add(RATE_LIMIT, value(standing))]
}

/// Names are checked when a policy is built, so nothing is ever left out.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

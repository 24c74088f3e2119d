//! What callers are told: `RateLimit` fields, and the older `X-RateLimit` ones.

use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};

use super::calendar::Calendar;
use super::limiter::{Decision, Rate};
use super::spec::Headers;
use crate::decimal;
use crate::edits::HeaderEdit;
use crate::moment::Moment;
use crate::verdict::Reply;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEGACY_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const LEGACY_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const LEGACY_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// Room for the numbers of a `RateLimit` field.
const NUMBERS: usize = 40;

/// How one limit is told of.
#[derive(Debug)]
pub(super) struct Told {
    headers: Headers,
    /// What its `RateLimit` begins with: `"per-org";r=`.
    prefix: Box<str>,
    policy: Policy,
    /// What its `X-RateLimit-Limit` says.
    limit: u32,
}

/// What `RateLimit-Policy` says of it.
#[derive(Debug)]
enum Policy {
    Fixed(HeaderValue),
    /// `"daily";q=1000;w=`: days and months are of many lengths.
    Calendar(Box<str>, Arc<Calendar>),
    /// A bound without a window is told by nobody.
    Nothing,
}

/// Whole seconds, rounded up.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

impl Told {
    /// `"per-org";q=100;w=1`: quota and window. Windows are whole seconds, so the quota of another
    /// period is given for the next longer window.
    pub(super) fn rate(name: &str, rate: &Rate, headers: Headers) -> Self {
        let window = seconds(rate.per).max(1);
        let quota = u128::from(rate.limit) * u128::from(window) * 1_000_000_000 / rate.per.as_nanos().max(1);
        let policy = Policy::Fixed(value(format!("{name:?};q={quota};w={window}")));
        Self { headers, prefix: prefix(name), policy, limit: rate.limit }
    }

    pub(super) fn quota(name: &str, limit: u32, calendar: Arc<Calendar>, headers: Headers) -> Self {
        let policy = Policy::Calendar(format!("{name:?};q={limit};w=").into(), calendar);
        Self { headers, prefix: prefix(name), policy, limit }
    }

    pub(super) fn nothing() -> Self {
        Self { headers: Headers::Hidden, prefix: Box::default(), policy: Policy::Nothing, limit: 0 }
    }

    /// Adds how the limit stands, beside what others say of themselves.
    pub(super) fn tell(&self, decision: &Decision, moment: Moment, edits: &mut Vec<HeaderEdit>) {
        let patience = decision.retry_after < Duration::MAX;
        let time = if decision.admitted || !patience { decision.reset_after } else { decision.retry_after };
        if matches!(self.headers, Headers::Standard | Headers::Both)
            && let Some(policy) = self.policy(moment)
        {
            // Written by hand: the formatting machinery would take most of the time of a limit.
            let mut standing = String::with_capacity(self.prefix.len() + NUMBERS);
            standing.push_str(&self.prefix);
            decimal::push(&mut standing, decision.remaining);
            standing.push_str(";t=");
            decimal::push(&mut standing, seconds(time));
            edits.push(HeaderEdit::Add(RATE_LIMIT_POLICY, policy));
            edits.push(HeaderEdit::Add(RATE_LIMIT, value(standing)));
        }
        if matches!(self.headers, Headers::Legacy | Headers::Both) && tightest(decision.remaining, edits) {
            edits.push(HeaderEdit::Set(LEGACY_LIMIT, self.limit.into()));
            edits.push(HeaderEdit::Set(LEGACY_REMAINING, decision.remaining.into()));
            edits.push(HeaderEdit::Set(LEGACY_RESET, seconds(time).into()));
        }
    }

    fn policy(&self, moment: Moment) -> Option<HeaderValue> {
        match &self.policy {
            Policy::Fixed(policy) => Some(policy.clone()),
            Policy::Calendar(prefix, calendar) => {
                let (start, end) = calendar.window(moment.unix);
                let mut policy = String::with_capacity(prefix.len() + NUMBERS);
                policy.push_str(prefix);
                decimal::push(&mut policy, end.saturating_sub(start));
                Some(value(policy))
            }
            Policy::Nothing => None,
        }
    }

    /// `Retry-After`, where anybody knows (RFC 9110, section 10.2.3).
    pub(super) fn retry(&self, decision: &Decision, reply: Reply) -> Reply {
        if self.headers == Headers::Hidden || decision.retry_after == Duration::MAX {
            return reply;
        }
        reply.header(RETRY_AFTER, HeaderValue::from(seconds(decision.retry_after).max(1)))
    }
}

/// True where no limit before it leaves less: the older fields have room for one limit.
fn tightest(remaining: u64, edits: &[HeaderEdit]) -> bool {
    let said = edits.iter().rev().find_map(|edit| match edit {
        HeaderEdit::Set(name, value) if *name == LEGACY_REMAINING => value.to_str().ok()?.parse::<u64>().ok(),
        _ => None,
    });
    said.is_none_or(|said| remaining < said)
}

fn prefix(name: &str) -> Box<str> {
    format!("{name:?};r=").into()
}

/// Names are checked when a policy is built, so nothing is ever left out.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

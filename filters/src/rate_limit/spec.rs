//! A rate limit as a policy writes it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limiter::Rate;
use crate::authorize::Mode;
use crate::chain::Built;
use crate::fault::{Code, Fault, Path};
use crate::units::TimeSpan;

pub(super) const COUNTS: std::ops::RangeInclusive<u32> = 1..=1_000_000;
const PERIODS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(24);
/// Longest time a spent burst may take to come back; a longer one is a quota, not a rate.
const MAX_REFILL: Duration = Duration::from_hours(31 * 24);

/// One rate limit of a policy.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Names the limit in refusals, headers, logs and metrics. Unique within the policy.
    pub name: String,
    /// CEL expression whose value is the key; requests with the same value share the limit.
    /// An empty string, null or absent value refuses: give the expression a default instead.
    pub key: String,
    /// Requests admitted per period, 1 to 1,000,000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: u32,
    /// Length of the period, 1ms to 24h.
    pub per: TimeSpan,
    /// Requests that may come at once; `limit` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
    /// CEL expression of type bool; the limit applies only where it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// CEL expression of type int: what a request takes, 0 to 1,000,000. 1 where absent; 0 is free, and passes where
    /// nothing is left. No value, or one out of bounds, refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    #[serde(default)]
    pub headers: Headers,
    /// Counted together with other processes; by this process alone where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedSpec>,
    #[serde(default)]
    pub mode: Mode,
}

/// What callers are told of how they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "LimitHeaders")]
pub enum Headers {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers); `Retry-After` on refusals.
    #[default]
    Standard,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, the last in seconds from now, of the
    /// limit that leaves least; `Retry-After` on refusals.
    Legacy,
    Both,
    /// Nothing.
    Hidden,
}

/// Counters that several processes share.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "SharedLimit")]
pub struct SharedSpec {
    /// Name of the `Store`; one for all shared limits of a policy.
    pub store: String,
    /// What a process takes in advance at once, 1 to 1,000,000: it asks the store so much less often, and what it
    /// does not use is lost to the others for a while. Where absent, every request asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub lease: Option<u32>,
    #[serde(default)]
    pub on_error: OnError,
}

/// What to do where the store cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OnStoreError")]
pub enum OnError {
    /// Refuse the request with 503.
    #[default]
    Reject,
    /// Let it pass uncounted.
    Continue,
    /// Count in this process, with the same limit.
    Local,
}

impl OnError {
    /// The word in labels and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Continue => "continue",
            Self::Local => "local",
        }
    }
}

impl Spec {
    pub(super) fn rate(&self, at: &Path) -> Built<Rate> {
        let mut faults = Vec::new();
        let mut bounded = |count: u32, field: &str| {
            if !COUNTS.contains(&count) {
                let message = format!("{field} must be from 1 to 1000000, and this is {count}");
                faults.push(Fault::new(Code::VALUE, at.key(field), message));
            }
        };
        bounded(self.limit, "limit");
        if let Some(burst) = self.burst {
            bounded(burst, "burst");
        }
        if !PERIODS.contains(&self.per.0) {
            let message = format!("per must be from 1ms to 24h, and this is {}", self.per);
            faults.push(Fault::new(Code::VALUE, at.key("per"), message));
        }
        let burst = self.burst.unwrap_or(self.limit);
        if faults.is_empty() && self.per.0.saturating_mul(burst) / self.limit > MAX_REFILL {
            let message = "a spent burst would take more than 31 days to come back";
            let help = "lower burst, or raise limit";
            faults.push(Fault::new(Code::CONFLICT, at.key("burst"), message).help(help));
        }
        let rate = Rate { limit: self.limit, per: self.per.0, burst };
        if faults.is_empty() { Ok(rate) } else { Err(faults) }
    }
}

impl SharedSpec {
    pub(super) fn check(&self, at: &Path) -> Built<()> {
        match self.lease.filter(|lease| !COUNTS.contains(lease)) {
            Some(lease) => {
                let message = format!("lease must be from 1 to 1000000, and this is {lease}");
                Err(vec![Fault::new(Code::VALUE, at.key("lease"), message)])
            }
            None => Ok(()),
        }
    }
}

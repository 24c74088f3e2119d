//! A quota as a policy writes it: by day or month of a zone.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::calendar::{Calendar, Period};
use super::spec::{Headers, SharedSpec};
use crate::authorize::Mode;
use crate::chain::Built;
use crate::fault::{Code, Fault, Path};

const LIMITS: std::ops::RangeInclusive<u32> = 1..=1_000_000_000;
/// The zone where a quota names none.
const UTC: &str = "UTC";

/// One quota of a policy.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Quota")]
pub struct Spec {
    /// Names the quota in refusals, headers, logs and metrics. Unique among the limits of the policy.
    pub name: String,
    /// CEL expression whose value is the key; requests with the same value share the quota.
    /// An empty string, null or absent value refuses: give the expression a default instead.
    pub key: String,
    /// What may be used in a day or month, 1 to 1,000,000,000.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub limit: u32,
    /// What it is counted by. All of it may be used again when the next one begins.
    pub per: Period,
    /// Whose calendar, as the IANA database names it: `Europe/Berlin`. `UTC` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub time_zone: Option<String>,
    /// CEL expression of type bool; the quota applies only where it is true.
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

impl Spec {
    pub(super) fn calendar(&self, at: &Path) -> Built<Arc<Calendar>> {
        let mut faults = Vec::new();
        if !LIMITS.contains(&self.limit) {
            let message = format!("limit must be from 1 to 1000000000, and this is {}", self.limit);
            faults.push(Fault::new(Code::VALUE, at.key("limit"), message));
        }
        let zone = self.time_zone.as_deref().unwrap_or(UTC);
        match Calendar::new(self.per, zone) {
            Some(calendar) if faults.is_empty() => Ok(Arc::new(calendar)),
            Some(_) => Err(faults),
            None => {
                let message = format!("there is no time zone named `{zone}`");
                let fault = Fault::new(Code::TIME_ZONE, at.key("timeZone"), message);
                faults.push(fault.help("name it as the IANA database does, such as Europe/Berlin or UTC"));
                Err(faults)
            }
        }
    }
}

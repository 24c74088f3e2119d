//! The section `identity`: how long a workload is believed, and whom not at all.

use std::time::Duration;

use foregate_filters::units::TimeSpan;
use serde::Deserialize;

use crate::config::Fault;
use crate::withdrawn::Withdrawn;

/// Bounds of `reattest`.
const REATTEST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(365 * 24));

/// Most entries of `withdrawn`.
const MAX_WITHDRAWN: usize = 10_000;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// How long after a token has proved it a workload may renew its certificate with the one at hand, 5s to 8760h, and no
    /// shorter than `authority.lifetime`.
    pub reattest: TimeSpan,
    /// SPIFFE ids that are given no certificate, roots or policies; `/*` at the end stands for every id below.
    pub withdrawn: Vec<String>,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self { reattest: TimeSpan(Duration::from_hours(30 * 24)), withdrawn: Vec::new() }
    }
}

impl IdentityConfig {
    pub(super) fn check(&self, trust_domain: &str, lifetime: TimeSpan) -> Result<(), Fault> {
        let fault = |keys, message: String, help| Err(Fault { keys, message, help });
        if !(REATTEST.0..=REATTEST.1).contains(&self.reattest.0) {
            let message = format!("workloads would be attested again after {}", self.reattest);
            return fault(&["identity", "reattest"], message, "5s to 8760h; 720h is usual");
        }
        if self.reattest.0 < lifetime.0 {
            let message = format!("{} is shorter than certificates live, which is {lifetime}", self.reattest);
            let help = "no certificate could be renewed with the one at hand; give a longer time, or a shorter \
                        authority.lifetime";
            return fault(&["identity", "reattest"], message, help);
        }
        if self.withdrawn.len() > MAX_WITHDRAWN {
            let message = format!("{} entries", self.withdrawn.len());
            return fault(
                &["identity", "withdrawn"],
                message,
                "10000 at most; `/*` stands for all ids below",
            );
        }
        match Withdrawn::new(&self.withdrawn, trust_domain) {
            Ok(_) => Ok(()),
            Err(message) => {
                let help = "such as spiffe://example.org/ns/crm/sa/leads, or spiffe://example.org/ns/crm/*";
                fault(&["identity", "withdrawn"], message, help)
            }
        }
    }
}

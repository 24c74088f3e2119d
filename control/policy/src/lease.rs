//! What gateways that count together may admit beyond a limit, because they take in advance.

use std::fmt;
use std::sync::Arc;

use foregate_filters::units::TimeSpan;

/// The bound of one limit with a lease. It holds for each key of the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseBound {
    /// `policy/rule`.
    pub rule: Arc<str>,
    /// Units that a process holds at most.
    pub lease: u32,
    pub of: LeaseOf,
}

/// What is leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOf {
    /// In any period, units taken before it may be used within it, beside all that may be taken within it.
    Rate { limit: u32, burst: u32, per: TimeSpan },
    /// No unit outlives its window: nothing is admitted beyond the limit.
    Quota { limit: u32 },
}

impl fmt::Display for LeaseBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, lease, of } = self;
        match of {
            LeaseOf::Rate { limit, burst, per } => write!(
                f,
                "{rule}: each process holds at most {lease} in advance, so that P processes admit at most {burst} at once \
                 and {limit} per {per}, and {lease} x P more in any period"
            ),
            LeaseOf::Quota { limit } => write!(
                f,
                "{rule}: each process holds at most {lease} in advance, so that P processes admit at most {limit} a window, and \
                 up to {lease} x P of these come late by a second"
            ),
        }
    }
}

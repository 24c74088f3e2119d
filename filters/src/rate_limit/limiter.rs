//! GCRA counters for many keys in bounded memory.

use std::time::Duration;

/// How much a limiter admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Requests per period, at least 1.
    pub limit: u32,
    pub per: Duration,
    /// Requests that may come at once, at least 1.
    pub burst: u32,
}

/// Counters of one limit.
#[derive(Debug)]
pub struct Limiter;

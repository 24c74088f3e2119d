//! Time as an argument: what the clock said when a request was pinned.

use std::time::Duration;

/// One reading of both clocks, taken once per request by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Wall clock: time since 1970-01-01T00:00:00Z. Tokens and logs use it.
    pub unix: Duration,
    /// Monotonic clock: time since the process started. Limits and deadlines use it.
    pub monotonic: Duration,
}

impl Moment {
    /// Whole seconds since the Unix epoch, as JWT's `NumericDate` counts them (RFC 7519, section 2).
    pub const fn unix_seconds(&self) -> u64 {
        self.unix.as_secs()
    }
}

//! The one place of this crate that reads the clock.

use std::time::{Duration, Instant};
#[cfg(feature = "server")]
use std::time::{SystemTime, UNIX_EPOCH};

/// Measures spans of time, for deadlines of queued work and for the cost of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "queue time passes after a request was pinned, so no Moment tells it"
    )]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The moment now, since the Unix epoch; zero before it.
#[cfg(feature = "server")]
#[expect(clippy::disallowed_methods, reason = "here a request enters the process of the server")]
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

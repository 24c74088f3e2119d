//! The place where the clock is read.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use foregate_filters::moment::Moment;

/// When this process first asked for the time; the monotonic clock counts from here.
static START: LazyLock<Instant> = LazyLock::new(instant);

#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
fn instant() -> Instant {
    Instant::now()
}

/// Reads the monotonic clock.
pub fn monotonic() -> Duration {
    let start = *START;
    instant().saturating_duration_since(start)
}

/// Reads both clocks.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> Moment {
    Moment {
        unix: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        monotonic: monotonic(),
    }
}

/// A time since the epoch in RFC 3339, in UTC, to the second.
pub fn rfc3339(unix: Duration) -> String {
    let seconds = i64::try_from(unix.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map(|at| at.to_string()).unwrap_or_default()
}

//! The place where the clock is read.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime};

use foregate_filters::moment::Moment;

/// When this process first asked for the time; the monotonic clock counts from here.
static START: LazyLock<Instant> = LazyLock::new(instant);

#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
fn instant() -> Instant {
    Instant::now()
}

/// Reads both clocks.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> Moment {
    let start = *START;
    Moment {
        unix: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        monotonic: instant().saturating_duration_since(start),
    }
}

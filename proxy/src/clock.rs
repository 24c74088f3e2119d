//! The place where the clock is read.

use std::future::Future;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use foregate_filters::moment::Moment;

/// When this process first asked for the time; the monotonic clock counts from here.
static START: LazyLock<Instant> = LazyLock::new(instant);

#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
fn instant() -> Instant {
    Instant::now()
}

/// Reads the monotonic clock alone: half the price of both.
pub fn monotonic() -> Duration {
    let start = *START;
    instant().saturating_duration_since(start)
}

/// The instant of a monotonic time.
pub fn instant_of(monotonic: Duration) -> Instant {
    let start = *START;
    start.checked_add(monotonic).unwrap_or(start)
}

/// What comes of waiting, and how long it took.
pub async fn timed<F: Future>(waiting: F) -> (F::Output, Duration) {
    let before = monotonic();
    let output = waiting.await;
    (output, monotonic().saturating_sub(before))
}

/// Reads both clocks.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> Moment {
    Moment {
        unix: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        monotonic: monotonic(),
    }
}

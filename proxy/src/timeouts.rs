//! How long a request may wait for its answer, and whose fault a delay is.

use std::time::Duration;

use foregate_filters::chain::Refusal;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use foregate_policy::route::Route;

use crate::clock;
use crate::dispatch::course::Course;
use crate::life::Life;
use crate::respond::at;

/// Time for an upstream's response head where the route sets none.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Time until there must be an answer; a course keeps it itself, and says which endpoint was late.
pub fn time_for_course(
    life: &Life,
    route: &Route,
    course: Option<&mut Course<'_>>,
    started: Duration,
) -> Result<Option<Duration>, Refusal> {
    let Some(course) = course else { return time_for_call(life, route, started, time_for_answer(route)) };
    if life.grpc.is_some() {
        course.total = time_for_call(life, route, started, course.total)?;
        course.of_caller = true;
    }
    Ok(None)
}

/// Time for a response body that is held back until all of it is there.
pub fn time_for_body(route: &Route) -> Duration {
    route.timeouts.request.filter(|limit| !limit.is_zero()).unwrap_or(DEFAULT_REQUEST_TIMEOUT)
}

/// Time until the response head must be there; `None` where the route switched the limit off.
fn time_for_answer(route: &Route) -> Option<Duration> {
    let limit = match (route.timeouts.request, route.timeouts.backend_request) {
        (Some(request), Some(attempt)) if !attempt.is_zero() && (request.is_zero() || attempt < request) => {
            attempt
        }
        (Some(request), _) => request,
        (None, Some(attempt)) => attempt,
        (None, None) => DEFAULT_REQUEST_TIMEOUT,
    };
    (!limit.is_zero()).then_some(limit)
}

/// The same for calls, which may say themselves how long they wait; refused where that is over.
fn time_for_call(
    life: &Life,
    route: &Route,
    now: Duration,
    limit: Option<Duration>,
) -> Result<Option<Duration>, Refusal> {
    let Some(call) = life.grpc else { return Ok(limit) };
    let said = route.timeouts.request.or(route.timeouts.backend_request).is_some();
    match call.wait(now, limit, said) {
        Some(Duration::ZERO) => Err(late(life, Duration::ZERO)),
        limit => Ok(limit),
    }
}

/// Whose fault the delay is: a client that still sends its body, or the upstream.
pub fn late(life: &Life, limit: Duration) -> Refusal {
    let client = life.still_sends();
    let over = life.grpc.is_some_and(|call| call.left(clock::monotonic()).is_some_and(|left| left.is_zero()));
    let reason = match client {
        _ if over => Reason::DeadlineExceeded,
        true => Reason::BodyTimeout,
        false => Reason::UpstreamTimeout,
    };
    at(Step::Dispatch)(Reply::new(reason).detail(format!("no response after {limit:?}")))
}

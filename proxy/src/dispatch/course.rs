//! The course of a request that has several endpoints, or may be tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use foregate_policy::route::Retry;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::time::sleep;

use crate::clock;
use crate::dispatch::circuit::Outcome;
use crate::dispatch::connect::{self, ConnectError};
use crate::dispatch::endpoint::Endpoint;
use crate::dispatch::outgoing::Outgoing;
use crate::dispatch::pool::{self, Lease};
use crate::dispatch::upstream::{UpstreamState, Want};
use crate::dispatch::{Answer, Call, DispatchError, exchange, unwanted};
use crate::proxy_protocol::header::Ends;
use crate::telemetry::random;
use crate::telemetry::traces::attempts::AttemptLog;
use crate::timer::within;

/// Endpoints tried for one request where none can be connected to.
const CONNECT_ATTEMPTS: usize = 3;

/// Further attempts where the route says nothing: for connections that fail or break off.
const ATTEMPTS: u8 = 1;

/// Time without an answer after which an endpoint is to blame whatever its caller wanted.
const PATIENCE: Duration = Duration::from_secs(1);

/// `grpc-status` of a server that is not available.
const UNAVAILABLE: &[u8] = b"14";

/// What a request may do when it fails, and where it wants to go.
#[derive(Clone, Copy, Debug)]
pub struct Course<'a> {
    /// Of the route; where absent, connections that fail or break off are tried once more.
    pub retry: Option<&'a Retry>,
    /// Time for each attempt.
    pub limit: Option<Duration>,
    /// Time for all of them.
    pub total: Option<Duration>,
    /// That is the time that the caller gave: where it is short, the endpoint is not to blame.
    pub of_caller: bool,
    /// Equal keys go to the same endpoint.
    pub key: Option<u64>,
    /// Counts how often it was tried, for whoever is told of it.
    pub tries: Option<&'a AtomicU32>,
}

/// An attempt that brought no response.
enum Failed {
    /// Not a byte of the request was sent.
    Unsent(Outgoing, DispatchError),
    /// The same, because a connection that had been idle was at its end: the endpoint is not to blame.
    Closed(Outgoing),
    /// Such a connection ended under the request.
    Stale(DispatchError),
    /// The endpoint did not answer in time, or broke off without a byte of answer.
    Broke(DispatchError),
    /// It began to answer, with what is no HTTP.
    Began(DispatchError),
    /// The request is to blame, or its client.
    Client(DispatchError),
}

/// One request under way.
struct Attempts<'a> {
    upstream: &'a Arc<UpstreamState>,
    course: Course<'a>,
    /// It is idempotent, and its body can be repeated.
    safe: bool,
    /// Pools of endpoints that it was sent to.
    tried: SmallVec<[u64; 4]>,
    retries: u8,
    connects: usize,
    pause: Duration,
    /// When the time for all attempts is over; monotonic.
    end: Option<Duration>,
    /// For upstreams that want to know whose connection it is.
    ends: Option<Ends>,
    /// See [`Call::reached`].
    reached: Option<&'a AtomicBool>,
    /// See [`Call::attempts`].
    log: Option<&'a AttemptLog>,
}

/// Sends the request until there is an answer to give, or nothing is left to try.
pub async fn send(
    upstream: &Arc<UpstreamState>,
    mut request: Outgoing,
    course: Course<'_>,
    call: Call<'_>,
) -> Result<Box<Answer>, DispatchError> {
    let mut now = call.now;
    upstream.roster.budget.request(&upstream.spec.balancing.budget, now);
    let mut attempts = Attempts::new(upstream, course, request.may_repeat(), now);
    attempts.ends = request.head.extensions.get().copied();
    (attempts.reached, attempts.log) = (call.reached, call.attempts);
    let mut again: Option<Arc<Endpoint>> = None;
    let mut last = DispatchError::NoEndpoint;
    loop {
        let fresh = again.is_some();
        let (endpoint, trial) = match again.take() {
            Some(endpoint) => (endpoint, false),
            None => match attempts.pick(now) {
                Some(picked) => picked,
                None => return Err(last),
            },
        };
        let copy = if attempts.safe { request.repeatable() } else { None };
        if let Some(log) = attempts.log {
            log.begin(&mut request.head.headers, endpoint.address(), now);
        }
        let outcome = attempts.one(&endpoint, request, fresh, now).await;
        attempts.count(&outcome);
        match outcome {
            Ok(answer) => {
                let over = attempts.over(clock::monotonic());
                let wanted = copy.filter(|_| !over && attempts.retries_answer(&answer));
                let Some(copy) = wanted.filter(|_| attempts.grant(trial)) else { return Ok(answer) };
                unwanted::release(answer);
                request = copy;
            }
            Err(Failed::Client(error) | Failed::Began(error)) => return Err(error),
            Err(Failed::Closed(unsent)) => {
                (request, again) = (unsent, Some(endpoint));
                now = clock::monotonic();
                continue;
            }
            Err(Failed::Unsent(unsent, error)) => {
                attempts.connects -= 1;
                if attempts.connects == 0 || attempts.over(clock::monotonic()) {
                    return Err(error);
                }
                (request, last) = (unsent, error);
                now = clock::monotonic();
                continue;
            }
            Err(Failed::Stale(error)) => {
                let Some(copy) = copy else { return Err(error) };
                (request, again) = (copy, Some(endpoint));
                now = clock::monotonic();
                continue;
            }
            Err(Failed::Broke(error)) => {
                let over = attempts.over(clock::monotonic());
                let Some(copy) = copy.filter(|_| !over && attempts.grant(trial)) else { return Err(error) };
                (request, last) = (copy, error);
            }
        }
        attempts.wait().await;
        now = clock::monotonic();
    }
}

impl<'a> Attempts<'a> {
    fn new(upstream: &'a Arc<UpstreamState>, course: Course<'a>, safe: bool, now: Duration) -> Self {
        Self {
            upstream,
            course,
            safe,
            tried: SmallVec::new(),
            retries: course.retry.map_or(ATTEMPTS, |retry| retry.attempts),
            connects: CONNECT_ATTEMPTS,
            pause: course.retry.map_or(Duration::ZERO, |retry| retry.backoff),
            end: course.total.map(|total| now.saturating_add(total)),
            ends: None,
            reached: None,
            log: None,
        }
    }

    /// Counts and notes what an endpoint was asked, or could not be.
    fn count(&self, outcome: &Result<Box<Answer>, Failed>) {
        if let (Some(tries), false) = (self.course.tries, matches!(outcome, Err(Failed::Closed(_)))) {
            tries.fetch_add(1, Ordering::Relaxed);
        }
        let Some(log) = self.log else { return };
        match outcome {
            Ok(answer) => log.end(answer.response.status().as_u16(), None, clock::monotonic()),
            Err(Failed::Closed(_)) => log.forget(),
            Err(
                Failed::Unsent(_, error)
                | Failed::Stale(error)
                | Failed::Broke(error)
                | Failed::Began(error)
                | Failed::Client(error),
            ) => log.end(0, Some(error.reason()), clock::monotonic()),
        }
    }

    /// The next endpoint, and whether this request tries it again after an ejection.
    fn pick(&mut self, now: Duration) -> Option<(Arc<Endpoint>, bool)> {
        let safe = self.safe && self.retries > 0;
        let want = Want { key: self.course.key, safe, tried: &self.tried, now };
        let picked = self.upstream.pick(&want)?;
        self.tried.push(picked.endpoint.pool);
        Some((picked.endpoint, picked.trial))
    }

    /// True where the route wants another answer than this one.
    fn retries_answer(&self, answer: &Answer) -> bool {
        let status = answer.response.status();
        let wanted = self.course.retry.is_some_and(|retry| retry.codes.contains(&status.as_u16()));
        // Who asks this client to wait is not asked again at once.
        let waits =
            status == StatusCode::TOO_MANY_REQUESTS && answer.response.headers().contains_key(RETRY_AFTER);
        wanted && !waits && self.retries > 0
    }

    /// Takes one retry, where one is left to this request and to the upstream. A trial that failed is made good
    /// whatever the others have used.
    fn grant(&mut self, trial: bool) -> bool {
        let roster = &self.upstream.roster;
        let Some(left) = self.retries.checked_sub(1) else { return false };
        if !trial && !roster.budget.retry(&self.upstream.spec.balancing.budget, clock::monotonic()) {
            roster.tallies.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        roster.tallies.retries.fetch_add(1, Ordering::Relaxed);
        self.retries = left;
        true
    }

    /// Waits before a retry, half of it by chance, so that many do not come back at once.
    async fn wait(&mut self) {
        if self.pause.is_zero() {
            return;
        }
        let random = f64::from(u16::try_from(random::next() >> 48).unwrap_or(0)) / f64::from(u16::MAX);
        let pause = self.pause.mul_f64(0.5 + random / 2.0);
        sleep(self.left_of_all(clock::monotonic()).map_or(pause, |left| pause.min(left))).await;
        self.pause = self.pause.saturating_mul(2);
    }

    /// One attempt, on a pooled connection or a new one; notes what it says about the endpoint.
    async fn one(
        &self,
        endpoint: &Arc<Endpoint>,
        request: Outgoing,
        fresh: bool,
        started: Duration,
    ) -> Result<Box<Answer>, Failed> {
        let upstream = self.upstream;
        let outcome = self.attempt(endpoint, request, fresh, started).await;
        let verdict = match &outcome {
            Ok(answer) => outcome_of(&answer.response),
            Err(Failed::Unsent(..) | Failed::Broke(_) | Failed::Began(_)) => Outcome::Failure,
            Err(Failed::Closed(_) | Failed::Stale(_) | Failed::Client(_)) => return outcome,
        };
        // A state with one endpoint has nothing to choose, and learns nothing.
        if upstream.is_balanced() {
            let now = clock::monotonic();
            upstream.judge(endpoint, verdict, now.saturating_sub(started), now);
        }
        outcome
    }

    async fn attempt(
        &self,
        endpoint: &Arc<Endpoint>,
        request: Outgoing,
        fresh: bool,
        started: Duration,
    ) -> Result<Box<Answer>, Failed> {
        let (upstream, address) = (self.upstream, endpoint.address());
        let pooled = if fresh { None } else { pool::take(upstream, endpoint, started) };
        let (sender, idle) = match pooled {
            Some((sender, _)) => (sender, true),
            None => match self.connect(endpoint).await {
                Ok(sender) => (sender, false),
                Err(source) => {
                    let error = DispatchError::Connect { endpoint: address, source };
                    return Err(Failed::Unsent(request, error));
                }
            },
        };
        let progress = request.body.progress();
        let lease =
            Lease::new(Arc::clone(upstream), Arc::clone(endpoint), sender, progress.clone()).counted();
        let exchanging = exchange(lease, address, request, self.reached);
        let outcome = match self.until(started) {
            None => Some(exchanging.await),
            Some(end) => within(end, exchanging).await,
        };
        let Some(outcome) = outcome else {
            let limit = clock::monotonic().saturating_sub(started);
            let late = DispatchError::Late { endpoint: address, limit };
            // A client that still sends its body is to blame itself.
            let hasty = self.course.of_caller && limit < PATIENCE;
            let client = hasty || progress.is_some_and(|progress| !progress.done());
            return Err(if client { Failed::Client(late) } else { Failed::Broke(late) });
        };
        outcome.map_err(|mut failure| {
            let (unsent, answered, user) = (failure.unsent.take(), failure.answered, failure.client);
            let error = failure.told(address);
            match unsent {
                Some(unsent) if idle => Failed::Closed(unsent),
                Some(unsent) => Failed::Unsent(unsent, error),
                None if user => Failed::Client(error),
                None if answered => Failed::Began(error),
                None if idle => Failed::Stale(error),
                None => Failed::Broke(error),
            }
        })
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<pool::Sender, ConnectError> {
        // Boxed: handshakes are large and rare.
        let connecting = Box::pin(connect::connect(self.upstream, endpoint, self.ends));
        let sender = match self.until(clock::monotonic()) {
            Some(end) => within(end, connecting).await.unwrap_or(Err(ConnectError::Timeout))?,
            None => connecting.await?,
        };
        pool::share(self.upstream, endpoint, &sender);
        Ok(sender)
    }

    /// When an attempt that began then has to end.
    fn until(&self, started: Duration) -> Option<Duration> {
        let one = self.course.limit.map(|limit| started.saturating_add(limit));
        [one, self.end].into_iter().flatten().min()
    }

    fn left_of_all(&self, now: Duration) -> Option<Duration> {
        self.end.map(|end| end.saturating_sub(now))
    }

    fn over(&self, now: Duration) -> bool {
        self.end.is_some_and(|end| end <= now)
    }
}

/// What a response says about the endpoint that sent it.
fn outcome_of(response: &Response<Incoming>) -> Outcome {
    let (status, headers) = (response.status(), response.headers());
    if status == StatusCode::SERVICE_UNAVAILABLE
        && let Some(rest) = headers.get(RETRY_AFTER).and_then(retry_after)
        && !rest.is_zero()
    {
        return Outcome::Rest(rest);
    }
    if status.is_server_error() || unavailable(headers) { Outcome::Error } else { Outcome::Good }
}

/// True for a gRPC response without messages that says UNAVAILABLE.
fn unavailable(headers: &HeaderMap) -> bool {
    headers.get("grpc-status").is_some_and(|status| status.as_bytes() == UNAVAILABLE)
        && headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Seconds, or a date (RFC 9110, section 10.2.3); zero for one of the past.
pub(crate) fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let unix = date.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
    Some(unix.saturating_sub(clock::now().unix))
}

#[cfg(test)]
mod tests {
    use super::{retry_after, unavailable};
    use crate::clock;
    use http::{HeaderMap, HeaderValue};
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_time_to_wait_is_seconds_or_a_date() {
        let read = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("90"), Some(Duration::from_secs(90)));
        assert_eq!(read("soon"), None);
        assert_eq!(read("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        let date =
            httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + clock::now().unix + Duration::from_mins(1));
        let wait = read(&date).unwrap();
        assert!((Duration::from_secs(55)..=Duration::from_secs(61)).contains(&wait), "{wait:?}");
    }

    #[test]
    fn only_grpc_says_unavailable_in_a_header() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        assert!(!unavailable(&headers));
        headers.insert("content-type", HeaderValue::from_static("application/grpc+proto"));
        assert!(unavailable(&headers));
        headers.insert("grpc-status", HeaderValue::from_static("5"));
        assert!(!unavailable(&headers));
    }
}

//! Attempts to have an answer, each a client span of a sampled trace.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_filters::reason::Reason;
use http::HeaderMap;

use crate::rare::TRACEPARENT;
use crate::telemetry::random;
use crate::telemetry::trace_context::TraceContext;

/// Most attempts that are told of one request.
const MAX_ATTEMPTS: usize = 16;

/// One attempt to have an answer of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its span, which the upstream was told as its parent.
    pub span: u64,
    pub endpoint: SocketAddr,
    /// Monotonic.
    pub began: Duration,
    /// Until the head of the response, or until it failed; `None` where it was given up.
    pub took: Option<Duration>,
    /// 0 where there was no response.
    pub status: u16,
    /// Why there was none, where that is known.
    pub fault: Option<Reason>,
}

/// Attempts as they are made: one after the other, by one request.
#[derive(Debug)]
pub struct AttemptLog {
    trace: TraceContext,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    attempts: Vec<Attempt>,
    /// The last of them is under way.
    open: bool,
}

impl AttemptLog {
    pub fn new(trace: &TraceContext) -> Self {
        Self { trace: trace.clone(), noted: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one more, and names its span to the upstream as parent. Where there is no room for more, that is the
    /// server's span.
    pub fn begin(&self, headers: &mut HeaderMap, endpoint: SocketAddr, now: Duration) {
        let mut noted = self.lock();
        noted.open = noted.attempts.len() < MAX_ATTEMPTS;
        let span = if noted.open { random::next().max(1) } else { self.trace.span };
        headers.insert(TRACEPARENT, self.trace.header_value_below(span));
        if noted.open {
            noted.attempts.push(Attempt { span, endpoint, began: now, took: None, status: 0, fault: None });
        }
    }

    /// The attempt under way has come to its end; where none is, nothing.
    pub fn end(&self, status: u16, fault: Option<Reason>, now: Duration) {
        let mut noted = self.lock();
        if std::mem::take(&mut noted.open)
            && let Some(attempt) = noted.attempts.last_mut()
        {
            attempt.took = Some(now.saturating_sub(attempt.began));
            (attempt.status, attempt.fault) = (status, fault);
        }
    }

    /// Nothing was sent in the attempt under way, and no endpoint is to blame.
    pub fn forget(&self) {
        let mut noted = self.lock();
        if std::mem::take(&mut noted.open) {
            noted.attempts.pop();
        }
    }

    /// Takes all of them out.
    pub fn take(&self) -> Vec<Attempt> {
        let mut noted = self.lock();
        noted.open = false;
        std::mem::take(&mut noted.attempts)
    }
}

#[cfg(test)]
mod tests {
    use super::{AttemptLog, MAX_ATTEMPTS};
    use crate::rare::TRACEPARENT;
    use crate::telemetry::trace_context::TraceContext;
    use foregate_filters::reason::Reason;
    use http::HeaderMap;
    use std::time::Duration;

    const AT: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn each_attempt_has_a_span_that_the_upstream_is_told() {
        let trace = TraceContext { trace: 7, parent: None, span: 9, flags: 1, state: None };
        let (log, mut headers) = (AttemptLog::new(&trace), HeaderMap::new());
        let endpoint = ([10, 0, 0, 1], 8_080).into();
        log.begin(&mut headers, endpoint, AT(1));
        log.forget();
        log.begin(&mut headers, endpoint, AT(2));
        log.end(0, Some(Reason::UpstreamReset), AT(5));
        log.end(200, None, AT(6));
        log.begin(&mut headers, endpoint, AT(7));
        let told = headers.get(TRACEPARENT).unwrap().clone();
        let attempts = log.take();
        assert_eq!(attempts.len(), 2, "what was forgotten is none");
        assert_eq!((attempts[0].took, attempts[0].fault), (Some(AT(3)), Some(Reason::UpstreamReset)));
        assert_eq!((attempts[1].took, attempts[1].status), (None, 0), "it was given up");
        assert_eq!(told, format!("00-{:032x}-{:016x}-01", 7, attempts[1].span));
        assert!(attempts[0].span != attempts[1].span && log.take().is_empty());
    }

    #[test]
    fn attempts_beyond_the_bound_are_below_the_server() {
        let trace = TraceContext { trace: 7, parent: None, span: 9, flags: 1, state: None };
        let (log, mut headers) = (AttemptLog::new(&trace), HeaderMap::new());
        for _ in 0..MAX_ATTEMPTS + 3 {
            log.begin(&mut headers, ([10, 0, 0, 1], 8_080).into(), AT(1));
            log.end(503, None, AT(2));
        }
        assert_eq!(headers.get(TRACEPARENT).unwrap(), &trace.header_value());
        assert_eq!(log.take().len(), MAX_ATTEMPTS);
    }
}

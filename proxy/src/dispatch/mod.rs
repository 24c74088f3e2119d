//! Sends a request to one endpoint of an upstream and brings back its answer.

pub mod affinity;
pub mod alt_names;
pub mod budget;
pub mod circuit;
pub mod connect;
pub mod course;
pub mod driven;
pub mod endpoint;
pub mod ewma;
pub mod maglev;
pub mod outgoing;
pub mod pool;
pub mod roster;
pub mod table;
pub mod tally;
#[cfg(test)]
pub mod tests;
pub mod tls;
pub mod unwanted;
pub mod upstream;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foregate_filters::reason::Reason;
use http::{Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;

use crate::clock;
use crate::dispatch::connect::ConnectError;
use crate::dispatch::course::Course;
use crate::dispatch::endpoint::Endpoint;
use crate::dispatch::outgoing::Outgoing;
use crate::dispatch::pool::Lease;
use crate::dispatch::upstream::UpstreamState;
use crate::progress::Progress;
use crate::proxy_protocol::header::Ends;
use crate::telemetry::traces::attempts::AttemptLog;

/// A pooled connection idle for longer may meet its peer's close: such a request keeps a copy of its head.
/// Under load, connections are taken again sooner, and no request pays for a copy.
const LIKELY_STALE: Duration = Duration::from_millis(1);

/// Bytes of a request body that are with the upstream, or as good as there, when it answers.
const AT_ONCE: u64 = 64 << 10;

/// What the upstream said, and the connection it said it on.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<Incoming>,
    pub lease: Lease,
    pub endpoint: SocketAddr,
}

impl Answer {
    /// True where the upstream says that it has too much to do.
    pub fn is_unavailable(&self) -> bool {
        self.response.status() == StatusCode::SERVICE_UNAVAILABLE
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    #[error("no endpoint has an address yet")]
    NoEndpoint,
    #[error("{endpoint}: {source}")]
    Connect { endpoint: SocketAddr, source: ConnectError },
    #[error("{endpoint}: no response after {limit:?}")]
    Late { endpoint: SocketAddr, limit: Duration },
    #[error("{endpoint}: {source}")]
    Exchange { endpoint: SocketAddr, source: hyper::Error },
    /// The client broke its body off, or sent what is no body.
    #[error("{endpoint}: the body of the client is broken: {source}")]
    Body { endpoint: SocketAddr, source: hyper::Error },
}

impl DispatchError {
    /// What the caller is told.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoEndpoint | Self::Connect { source: ConnectError::Tcp(_) | ConnectError::Timeout, .. } => {
                Reason::UpstreamUnreachable
            }
            Self::Late { .. } => Reason::UpstreamTimeout,
            Self::Connect { source: ConnectError::Tls(_) | ConnectError::Name(_), .. } => {
                Reason::UpstreamUntrusted
            }
            Self::Connect { source: ConnectError::Loop(_), .. } => Reason::LoopDetected,
            // The upstream is not to blame.
            Self::Body { .. } => Reason::BodyMalformed,
            Self::Exchange { source, .. } if !source.is_parse() => Reason::UpstreamReset,
            Self::Connect { source: ConnectError::Http(_), .. } | Self::Exchange { .. } => {
                Reason::UpstreamMalformed
            }
        }
    }

    /// True where the client is to blame.
    pub const fn is_of_client(&self) -> bool {
        matches!(self, Self::Body { .. })
    }

    /// The endpoint at fault, where one was chosen.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        match self {
            Self::NoEndpoint => None,
            Self::Connect { endpoint, .. }
            | Self::Late { endpoint, .. }
            | Self::Body { endpoint, .. }
            | Self::Exchange { endpoint, .. } => Some(*endpoint),
        }
    }
}

/// How a request is sent.
#[derive(Debug)]
pub struct Call<'a> {
    /// The monotonic time at which it is first sent.
    pub now: Duration,
    /// Set where it may be tried more than once, or has a choice of endpoints.
    pub course: Option<Course<'a>>,
    /// Turns true when something of the request may have gone out, for whoever must know.
    pub reached: Option<&'a AtomicBool>,
    /// Where the client's connection meant to go, where it was redirected.
    pub meant: Option<SocketAddr>,
    /// Notes each attempt, where the trace is sampled. The end of the last one is noted by whoever called.
    pub attempts: Option<&'a AttemptLog>,
}

/// Sends the request and waits for the response head.
///
/// A request that never left goes to a new connection. One that met a pooled connection's end without a
/// byte of answer is sent once more, where its method is idempotent (RFC 9110, section 9.2.2) and its
/// body can be repeated.
///
/// # Errors
/// See [`DispatchError::reason`].
pub async fn send(
    upstream: &Arc<UpstreamState>,
    mut request: Outgoing,
    call: Call<'_>,
) -> Result<Box<Answer>, DispatchError> {
    if let Some(course) = call.course {
        // Boxed: it is large, and requests to a single endpoint need none of it.
        return Box::pin(course::send(upstream, request, course, call)).await;
    }
    let endpoint = match upstream.spec.captured {
        None => upstream.only(),
        Some(_) => upstream.meant(call.meant),
    };
    let endpoint = endpoint.ok_or(DispatchError::NoEndpoint)?;
    let address = endpoint.address();
    if let Some(attempts) = call.attempts {
        attempts.begin(&mut request.head.headers, address, call.now);
    }
    if let Some((sender, idle)) = pool::take(upstream, &endpoint, call.now) {
        let copy = if idle >= LIKELY_STALE { request.repeatable() } else { None };
        let lease = Lease::new(Arc::clone(upstream), Arc::clone(&endpoint), sender, request.body.progress());
        match exchange(lease, address, request, call.reached).await {
            Ok(answer) => return Ok(answer),
            // The attempt goes on: nothing of it was sent.
            Err(Failure { unsent: Some(unsent), .. }) => request = unsent,
            Err(failure) => match copy.filter(|_| !failure.answered) {
                Some(copy) => {
                    request = copy;
                    if let Some(attempts) = call.attempts {
                        let now = clock::monotonic();
                        attempts.end(0, Some(failure.told(address).reason()), now);
                        attempts.begin(&mut request.head.headers, address, now);
                    }
                }
                None => return Err(failure.told(address)),
            },
        }
    }
    // Boxed: the handshakes of TLS and HTTP are large and rare, and every request would carry their room.
    Box::pin(send_anew(upstream, endpoint, request, call.reached)).await
}

/// Sends the request on a new connection.
async fn send_anew(
    upstream: &Arc<UpstreamState>,
    endpoint: Arc<Endpoint>,
    request: Outgoing,
    reached: Option<&AtomicBool>,
) -> Result<Box<Answer>, DispatchError> {
    let address = endpoint.address();
    let ends = request.head.extensions.get::<Ends>().copied();
    let sender = connect::connect(upstream, &endpoint, ends)
        .await
        .map_err(|source| DispatchError::Connect { endpoint: address, source })?;
    pool::share(upstream, &endpoint, &sender);
    let lease = Lease::new(Arc::clone(upstream), endpoint, sender, request.body.progress());
    exchange(lease, address, request, reached).await.map_err(|failure| failure.told(address))
}

struct Failure {
    error: hyper::Error,
    /// The request, where not a byte of it was sent.
    unsent: Option<Outgoing>,
    /// True where the upstream had begun to answer.
    answered: bool,
    /// The client's body broke: an HTTP/2 connection tells of it as of any other reset.
    client: bool,
}

impl Failure {
    fn told(self, endpoint: SocketAddr) -> DispatchError {
        if self.client {
            DispatchError::Body { endpoint, source: self.error }
        } else {
            DispatchError::Exchange { endpoint, source: self.error }
        }
    }
}

/// Sends the request on a connection; one on which it failed is of no more use.
fn exchange(
    mut lease: Lease,
    endpoint: SocketAddr,
    request: Outgoing,
    reached: Option<&AtomicBool>,
) -> impl Future<Output = Result<Box<Answer>, Failure>> {
    let progress = request.body.progress();
    let large = request.body.size_hint().lower() > AT_ONCE;
    let before = reached.is_some_and(|reached| reached.swap(true, Ordering::Relaxed));
    let sent = lease.send(request.into());
    async move {
        let mut sent = pin!(sent);
        match poll_fn(|cx| lease.poll(cx, |cx| sent.as_mut().poll(cx))).await {
            Ok(response) => {
                // What still goes up must not wait for a client to take what comes down; a tunnel is neither.
                let unsent = |it: Arc<Progress>| !it.done() || it.bytes() > AT_ONCE;
                if large
                    || progress.is_some_and(unsent)
                    || response.status() == StatusCode::SWITCHING_PROTOCOLS
                {
                    lease.part();
                }
                Ok(Box::new(Answer { response, lease, endpoint }))
            }
            Err(mut failed) => {
                lease.abandon();
                let unsent = failed.take_message().map(Outgoing::from);
                if let (Some(reached), Some(_)) = (reached, &unsent) {
                    reached.store(before, Ordering::Relaxed);
                }
                let error = failed.into_error();
                let client = error.is_user() || progress.is_some_and(|progress| progress.broken());
                let answered = error.is_parse() || client;
                Err(Failure { error, unsent, answered, client })
            }
        }
    }
}

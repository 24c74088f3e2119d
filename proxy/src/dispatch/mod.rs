//! Sends a request to one endpoint of an upstream and brings back its answer.

pub mod connect;
pub mod pool;
pub mod tls;
pub mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::reason::Reason;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use crate::body::RequestBody;
use crate::dispatch::connect::ConnectError;
use crate::dispatch::pool::{Lease, Sender};
use crate::dispatch::upstream::UpstreamState;
use crate::proxy_protocol::header::Ends;

/// A pooled connection idle for longer may meet its peer's close: such a request keeps a copy of its head.
/// Under load, connections are taken again sooner, and no request pays for a copy.
const LIKELY_STALE: Duration = Duration::from_millis(1);

/// Endpoints tried for one request where none can be connected to.
const CONNECT_ATTEMPTS: usize = 3;

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
    #[error("{endpoint}: {source}")]
    Exchange { endpoint: SocketAddr, source: hyper::Error },
}

impl DispatchError {
    /// What the caller is told.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoEndpoint | Self::Connect { source: ConnectError::Tcp(_) | ConnectError::Timeout, .. } => {
                Reason::UpstreamUnreachable
            }
            Self::Connect { source: ConnectError::Tls(_) | ConnectError::Name(_), .. } => {
                Reason::UpstreamUntrusted
            }
            // The body that the client sends: where it breaks, the upstream is not to blame.
            Self::Exchange { source, .. } if source.is_user() => Reason::BodyMalformed,
            Self::Connect { source: ConnectError::Http(_), .. } | Self::Exchange { .. } => {
                Reason::UpstreamMalformed
            }
        }
    }

    /// The endpoint at fault, where one was chosen.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        match self {
            Self::NoEndpoint => None,
            Self::Connect { endpoint, .. } | Self::Exchange { endpoint, .. } => Some(*endpoint),
        }
    }
}

/// Sends the request and waits for the response head.
///
/// A request that never left goes to a new connection. One that met a pooled connection's end without a
/// byte of answer is sent once more, where its method is idempotent (RFC 9110, section 9.2.2) and its
/// body can be repeated. `now` is the monotonic time.
///
/// # Errors
/// See [`DispatchError::reason`].
pub async fn send(
    upstream: &Arc<UpstreamState>,
    head: Parts,
    body: RequestBody,
    now: Duration,
) -> Result<Answer, DispatchError> {
    let mut request = Request::from_parts(head, body);
    if let Some((sender, endpoint, idle)) = pool::take(upstream, now) {
        let copy = if idle >= LIKELY_STALE { repeatable(&request) } else { None };
        let mut lease = Lease::new(Arc::clone(upstream), endpoint, sender, request.body().progress());
        let outcome = lease.send(request).await;
        match answered(lease, endpoint, outcome) {
            Ok(answer) => return Ok(answer),
            Err(Failure { unsent: Some(unsent), .. }) => request = *unsent,
            Err(Failure { error, answered: false, .. }) => match copy {
                Some(copy) => request = copy,
                None => return Err(DispatchError::Exchange { endpoint, source: error }),
            },
            Err(Failure { error, .. }) => return Err(DispatchError::Exchange { endpoint, source: error }),
        }
    }
    // Boxed: the handshakes of TLS and HTTP are large and rare, and every request would carry their room.
    Box::pin(send_anew(upstream, request)).await
}

/// Sends the request on a new connection.
async fn send_anew(
    upstream: &Arc<UpstreamState>,
    request: Request<RequestBody>,
) -> Result<Answer, DispatchError> {
    let (sender, endpoint) = connect_any(upstream, request.extensions().get::<Ends>().copied()).await?;
    let mut lease = Lease::new(Arc::clone(upstream), endpoint, sender, request.body().progress());
    let outcome = lease.send(request).await;
    answered(lease, endpoint, outcome)
        .map_err(|failure| DispatchError::Exchange { endpoint, source: failure.error })
}

/// A second copy of a request that may be sent twice.
fn repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    );
    if !idempotent {
        return None;
    }
    let body = request.body().replay()?;
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

struct Failure {
    error: hyper::Error,
    /// The request, where not a byte of it was sent.
    unsent: Option<Box<Request<RequestBody>>>,
    /// True where the upstream had begun to answer.
    answered: bool,
}

/// What became of an exchange; a connection on which it failed is of no more use.
fn answered(
    mut lease: Lease,
    endpoint: SocketAddr,
    outcome: Result<Response<Incoming>, TrySendError<Request<RequestBody>>>,
) -> Result<Answer, Failure> {
    match outcome {
        Ok(response) => Ok(Answer { response, lease, endpoint }),
        Err(mut failed) => {
            lease.abandon();
            let unsent = failed.take_message().map(Box::new);
            let error = failed.into_error();
            let answered = error.is_parse() || error.is_user();
            Err(Failure { error, unsent, answered })
        }
    }
}

/// Connects to the next endpoint; where that fails, to those after it.
async fn connect_any(
    upstream: &Arc<UpstreamState>,
    ends: Option<Ends>,
) -> Result<(Sender, SocketAddr), DispatchError> {
    let endpoints = upstream.endpoints();
    let mut last = DispatchError::NoEndpoint;
    for endpoint in endpoints.in_turn(upstream.turn()).take(CONNECT_ATTEMPTS) {
        match connect::connect(upstream, endpoint, ends).await {
            Ok(sender) => return Ok((sender, endpoint.address)),
            Err(source) => last = DispatchError::Connect { endpoint: endpoint.address, source },
        }
    }
    Err(last)
}

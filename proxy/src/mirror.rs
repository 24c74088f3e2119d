//! Copies of requests for a second upstream, whose answers nobody waits for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foregate_policy::route::{Forward, Mirror, Route};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request};
use http_body::{Body, Frame};
use tokio::time::timeout;

use crate::body::{BodyError, RequestBody};
use crate::dispatch::Answer;
use crate::dispatch::outgoing::Outgoing;
use crate::dispatch::upstream::UpstreamState;
use crate::gateway;
use crate::head::HopByHop;
use crate::life::Life;
use crate::places::{Place, Places};
use crate::shape::{self, Wire};
use crate::telemetry::Telemetry;
use crate::telemetry::random;

/// Copies under way at once in the whole process; requests beyond are not copied.
const MAX_IN_FLIGHT: usize = 256;

/// Most of a body that is kept for a copy, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Longest time for one copy, its answer included.
const MAX_TIME: Duration = Duration::from_secs(30);

/// Most that is read of an answer before its connection is given up.
const MAX_ANSWER: usize = 1 << 20;

static IN_FLIGHT: Places = Places::new(MAX_IN_FLIGHT);

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, whatever the answer was.
    Answered,
    /// It could not be sent, or was not answered in time.
    Failed,
    /// Too many are under way.
    Busy,
    /// The body is larger than what is kept of it.
    TooLarge,
    /// The request itself broke off.
    BrokenOff,
}

impl Outcome {
    /// The value of the label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::TooLarge => "too_large",
            Self::BrokenOff => "broken_off",
        }
    }
}

/// A request that is to be sent once more.
#[derive(Debug)]
struct Copied {
    upstream: Arc<UpstreamState>,
    head: Box<Parts>,
    telemetry: Arc<Telemetry>,
    _permit: Place,
}

/// The copies of one request, until its body is known.
#[derive(Debug, Default)]
pub struct Copies(Vec<Copied>);

/// Makes the copies that the shares of the route ask for, shaped for their upstreams. Upgrades are not copied.
pub fn copies(life: &Life, head: &Parts, route: &Route, forward: &Forward, hop: &HopByHop) -> Copies {
    if hop.upgrade.is_some() {
        return Copies::default();
    }
    #[expect(clippy::cast_possible_truncation, reason = "any 32 of the random bits will do")]
    let taken = forward.mirrors.iter().filter(|mirror| mirror.share.takes(random::next() as u32));
    Copies(taken.filter_map(|mirror| copy(life, head, route, forward, mirror, hop)).collect())
}

fn copy(
    life: &Life,
    head: &Parts,
    route: &Route,
    forward: &Forward,
    mirror: &Mirror,
    hop: &HopByHop,
) -> Option<Copied> {
    let upstream = life.live.upstreams.get(mirror.backend.upstream).map(Arc::clone)?;
    let telemetry = &life.connection.gateway.telemetry;
    let count = |outcome| telemetry.metrics().mirrored(&upstream.spec.name, outcome);
    // Without what the document asks for nothing is sent, least of all what the client showed.
    if upstream.spec.credentials.is_some() && upstream.credential.is_none() {
        count(Outcome::Failed);
        return None;
    }
    let Some(permit) = IN_FLIGHT.take() else {
        count(Outcome::Busy);
        return None;
    };
    let shown = upstream.credential.as_ref().map(|credential| {
        (credential.header.clone(), credential.at_once(life.moment().monotonic).map(|shown| shown.value))
    });
    let carried: Option<(&HeaderName, &HeaderValue)> = match &shown {
        None => None,
        Some((name, Some(value))) => Some((name, value)),
        Some((_, None)) => {
            // The next copies find it: a request waits for none.
            if let Some(credential) = upstream.credential.clone() {
                tokio::spawn(async move {
                    let _ = credential.wait().await;
                    drop(permit);
                });
            }
            count(Outcome::Failed);
            return None;
        }
    };
    let (mut copied, ()) = Request::new(()).into_parts();
    copied.method = head.method.clone();
    copied.uri = head.uri.clone();
    copied.version = head.version;
    copied.headers = head.headers.clone();
    let wire = Wire { http2: upstream.is_http2(), tls: upstream.tls.is_some(), trailers: hop.trailers };
    let shaped = shape::request(&mut copied, life, route, &forward.rewrite, &mirror.backend, carried, wire);
    if shaped.is_err() {
        count(Outcome::Failed);
        return None;
    }
    Some(Copied { upstream, head: Box::new(copied), telemetry: Arc::clone(telemetry), _permit: permit })
}

impl Copies {
    /// Sends the copies, at once where the body is there already, else when it has passed; gives the body on.
    pub fn send_with(mut self, body: RequestBody) -> RequestBody {
        if self.0.is_empty() {
            return body;
        }
        if body.size_hint().lower() > MAX_BODY as u64 {
            self.give_up(Outcome::TooLarge);
            return body;
        }
        match body {
            RequestBody::Empty => self.send(None),
            RequestBody::Full(ref bytes) => self.send(bytes.as_ref()),
            RequestBody::Stream(..) | RequestBody::Tee(_) => {
                return RequestBody::Tee(Box::new(Tee { inner: body, kept: BytesMut::new(), copies: self }));
            }
        }
        body
    }

    fn send(self, body: Option<&Bytes>) {
        for copy in self.0 {
            tokio::spawn(copy.send(body.cloned()));
        }
    }

    fn give_up(&mut self, outcome: Outcome) {
        for copy in self.0.drain(..) {
            copy.count(outcome);
        }
    }
}

impl Copied {
    fn count(&self, outcome: Outcome) {
        self.telemetry.metrics().mirrored(&self.upstream.spec.name, outcome);
    }

    async fn send(mut self, body: Option<Bytes>) {
        let body = body.unwrap_or_default();
        if !body.is_empty() {
            shape::content_length(&mut self.head.headers, body.len());
        }
        let head = std::mem::replace(&mut self.head, Box::new(Request::new(()).into_parts().0));
        let request = Outgoing { head, body: RequestBody::from(body) };
        let exchange = async {
            match gateway::send_copy(&self.upstream, request).await {
                Ok(answer) => {
                    forget(answer).await;
                    Outcome::Answered
                }
                Err(_) => Outcome::Failed,
            }
        };
        let outcome = timeout(MAX_TIME, exchange).await.unwrap_or(Outcome::Failed);
        self.count(outcome);
    }
}

/// Reads an answer to its end, so that its connection serves again.
async fn forget(answer: Box<Answer>) {
    let Answer { response, mut lease, .. } = *answer;
    let mut body = response.into_body();
    let mut left = MAX_ANSWER;
    loop {
        match lease.frame(&mut body).await {
            None => return lease.complete(),
            Some(Ok(frame)) => match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(less) => left = less,
                None => return lease.abandon(),
            },
            Some(Err(_)) => return lease.abandon(),
        }
    }
}

/// A body that passes by while a bounded copy of it is kept.
#[derive(Debug)]
pub struct Tee {
    pub inner: RequestBody,
    kept: BytesMut,
    copies: Copies,
}

impl Tee {
    /// The next frame of the body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref().filter(|_| !self.copies.0.is_empty()) {
                    if self.kept.len() + data.len() > MAX_BODY {
                        self.copies.give_up(Outcome::TooLarge);
                        self.kept = BytesMut::new();
                    } else {
                        self.kept.extend_from_slice(data);
                    }
                }
                if frame.is_trailers() || self.inner.is_end_stream() {
                    self.whole();
                }
            }
            Some(Err(_)) => self.copies.give_up(Outcome::BrokenOff),
            None => self.whole(),
        }
        Poll::Ready(frame)
    }

    fn whole(&mut self) {
        let body = std::mem::take(&mut self.kept).freeze();
        std::mem::take(&mut self.copies).send(Some(&body));
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.copies.give_up(Outcome::BrokenOff);
    }
}

//! The response body on its way down, and the record that ends with it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use foregate_filters::chain::Refusal;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::dispatch::pool::Lease;
use crate::grpc::{self, Call};
use crate::idempotency::keeping::Keeping;
use crate::life::Life;
use crate::respond::at;
use crate::stall;
use crate::telemetry::record::End;
use crate::timer::Timer;

/// Why a response body broke off; the codec then resets the stream, so that half never looks whole.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the upstream broke off: {0}")]
    Upstream(#[from] hyper::Error),
    #[error("the response was not complete in time")]
    Deadline,
    #[error("nothing of the request body came for too long")]
    BodyTimeout,
    #[error("what is in force no longer allows the request")]
    Revoked,
}

/// Ends with the refusal once the request would no longer be admitted. Begun when the upstream is waited for.
struct Watch(Pin<Box<dyn Future<Output = Refusal> + Send>>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// A response body. The request is recorded when it ends or is dropped.
#[derive(Debug)]
pub struct ResponseBody {
    content: Content,
    /// Taken when the request is recorded.
    life: Option<Box<Life>>,
}

#[derive(Debug)]
enum Content {
    Own(Option<Bytes>),
    Upstream {
        incoming: Incoming,
        lease: Option<Lease>,
        /// What the upstream broke off with: told once the codec had a chance to send what came before.
        broken: Option<hyper::Error>,
        deadline: Option<Timer>,
        watch: Option<Watch>,
        /// Set where repeats of the request get this answer.
        keeping: Option<Box<Keeping>>,
    },
}

impl ResponseBody {
    /// A body of our own.
    pub fn own(bytes: Bytes, life: Box<Life>) -> Self {
        Self { content: Content::Own((!bytes.is_empty()).then_some(bytes)), life: Some(life) }
    }

    /// A body of a request that is recorded already.
    pub fn recorded(bytes: Bytes) -> Self {
        Self { content: Content::Own((!bytes.is_empty()).then_some(bytes)), life: None }
    }

    /// A body that something else records: the tunnel of an upgrade.
    pub fn unrecorded() -> Self {
        Self { content: Content::Own(None), life: None }
    }

    /// The upstream's body; the connection goes back to the pool at its end.
    pub fn upstream(incoming: Incoming, lease: Lease, deadline: Option<Timer>, life: Box<Life>) -> Self {
        let content = Content::Upstream {
            incoming,
            lease: Some(lease),
            broken: None,
            deadline,
            watch: None,
            keeping: None,
        };
        let mut body = Self { content, life: Some(life) };
        if body.is_end_stream() {
            body.release();
        }
        body
    }

    /// The same, kept for repeats of the request.
    #[must_use]
    pub fn kept(mut self, kept: Option<Box<Keeping>>) -> Self {
        if let Content::Upstream { keeping, .. } = &mut self.content {
            *keeping = kept;
        }
        if self.is_end_stream() {
            self.keep();
        }
        self
    }

    /// The whole answer is there: repeats get it from now on.
    fn keep(&mut self) {
        if let Content::Upstream { keeping, .. } = &mut self.content
            && let Some(keeping) = keeping.take()
        {
            keeping.finish();
        }
    }

    /// The upstream has said all: its connection can serve again.
    fn release(&mut self) {
        if let Content::Upstream { lease, .. } = &mut self.content
            && let Some(lease) = lease.take()
        {
            lease.complete();
        }
    }

    /// Ends a call before its upstream does: the caller learns why, for it has trailers for that.
    fn broken_off(&mut self, reason: Reason, end: End) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if let Content::Upstream { lease, keeping, .. } = &mut self.content {
            *keeping = None;
            if let Some(mut lease) = lease.take() {
                lease.abandon();
            }
        }
        if let Some(call) = self.call() {
            call.refused(reason);
        }
        self.finish(end);
        Poll::Ready(Some(Ok(Frame::trailers(grpc::trailers(reason)))))
    }

    /// The upstream has said all, and of a call how it went.
    fn ended(&mut self, trailers: &HeaderMap) {
        if let Some(call) = self.call() {
            call.ended(trailers);
        }
        self.finish(End::Complete);
    }

    fn call(&mut self) -> Option<&mut Call> {
        self.life.as_mut()?.grpc.as_mut()
    }

    fn finish(&mut self, end: End) {
        if let Some(mut life) = self.life.take() {
            life.record(end);
        }
    }
}

/// Keeps a piece of an answer; what broke off or has trailers is not kept.
fn keep(keeping: &mut Option<Box<Keeping>>, frame: &Poll<Option<Result<Frame<Bytes>, AnswerError>>>) {
    let fits = match frame {
        Poll::Pending | Poll::Ready(None) => true,
        Poll::Ready(Some(Err(_))) => false,
        Poll::Ready(Some(Ok(frame))) => {
            let kept = keeping.as_mut().zip(frame.data_ref());
            kept.is_some_and(|(keeping, data)| keeping.push(data))
        }
    };
    if !fits {
        *keeping = None;
    }
}

/// The next piece. Where the upstream broke off, that is told with the next look: the codec has sent by then what came
/// before.
fn passing(
    incoming: &mut Incoming,
    lease: Option<&mut Lease>,
    broken: &mut Option<hyper::Error>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    if let Some(error) = broken.take() {
        return Poll::Ready(Some(Err(error)));
    }
    let frame = match lease {
        Some(lease) => lease.poll(cx, |cx| Pin::new(&mut *incoming).poll_frame(cx)),
        None => Pin::new(incoming).poll_frame(cx),
    };
    if let Poll::Ready(Some(Err(error))) = frame {
        *broken = Some(error);
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    frame
}

fn is_call(life: Option<&Life>) -> bool {
    life.is_some_and(|life| life.grpc.is_some())
}

/// True where the upstream broke off because the client kept it waiting: the record says so.
fn kept_waiting(life: Option<&mut Box<Life>>) -> bool {
    let Some(life) = life else { return false };
    let late = life.progress.as_ref().is_some_and(|progress| progress.late());
    if late {
        let reply =
            Reply::new(Reason::BodyTimeout).detail("the answer had begun, and no more of the body came");
        life.refusal = Some(at(Step::Dispatch)(reply));
    }
    late
}

/// True once the request would no longer be admitted. It is asked about when something new is in force; to learn
/// of that while the upstream is silent, the body begins to watch when it first has to wait.
fn revoked(
    watch: &mut Option<Watch>,
    waiting: bool,
    life: Option<&mut Box<Life>>,
    cx: &mut Context<'_>,
) -> bool {
    let Some(life) = life else { return false };
    let seen = life.publications;
    if !life.published() && !waiting && watch.is_none() {
        return false;
    }
    let watch = watch.get_or_insert_with(|| Watch(Box::pin(life.open(seen, false).revoked())));
    let Poll::Ready(refusal) = watch.0.as_mut().poll(cx) else { return false };
    life.refusal = Some(refusal);
    true
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = self.get_mut();
        let frame = match &mut this.content {
            Content::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Upstream { incoming, lease, broken, deadline, watch, keeping } => {
                let frame = passing(incoming, lease.as_mut(), broken, cx);
                if broken.is_some() {
                    *keeping = None;
                }
                let late = deadline.as_mut().is_some_and(|deadline| match &frame {
                    Poll::Pending => deadline.poll(cx).is_ready(),
                    // An upstream that always has more is never waited for.
                    Poll::Ready(Some(Ok(_))) => !incoming.is_end_stream() && deadline.has_come(),
                    Poll::Ready(_) => false,
                });
                let frame = match frame {
                    _ if late && is_call(this.life.as_deref()) => {
                        return this.broken_off(Reason::DeadlineExceeded, End::Late);
                    }
                    _ if late => Poll::Ready(Some(Err(AnswerError::Deadline))),
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Some(Err(_))) if kept_waiting(this.life.as_mut()) => {
                        if is_call(this.life.as_deref()) {
                            return this.broken_off(Reason::BodyTimeout, End::Idle);
                        }
                        Poll::Ready(Some(Err(AnswerError::BodyTimeout)))
                    }
                    Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(AnswerError::from))),
                };
                // What has come to its end has nothing left to be ended.
                let over = matches!(frame, Poll::Ready(None));
                if keeping.is_some() {
                    keep(keeping, &frame);
                }
                if !over && revoked(watch, frame.is_pending(), this.life.as_mut(), cx) {
                    let refusal = this.life.as_ref().filter(|life| life.grpc.is_some());
                    if let Some(refusal) = refusal.and_then(|life| life.refusal.as_ref()) {
                        return this.broken_off(refusal.reply.reason, End::Revoked);
                    }
                    Poll::Ready(Some(Err(AnswerError::Revoked)))
                } else {
                    frame
                }
            }
        };
        stall::asked(frame.is_pending());
        match &frame {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(life)) = (frame.data_ref(), &mut this.life) {
                    life.sent(data.len());
                    life.watch(data);
                }
                // The codec does not ask again after trailers, nor once an announced length is there.
                let trailers = frame.trailers_ref();
                if trailers.is_some() || this.is_end_stream() {
                    this.keep();
                    this.release();
                }
                if let Some(trailers) = trailers {
                    this.ended(trailers);
                }
            }
            Poll::Ready(Some(Err(AnswerError::Revoked))) => this.finish(End::Revoked),
            Poll::Ready(Some(Err(AnswerError::BodyTimeout))) => this.finish(End::Idle),
            Poll::Ready(Some(Err(AnswerError::Deadline))) => this.finish(End::Late),
            Poll::Ready(Some(Err(AnswerError::Upstream(_)))) => this.finish(End::UpstreamBroke),
            Poll::Ready(None) => {
                this.keep();
                this.release();
                this.finish(End::Complete);
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_none(),
            Content::Upstream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Upstream { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // The codec drops a body that said it has ended without polling it once more.
        let complete = self.is_end_stream() || self.size_hint().exact() == Some(0);
        let end = match &self.content {
            Content::Upstream { broken: Some(_), .. } => End::UpstreamBroke,
            _ if complete => End::Complete,
            _ => End::ClientGone,
        };
        self.finish(end);
        if let Content::Upstream { keeping: Some(_), lease: Some(_), .. } = &self.content
            && let Content::Upstream { incoming, lease: Some(lease), keeping: Some(keeping), .. } =
                std::mem::replace(&mut self.content, Content::Own(None))
        {
            keeping.read_out(incoming, lease);
        }
    }
}

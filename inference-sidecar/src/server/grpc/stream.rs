//! `ModelStreamInfer`: requests as they come, each with its answer, in order.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::super::body::Whole;
use super::super::connections::closed;
use super::super::fault::{Fault, Kind};
use super::super::traffic::{Piece, Turn};
use super::super::{GRACE, Shared};
use super::{GRPC, frame, infer};
use crate::clock::Stopwatch;
use crate::protocol::messages::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse, Parameter,
};
use crate::protocol::{PREFIX, framed};

/// Time that a client may leave a stream without a request.
const IDLE: Duration = Duration::from_mins(1);
/// Time that a client may take nothing of the answers.
const STUCK: Duration = Duration::from_secs(30);
/// Answers that wait to be sent.
const AHEAD: usize = 1;
/// What clients know the last answer to a request by: each has one here.
const FINAL: &str = "triton_final_response";

/// Answers a stream of requests; what is refused is an answer too.
pub(in super::super) fn answer(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    turn: Turn,
    mut closing: watch::Receiver<bool>,
) -> Response<Whole> {
    let (head, body) = request.into_parts();
    let checked = shared.access.check(&head.headers).and_then(|()| frame::timeout(&head.headers));
    let whole = match checked {
        Ok(whole) => whole,
        Err(fault) => {
            shared.metrics.ended("grpc", "infer_stream", Some(fault.kind), Duration::ZERO);
            return frame::refused(&fault).map(|body| body.of_turn(turn.answered()));
        }
    };
    let (send, coming) = mpsc::channel(AHEAD);
    let stream = Stream {
        shared: Arc::clone(shared),
        requests: Requests { body, rest: BytesMut::new() },
        headers: head.headers,
        send,
        turn,
    };
    // It ends by itself: with its client, with the server, or within its times.
    tokio::spawn(async move { stream.run(whole, &mut closing).await });
    let mut response = Response::new(Whole::coming(coming));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

struct Stream {
    shared: Arc<Shared>,
    requests: Requests,
    headers: HeaderMap,
    send: mpsc::Sender<Frame<Piece>>,
    /// That of the whole stream.
    turn: Turn,
}

/// The client is gone, or takes nothing.
struct Gone;

/// Why a stream ends.
enum End {
    Gone,
    /// The client sends no more, or is told why.
    Status(Option<Fault>),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Status(Some(fault))
    }
}

impl Stream {
    /// `whole` is the time that the client gives the stream.
    async fn run(mut self, whole: Option<Duration>, closing: &mut watch::Receiver<bool>) {
        let late = async {
            match whole {
                Some(whole) => tokio::time::sleep(whole).await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            end = self.serve(closing) => end,
            () = late => End::Status(Some(Fault::new(Kind::Late, "the deadline has passed"))),
        };
        if let End::Status(fault) = end {
            // Nobody is there to mind where it cannot be sent.
            let _ = self.put(Frame::trailers(frame::trailers(fault.as_ref()))).await;
        }
    }

    async fn serve(&mut self, closing: &mut watch::Receiver<bool>) -> End {
        loop {
            let next = tokio::select! {
                next = timeout(IDLE, self.requests.prefix()) => next,
                () = closed(closing) => {
                    return Fault::new(Kind::Busy, "the server ends: ask another one").into();
                }
            };
            let prefix = match next {
                Ok(Ok(Some(prefix))) => prefix,
                Ok(Ok(None)) => return End::Status(None),
                Ok(Err(fault)) => return fault.into(),
                Err(_) => return Fault::new(Kind::Late, "no request for a minute: the stream ends").into(),
            };
            if let Err(end) = self.turn(prefix).await {
                return end;
            }
        }
    }

    /// Reads one request behind its prefix, and answers it.
    async fn turn(&mut self, prefix: [u8; PREFIX]) -> Result<(), End> {
        let watch = Stopwatch::start();
        let shared = Arc::clone(&self.shared);
        let deadline = shared.limits.deadline;
        let mut turn = self.turn.another();
        // Before a message is taken in, so that all together take no more memory than other requests do.
        let room = shared.admit();
        let read = timeout(deadline, self.message(prefix, room.is_ok())).await;
        let message = read.map_err(|_| Fault::new(Kind::Late, "a request did not come in time"))??;
        let request = room.and_then(|room| Ok((room, infer::read(&shared, message)?)));
        let (answer, fault) = match request {
            Err(fault) => (refusal(ModelInferResponse::default(), &fault), Some(fault.kind)),
            Ok((room, request)) => {
                turn.admitted(room);
                let (left, named) = (deadline.saturating_sub(watch.elapsed()), named(&request));
                let scored = timeout(left + GRACE, Box::pin(infer::score(&shared, request, left))).await;
                let scored =
                    scored.unwrap_or_else(|_| Err(Fault::new(Kind::Late, "the deadline has passed")));
                match scored {
                    Ok(mut answer) => {
                        let last = InferParameter { choice: Some(Parameter::Bool(true)) };
                        answer.parameters.insert(FINAL.to_owned(), last);
                        let error_message = String::new();
                        (ModelStreamInferResponse { error_message, infer_response: Some(answer) }, None)
                    }
                    Err(fault) => (refusal(named, &fault), Some(fault.kind)),
                }
            }
        };
        shared.metrics.ended("grpc", "infer_stream", fault, watch.elapsed());
        let turn = Some(turn.answered());
        Ok(self.put(Frame::data(Piece { bytes: framed(&answer), turn })).await?)
    }

    /// The message behind a prefix; where it is not wanted, its bytes are passed over.
    async fn message(&mut self, [packed, length @ ..]: [u8; PREFIX], wanted: bool) -> Result<Bytes, Fault> {
        let (length, most) = (u32::from_be_bytes(length) as usize, self.shared.limits.body);
        if length > most {
            return Err(Fault::new(Kind::TooLarge, format!("a request has more than {most} bytes")));
        }
        let message = self.requests.take(length, wanted).await?;
        if wanted { frame::unpacked(&self.headers, packed, message, most).await } else { Ok(Bytes::new()) }
    }

    async fn put(&self, frame: Frame<Piece>) -> Result<(), Gone> {
        match timeout(STUCK, self.send.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

/// What an answer has of its request.
fn named(request: &ModelInferRequest) -> ModelInferResponse {
    ModelInferResponse {
        model_name: request.model_name.clone(),
        model_version: request.model_version.clone(),
        id: request.id.clone(),
        ..ModelInferResponse::default()
    }
}

/// The error of one request: the stream goes on.
fn refusal(named: ModelInferResponse, fault: &Fault) -> ModelStreamInferResponse {
    ModelStreamInferResponse { error_message: fault.message.clone(), infer_response: Some(named) }
}

/// A body of messages, as it comes.
struct Requests {
    body: Incoming,
    /// What came and was not looked at yet: a frame at most, and what lies before it.
    rest: BytesMut,
}

impl Requests {
    /// Waits for more; false where there is none.
    async fn more(&mut self) -> Result<bool, Fault> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Fault::invalid(format!("the body broke off: {error}")))?;
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What stands before the next message; `None` at the end of the body.
    async fn prefix(&mut self) -> Result<Option<[u8; PREFIX]>, Fault> {
        loop {
            if let Some(prefix) = self.rest.first_chunk::<PREFIX>().copied() {
                self.rest.advance(PREFIX);
                return Ok(Some(prefix));
            }
            if !self.more().await? {
                return if self.rest.is_empty() { Ok(None) } else { Err(broken()) };
            }
        }
    }

    /// So many bytes; where they are not wanted, none of them.
    async fn take(&mut self, mut length: usize, wanted: bool) -> Result<Bytes, Fault> {
        while self.rest.len() < length {
            if !wanted {
                length -= self.rest.len();
                self.rest.clear();
            }
            if !self.more().await? {
                return Err(broken());
            }
        }
        let taken = self.rest.split_to(length);
        Ok(if wanted { taken.freeze() } else { Bytes::new() })
    }
}

fn broken() -> Fault {
    Fault::invalid("the stream ends within a request")
}

//! One gRPC call: messages that go out, messages that come back, and how it ended.

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use foregate_inference::protocol::{PREFIX, framed};
use futures_util::stream;
use http::Response;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use prost::Message;
use tokio::sync::mpsc;

use crate::rpc::answer::{Fault, Messages, Refusal, one};

/// Largest message that is taken, in bytes: all policies of a gateway fit in parts of it.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Messages that wait to be sent.
const WAITING: usize = 16;

/// Body of a request.
pub type Outgoing = UnsyncBoxBody<Bytes, Infallible>;

/// Why a call has no answer, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{at} cannot be reached: {fault}")]
    Connect { at: String, fault: String },
    #[error("the connection to {at} broke: {fault}")]
    Broken { at: String, fault: String },
    #[error("{at} refused with gRPC status {code}: {message}")]
    Refused { at: String, code: u8, message: String },
    #[error("the answer of {at} is malformed: {fault}")]
    Malformed { at: String, fault: String },
}

/// A call in both directions.
#[derive(Debug)]
pub struct Call<Q, A> {
    pub requests: Requests<Q>,
    pub answers: Answers<A>,
}

/// Sends messages of a call; the other side is told of the end when it is dropped.
pub struct Requests<Q> {
    sender: mpsc::Sender<Bytes>,
    kind: PhantomData<fn(Q)>,
}

/// Receives messages of a call.
pub struct Answers<A> {
    at: String,
    messages: Messages,
    kind: PhantomData<fn() -> A>,
}

impl CallError {
    /// What went wrong at this place.
    pub fn of(at: &str, fault: Fault) -> Self {
        let at = at.to_owned();
        match fault {
            Fault::Broken(fault) => Self::Broken { at, fault },
            Fault::Refused(Refusal { code, message }) => Self::Refused { at, code, message },
            Fault::Malformed(fault) => Self::Malformed { at, fault },
        }
    }

    /// The status that the other side gave.
    pub fn code(&self) -> Option<u8> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// The body of a call with one message.
pub fn once(message: &impl Message) -> Outgoing {
    Full::new(framed(message)).boxed_unsync()
}

/// The body of a call with many messages, and what sends them.
pub fn many<Q: Message>() -> (Requests<Q>, Outgoing) {
    let (sender, waiting) = mpsc::channel(WAITING);
    let frames = stream::unfold(waiting, async |mut waiting: mpsc::Receiver<Bytes>| {
        waiting.recv().await.map(|frame| (Ok(Frame::data(frame)), waiting))
    });
    (Requests { sender, kind: PhantomData }, StreamBody::new(frames).boxed_unsync())
}

impl<Q: Message> Requests<Q> {
    /// Waits for room, not for an answer; false where the call has ended.
    pub async fn send(&self, message: &Q) -> bool {
        self.sender.send(framed(message)).await.is_ok()
    }
}

impl<A: Message + Default> Answers<A> {
    /// # Errors
    /// Why there are none.
    pub fn of(at: String, response: Response<Incoming>) -> Result<Self, CallError> {
        match Messages::of(response, MAX_MESSAGE) {
            Ok(messages) => Ok(Self { at, messages, kind: PhantomData }),
            Err(fault) => Err(CallError::of(&at, fault)),
        }
    }

    /// The next message; `None` where the call has ended well. May be dropped and asked again.
    ///
    /// # Errors
    /// How else it ended.
    pub async fn next(&mut self) -> Result<Option<A>, CallError> {
        let message = self.messages.next().await.map_err(|fault| CallError::of(&self.at, fault))?;
        message.map(|message| read(&self.at, message)).transpose()
    }
}

/// The one message of a call that has one.
///
/// # Errors
/// Why there is none.
pub async fn only<A: Message + Default>(at: &str, response: Response<Incoming>) -> Result<A, CallError> {
    let message = one(response, PREFIX + MAX_MESSAGE).await.map_err(|fault| CallError::of(at, fault))?;
    read(at, message)
}

fn read<A: Message + Default>(at: &str, message: Bytes) -> Result<A, CallError> {
    A::decode(message).map_err(|error| CallError::of(at, Fault::malformed(error.to_string())))
}

impl<Q> fmt::Debug for Requests<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl<A> fmt::Debug for Answers<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("at", &self.at).finish_non_exhaustive()
    }
}

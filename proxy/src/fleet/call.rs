//! One gRPC call: messages that go out, messages that come back, and how it ended.

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use prost::Message;
use tokio::sync::mpsc;

/// Largest message that is taken, in bytes: all policies of a gateway fit in parts of it.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Messages that wait to be sent.
const WAITING: usize = 16;

/// Characters of what the other side says of a refusal that are told on.
const TOLD: usize = 500;

/// Status codes of gRPC that are looked at.
pub const UNAUTHENTICATED: u8 = 16;
pub const UNAVAILABLE: u8 = 14;

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
    body: Pin<Box<Incoming>>,
    buffer: BytesMut,
    kind: PhantomData<fn() -> A>,
}

impl CallError {
    /// The status that the other side gave.
    pub fn code(&self) -> Option<u8> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// One message in its frame, not compressed.
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room for it.
    let _ = message.encode(&mut frame);
    frame.freeze()
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
    pub fn new(at: String, body: Incoming) -> Self {
        Self { at, body: Box::pin(body), buffer: BytesMut::new(), kind: PhantomData }
    }

    /// The next message; `None` where the call has ended well. May be dropped and asked again.
    ///
    /// # Errors
    /// How else it ended.
    pub async fn next(&mut self) -> Result<Option<A>, CallError> {
        let malformed =
            |at: &str, fault: &str| CallError::Malformed { at: at.to_owned(), fault: fault.to_owned() };
        loop {
            if let Some(head) = self.buffer.first_chunk::<5>() {
                let [compressed, length @ ..] = *head;
                let length = u32::from_be_bytes(length) as usize;
                if compressed != 0 || length > MAX_MESSAGE {
                    return Err(malformed(&self.at, "a message is compressed or too large"));
                }
                if self.buffer.len() >= 5 + length {
                    self.buffer.advance(5);
                    let message = A::decode(self.buffer.split_to(length).freeze());
                    return message.map(Some).map_err(|error| malformed(&self.at, &error.to_string()));
                }
            }
            let frame = std::future::poll_fn(|cx| self.body.as_mut().poll_frame(cx)).await;
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.buffer.extend_from_slice(&data),
                Some(Ok(Err(frame))) => {
                    let Some(trailers) = frame.trailers_ref() else { continue };
                    return match refusal(&self.at, trailers) {
                        Some(refused) => Err(refused),
                        None if self.buffer.is_empty() => Ok(None),
                        None => Err(malformed(&self.at, "it ends within a message")),
                    };
                }
                Some(Err(error)) => {
                    return Err(CallError::Broken { at: self.at.clone(), fault: causes(&error) });
                }
                None => {
                    let fault = "it ended without a status".to_owned();
                    return Err(CallError::Broken { at: self.at.clone(), fault });
                }
            }
        }
    }
}

/// What a gRPC status other than OK says; `None` also where there is none.
pub fn refusal(at: &str, headers: &HeaderMap) -> Option<CallError> {
    let status = headers.get("grpc-status")?;
    let code = status.to_str().ok().and_then(|status| status.parse().ok());
    if code == Some(0) {
        return None;
    }
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    let message = percent_decoded(message).chars().take(TOLD).collect();
    // 2 is UNKNOWN, which is what a status that is no number means.
    Some(CallError::Refused { at: at.to_owned(), code: code.unwrap_or(2), message })
}

/// `grpc-message` as it was meant; what is not encoded well stays as it is.
pub fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.first_chunk::<2>().filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An error with what it comes from.
pub fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
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

#[cfg(test)]
mod tests {
    use super::percent_decoded;

    #[test]
    fn what_a_refusal_says_is_decoded() {
        for (text, want) in [
            ("the%20join%20token", "the join token"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%C3%A9", "\u{e9}"),
            ("%ff", "\u{fffd}"),
            ("", ""),
        ] {
            assert_eq!(percent_decoded(text), want, "{text}");
        }
    }
}

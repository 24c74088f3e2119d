//! What comes back from a call: one message or many, and the status behind them.

use std::fmt;
use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use foregate_filters::percent::decode_leniently;
use foregate_inference::protocol::{PREFIX, unframed};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use crate::rpc::causes;

/// Characters of what the other side says of a refusal that are told on.
const TOLD: usize = 500;

/// The status of a caller that proves nothing (gRPC status codes).
pub const UNAUTHENTICATED: u8 = 16;

/// A status other than OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u8,
    pub message: String,
}

/// Why a call has no answer, or none any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("it refused with {0}")]
    Refused(Refusal),
    #[error("the answer is malformed: {0}")]
    Malformed(String),
}

/// Messages as they come.
pub struct Messages {
    body: Pin<Box<Incoming>>,
    buffer: BytesMut,
    /// Bytes of one message at most.
    most: usize,
}

impl Refusal {
    /// What headers or trailers say; `None` also where they say nothing.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let status = headers.get("grpc-status")?;
        let code = status.to_str().ok().and_then(|status| status.parse().ok());
        if code == Some(0) {
            return None;
        }
        let message =
            headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
        // 2 is UNKNOWN, which is what a status that is no number means.
        Some(Self { code: code.unwrap_or(2), message: decoded(message).chars().take(TOLD).collect() })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gRPC status {}: {}", self.code, self.message)
    }
}

impl Fault {
    pub fn broken(error: &dyn std::error::Error) -> Self {
        Self::Broken(causes(error))
    }

    pub fn malformed(fault: impl Into<String>) -> Self {
        Self::Malformed(fault.into())
    }
}

/// `grpc-message` as it was meant; what is not encoded well stays as it is.
pub fn decoded(message: &str) -> String {
    String::from_utf8_lossy(&decode_leniently(message, false)).into_owned()
}

/// The body of an answer that may have messages.
fn accepted(response: Response<Incoming>) -> Result<Incoming, Fault> {
    if response.status() != StatusCode::OK {
        return Err(Fault::malformed(format!("HTTP status {}", response.status())));
    }
    Refusal::read(response.headers())
        .map_or_else(|| Ok(response.into_body()), |refused| Err(Fault::Refused(refused)))
}

/// How a call ended that has these trailers.
fn ended(trailers: Option<&HeaderMap>) -> Result<(), Fault> {
    let trailers = trailers.filter(|trailers| trailers.contains_key("grpc-status"));
    let trailers = trailers.ok_or_else(|| Fault::malformed("it has no gRPC status"))?;
    Refusal::read(trailers).map_or(Ok(()), |refused| Err(Fault::Refused(refused)))
}

/// The one message of a call that has one, of so many bytes with its frame at most.
///
/// # Errors
/// Why there is none.
pub async fn one(response: Response<Incoming>, most: usize) -> Result<Bytes, Fault> {
    let body = Limited::new(accepted(response)?, most).collect().await;
    let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => Fault::broken(&*error),
        Err(_) => Fault::malformed("it is too large"),
    })?;
    ended(body.trailers())?;
    unframed(body.to_bytes()).ok_or_else(|| Fault::malformed("it is not one message"))
}

impl Messages {
    /// Of so many bytes each at most.
    ///
    /// # Errors
    /// Why there are none.
    pub fn of(response: Response<Incoming>, most: usize) -> Result<Self, Fault> {
        Ok(Self { body: Box::pin(accepted(response)?), buffer: BytesMut::new(), most })
    }

    /// The next message, whole; `None` where the call has ended well. May be dropped and asked again.
    ///
    /// # Errors
    /// How else it ended.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            let frame = std::future::poll_fn(|cx| self.body.as_mut().poll_frame(cx)).await;
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.buffer.extend_from_slice(&data),
                Some(Ok(Err(frame))) => {
                    ended(frame.trailers_ref())?;
                    let cut = || Fault::malformed("it ends within a message");
                    return self.buffer.is_empty().then_some(None).ok_or_else(cut);
                }
                Some(Err(error)) => return Err(Fault::broken(&error)),
                None => return Err(Fault::Broken("it ended without a status".to_owned())),
            }
        }
    }

    /// A message that has come whole.
    fn whole(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some([packed, length @ ..]) = self.buffer.first_chunk::<PREFIX>().copied() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length) as usize;
        if packed != 0 || length > self.most {
            return Err(Fault::malformed("a message is compressed or too large"));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::{Fault, Refusal, decoded, ended};

    fn trailers(status: &'static str) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        trailers.insert("grpc-message", "50%20%25 of%2".parse().unwrap());
        trailers
    }

    #[test]
    fn a_call_ends_well_with_status_0_alone() {
        assert_eq!(ended(Some(&trailers("0"))), Ok(()));
        let refused = |code| Err(Fault::Refused(Refusal { code, message: "50 % of%2".to_owned() }));
        assert_eq!(ended(Some(&trailers("13"))), refused(13));
        assert_eq!(ended(Some(&trailers("yes"))), refused(2));
        for silent in [None, Some(&HeaderMap::new())] {
            assert_eq!(ended(silent), Err(Fault::malformed("it has no gRPC status")));
        }
    }

    #[test]
    fn what_a_refusal_says_is_decoded_and_bounded() {
        for (text, want) in [
            ("the%20join%20token", "the join token"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%C3%A9", "\u{e9}"),
            ("%ff", "\u{fffd}"),
            ("", ""),
        ] {
            assert_eq!(decoded(text), want, "{text}");
        }
        let mut long = trailers("8");
        long.insert("grpc-message", "a".repeat(4_000).parse().unwrap());
        assert_eq!(Refusal::read(&long).unwrap().message.len(), 500);
    }
}

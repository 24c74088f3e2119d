//! Bodies: taken in within a bound, and given out with trailers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use foregate_filters::validate::decode::{DecodeFault, decode_dense};
use foregate_filters::validate::media::Coding;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use miniz_oxide::deflate::compress_to_vec;
use tokio::sync::mpsc;

use super::fault::{Fault, Kind};
use super::traffic::{Piece, Turn};

/// Effort of compression: small answers gain little from more.
const LEVEL: u8 = 4;
/// Header of a gzip member without name and time; its maker is not told (RFC 1952, section 2.3).
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A body in one piece, or in pieces as they come, and trailers behind it.
#[derive(Debug, Default)]
pub struct Whole {
    bytes: Option<Bytes>,
    /// What comes later, trailers included.
    coming: Option<mpsc::Receiver<Frame<Piece>>>,
    trailers: Option<HeaderMap>,
    /// Ends with the last byte of it.
    turn: Option<Arc<Turn>>,
}

impl Whole {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty());
        Self { bytes, ..Self::default() }
    }

    /// What is sent into the channel, until its sender is gone.
    pub fn coming(coming: mpsc::Receiver<Frame<Piece>>) -> Self {
        Self { coming: Some(coming), ..Self::default() }
    }

    pub fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }

    pub fn of_turn(mut self, turn: Arc<Turn>) -> Self {
        self.turn = Some(turn);
        self
    }
}

impl Body for Whole {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        if let Some(coming) = &mut self.coming {
            return coming.poll_recv(cx).map(|frame| frame.map(Ok));
        }
        let data = self.bytes.take().map(|bytes| Frame::data(Piece { bytes, turn: self.turn.clone() }));
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && self.trailers.is_none() && self.coming.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.coming.is_some() {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

fn too_large(most: usize) -> Fault {
    Fault::new(Kind::TooLarge, format!("the body has more than {most} bytes"))
}

/// Reads a body to its end; refuses one over `most` bytes as soon as that is known.
pub async fn read(mut body: Incoming, most: usize) -> Result<Bytes, Fault> {
    if body.size_hint().lower() > most as u64 {
        return Err(too_large(most));
    }
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::invalid(format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + whole.len() + data.len() > most {
            return Err(too_large(most));
        }
        // Most bodies come in one piece, which needs no copy.
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(first.len() + data.len());
            whole.extend_from_slice(&first);
            first = Bytes::new();
        }
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// The body as it was before it was encoded, at most `most` bytes.
pub async fn decoded(body: Bytes, coding: Coding, most: usize) -> Result<Bytes, Fault> {
    if coding == Coding::Identity {
        return Ok(body);
    }
    // A few bytes may become many: other requests of the connection do not wait for that.
    let decoded = aside(move || decode_dense(&body, coding, most)).await?;
    decoded.map(Bytes::from).map_err(|fault| match fault {
        DecodeFault::Unsupported => Fault::new(Kind::Unsupported, "only gzip and deflate are decoded here"),
        DecodeFault::TooLarge | DecodeFault::Bomb => {
            Fault::new(Kind::TooLarge, format!("the body has more than {most} bytes once decoded"))
        }
        DecodeFault::Malformed(_) => Fault::invalid(fault.to_string()),
    })
}

/// Does what may take long on a thread that serves no connection.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Fault::new(Kind::Internal, error.to_string()))
}

/// A gzip member.
pub fn gzip(body: &[u8]) -> Vec<u8> {
    let packed = compress_to_vec(body, LEVEL);
    let mut member = Vec::with_capacity(packed.len() + 18);
    member.extend_from_slice(&GZIP_HEADER);
    member.extend_from_slice(&packed);
    member.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    // The size modulo 2^32, as the format has it.
    let size = (body.len() as u64).to_le_bytes();
    member.extend_from_slice(size.first_chunk::<4>().map_or(&[], |size| size.as_slice()));
    member
}

//! One message in a body, its deadline, and the status behind it.

use std::time::Duration;

use bytes::Bytes;
use foregate_filters::grpc_timeout;
use foregate_filters::percent::grpc_message;
use foregate_filters::validate::media::Coding;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};

use super::super::body::{Whole, decoded};
use super::super::fault::{Fault, Kind};
use super::GRPC;
use crate::protocol::PREFIX;

/// How a message is compressed, where it is.
const ENCODING: &str = "grpc-encoding";
/// Bytes of a status message at most, before its encoding.
const MAX_MESSAGE: usize = 1_024;

/// The time a client gives (`grpc-timeout`: up to eight digits and a unit).
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Fault> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let time = value.to_str().ok().and_then(grpc_timeout::parse);
    time.map(Some).ok_or_else(|| Fault::invalid("`grpc-timeout` is malformed"))
}

/// Refuses a call whose message may be compressed.
pub(super) fn check_plain(headers: &HeaderMap) -> Result<(), Fault> {
    match headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => Err(Fault::new(Kind::Unsupported, "probes are not compressed here")),
    }
}

/// The one message of a body, unpacked, at most `most` bytes.
pub(super) async fn message(headers: &HeaderMap, mut body: Bytes, most: usize) -> Result<Bytes, Fault> {
    let Some([packed, length @ ..]) = body.first_chunk::<PREFIX>().copied() else {
        return Err(Fault::invalid("a call has one message, and this one has none"));
    };
    let message = body.split_off(PREFIX);
    if u32::from_be_bytes(length) as usize != message.len() {
        return Err(Fault::invalid("a call has one message, and this one is of another length"));
    }
    unpacked(headers, packed, message, most).await
}

/// A message as it was before it was compressed, where its prefix says that it is; at most `most` bytes.
pub(super) async fn unpacked(
    headers: &HeaderMap,
    packed: u8,
    message: Bytes,
    most: usize,
) -> Result<Bytes, Fault> {
    match packed {
        0 => Ok(message),
        1 => match headers.get(ENCODING).map(HeaderValue::as_bytes) {
            Some(b"gzip") => decoded(message, Coding::Gzip, most).await,
            Some(b"deflate") => decoded(message, Coding::Deflate, most).await,
            _ => Err(Fault::new(Kind::Unsupported, "only gzip and deflate are decoded here")),
        },
        _ => Err(Fault::invalid("the message is malformed")),
    }
}

/// How a call ends.
pub(super) fn trailers(fault: Option<&Fault>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", fault.map_or(0, |fault| u16::from(fault.kind.grpc())).into());
    if let Some(message) =
        fault.and_then(|fault| HeaderValue::from_str(&grpc_message(&fault.message, MAX_MESSAGE)).ok())
    {
        trailers.insert("grpc-message", message);
    }
    trailers
}

/// A response with one message.
pub(super) fn answered(frame: Bytes) -> Response<Whole> {
    let trailers = trailers(None);
    let mut response = Response::new(Whole::new(frame).with_trailers(trailers));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// A response with a status alone.
pub(super) fn refused(fault: &Fault) -> Response<Whole> {
    let mut response = Response::new(Whole::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.extend(trailers(Some(fault)));
    if fault.kind == Kind::Unsupported {
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity, deflate, gzip"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::{message, timeout};
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};
    use std::time::Duration;

    #[test]
    fn a_timeout_may_be_absent_and_must_not_be_malformed() {
        let mut headers = HeaderMap::new();
        assert_eq!(timeout(&headers), Ok(None));
        headers.insert("grpc-timeout", HeaderValue::from_static("250m"));
        assert_eq!(timeout(&headers), Ok(Some(Duration::from_millis(250))));
        headers.insert("grpc-timeout", HeaderValue::from_static("250"));
        assert!(timeout(&headers).is_err());
    }

    #[tokio::test]
    async fn a_body_is_one_message() {
        let headers = HeaderMap::new();
        let read = async |bytes: &'static [u8]| message(&headers, Bytes::from_static(bytes), 10).await;
        assert_eq!(read(b"\0\0\0\0\x02ab").await, Ok(Bytes::from_static(b"ab")));
        assert_eq!(read(b"\0\0\0\0\0").await, Ok(Bytes::new()));
        for bytes in
            [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\x02abc", b"\x01\0\0\0\0", b"\x02\0\0\0\0"]
        {
            assert!(read(bytes).await.is_err(), "{bytes:?}");
        }
        assert!(read(b"\0\xff\xff\xff\xffab").await.is_err());
    }
}

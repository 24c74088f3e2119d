//! One message in a body, its deadline, and the status behind it.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
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
    let malformed = || Fault::invalid("`grpc-timeout` is malformed");
    let text = value.to_str().map_err(|_| malformed())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(malformed)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let number: u64 = digits.parse().map_err(|_| malformed())?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(malformed()),
    }))
}

/// Refuses a call whose message may be compressed.
pub(super) fn check_plain(headers: &HeaderMap) -> Result<(), Fault> {
    match headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => Err(Fault::new(Kind::Unsupported, "probes are not compressed here")),
    }
}

/// The one message of a body, unpacked, at most `most` bytes.
pub(super) fn message(headers: &HeaderMap, mut body: Bytes, most: usize) -> Result<Bytes, Fault> {
    let Some([packed, length @ ..]) = body.first_chunk::<PREFIX>().copied() else {
        return Err(Fault::invalid("a call has one message, and this one has none"));
    };
    let message = body.split_off(PREFIX);
    if u32::from_be_bytes(length) as usize != message.len() {
        return Err(Fault::invalid("a call has one message, and this one is of another length"));
    }
    match packed {
        0 => Ok(message),
        1 => match headers.get(ENCODING).map(HeaderValue::as_bytes) {
            Some(b"gzip") => decoded(message, Coding::Gzip, most),
            Some(b"deflate") => decoded(message, Coding::Deflate, most),
            _ => Err(Fault::new(Kind::Unsupported, "only gzip and deflate are decoded here")),
        },
        _ => Err(Fault::invalid("the message is malformed")),
    }
}

/// A response with one message.
pub(super) fn answered(frame: Bytes) -> Response<Whole> {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(Whole::new(frame).with_trailers(trailers));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// A response with a status alone.
pub(super) fn refused(fault: &Fault) -> Response<Whole> {
    let mut response = Response::new(Whole::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert("grpc-status", u16::from(fault.kind.grpc()).into());
    if let Ok(message) = HeaderValue::from_str(&escaped(&fault.message)) {
        headers.insert("grpc-message", message);
    }
    if fault.kind == Kind::Unsupported {
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity, deflate, gzip"));
    }
    response
}

/// A status message as headers have it: printable ASCII, all else as `%XX`.
fn escaped(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes().take(MAX_MESSAGE) {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{escaped, message, timeout};
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};
    use std::time::Duration;

    #[test]
    fn timeouts_have_a_unit_and_eight_digits_at_most() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            timeout(&headers)
        };
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        for (text, expected) in [
            ("2H", Duration::from_hours(2)),
            ("99999999M", Duration::from_mins(99_999_999)),
            ("1S", Duration::from_secs(1)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(read(text), Ok(Some(expected)), "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "+1S"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_body_is_one_message() {
        let headers = HeaderMap::new();
        let read = |bytes: &'static [u8]| message(&headers, Bytes::from_static(bytes), 10);
        assert_eq!(read(b"\0\0\0\0\x02ab"), Ok(Bytes::from_static(b"ab")));
        assert_eq!(read(b"\0\0\0\0\0"), Ok(Bytes::new()));
        for bytes in
            [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\x02abc", b"\x01\0\0\0\0", b"\x02\0\0\0\0"]
        {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
        assert!(read(b"\0\xff\xff\xff\xffab").is_err());
    }

    #[test]
    fn status_messages_are_printable() {
        assert_eq!(escaped("50 % of \u{fc}\n"), "50 %25 of %C3%BC%0A");
    }
}

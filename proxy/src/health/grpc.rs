//! The question of `grpc.health.v1`, and its answer.

use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use hyper::body::Incoming;
use prost::Message;

use crate::health::ask::read;

/// `Check` of the service `Health`.
pub const METHOD: &str = "/grpc.health.v1.Health/Check";

/// `SERVING` of `HealthCheckResponse.ServingStatus`.
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    /// An enumeration: unknown numbers are not SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// One message, not compressed.
pub fn question(service: &str) -> Bytes {
    let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(0));
    frame.extend_from_slice(&message);
    frame.freeze()
}

/// Reads the answer to its end.
///
/// # Errors
/// Why it does not say that the service is serving.
pub async fn answer(response: Response<Incoming>) -> Result<(), String> {
    let (head, body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(format!("status {}", head.status.as_u16()));
    }
    let (body, trailers) = read(body).await?;
    let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    match status.or_else(|| head.headers.get("grpc-status")).map(http::HeaderValue::as_bytes) {
        Some(b"0") => serving(&body),
        Some(code) => Err(format!("gRPC status {}", String::from_utf8_lossy(code))),
        None => Err("no gRPC status".to_owned()),
    }
}

fn serving(body: &[u8]) -> Result<(), String> {
    let malformed = || "the answer is malformed".to_owned();
    let ([0, length @ ..], message) = body.split_first_chunk::<5>().ok_or_else(malformed)? else {
        return Err("the answer is compressed".to_owned());
    };
    if u32::from_be_bytes(*length) as usize != message.len() {
        return Err(malformed());
    }
    let answer = HealthCheckResponse::decode(message).map_err(|error| error.to_string())?;
    if answer.status == SERVING { Ok(()) } else { Err(format!("serving status {}", answer.status)) }
}

#[cfg(test)]
mod tests {
    use super::{question, serving};

    #[test]
    fn the_question_is_one_message() {
        assert_eq!(&question("a")[..], b"\0\0\0\0\x03\x0a\x01a");
        assert_eq!(&question("")[..], b"\0\0\0\0\0");
    }

    #[test]
    fn only_serving_is_fit() {
        assert_eq!(serving(b"\0\0\0\0\x02\x08\x01"), Ok(()));
        for bad in
            [&b"\0\0\0\0\x02\x08\x02"[..], b"\0\0\0\0\0", b"", b"\0\0\0\0\x03\x08\x01", b"\x01\0\0\0\0"]
        {
            assert!(serving(bad).is_err(), "{bad:?}");
        }
    }
}

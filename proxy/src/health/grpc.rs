//! The question of `grpc.health.v1`, and its answer.

use bytes::Bytes;
use foregate_inference::protocol::framed;
use http::Response;
use hyper::body::Incoming;
use prost::Message;

use crate::rpc::answer::one;

/// `Check` of the service `Health`.
pub const METHOD: &str = "/grpc.health.v1.Health/Check";

/// Bytes of an answer at most: one that is larger says nothing more.
const MAX_ANSWER: usize = 64 << 10;

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
    framed(&HealthCheckRequest { service: service.to_owned() })
}

/// Reads the answer to its end.
///
/// # Errors
/// Why it does not say that the service is serving.
pub async fn answer(response: Response<Incoming>) -> Result<(), String> {
    serving(one(response, MAX_ANSWER).await.map_err(|fault| fault.to_string())?)
}

fn serving(message: Bytes) -> Result<(), String> {
    let answer = HealthCheckResponse::decode(message).map_err(|error| error.to_string())?;
    if answer.status == SERVING { Ok(()) } else { Err(format!("serving status {}", answer.status)) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{question, serving};

    #[test]
    fn the_question_is_one_message() {
        assert_eq!(&question("a")[..], b"\0\0\0\0\x03\x0a\x01a");
        assert_eq!(&question("")[..], b"\0\0\0\0\0");
    }

    #[test]
    fn only_serving_is_fit() {
        assert_eq!(serving(Bytes::from_static(b"\x08\x01")), Ok(()));
        for bad in [&b"\x08\x02"[..], b"", b"\x08", b"\x08\x63"] {
            assert!(serving(Bytes::from_static(bad)).is_err(), "{bad:?}");
        }
    }
}

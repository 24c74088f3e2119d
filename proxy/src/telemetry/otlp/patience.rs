//! When a message is sent again, and what a collector says of that.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use prost::Message;

use crate::dispatch::course;

/// Longest time that a collector is given where it asks for some: behind a message that waits, others are dropped.
const MOST: Duration = Duration::from_mins(1);

/// What chance makes of a pause, in thousandths of it.
const LEAST_SHARE: u32 = 800;
const WHOLE: u32 = 1_000;
const MOST_SHARE: u32 = 1_200;

/// Ends the name of the type that tells when to ask again (`google/rpc/error_details.proto`).
const RETRY_INFO: &str = "/google.rpc.RetryInfo";

/// What a gRPC status has besides its code (google/rpc/status.proto).
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// A message of any type (google/protobuf/any.proto).
#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// When to ask again: the message of that type.
#[derive(Clone, PartialEq, Message)]
struct Again {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}

/// A time (google/protobuf/duration.proto).
#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The time that an answer over HTTP asks for (OTLP 1.9, "OTLP/HTTP Throttling").
pub(super) fn by_http(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let throttles = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    headers.get(RETRY_AFTER).filter(|_| throttles).and_then(course::retry_after)
}

/// The time that the details of a gRPC status ask for (OTLP 1.9, "OTLP/gRPC Throttling").
pub(super) fn by_grpc(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-status-details-bin")?.to_str().ok()?;
    // With padding or without.
    let bytes = STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
    let status = Status::decode(&*bytes).ok()?;
    let detail = status.details.iter().find(|detail| detail.kind.ends_with(RETRY_INFO))?;
    let Delay { seconds, nanos } = Again::decode(&*detail.value).ok()?.delay.unwrap_or_default();
    Some(Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0)))
}

/// The pause before another attempt: `usual`, a fifth more or less, or what the collector asked for, a minute at most,
/// and up to a fifth more. Who was turned away together does not come back together; `draw` has 64 random bits.
pub(super) fn pause(usual: Duration, asked: Option<Duration>, draw: u64) -> Duration {
    let (length, least) = match asked {
        Some(asked) if !asked.is_zero() => (asked.min(MOST), WHOLE),
        _ => (usual, LEAST_SHARE),
    };
    let spread = u64::from(MOST_SHARE - least) + 1;
    let share = least + u32::try_from(draw % spread).unwrap_or(0);
    length.saturating_mul(share) / WHOLE
}

#[cfg(test)]
mod tests {
    use super::{Again, Delay, Detail, MOST, Status, by_grpc, by_http, pause};
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    use http::{HeaderMap, HeaderValue, StatusCode};
    use prost::Message;
    use std::time::Duration;

    fn headers(name: &str, value: &str) -> HeaderMap {
        [(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    /// A status with a detail of another type before this one.
    fn details(kind: &str, delay: Option<Delay>) -> Vec<u8> {
        let detail =
            |kind: &str, value: Vec<u8>| Detail { kind: format!("type.googleapis.com/{kind}"), value };
        let other = detail("google.rpc.DebugInfo", vec![0xff]);
        let status = Status { details: vec![other, detail(kind, Again { delay }.encode_to_vec())] };
        // The code, which nothing here reads.
        let mut bytes = vec![0x08, 0x08];
        bytes.extend(status.encode_to_vec());
        bytes
    }

    #[test]
    fn http_asks_by_a_header_where_it_throttles() {
        let asked = headers("retry-after", "7");
        let seven = Some(Duration::from_secs(7));
        for (status, time) in [(429, seven), (503, seven), (502, None), (504, None), (400, None)] {
            assert_eq!(by_http(StatusCode::from_u16(status).unwrap(), &asked), time, "{status}");
        }
        let past = headers("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(by_http(StatusCode::SERVICE_UNAVAILABLE, &past), Some(Duration::ZERO));
        for nothing in [headers("retry-after", "soon"), HeaderMap::new()] {
            assert_eq!(by_http(StatusCode::SERVICE_UNAVAILABLE, &nothing), None);
        }
    }

    #[test]
    fn grpc_asks_by_a_detail_of_its_status() {
        let name = "grpc-status-details-bin";
        let told = |delay| details("google.rpc.RetryInfo", delay);
        let whole = told(Some(Delay { seconds: 2, nanos: 500_000_000 }));
        let time = Some(Duration::from_millis(2_500));
        assert_eq!(by_grpc(&headers(name, &STANDARD.encode(&whole))), time);
        assert_eq!(by_grpc(&headers(name, &STANDARD_NO_PAD.encode(&whole))), time);
        let negative = told(Some(Delay { seconds: -2, nanos: -1 }));
        for zero in [told(None), negative] {
            assert_eq!(by_grpc(&headers(name, &STANDARD.encode(&zero))), Some(Duration::ZERO));
        }
        let long = told(Some(Delay { seconds: i64::MAX, nanos: i32::MAX }));
        assert!(by_grpc(&headers(name, &STANDARD.encode(&long))).is_some());
        let other = details("google.rpc.ErrorInfo", Some(Delay { seconds: 2, nanos: 0 }));
        for text in [&*STANDARD.encode(&other), &*STANDARD.encode(&whole[..whole.len() - 1]), "", "?", "AAAA"]
        {
            assert_eq!(by_grpc(&headers(name, text)), None, "{text}");
        }
        assert_eq!(by_grpc(&HeaderMap::new()), None);
    }

    #[test]
    fn pauses_differ_by_a_fifth_and_are_no_shorter_than_what_was_asked_for() {
        let usual = Duration::from_secs(5);
        for draw in 0..1_000 {
            let own = pause(usual, None, draw);
            assert!((Duration::from_secs(4)..=Duration::from_secs(6)).contains(&own), "{own:?}");
            assert_eq!(pause(usual, Some(Duration::ZERO), draw), own);
            let asked = pause(usual, Some(Duration::from_secs(10)), draw);
            assert!((Duration::from_secs(10)..=Duration::from_secs(12)).contains(&asked), "{asked:?}");
            let bounded = pause(usual, Some(Duration::MAX), draw);
            assert!((MOST..=MOST * 6 / 5).contains(&bounded), "{bounded:?}");
        }
        assert_eq!(pause(usual, None, 0), Duration::from_secs(4));
        assert_eq!(pause(usual, None, 400), Duration::from_secs(6));
    }
}

//! Which headers that few requests have a head holds, found in one pass.

use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Names the request from end to end; a valid one is passed on as sent.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Names the trace and the span of the caller (W3C Trace Context, section 3.2).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What tracing systems tell each other (W3C Trace Context, section 3.3).
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What a client accepts of which an answer may stay open for long.
const EVENTS: &str = "text/event-stream";

/// The headers of a head that are looked for in every request. A search for each costs a hash; most heads have
/// none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rare(u16);

/// One of them, or one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Content-Length` and `Transfer-Encoding`.
    Framing = 1,
    Expect = 2,
    /// What means something to one connection only: see [`HOP_BY_HOP`].
    HopByHop = 4,
    RequestId = 8,
    TraceParent = 16,
    TraceState = 32,
    Cookie = 64,
    /// A call of gRPC, or one that takes events: its answer may stay open for long.
    Streams = 128,
}

/// Headers that mean something to one connection only (RFC 9110, section 7.6.1), besides those that
/// `Connection` names. `Transfer-Encoding` and `Content-Length` are the codec's and stay.
pub static HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
    UPGRADE,
    TE,
];

static NAMES: [(HeaderName, Kind); 7] = [
    (CONTENT_LENGTH, Kind::Framing),
    (TRANSFER_ENCODING, Kind::Framing),
    (EXPECT, Kind::Expect),
    (COOKIE, Kind::Cookie),
    (REQUEST_ID_HEADER, Kind::RequestId),
    (TRACEPARENT, Kind::TraceParent),
    (TRACESTATE, Kind::TraceState),
];

impl Rare {
    /// Looks at every field of a head once.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut bits = 0;
        for (name, value) in headers {
            bits |= match NAMES.iter().find(|(known, _)| known == name) {
                Some((_, kind)) => *kind as u16,
                None if HOP_BY_HOP.contains(name) => Kind::HopByHop as u16,
                None if streams(name, value) => Kind::Streams as u16,
                None => 0,
            };
        }
        Self(bits)
    }

    /// False where the head that was looked at has none of them.
    pub const fn has(self, kind: Kind) -> bool {
        self.0 & kind as u16 != 0
    }
}

fn streams(name: &HeaderName, value: &HeaderValue) -> bool {
    if name == ACCEPT {
        // Most values are too short to hold it: to prepare a search costs more than a look at the length.
        return value.len() >= EVENTS.len() && value.to_str().is_ok_and(|it| it.contains(EVENTS));
    }
    let grpc = b"application/grpc";
    name == CONTENT_TYPE
        && value.as_bytes().get(..grpc.len()).is_some_and(|start| start.eq_ignore_ascii_case(grpc))
}

#[cfg(test)]
mod tests {
    use super::{Kind, Rare};
    use http::{HeaderMap, HeaderName, HeaderValue};

    fn of(fields: &[(&'static str, &'static str)]) -> Rare {
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Rare::of(&fields.collect::<HeaderMap>())
    }

    #[test]
    fn every_kind_is_found_wherever_it_stands() {
        for (name, value, kind) in [
            ("content-length", "3", Kind::Framing),
            ("transfer-encoding", "chunked", Kind::Framing),
            ("expect", "100-continue", Kind::Expect),
            ("connection", "close", Kind::HopByHop),
            ("keep-alive", "5", Kind::HopByHop),
            ("te", "trailers", Kind::HopByHop),
            ("x-request-id", "7", Kind::RequestId),
            ("traceparent", "-", Kind::TraceParent),
            ("tracestate", "a=b", Kind::TraceState),
            ("cookie", "a=b", Kind::Cookie),
            ("accept", "text/html, text/event-stream", Kind::Streams),
            ("content-type", "Application/gRPC+proto", Kind::Streams),
        ] {
            let found = of(&[("host", "crm"), ("accept", "*/*"), (name, value), ("x-kept", "1")]);
            assert_eq!(found, Rare(kind as u16), "{name}: {value}");
            assert!(found.has(kind));
        }
        let plain = [("host", "crm"), ("accept", "text/html"), ("content-type", "application/json")];
        assert_eq!(of(&plain), Rare::default());
        assert_eq!(of(&[("expect", "x"), ("cookie", "a")]), Rare(Kind::Expect as u16 | Kind::Cookie as u16));
    }
}

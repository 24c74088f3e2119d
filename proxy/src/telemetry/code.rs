//! gRPC status codes: how calls ended, and which of them are failures.

use http::HeaderValue;

use crate::telemetry::record::End;

/// How a call ended (`grpc-status`). Codes that gRPC does not know are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(u8);

/// What is known of how a call ends, until it is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// It is no call, or was not answered as one: its HTTP status says how it went.
    #[default]
    Unasked,
    /// The answer has begun; its end brings the code.
    Open,
    Said(Code),
}

/// The place of all codes that gRPC does not know.
const UNLISTED: u8 = 17;

/// Names by code (gRPC, "Status codes and their use"), as OpenTelemetry's `rpc.response.status_code` has them.
const NAMES: [&str; 18] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
    "other",
];

impl Code {
    /// What a caller makes of an answer without a code (gRPC, "HTTP to gRPC status code mapping").
    const UNKNOWN: Self = Self(2);
    /// What a caller makes of a stream that is reset because it broke off (gRPC over HTTP/2, "Errors").
    const INTERNAL: Self = Self(13);

    pub const fn of(code: u8) -> Self {
        Self(if code < UNLISTED { code } else { UNLISTED })
    }

    /// That of a value of `grpc-status`.
    pub fn parse(value: &HeaderValue) -> Self {
        Self::of(value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(UNLISTED))
    }

    /// The code of a [`name`](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().zip(0..).find_map(|(known, code)| (*known == name).then_some(Self(code)))
    }

    pub fn name(self) -> &'static str {
        NAMES.get(usize::from(self.0)).copied().unwrap_or_default()
    }

    /// True where the call came to what it was for.
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// True where the service failed: what it says of a call that is wrong in itself is no failure (semantic
    /// conventions of OpenTelemetry for servers of gRPC). Callers take codes that they do not know for `UNKNOWN`.
    pub const fn failed(self) -> bool {
        matches!(self.0, 2 | 4 | 12..=15 | UNLISTED)
    }
}

impl Ending {
    /// The code of a call that is over; `None` where nobody knows it, for the caller did not wait for its end.
    pub const fn code(self, end: End) -> Option<Code> {
        match (self, end) {
            (Self::Said(code), _) => Some(code),
            (Self::Open, End::Complete) => Some(Code::UNKNOWN),
            (Self::Open, End::UpstreamBroke | End::Late) => Some(Code::INTERNAL),
            (Self::Open | Self::Unasked, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Ending};
    use crate::telemetry::record::End;
    use http::HeaderValue;

    #[test]
    fn codes_have_names_and_those_that_nobody_knows_share_one() {
        for (value, name, failed) in [
            ("0", "OK", false),
            ("1", "CANCELLED", false),
            ("2", "UNKNOWN", true),
            ("3", "INVALID_ARGUMENT", false),
            ("4", "DEADLINE_EXCEEDED", true),
            ("8", "RESOURCE_EXHAUSTED", false),
            ("11", "OUT_OF_RANGE", false),
            ("12", "UNIMPLEMENTED", true),
            ("13", "INTERNAL", true),
            ("14", "UNAVAILABLE", true),
            ("15", "DATA_LOSS", true),
            ("16", "UNAUTHENTICATED", false),
            ("17", "other", true),
            ("255", "other", true),
            ("1000", "other", true),
            ("-1", "other", true),
            ("", "other", true),
            ("OK", "other", true),
        ] {
            let code = Code::parse(&HeaderValue::from_static(value));
            assert_eq!((code.name(), code.failed(), code.is_ok()), (name, failed, value == "0"), "{value}");
        }
        assert_eq!(Code::parse(&HeaderValue::from_bytes(b"\xff").unwrap()).name(), "other");
    }

    #[test]
    fn an_answer_without_a_code_is_what_its_caller_takes_it_for() {
        for (ending, end, name) in [
            (Ending::Said(Code::of(0)), End::Complete, Some("OK")),
            (Ending::Said(Code::of(4)), End::Late, Some("DEADLINE_EXCEEDED")),
            (Ending::Open, End::Complete, Some("UNKNOWN")),
            (Ending::Open, End::UpstreamBroke, Some("INTERNAL")),
            (Ending::Open, End::ClientGone, None),
            (Ending::Open, End::Drained, None),
            (Ending::Unasked, End::Complete, None),
            (Ending::Unasked, End::UpstreamBroke, None),
        ] {
            assert_eq!(ending.code(end).map(Code::name), name, "{ending:?} {end:?}");
        }
    }
}

//! Edits that filters ask for; they reach the wire in one place, in shape.

use std::ops::Range;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{HeaderName, HeaderValue};

/// One change to a header section.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderEdit {
    /// Replaces every value of this name.
    Set(HeaderName, HeaderValue),
    /// Adds a value beside those that are there.
    Add(HeaderName, HeaderValue),
    /// Removes every value of this name.
    Remove(HeaderName),
}

impl HeaderEdit {
    /// Carries the edit out.
    pub fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Set(name, value) => {
                headers.insert(name, value.clone());
            }
            Self::Add(name, value) => {
                headers.append(name, value.clone());
            }
            Self::Remove(name) => {
                headers.remove(name);
            }
        }
    }
}

/// Headers that frame or route a message, or that the gateway itself sets.
const FRAMING: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-request-id",
];

/// Other headers that no policy hands a claim or a score on in: they authenticate, or say what a message is about.
const RESERVED: &[&str] = &[
    "authorization",
    "content-range",
    "cookie",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "set-cookie",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

/// True for a header that frames or routes a message, or that the gateway itself sets: it carries no credential.
pub fn is_framing(name: &HeaderName) -> bool {
    FRAMING.contains(&name.as_str())
}

/// True for a header that no filter may set.
pub fn is_reserved(name: &HeaderName) -> bool {
    is_framing(name) || RESERVED.contains(&name.as_str())
}

/// Replaces `range` of the request body by `with`; an empty range inserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    pub range: Range<usize>,
    pub with: Bytes,
}

/// Everything the filters of one request want changed.
#[derive(Debug, Default)]
pub struct Edits {
    /// Headers towards the upstream, in the order asked for.
    pub request: Vec<HeaderEdit>,
    /// Headers towards the caller, also on refusals.
    pub response: Vec<HeaderEdit>,
    /// Changes to the collected body: sorted by offset, not overlapping.
    pub body: Vec<Splice>,
}

/// Applies sorted, non-overlapping splices; bytes outside them are copied untouched.
///
/// A splice that overlaps an earlier one or lies outside the body gives `None`: a defect of the caller.
pub fn splice(body: &Bytes, splices: &[Splice]) -> Option<Bytes> {
    if splices.is_empty() {
        return Some(body.clone());
    }
    let added: usize = splices.iter().map(|splice| splice.with.len()).sum();
    let mut out = Vec::with_capacity(body.len() + added);
    let mut at = 0;
    for splice in splices {
        out.extend_from_slice(body.get(at..splice.range.start)?);
        out.extend_from_slice(&splice.with);
        if splice.range.end < splice.range.start {
            return None;
        }
        at = splice.range.end;
    }
    out.extend_from_slice(body.get(at..)?);
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use super::{Splice, splice};
    use bytes::Bytes;

    fn cut(range: std::ops::Range<usize>, with: &'static str) -> Splice {
        Splice { range, with: Bytes::from_static(with.as_bytes()) }
    }

    #[test]
    fn splices_insert_replace_and_remove_and_leave_the_rest_alone() {
        let body = Bytes::from_static(br#"{"a":1.10,"b":2}"#);
        let out = splice(&body, &[cut(1..1, r#""s":9,"#), cut(9..15, "")]).unwrap();
        assert_eq!(out, r#"{"s":9,"a":1.10}"#);
    }

    #[test]
    fn overlapping_or_outlying_splices_are_refused() {
        let body = Bytes::from_static(b"abcdef");
        assert_eq!(splice(&body, &[cut(2..4, ""), cut(3..5, "")]), None);
        assert_eq!(splice(&body, &[cut(6..9, "")]), None);
    }
}

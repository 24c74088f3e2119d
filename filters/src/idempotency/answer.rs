//! Answers that are kept: which ones, and what of them.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, PROXY_AUTHENTICATE, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::notification::acknowledged;

/// Set on an answer that was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Most bytes of header fields that are kept of one answer; with more, it is not kept.
const MAX_HEADERS: usize = 32 << 10;

/// Fields that concern one connection (RFC 9110, section 7.6.1), the length, which is counted anew, and cookies:
/// they are for the caller of the first request, whose session may have ended since.
static NOT_KEPT: [HeaderName; 11] = [
    CONNECTION,
    CONTENT_LENGTH,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    REPLAYED,
];

/// An answer of an upstream, as a repeat gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What is kept of the answers to requests of one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Largest body, in bytes.
    pub max_body: usize,
    /// Answers from 500 up are kept too.
    pub errors: bool,
    /// Only answers that acknowledge an outbound message are kept.
    pub acknowledged: bool,
}

/// What becomes of a key once the head of the answer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The answer is kept, if all of it comes and fits.
    Keep,
    /// It was carried out, and its answer cannot be kept.
    Spend,
    /// It was not carried out, or may be tried again: the key is free.
    Release,
}

impl Terms {
    /// What becomes of an answer that begins like this. Kept are the final ones: those that a repeat would get
    /// again. 408, 425 and 429 ask for a repeat (RFC 9110, section 15.5.9; RFC 8470; RFC 6585).
    pub fn fate(&self, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> Fate {
        let again = matches!(
            status,
            // 401: of a credential that is renewed by then.
            StatusCode::UNAUTHORIZED
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_EARLY
                | StatusCode::TOO_MANY_REQUESTS
        );
        // A call that failed before it said anything else; others end in trailers.
        let failed = headers.contains_key("grpc-status");
        if again
            || failed
            || (status.is_server_error() && !self.errors)
            || (self.acknowledged && !status.is_success())
        {
            return Fate::Release;
        }
        let too_long = length.is_some_and(|length| length > self.max_body as u64);
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if too_long || bytes > MAX_HEADERS { Fate::Spend } else { Fate::Keep }
    }

    /// The same once the body is there.
    pub fn fate_of_body(&self, body: &[u8]) -> Fate {
        if body.len() > self.max_body {
            Fate::Spend
        } else if self.acknowledged && !acknowledged(body) {
            Fate::Release
        } else {
            Fate::Keep
        }
    }
}

impl Answer {
    /// The fields of a head that a repeat may get.
    pub fn headers(head: &HeaderMap) -> HeaderMap {
        let mut headers = head.clone();
        for name in &NOT_KEPT {
            headers.remove(name);
        }
        headers
    }

    /// The fields of the answer to a repeat.
    pub fn replayed(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
        headers
    }

    /// Memory that it takes, in bytes, to within the overhead of a few allocations.
    pub fn weight(&self) -> usize {
        let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 64;
        self.body.len() + self.headers.iter().map(field).sum::<usize>() + 256
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Fate, MAX_HEADERS, Terms};
    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

    const TERMS: Terms = Terms { max_body: 10, errors: false, acknowledged: false };

    #[test]
    fn final_answers_are_kept_and_others_free_the_key() {
        let none = HeaderMap::new();
        for (status, plain, with_errors) in [
            (200, Fate::Keep, Fate::Keep),
            (201, Fate::Keep, Fate::Keep),
            (303, Fate::Keep, Fate::Keep),
            (400, Fate::Keep, Fate::Keep),
            (408, Fate::Release, Fate::Release),
            (409, Fate::Keep, Fate::Keep),
            (425, Fate::Release, Fate::Release),
            (429, Fate::Release, Fate::Release),
            (500, Fate::Release, Fate::Keep),
            (503, Fate::Release, Fate::Keep),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(TERMS.fate(status, &none, None), plain, "{status}");
            let errors = Terms { errors: true, ..TERMS };
            assert_eq!(errors.fate(status, &none, None), with_errors, "{status}");
        }
        let call =
            [(HeaderName::from_static("grpc-status"), HeaderValue::from_static("14"))].into_iter().collect();
        assert_eq!(TERMS.fate(StatusCode::OK, &call, None), Fate::Release);
        assert_eq!(TERMS.fate(StatusCode::OK, &none, Some(11)), Fate::Spend);
        assert_eq!(TERMS.fate(StatusCode::OK, &none, Some(10)), Fate::Keep);
        let value = HeaderValue::from_str(&"x".repeat(MAX_HEADERS)).unwrap();
        let large: HeaderMap = [(HeaderName::from_static("x"), value)].into_iter().collect();
        assert_eq!(TERMS.fate(StatusCode::OK, &large, None), Fate::Spend);
        assert_eq!(TERMS.fate_of_body(b"0123456789"), Fate::Keep);
        assert_eq!(TERMS.fate_of_body(b"0123456789a"), Fate::Spend);
    }

    #[test]
    fn only_an_acknowledged_message_is_done() {
        let terms = Terms { max_body: 1_000, acknowledged: true, ..TERMS };
        assert_eq!(terms.fate(StatusCode::BAD_REQUEST, &HeaderMap::new(), None), Fate::Release);
        assert_eq!(terms.fate(StatusCode::OK, &HeaderMap::new(), None), Fate::Keep);
        assert_eq!(terms.fate_of_body(b"<a><Ack>true</Ack></a>"), Fate::Keep);
        assert_eq!(terms.fate_of_body(b"<a><Ack>false</Ack></a>"), Fate::Release);
        assert_eq!(terms.fate_of_body(b""), Fate::Release);
    }

    #[test]
    fn cookies_and_fields_of_the_connection_are_not_kept() {
        let mut head = HeaderMap::new();
        for (name, value) in
            [("content-type", "a/b"), ("set-cookie", "sid=1"), ("content-length", "3"), ("location", "/x")]
        {
            head.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let headers = Answer::headers(&head);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "location"]);
        let answer = Answer { status: StatusCode::OK, headers, body: "abc".into() };
        assert_eq!(answer.replayed()["idempotency-replayed"], "true");
        assert!(answer.weight() > 256);
    }
}

//! What a message says that its body is (RFC 9110, section 8.3 and 8.4).

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

/// A media type, lower case, without parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaType(pub Box<str>);

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
    /// The format of zlib (RFC 1950), as RFC 9110 has it.
    Deflate,
    /// One that is not decoded here, or several.
    Other,
}

/// Why a `Content-Type` is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediaFault {
    #[error("no content type")]
    Missing,
    #[error("more than one content type")]
    Several,
    #[error("a malformed content type")]
    Malformed,
    #[error("a charset other than UTF-8")]
    Charset,
}

impl MediaType {
    /// The one type of a message. A charset other than UTF-8 makes JSON unreadable (RFC 8259, section 8.1).
    pub fn of(headers: &HeaderMap) -> Result<Self, MediaFault> {
        let mut values = headers.get_all(CONTENT_TYPE).iter();
        let value = values.next().ok_or(MediaFault::Missing)?;
        if values.next().is_some() {
            return Err(MediaFault::Several);
        }
        let text = value.to_str().map_err(|_| MediaFault::Malformed)?;
        let mut parts = text.split(';');
        let media = Self::parse(parts.next().unwrap_or_default()).ok_or(MediaFault::Malformed)?;
        for parameter in parts {
            let Some((name, value)) = parameter.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            let utf8 = value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8");
            if name.trim().eq_ignore_ascii_case("charset") && media.is_json() && !utf8 {
                return Err(MediaFault::Charset);
            }
        }
        Ok(media)
    }

    /// Reads `type/subtype`; what a comma follows is no single type.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let token = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        };
        let (kind, subtype) = text.split_once('/')?;
        (token(kind) && token(subtype)).then(|| Self(text.to_ascii_lowercase().into()))
    }

    /// True for `application/json` and whatever is built on JSON (RFC 6839, section 3.1).
    pub fn is_json(&self) -> bool {
        &*self.0 == "application/json" || self.0.ends_with("+json")
    }

    /// True where `range`, such as `text/*`, takes it in.
    pub fn is_in(&self, range: &str) -> bool {
        range == "*/*"
            || range == &*self.0
            || range
                .strip_suffix('*')
                .is_some_and(|prefix| prefix.ends_with('/') && self.0.starts_with(prefix))
    }
}

impl Coding {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes) {
            for coding in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                let coding = match coding.to_ascii_lowercase().as_slice() {
                    b"" | b"identity" => continue,
                    b"gzip" | b"x-gzip" => Self::Gzip,
                    b"deflate" => Self::Deflate,
                    _ => Self::Other,
                };
                found = if found == Self::Identity { coding } else { Self::Other };
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{Coding, MediaFault, MediaType};
    use http::HeaderMap;

    #[test]
    fn a_message_has_one_type_and_json_is_utf_8() {
        for (values, expected) in [
            (&["application/json"][..], Ok("application/json")),
            (&["Application/Problem+JSON; charset=\"UTF-8\""], Ok("application/problem+json")),
            (&["text/csv; charset=latin1"], Ok("text/csv")),
            (&["application/json; charset=utf-16"], Err(MediaFault::Charset)),
            (&["application/json, text/plain"], Err(MediaFault::Malformed)),
            (&["application/json", "text/plain"], Err(MediaFault::Several)),
            (&["json"], Err(MediaFault::Malformed)),
            (&[], Err(MediaFault::Missing)),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("content-type", value.parse().unwrap());
            }
            let media = MediaType::of(&headers);
            assert_eq!(media.as_ref().map(|media| &*media.0), expected.as_ref().copied(), "{values:?}");
        }
    }

    #[test]
    fn one_coding_is_decoded_and_several_are_not() {
        for (values, coding) in [
            (&[][..], Coding::Identity),
            (&["identity"], Coding::Identity),
            (&["GZIP"], Coding::Gzip),
            (&["identity, deflate"], Coding::Deflate),
            (&["gzip, gzip"], Coding::Other),
            (&["gzip", "br"], Coding::Other),
            (&["zstd"], Coding::Other),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("content-encoding", value.parse().unwrap());
            }
            assert_eq!(Coding::of(&headers), coding, "{values:?}");
        }
    }

    #[test]
    fn ranges_take_types_in() {
        let media = MediaType::parse("Text/CSV").unwrap();
        for (range, within) in [
            ("text/csv", true),
            ("text/*", true),
            ("*/*", true),
            ("text", false),
            ("te*", false),
            ("application/*", false),
        ] {
            assert_eq!(media.is_in(range), within, "{range}");
        }
    }
}

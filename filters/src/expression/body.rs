//! What expressions read of the request body: its size, and how many records it holds.

use std::fmt;

use http::header::CONTENT_ENCODING;
use http::request;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::compile::Evaluated;
use super::{EvaluationError, Scope};

/// Names below `request.body`.
pub(super) const BODY: [&str; 2] = ["size", "records"];

/// The member of a collection that lists its records.
const RECORDS: &str = "records";

/// Bytes of the body.
pub(super) fn size(scope: &Scope<'_>) -> Evaluated<i64> {
    let body = scope.ctx.body.as_ref().ok_or(EvaluationError::Body("there is no body yet"))?;
    i64::try_from(body.len()).map_err(|_| EvaluationError::Overflow)
}

/// Records of a JSON body: those listed under `records`, and 1 where an object has no such member.
///
/// Takes time in proportion to the body, once for a request. Whatever is not such a body has no number of records.
pub(super) fn records(scope: &Scope<'_>) -> Evaluated<i64> {
    let body = scope.ctx.body.as_ref().ok_or(EvaluationError::Body("there is no body yet"))?;
    let records = scope.ctx.records.get_or_init(|| {
        if is_encoded(scope.head) {
            return Err("it is content-encoded");
        }
        let mut text = serde_json::Deserializer::from_slice(body);
        let count = text.deserialize_map(Collection).and_then(|count| text.end().map(|()| count));
        let count = count.ok().and_then(|count| i64::try_from(count).ok());
        count.ok_or("it is no JSON object with one list of records")
    });
    records.map_err(EvaluationError::Body)
}

fn is_encoded(head: &request::Parts) -> bool {
    let mut codings = head.headers.get_all(CONTENT_ENCODING).iter();
    !codings.all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// Counts what a collection lists.
struct Collection;

/// The length of a list whose elements nobody looks at.
struct Length(usize);

impl<'de> Visitor<'de> for Collection {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<usize, A::Error> {
        let mut count = None;
        while let Some(name) = members.next_key::<std::borrow::Cow<'de, str>>()? {
            if name != RECORDS {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            let Length(length) = members.next_value()?;
            // Which of two would the service take?
            if count.replace(length).is_some() {
                return Err(A::Error::duplicate_field(RECORDS));
            }
        }
        Ok(count.unwrap_or(1))
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Length, A::Error> {
                let mut count = 0;
                while elements.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Length(count))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

//! Queries and cookies, taken apart.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::COOKIE;
use smallvec::SmallVec;

use crate::validate::text::percent_decode;

/// Names and values, escapes resolved, in their order.
pub type Pairs<'h> = SmallVec<[(Cow<'h, str>, Cow<'h, str>); 8]>;

/// Takes a query apart as forms write it; `None` where an escape is not whole, or not UTF-8.
pub fn pairs(query: &str) -> Option<Pairs<'_>> {
    let decoded = |text: &'_ str| -> Option<String> { percent_decode(text, true) };
    let mut pairs = Pairs::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if part.contains(['%', '+']) {
            pairs.push((decoded(name)?.into(), decoded(value)?.into()));
        } else {
            pairs.push((name.into(), value.into()));
        }
    }
    Some(pairs)
}

/// The cookies of a request (RFC 6265, section 4.2).
pub fn cookies(headers: &HeaderMap) -> Pairs<'_> {
    let mut pairs = Pairs::new();
    for value in headers.get_all(COOKIE) {
        // What is not UTF-8 hides nothing that stands beside it.
        match String::from_utf8_lossy(value.as_bytes()) {
            Cow::Borrowed(text) => {
                pairs.extend(crumbs(text).map(|(name, value)| (name.into(), value.into())));
            }
            Cow::Owned(text) => {
                let owned = |(name, value): (&str, &str)| (name.to_owned().into(), value.to_owned().into());
                pairs.extend(crumbs(&text).map(owned));
            }
        }
    }
    pairs
}

fn crumbs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, "")))
}

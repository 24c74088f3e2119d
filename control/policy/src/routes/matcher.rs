//! One `HTTPRouteMatch`: what path, method, headers and query parameters must be.

use std::borrow::Cow;

use foregate_filters::cors;
use foregate_filters::percent::decode_leniently;
use http::{HeaderMap, HeaderName, Method, request};
use regex::{Regex, RegexBuilder};

/// Memory of one compiled expression in bytes; larger ones are refused.
const REGEX_SIZE: usize = 256 << 10;

/// What the path must be.
#[derive(Clone, Debug)]
pub enum PathMatcher {
    Exact(Box<str>),
    /// Element by element; without trailing slash, so empty for `/`.
    Prefix(Box<str>),
    Regex(Regex),
    /// The path of a gRPC call.
    Rpc(RpcMatcher),
}

/// Which method of which service; every one where nothing is said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RpcMatcher {
    pub service: Option<ValueMatcher>,
    pub method: Option<ValueMatcher>,
}

/// What a value must be.
#[derive(Clone, Debug)]
pub enum ValueMatcher {
    Exact(Box<str>),
    Regex(Regex),
}

/// Everything of a match besides the path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    pub method: Option<Method>,
    /// Sorted by name, which is unique.
    pub headers: Vec<(HeaderName, ValueMatcher)>,
    /// Sorted by name, which is unique.
    pub query: Vec<(Box<str>, ValueMatcher)>,
    /// True where a preflight that asks for `method` is meant too.
    pub preflight: bool,
}

/// A regular expression that must match the whole of a text, bounded in size.
pub fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!(r"\A(?:{pattern})\z")).size_limit(REGEX_SIZE).build()
}

impl PartialEq for ValueMatcher {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl ValueMatcher {
    pub(super) fn accepts(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => wanted.as_bytes() == value,
            Self::Regex(regex) => std::str::from_utf8(value).is_ok_and(|value| regex.is_match(value)),
        }
    }
}

impl Conditions {
    pub fn accept(&self, head: &request::Parts) -> bool {
        let asked = |method| self.preflight && cors::asks_for(head, method);
        self.method.as_ref().is_none_or(|method| *method == head.method || asked(method))
            && self
                .headers
                .iter()
                .all(|(name, value)| header(&head.headers, name).is_some_and(|sent| value.accepts(&sent)))
            && self.query.iter().all(|(name, value)| {
                let sent = head.uri.query().and_then(|query| parameter(query, name));
                sent.is_some_and(|sent| value.accepts(&sent))
            })
    }
}

/// The value of a header; several lines are one list (RFC 9110, section 5.3).
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.as_bytes();
    let Some(second) = lines.next() else { return Some(Cow::Borrowed(first)) };
    let mut list = first.to_vec();
    for line in std::iter::once(second).chain(lines) {
        list.extend_from_slice(b", ");
        list.extend_from_slice(line.as_bytes());
    }
    Some(Cow::Owned(list))
}

/// The first value of a query parameter, decoded; `None` where the name is not there.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    let decode = |text: &'a str| decode_leniently(text, true);
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decode(key) == *name.as_bytes()).then(|| decode(value))
    })
}

#[cfg(test)]
mod tests {
    use super::{Conditions, ValueMatcher, parameter, whole};
    use http::Request;

    #[test]
    fn parameters_are_decoded_and_the_first_one_counts() {
        let value =
            |query: &str| parameter(query, "a b").map(|value| String::from_utf8(value.into_owned()).unwrap());
        assert_eq!(value("x=1&a+b=c%2fd&a%20b=no").as_deref(), Some("c/d"));
        assert_eq!(value("a%20b").as_deref(), Some(""));
        assert_eq!(value("a%20b=%zz%4").as_deref(), Some("%zz%4"));
        assert_eq!(value("ab=1"), None);
    }

    #[test]
    fn expressions_must_match_the_whole_text_and_stay_small() {
        let regex = whole("a|bc").unwrap();
        assert!(regex.is_match("bc") && !regex.is_match("abc") && !regex.is_match("a\n"));
        assert!(whole(r"\w{100}{100}{100}").is_err());
    }

    #[test]
    fn several_lines_of_a_header_are_one_list() {
        let (head, ()) = Request::builder().header("x", "a").header("x", "b").body(()).unwrap().into_parts();
        let conditions = |value: &str| Conditions {
            headers: vec![("x".parse().unwrap(), ValueMatcher::Exact(value.into()))],
            ..Conditions::default()
        };
        assert!(conditions("a, b").accept(&head));
        assert!(!conditions("a").accept(&head));
    }
}

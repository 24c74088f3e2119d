//! Where in the shape of a Salesforce body the reader stands.

use foregate_filters::percent::decode_leniently;

use super::trie::Node;

/// One open container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The object at the top: a record, or the envelope around several.
    Root,
    /// `records` of a collection.
    Records,
    /// `compositeRequest` of a composite.
    Requests,
    /// One subrequest of a composite.
    Request,
    /// A record inside an envelope.
    Record,
    /// `attributes` of a record.
    Attributes,
    /// An object inside a record that some pointer goes through.
    Inner(Node),
    /// Anything else.
    Skip,
}

/// What the next value is, as its key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Other,
    Member(Node),
    Attributes,
    /// `attributes.type`.
    Type,
    Records,
    Requests,
    Url,
    Body,
}

/// What is known of one subrequest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Request {
    /// Whether its URL names the object.
    pub(super) matches: Option<bool>,
    /// Offset of its body, where there is one.
    pub(super) body: Option<usize>,
    /// True where the body is an object, so that a record was read from it.
    pub(super) held: bool,
}

/// True where a URL ends in `sobjects/<object>`, with an id, or an external id field and its value, behind it.
///
/// Names compare without case, as Salesforce does; percent-encoding is resolved so that it hides nothing.
pub(super) fn names_object(url: &str, object: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = decode_leniently(path, false);
    let mut segments = path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty());
    if !segments.any(|segment| segment.eq_ignore_ascii_case(b"sobjects")) {
        return false;
    }
    segments.next().is_some_and(|segment| segment.eq_ignore_ascii_case(object.as_bytes()))
        && segments.count() <= 2
}

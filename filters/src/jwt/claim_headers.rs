//! Hands claims on as request headers; client copies never pass.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::edits::{Edits, HeaderEdit};
use crate::jwt::refusal::Flaw;

/// Headers that frame, route or authenticate a message, or that the gateway itself sets.
pub(crate) const RESERVED: &[&str] = &[
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// One claim and the header that gets it.
#[derive(Debug)]
pub(super) struct ClaimSlot {
    claim: Box<str>,
    path: Vec<Box<str>>,
    pub(super) header: HeaderName,
}

impl ClaimSlot {
    pub(super) fn new(claim: &str, header: HeaderName) -> Self {
        Self { claim: claim.into(), path: claim.split('.').map(Into::into).collect(), header }
    }

    /// The value of the claim: by its whole name, which may hold dots, else down the path.
    fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        if let Some(value) = claims.get(&*self.claim) {
            return Some(value);
        }
        let (first, rest) = self.path.split_first()?;
        rest.iter().try_fold(claims.get(&**first)?, |value, name| value.get(&**name))
    }

    /// The header value: `None` where the claim is absent or null.
    fn value(&self, claims: &Map<String, Value>) -> Result<Option<HeaderValue>, Flaw> {
        let text = match self.find(claims) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(list)) => list
                .iter()
                // A comma within an item would make two items of one.
                .map(|item| scalar(item).filter(|text| !text.contains(',')))
                .collect::<Option<Vec<_>>>()
                .map(|items| items.join(",")),
            Some(value) => scalar(value),
        };
        text.and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok())
            .map(Some)
            .ok_or_else(|| Flaw::HeaderClaim(self.claim.clone()))
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Asks for the headers of these claims, after the removal of everything the client sent by the
/// names in `ours`.
pub(super) fn edit(
    slots: &[ClaimSlot],
    ours: &[HeaderName],
    claims: &Map<String, Value>,
    sent: &HeaderMap,
    edits: &mut Edits,
) -> Result<(), Flaw> {
    edits.request.extend(ours.iter().cloned().map(HeaderEdit::Remove));
    // Some servers read `x_org` as `x-org`.
    for name in sent.keys().filter(|name| name.as_str().contains('_')) {
        if ours.iter().any(|header| alike(header.as_str(), name.as_str())) {
            edits.request.push(HeaderEdit::Remove(name.clone()));
        }
    }
    for slot in slots {
        if let Some(value) = slot.value(claims)? {
            edits.request.push(HeaderEdit::Set(slot.header.clone(), value));
        }
    }
    Ok(())
}

/// True where two names differ in `-` and `_` at most.
fn alike(one: &str, other: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte };
    one.len() == other.len() && one.bytes().map(fold).eq(other.bytes().map(fold))
}

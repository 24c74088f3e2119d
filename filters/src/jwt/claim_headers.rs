//! Hands claims on as request headers; client copies never pass.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::edits::{Edits, HeaderEdit};
use crate::jwt::claim_path::ClaimPath;
use crate::jwt::refusal::Flaw;
use crate::principal::Claims;

/// One claim and the header that gets it.
#[derive(Debug)]
pub(crate) struct ClaimSlot {
    claim: ClaimPath,
    pub(crate) header: HeaderName,
}

impl ClaimSlot {
    pub(crate) fn new(claim: &str, header: HeaderName) -> Self {
        Self { claim: ClaimPath::new(claim), header }
    }

    /// The header value: `None` where the claim is absent or null.
    fn value(&self, claims: &Map<String, Value>) -> Result<Option<HeaderValue>, Flaw> {
        let text = match self.claim.find(claims) {
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
            .ok_or_else(|| Flaw::HeaderClaim(self.claim.name().into()))
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
pub(crate) fn edit(
    slots: &[ClaimSlot],
    ours: &[HeaderName],
    claims: &Claims,
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
    // Without a slot the claims are not even read.
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

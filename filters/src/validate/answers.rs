//! Whether a response is what the contract says of it.

use std::sync::Arc;

use http::response;

use crate::reason::Reason;
use crate::validate::Responses;
use crate::validate::build::Compiled;
use crate::validate::decode::decode;
use crate::validate::findings;
use crate::validate::limits::Limits;
use crate::validate::media::Coding;
use crate::validate::openapi::{Expected, Operation};
use crate::validate::schema::SchemaId;
use crate::verdict::Reply;
use crate::violation::{Violation, listed};

/// Largest response body that is held for a check, in bytes, and the largest that it may become when decoded.
pub const MAX_RESPONSE: usize = 4 << 20;

/// Bounds of responses: services are trusted with more than clients.
const LIMITS: Limits =
    Limits { string: 4 << 20, keys: 10_000, items: 100_000, number: 64, values: 500_000, ..Limits::LARGEST };

/// The operation of a contract that a request asks for.
#[derive(Debug)]
pub struct Matched {
    pub operation: Arc<Operation>,
    /// What becomes of responses that the contract does not allow.
    pub responses: Responses,
    /// Name of the rule, for refusals and audits.
    pub rule: Arc<str>,
}

/// What is left to be checked of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyCheck {
    schema: SchemaId,
    coding: Coding,
}

impl Matched {
    pub(super) fn new(operation: Arc<Operation>, compiled: &Compiled) -> Self {
        // Where requests are only audited, so are responses.
        let responses = match compiled.responses {
            Responses::Enforce if compiled.audit => Responses::Audit,
            responses => responses,
        };
        Self { operation, responses, rule: Arc::clone(&compiled.names.openapi) }
    }

    /// Looks at the head of a response; gives what its body is to be asked, where there is something to ask.
    /// `asked_head`: the request was for a head alone.
    pub fn head(&self, head: &response::Parts, asked_head: bool) -> Result<Option<BodyCheck>, Box<Reply>> {
        let status = head.status;
        if status.is_informational() {
            return Ok(None);
        }
        let bodiless = asked_head || matches!(status.as_u16(), 204 | 205 | 304);
        match self.operation.response(status, &head.headers, bodiless) {
            Ok(Expected::Nothing) => Ok(None),
            Ok(Expected::Body(schema)) => Ok(Some(BodyCheck { schema, coding: Coding::of(&head.headers) })),
            Err(violation) => Err(Box::new(self.refusal(&[violation]))),
        }
    }

    /// Looks at the whole body of a response.
    pub fn body(&self, check: BodyCheck, body: &[u8]) -> Result<(), Box<Reply>> {
        let Some(set) = self.operation.response_set() else { return Ok(()) };
        let decoded;
        let body = if check.coding == Coding::Identity {
            body
        } else {
            decoded = decode(body, check.coding, MAX_RESPONSE).map_err(|why| {
                Box::new(Reply::new(Reason::ResponseInvalid).rule(&self.rule).detail(why.to_string()))
            })?;
            decoded.as_slice()
        };
        let asked = Some((set, check.schema));
        findings::json(body, &LIMITS, asked, "response")
            .map_err(|found| Box::new(self.refusal(&found.violations("response"))))
    }

    /// A body that is larger than what is held.
    pub fn too_large(&self) -> Box<Reply> {
        self.unchecked(&format!("more than {MAX_RESPONSE} bytes are not held for a check"))
    }

    /// A body that cannot be had.
    pub fn unchecked(&self, why: &str) -> Box<Reply> {
        Box::new(Reply::new(Reason::ResponseInvalid).rule(&self.rule).detail(why))
    }

    /// What is wrong is for the operator: the caller can do nothing about it.
    fn refusal(&self, violations: &[Violation]) -> Reply {
        let detail = format!("{}: {}", self.operation.name, listed(violations));
        Reply::new(Reason::ResponseInvalid).rule(&self.rule).detail(detail)
    }
}

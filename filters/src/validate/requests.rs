//! Two filters: what the head of a request tells, and its body.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, request};

use crate::authorize::Mode;
use crate::context::{AuditFact, RequestContext};
use crate::edits::HeaderEdit;
use crate::fault::Path;
use crate::filter::{BodyNeed, Filter};
use crate::reason::Reason;
use crate::rule::{Rule, RuleKind};
use crate::step::Step;
use crate::validate::Responses;
use crate::validate::answers::Matched;
use crate::validate::build::Compiled;
use crate::validate::decode::{DecodeFault, decode};
use crate::validate::findings::{Findings, value};
use crate::validate::media::{Coding, MediaFault, MediaType};
use crate::validate::openapi::{Found, Operation, parameters};
use crate::validate::schema::{SchemaId, Set};
use crate::validate::tape::{self, Tape};
use crate::verdict::{Reply, Verdict};
use crate::violation::{Violation, listed};

/// Digests of a body as it was encoded; they are wrong of what is sent on (RFC 9530, RFC 3230, RFC 2616).
static DIGESTS: [HeaderName; 3] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

const CODINGS: HeaderValue = HeaderValue::from_static("gzip, deflate");

/// Operation, parameters, content type and announced size: before a byte of the body is read.
#[derive(Debug)]
pub struct ValidateHead(Arc<Compiled>);

/// The body: decoded, well-formed, within bounds, of its schema.
#[derive(Debug)]
pub struct ValidateBody(Arc<Compiled>);

/// A refusal, and the part of the policy that it comes from.
type Refused = (Box<Reply>, Part);

#[derive(Clone, Copy, Debug)]
enum Part {
    Body,
    Contract,
}

/// What is sent on in place of an encoded body.
type Decoded = Option<Bytes>;

impl ValidateHead {
    pub const fn new(compiled: Arc<Compiled>) -> Self {
        Self(compiled)
    }
}

impl ValidateBody {
    pub const fn new(compiled: Arc<Compiled>) -> Self {
        Self(compiled)
    }
}

impl Filter for ValidateHead {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        match self.0.head(head, ctx) {
            Ok(()) => Verdict::Continue,
            Err(refused) => self.0.verdict(refused, ctx),
        }
    }

    /// What was admitted stays so: what is open has been checked.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }

    fn rules(&self) -> Vec<Rule> {
        self.0.rules()
    }
}

impl Filter for ValidateBody {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        match self.0.body(head, ctx) {
            Ok(decoded) => {
                if let Some(mut decoded) = decoded.filter(|_| !self.0.audit) {
                    if let Some(memory) = &ctx.body_memory {
                        decoded = match Arc::clone(memory).hold(decoded) {
                            Ok(counted) => counted,
                            Err(reply) => return Verdict::Reply(reply),
                        };
                    }
                    ctx.body = Some(decoded);
                    ctx.decoded = true;
                    ctx.edits.request.push(HeaderEdit::Remove(CONTENT_ENCODING));
                    ctx.edits.request.extend(DIGESTS.iter().cloned().map(HeaderEdit::Remove));
                }
                Verdict::Continue
            }
            Err(refused) => self.0.verdict(refused, ctx),
        }
    }

    /// The body is gone, and was checked.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }

    fn rules(&self) -> Vec<Rule> {
        self.0.rules()
    }

    fn body(&self) -> BodyNeed {
        BodyNeed::Whole
    }
}

impl Compiled {
    /// The two filters.
    pub fn filters(self: &Arc<Self>) -> (ValidateHead, ValidateBody) {
        (ValidateHead::new(Arc::clone(self)), ValidateBody::new(Arc::clone(self)))
    }

    /// The bound of bodies in bytes, where the policy says one; nothing is refused for it in audit.
    pub fn bound(&self) -> Option<usize> {
        (self.said_size && !self.audit).then_some(self.max_size)
    }

    fn rules(&self) -> Vec<Rule> {
        let mode = if self.audit { Mode::Audit } else { Mode::Enforce };
        let rule = |name: &Arc<str>, place| Rule {
            at: Path::default().key("validate").key(name),
            mode,
            ..Rule::listed(Arc::clone(name), RuleKind::Validate, "validate", place)
        };
        let body = self.body.as_ref().map(|_| rule(&self.names.body, 0));
        let contract = self.contract.as_ref().map(|_| rule(&self.names.openapi, 1));
        body.into_iter().chain(contract).collect()
    }

    fn verdict(&self, (reply, part): Refused, ctx: &mut RequestContext) -> Verdict {
        let rule = match part {
            Part::Body => &self.names.body,
            Part::Contract => &self.names.openapi,
        };
        if !self.audit {
            return (*reply).rule(rule).into();
        }
        let detail = format!("{}: {}", reply.reason, reply.detail).into();
        ctx.audits.push(AuditFact { step: Step::Admit, rule: Arc::clone(rule), detail });
        Verdict::Continue
    }

    fn head(&self, head: &request::Parts, ctx: &mut RequestContext) -> Result<(), Refused> {
        let of_contract = |reply: Reply| (Box::new(reply), Part::Contract);
        if let Some(contract) = &self.contract {
            let (operation, captured, variables) = match contract.find(head) {
                Found::Operation(operation, captured, variables) => (operation, captured, variables),
                Found::Method(allowed) => {
                    let reply = Reply::new(Reason::MethodRefused).header(ALLOW, allowed.clone());
                    return Err(of_contract(reply.detail("the contract has this path with other methods")));
                }
                Found::Nothing => return Err(of_contract(Reply::new(Reason::OperationUnknown))),
            };
            if self.responses == Responses::Enforce {
                // So that what is to be checked can be read.
                let identity = HeaderValue::from_static("identity");
                ctx.edits.request.push(HeaderEdit::Set(ACCEPT_ENCODING, identity));
            }
            // In audit, body and response are looked at too.
            ctx.contract = Some(Box::new(Matched::new(Arc::clone(operation), self)));
            let wrong = parameters::check(operation, head, &captured, variables);
            if !wrong.is_empty() {
                return Err(of_contract(violated(Reason::ParameterInvalid, wrong)));
            }
        }
        let announced = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        // A content type alone announces nothing: many clients send one with every request.
        let there =
            announced.is_some_and(|length: u64| length > 0) || head.headers.contains_key(TRANSFER_ENCODING);
        if there {
            self.media(head, ctx.contract.as_deref())?;
            if announced.is_some_and(|length| length > self.max_size as u64) {
                return Err((Box::new(too_large(self.max_size)), self.part()));
            }
        }
        Ok(())
    }

    /// Whether the type of a body that is there is one of those that may be; true where it is JSON.
    fn media(&self, head: &request::Parts, matched: Option<&Matched>) -> Result<bool, Refused> {
        let media = MediaType::of(&head.headers);
        let refuse =
            |part, why: String| (Box::new(Reply::new(Reason::MediaTypeUnsupported).detail(why)), part);
        let unreadable = |part, why: &MediaFault| refuse(part, why.to_string());
        if let Some(rules) = &self.body {
            let media = media.as_ref().map_err(|why| unreadable(Part::Body, why))?;
            if !media.is_json() || !(rules.media.is_empty() || rules.media.contains(media)) {
                return Err(refuse(Part::Body, "a content type that the policy does not name".to_owned()));
            }
        }
        if let Some(operation) = matched.map(|matched| &matched.operation) {
            let Some(body) = &operation.body else {
                let undeclared = Violation::new("body", "undeclared", "the operation has no body");
                return Err((Box::new(violated(Reason::BodyInvalid, vec![undeclared])), Part::Contract));
            };
            let media = media.as_ref().map_err(|why| unreadable(Part::Contract, why))?;
            if body.content.find(media).is_none() {
                return Err(refuse(
                    Part::Contract,
                    "a content type that the contract does not name".to_owned(),
                ));
            }
        }
        Ok(media.is_ok_and(|media| media.is_json()))
    }

    /// Who says what a body must be like, where both could.
    const fn part(&self) -> Part {
        if self.body.is_some() { Part::Body } else { Part::Contract }
    }

    fn body(&self, head: &request::Parts, ctx: &RequestContext) -> Result<Decoded, Refused> {
        let matched = ctx.contract.as_deref();
        let body = ctx.body.as_ref().filter(|body| !body.is_empty());
        let Some(body) = body else { return self.absent(head, matched).map(|()| None) };
        if self.body.is_none() && matched.is_none() {
            // In audit: an operation that the contract does not have.
            return Ok(None);
        }
        if body.len() > self.max_size {
            return Err((Box::new(too_large(self.max_size)), self.part()));
        }
        if !self.media(head, matched)? {
            return Ok(None);
        }
        let coding = Coding::of(&head.headers);
        if coding == Coding::Identity {
            return self.json(body, matched, head).map(|()| None);
        }
        let decoded = decode(body, coding, self.max_size)
            .map_err(|why| (Box::new(undecoded(why, self.max_size)), self.part()))?;
        self.json(&decoded, matched, head)?;
        Ok(Some(decoded.into()))
    }

    /// There is no body.
    fn absent(&self, head: &request::Parts, matched: Option<&Matched>) -> Result<(), Refused> {
        let carries = [Method::POST, Method::PUT, Method::PATCH].contains(&head.method);
        let by_schema = carries && self.body.as_ref().is_some_and(|rules| rules.schema.is_some());
        let body = matched.and_then(|matched| matched.operation.body.as_ref());
        let part = match body.is_some_and(|body| body.required) {
            _ if by_schema => Part::Body,
            true => Part::Contract,
            false => return Ok(()),
        };
        let missing = Violation::new("body", "required", "is missing");
        Err((Box::new(violated(Reason::BodyInvalid, vec![missing])), part))
    }

    /// One reading for every schema.
    fn json(&self, body: &[u8], matched: Option<&Matched>, head: &request::Parts) -> Result<(), Refused> {
        let (text, nodes) = tape::read(body, &self.limits).map_err(|unacceptable| {
            let detail = format!("byte {}: {}", unacceptable.offset, unacceptable.what);
            let violations = Findings::Structure(unacceptable).violations("body");
            (Box::new(violated(Reason::BodyInvalid, violations).detail(detail)), self.part())
        })?;
        let tape = Tape { text, nodes: &nodes };
        let ask = |set: &Set, schema: SchemaId, part| {
            value(set, schema, tape, "body")
                .map_err(|wrong| (Box::new(violated(Reason::SchemaViolation, wrong)), part))
        };
        if let Some(set) = self.body.as_ref().and_then(|rules| rules.schema.as_ref()) {
            ask(set, 0, Part::Body)?;
        }
        if let Some((operation, schema)) = matched.and_then(|matched| schema_of(&matched.operation, head)) {
            ask(&operation.requests, schema, Part::Contract)?;
        }
        Ok(())
    }
}

fn schema_of<'o>(operation: &'o Operation, head: &request::Parts) -> Option<(&'o Operation, SchemaId)> {
    let media = MediaType::of(&head.headers).ok()?;
    let schema = operation.body.as_ref()?.content.find(&media)?.schema?;
    Some((operation, schema))
}

fn violated(reason: Reason, violations: Vec<Violation>) -> Reply {
    let detail = listed(&violations);
    Reply { violations: violations.into(), ..Reply::new(reason).detail(detail) }
}

fn too_large(limit: usize) -> Reply {
    Reply::new(Reason::BodyTooLarge).detail(format!("more than {limit} bytes"))
}

fn undecoded(why: DecodeFault, limit: usize) -> Reply {
    match why {
        DecodeFault::Unsupported => {
            Reply::new(Reason::BodyEncoded).header(ACCEPT_ENCODING, CODINGS).detail(why.to_string())
        }
        DecodeFault::TooLarge => too_large(limit),
        DecodeFault::Bomb => Reply::new(Reason::BodyTooLarge).detail(why.to_string()),
        DecodeFault::Malformed(_) => {
            let coding = Violation::new("body", "contentEncoding", "cannot be decoded");
            violated(Reason::BodyInvalid, vec![coding]).detail(why.to_string())
        }
    }
}

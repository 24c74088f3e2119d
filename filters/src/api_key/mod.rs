//! Requires an API key of a consumer, or its client id and secret.

pub mod key;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderName, HeaderValue, request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chain::Built;
use crate::consumer::Consumer;
use crate::consumers::{Consumers, Unknown};
use crate::context::RequestContext;
use crate::edits::{HeaderEdit, is_reserved};
use crate::fault::{Code, Fault, Path};
use crate::filter::Filter;
use crate::reason::Reason;
use crate::rule::{Rule, RuleKind};
use crate::verdict::{Reply, Verdict};

/// Longest value looked at, in bytes: several times the length of what we make.
const MAX_BYTES: usize = 512;
/// Where a policy names no header.
const DEFAULT_HEADER: &str = "x-api-key";
/// What a caller without key is told (RFC 9110, section 11.6.1).
pub(crate) const CHALLENGE: HeaderValue = HeaderValue::from_static(r#"ApiKey realm="foregate""#);

/// Which keys are accepted, and where they are looked for: in headers only, never in the query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ApiKeySpec")]
pub struct Spec {
    /// Header that holds the key; `x-api-key` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Instead of a key: an id in one header and its secret in another, as `MuleSoft` clients send them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<ClientHeaders>,
    /// Groups of consumers that are let in; all consumers where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub groups: Vec<String>,
    /// True: the headers go on to the upstream. They are removed otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward: bool,
}

/// The two headers of a client that sends id and secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientHeaders {
    /// Header of the id, such as `client_id`.
    pub client_id: String,
    /// Header of the secret, such as `client_secret`.
    pub client_secret: String,
}

/// Where credentials are looked for.
#[derive(Debug)]
enum Carrier {
    Key(HeaderName),
    Client(HeaderName, HeaderName),
}

/// Finds the consumer behind a request.
#[derive(Debug)]
pub struct ApiKey {
    policy: Box<str>,
    carrier: Carrier,
    consumers: Arc<Consumers>,
    groups: Vec<Box<str>>,
    forward: bool,
    /// True where another way to identify may be taken: a request without key goes on.
    optional: bool,
}

/// What is wrong with the credentials. The text goes to the operator; it never holds a part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Flaw {
    #[error("there is no API key")]
    Missing,
    #[error("a header of the credentials occurs more than once")]
    Doubled,
    #[error("of client id and secret there is only one")]
    Half,
    #[error("the credentials are empty, over 512 bytes, or not ASCII")]
    Malformed,
    #[error(transparent)]
    Unknown(#[from] Unknown),
}

impl ApiKey {
    /// Builds the filter for what is written at `at`; with `optional`, a request without key goes on.
    pub fn build(
        spec: &Spec,
        policy: &str,
        optional: bool,
        consumers: Arc<Consumers>,
        at: &Path,
    ) -> Built<Self> {
        let mut faults = Vec::new();
        let carrier = match (&spec.header, &spec.headers) {
            (Some(_), Some(_)) => {
                let message = "header and headers exclude each other";
                let help = "a key stands in one header; an id and its secret in two";
                faults.push(Fault::new(Code::CONFLICT, at.clone(), message).help(help));
                None
            }
            (header, None) => {
                let name = header.as_deref().unwrap_or(DEFAULT_HEADER);
                header_name(name, &at.key("header"), &mut faults).map(Carrier::Key)
            }
            (None, Some(both)) => {
                let at = at.key("headers");
                let id = header_name(&both.client_id, &at.key("clientId"), &mut faults);
                let secret = header_name(&both.client_secret, &at.key("clientSecret"), &mut faults);
                if id.is_some() && id == secret {
                    let message = "id and secret stand in the same header";
                    faults.push(Fault::new(Code::CONFLICT, at, message));
                }
                id.zip(secret).map(|(id, secret)| Carrier::Client(id, secret))
            }
        };
        for (index, group) in spec.groups.iter().enumerate() {
            if group.is_empty() || spec.groups.iter().take(index).any(|earlier| earlier == group) {
                let message = if group.is_empty() { "the group is empty" } else { "the group stands twice" };
                faults.push(Fault::new(Code::CONFLICT, at.key("groups").index(index), message));
            }
        }
        match carrier {
            Some(carrier) if faults.is_empty() => Ok(Self {
                policy: policy.into(),
                carrier,
                consumers,
                groups: spec.groups.iter().map(|group| group.as_str().into()).collect(),
                forward: spec.forward,
                optional,
            }),
            _ => Err(faults),
        }
    }

    /// The consumer of these headers.
    fn find(&self, headers: &HeaderMap, ctx: &RequestContext) -> Result<&Arc<Consumer>, Flaw> {
        let unix = ctx.moment.unix;
        Ok(match &self.carrier {
            Carrier::Key(name) => {
                let key = only(headers, name)?.ok_or(Flaw::Missing)?;
                self.consumers.by_key(key, unix)?
            }
            Carrier::Client(id, secret) => match (only(headers, id)?, only(headers, secret)?) {
                (Some(id), Some(secret)) => self.consumers.by_client(id, secret, unix)?,
                (None, None) => return Err(Flaw::Missing),
                _ => return Err(Flaw::Half),
            },
        })
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        match &self.carrier {
            Carrier::Key(name) => [Some(name), None],
            Carrier::Client(id, secret) => [Some(id), Some(secret)],
        }
        .into_iter()
        .flatten()
    }

    /// Takes the credentials out of the request, or sets them to themselves: an edited header leaves no
    /// look-alike beside it.
    fn edit(&self, headers: &HeaderMap, ctx: &mut RequestContext) {
        for name in self.names() {
            let kept = headers.get(name).filter(|_| self.forward);
            ctx.edits.request.push(match kept {
                Some(value) => HeaderEdit::Set(name.clone(), value.clone()),
                None => HeaderEdit::Remove(name.clone()),
            });
        }
    }

    fn refuse(&self, flaw: Flaw) -> Verdict {
        // Unknown, wrong and expired look alike to the caller; the operator reads which it was.
        let reason = if flaw == Flaw::Missing { Reason::KeyMissing } else { Reason::KeyInvalid };
        let reply = Reply::new(reason).rule(&self.policy).detail(flaw.to_string());
        reply.header(WWW_AUTHENTICATE, CHALLENGE).into()
    }
}

/// A header of the policy's own choice: not one that frames, routes or authenticates otherwise.
fn header_name(text: &str, at: &Path, faults: &mut Vec<Fault>) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        faults.push(Fault::new(Code::VALUE, at.clone(), "this is not a header name"));
        return None;
    };
    if is_reserved(&name) {
        let fault = Fault::new(Code::CONFLICT, at.clone(), format!("a key cannot stand in `{name}`"));
        faults.push(fault.help("use a header of its own, as x-api-key"));
        return None;
    }
    Some(name)
}

/// The one value of a header; `None` where it is absent.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Flaw> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Flaw::Doubled);
    }
    if value.is_empty() || value.len() > MAX_BYTES {
        return Err(Flaw::Malformed);
    }
    value.to_str().map(Some).map_err(|_| Flaw::Malformed)
}

impl Filter for ApiKey {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        self.edit(&head.headers, ctx);
        let consumer = match self.find(&head.headers, ctx) {
            Ok(consumer) => consumer,
            Err(Flaw::Missing) if self.optional => return Verdict::Continue,
            Err(flaw) => return self.refuse(flaw),
        };
        ctx.consumer = Some(Arc::clone(consumer));
        if !self.groups.is_empty() && !consumer.groups.iter().any(|group| self.groups.contains(group)) {
            let detail = "the consumer is in none of the groups of the policy";
            return Reply::new(Reason::AccessDenied).rule(&self.policy).detail(detail).into();
        }
        Verdict::Continue
    }

    fn rules(&self) -> Vec<Rule> {
        let at = Path::default().key("apiKey");
        let rule = Rule { at, ..Rule::listed(Arc::from(&*self.policy), RuleKind::Key, "", 0) };
        vec![rule.reading(&[("consumer", "name"), ("consumer", "groups")])]
    }

    fn credentials(&self) -> Vec<HeaderName> {
        self.names().cloned().collect()
    }
}

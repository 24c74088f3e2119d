//! Asks the authorization server whether a token is active; makes the principal.

mod answers;
mod build;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::client_auth::ClientAuth;
use crate::context::RequestContext;
use crate::edits::HeaderEdit;
use crate::fault::{Fault, Path};
use crate::filter::{Filter, Pending};
use crate::introspection::answers::{Active, STALE};
use crate::introspector::Introspector;
use crate::jwt::ClaimHeader;
use crate::jwt::claim_headers::{self, ClaimSlot};
use crate::jwt::claims::{self, Rules};
use crate::jwt::refusal::Flaw;
use crate::jwt::{strict, token};
use crate::resources::Resources;
use crate::rule::{Rule, RuleKind};
use crate::units::TimeSpan;
use crate::verdict::Verdict;

pub use crate::introspection::answers::AnswerCache;

/// One authorization server that is asked about tokens (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "IntrospectionSpec")]
pub struct Spec {
    /// `iss` of its tokens, where its answers name one. JWTs that say so are asked about here and nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: Option<String>,
    /// URL of the introspection endpoint: `https`, or `http` to loopback.
    #[schemars(length(min = 1, max = 2048))]
    pub endpoint: String,
    /// Accepted `aud` values. Where absent, tokens for any audience pass: the endpoint alone decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// How the gateway proves itself to the endpoint.
    pub client_auth: ClientAuth,
    #[serde(default)]
    pub cache: CacheSpec,
    #[serde(default)]
    pub on_unavailable: OnUnavailable,
    /// Claim that holds the scopes, as list or as text with spaces, instead of `scope` and `scp`; `a.b` reads a
    /// nested one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes_claim: Option<String>,
    /// True: tokens must be bound to the certificate that the client shows (RFC 8705).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_binding: bool,
    /// Tolerated difference between clocks, 30s where absent, at most 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew: Option<TimeSpan>,
    /// Members of the answer handed on as headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims_to_headers: Vec<ClaimHeader>,
    /// True: the `Authorization` header goes on to the upstream. It is removed otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward: bool,
}

/// How long answers are believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "IntrospectionCache")]
pub struct CacheSpec {
    /// Longest time that a token is taken for active without asking again, 1s to 1h, and never beyond its `exp`;
    /// 1m where absent. A revoked token passes for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<TimeSpan>,
    /// How long a token is taken for not active without asking again, up to 1m; 10s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative: Option<TimeSpan>,
}

/// What becomes of a token about which the endpoint cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnUnavailable {
    /// It is refused with 503.
    #[default]
    Reject,
    /// It passes where it was active when the endpoint answered last, at most 10m after that answer has become
    /// old, and never beyond its `exp`; else it is refused with 503.
    Stale,
}

/// Requires a token that an authorization server calls active.
#[derive(Debug)]
pub struct Introspection {
    policy: Box<str>,
    /// At least one.
    endpoints: Vec<Endpoint>,
    /// True: a request without a token goes on.
    optional: bool,
    /// Every header that the claims may set.
    headers: Vec<HeaderName>,
}

/// One authorization server, ready to be asked.
#[derive(Debug)]
struct Endpoint {
    /// The issuer, or the URL where the policy names none.
    name: Box<str>,
    issuer: Option<Box<str>>,
    rules: Rules,
    introspector: Arc<dyn Introspector>,
    cache: Arc<AnswerCache>,
    max: Duration,
    negative: Duration,
    stale: bool,
    slots: Vec<ClaimSlot>,
    forward: bool,
}

impl Introspection {
    /// Builds the filter for the endpoints at `at`, or says everything that is wrong with them. With `optional`,
    /// requests without a bearer token go on: another filter must refuse or accept them.
    pub fn build(
        specs: &[Spec],
        policy: &str,
        optional: bool,
        at: &Path,
        resources: &dyn Resources,
    ) -> Result<Self, Vec<Fault>> {
        let endpoints = build::endpoints(specs, at, resources)?;
        let mut headers: Vec<HeaderName> = Vec::new();
        for slot in endpoints.iter().flat_map(|endpoint| &endpoint.slots) {
            if !headers.contains(&slot.header) {
                headers.push(slot.header.clone());
            }
        }
        Ok(Self { policy: policy.into(), endpoints, optional, headers })
    }

    /// The endpoint to ask about a token: the one of its issuer, else the first.
    fn endpoint(&self, text: &str) -> Option<&Endpoint> {
        let named = || {
            let issuer = token::issuer(text)?;
            self.endpoints.iter().find(|endpoint| endpoint.issuer.as_deref() == Some(&*issuer))
        };
        // Most policies have one: its tokens need not be looked into.
        if self.endpoints.len() > 1 { named().or(self.endpoints.first()) } else { self.endpoints.first() }
    }

    /// Turns what is known of a token into facts, edits and a verdict.
    fn conclude(
        &self,
        endpoint: &Endpoint,
        known: Result<Active, Flaw>,
        head: &request::Parts,
        ctx: &mut RequestContext,
    ) -> Verdict {
        let proven = known.and_then(|active| {
            active.binding.proven_by(ctx.peer.as_deref())?;
            let claims = &active.principal.claims;
            claim_headers::edit(&endpoint.slots, &self.headers, claims, &head.headers, &mut ctx.edits)?;
            Ok(active.principal)
        });
        match proven {
            Ok(principal) => {
                if !endpoint.forward {
                    ctx.edits.request.push(HeaderEdit::Remove(AUTHORIZATION));
                }
                ctx.principal = Some(principal);
                Verdict::Continue
            }
            Err(flaw) => flaw.reply(&endpoint.name),
        }
    }
}

impl Endpoint {
    /// Asks, checks, and remembers.
    async fn ask(&self, text: &str, ctx: &RequestContext) -> Result<Active, Flaw> {
        let key = self.cache.key(text);
        let answer = self.introspector.ask(text).await;
        let read = answer.map_err(|why| why.0).and_then(|body| {
            strict::object(&body).map_err(|_| "the answer is not one JSON object without duplicates".into())
        });
        let answer = match read {
            Ok(answer) => answer,
            Err(why) => {
                let known = self.stale.then(|| self.cache.find_stale(key, ctx.moment)).flatten();
                return known.ok_or(Flaw::NotIntrospected(why));
            }
        };
        // A moment after the answer was asked for: too short rather than too long.
        let outcome = self.check(answer, ctx);
        match &outcome {
            Ok(active) => self.cache.insert(key, active, self.max, ctx.moment),
            Err(flaw) => self.cache.refuse(key, flaw, self.negative, ctx.moment),
        }
        outcome
    }

    /// Checks an answer as claims of a token are checked.
    fn check(&self, mut answer: Map<String, Value>, ctx: &RequestContext) -> Result<Active, Flaw> {
        if answer.remove("active") != Some(Value::Bool(true)) {
            return Err(Flaw::Inactive);
        }
        let named = match answer.get("iss") {
            None => None,
            Some(Value::String(issuer)) => Some(issuer.as_str()),
            Some(_) => return Err(Flaw::Claim("iss")),
        };
        let issuer: Box<str> = match (&self.issuer, named) {
            (Some(mine), Some(named)) if **mine != *named => return Err(Flaw::Issuer),
            (Some(mine), _) => mine.clone(),
            (None, Some(named)) => named.into(),
            (None, None) => self.name.clone(),
        };
        // Salesforce calls its bearer tokens access_token.
        let bearer = |kind: &str| ["bearer", "access_token"].iter().any(|it| it.eq_ignore_ascii_case(kind));
        if answer.get("token_type").is_some_and(|kind| !kind.as_str().is_some_and(bearer)) {
            return Err(Flaw::TokenType);
        }
        let bridge = if self.stale { STALE } else { Duration::ZERO };
        let lasting = ctx.moment.unix.saturating_add(self.max).saturating_add(bridge);
        let checked = claims::check(&issuer, &self.rules, answer, ctx.moment, Some(lasting))?;
        Ok(Active {
            principal: Arc::new(checked.principal),
            validity: checked.validity,
            binding: checked.binding,
        })
    }
}

/// True for what can be a token: printable, and neither a list nor quoted. Others are not asked about.
fn is_token(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b'\\' | b';');
    !text.is_empty() && text.bytes().all(plain)
}

impl Filter for Introspection {
    fn rules(&self) -> Vec<Rule> {
        let rule = |(place, endpoint): (u16, &Endpoint)| {
            let rule = Rule::listed(Arc::from(&*endpoint.name), RuleKind::Issuer, "introspection", place);
            rule.reading(&[("jwt", "issuer"), ("jwt", "subject"), ("jwt", "scopes")])
        };
        (0..).zip(&self.endpoints).map(rule).collect()
    }

    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        // A JWT that the filter before this one has verified.
        if ctx.principal.is_some() {
            return Verdict::Continue;
        }
        let text = match token::bearer(&head.headers) {
            Ok(text) if is_token(text) => text,
            Ok(_) => return Flaw::Malformed("it holds what no token holds").reply(&self.policy),
            // Another scheme is not a token, but not nothing either.
            Err(Flaw::Missing) if self.optional && !head.headers.contains_key(AUTHORIZATION) => {
                return Verdict::Continue;
            }
            Err(flaw) => return flaw.reply(&self.policy),
        };
        let Some(endpoint) = self.endpoint(text) else { return Flaw::Issuer.reply(&self.policy) };
        match endpoint.cache.find(endpoint.cache.key(text), ctx.moment) {
            Some(known) => self.conclude(endpoint, known, head, ctx),
            None => Verdict::Wait,
        }
    }

    fn resume<'a>(&'a self, head: &'a request::Parts, ctx: &'a mut RequestContext) -> Pending<'a> {
        Box::pin(async move {
            let text = match token::bearer(&head.headers) {
                Ok(text) => text,
                Err(flaw) => return flaw.reply(&self.policy),
            };
            let Some(endpoint) = self.endpoint(text) else { return Flaw::Issuer.reply(&self.policy) };
            let known = endpoint.ask(text, ctx).await;
            self.conclude(endpoint, known, head, ctx)
        })
    }

    fn owns(&self) -> Vec<HeaderName> {
        self.headers.clone()
    }
}

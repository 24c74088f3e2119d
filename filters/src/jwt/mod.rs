//! Verifies bearer tokens: signature, issuer, audience, times; makes the principal.

pub(crate) mod binding;
pub(crate) mod build;
pub(crate) mod claim_headers;
pub(crate) mod claim_path;
pub(crate) mod claims;
pub mod key_set;
pub(crate) mod refusal;
pub(crate) mod strict;
#[cfg(test)]
mod tests;
pub(crate) mod token;
pub(crate) mod token_cache;

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderName, request};
use jsonwebtoken::Algorithm;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::RequestContext;
use crate::edits::HeaderEdit;
use crate::fault::{Fault, Path};
use crate::filter::{Filter, Pending};
use crate::jwt::binding::Binding;
use crate::jwt::claim_headers::ClaimSlot;
use crate::jwt::claims::{Checked, Rules};
use crate::jwt::key_set::{KeySet, VerifyingKey};
use crate::jwt::refusal::Flaw;
use crate::jwt::token::Token;
use crate::jwt::token_cache::Entry;
use crate::keys::Keys;
use crate::principal::Principal;
use crate::resources::Resources;
use crate::rule::{Rule, RuleKind};
use crate::units::TimeSpan;
use crate::verdict::Verdict;

pub(crate) use crate::jwt::refusal::CHALLENGE;
pub use crate::jwt::token_cache::TokenCache;

/// A signature algorithm (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Alg {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
    HS256,
    HS384,
    HS512,
}

/// Where verification keys come from: exactly one of the four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwks {
    /// URL of a JWK set (RFC 7517). `https`, or `http` to loopback; else name it under `insecure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// True: read `jwks_uri` from the issuer's `/.well-known/openid-configuration`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discover: bool,
    /// File with a JWK set or a PEM public key, relative to the policy file; re-read when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The JWK set itself, as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
}

/// A claim that is handed on in a request header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimHeader {
    /// Name of the claim; `a.b` reads a nested one.
    pub claim: String,
    /// Header that gets it. Copies sent by the client are always removed.
    pub header: String,
}

/// One trusted issuer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// `iss` of its tokens, to the letter.
    pub issuer: String,
    /// Accepted `aud` values; at least one.
    #[schemars(length(min = 1))]
    pub audiences: Vec<String>,
    pub jwks: Jwks,
    /// Accepted algorithms; RS256, PS256, ES256, ES384 and `EdDSA` where absent. Symmetric ones only by name here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<Alg>,
    /// Accepted `typ` values, such as `at+jwt` (RFC 9068). Where absent: JWT, at+jwt, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 128)))]
    pub types: Vec<String>,
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
    /// Claims handed on as headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims_to_headers: Vec<ClaimHeader>,
    /// True: the `Authorization` header goes on to the upstream. It is removed otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward: bool,
}

/// Requires a bearer token of one of several issuers (RFC 6750, RFC 7519, RFC 8725).
#[derive(Debug)]
pub struct Jwt {
    policy: Box<str>,
    issuers: Vec<Issuer>,
    /// True: tokens that are no JWT of these issuers are left to introspection.
    others: bool,
    /// Every header that any issuer's claims may set.
    headers: Vec<HeaderName>,
    /// True where another way to identify may be taken: a request without token goes on.
    optional: bool,
}

/// One trusted issuer, ready to check its tokens.
#[derive(Debug)]
struct Issuer {
    name: Box<str>,
    rules: Rules,
    /// Accepted `typ` values in lower case; `None` for a token without one.
    types: Vec<Option<Box<str>>>,
    algorithms: Vec<Alg>,
    keys: Arc<dyn Keys>,
    cache: Arc<TokenCache>,
    slots: Vec<ClaimSlot>,
    forward: bool,
}

/// How far a check without waiting comes.
enum Check<'a> {
    /// The token is good: who it speaks for, and whose word that is.
    Passed(&'a Issuer, Arc<Principal>, Binding),
    /// Not a token of these issuers: another filter is asked.
    Elsewhere,
    /// Only the signature is left to verify, with keys that are not here yet.
    Unverified,
}

/// How the signature stands with the keys at hand.
enum Signed {
    By(Arc<VerifyingKey>),
    /// No key of this `kid`: the issuer may have a new one.
    Unknown,
    No,
}

/// Most keys tried for a token that does not name its key: each try costs a verification.
const MAX_TRIES: usize = 4;

impl Alg {
    /// The algorithm with this name (RFC 7518, section 3.1). There is none for `none`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::RS256,
            "RS384" => Self::RS384,
            "RS512" => Self::RS512,
            "PS256" => Self::PS256,
            "PS384" => Self::PS384,
            "PS512" => Self::PS512,
            "ES256" => Self::ES256,
            "ES384" => Self::ES384,
            "EdDSA" => Self::EdDSA,
            "HS256" => Self::HS256,
            "HS384" => Self::HS384,
            "HS512" => Self::HS512,
            _ => return None,
        })
    }

    /// True where signer and verifier share one secret.
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

impl From<Alg> for Algorithm {
    fn from(alg: Alg) -> Self {
        match alg {
            Alg::RS256 => Self::RS256,
            Alg::RS384 => Self::RS384,
            Alg::RS512 => Self::RS512,
            Alg::PS256 => Self::PS256,
            Alg::PS384 => Self::PS384,
            Alg::PS512 => Self::PS512,
            Alg::ES256 => Self::ES256,
            Alg::ES384 => Self::ES384,
            Alg::EdDSA => Self::EdDSA,
            Alg::HS256 => Self::HS256,
            Alg::HS384 => Self::HS384,
            Alg::HS512 => Self::HS512,
        }
    }
}

impl Jwt {
    /// Builds the filter for the issuers at `at`, or says everything that is wrong with them. With `others`,
    /// requests without a token of these issuers go on: another filter must refuse or accept them.
    pub fn build(
        specs: &[Spec],
        policy: &str,
        others: bool,
        at: &Path,
        resources: &dyn Resources,
    ) -> Result<Self, Vec<Fault>> {
        let issuers = build::issuers(specs, at, resources)?;
        let mut headers: Vec<HeaderName> = Vec::new();
        for slot in issuers.iter().flat_map(|issuer| &issuer.slots) {
            if !headers.contains(&slot.header) {
                headers.push(slot.header.clone());
            }
        }
        Ok(Self { policy: policy.into(), issuers, others, headers, optional: false })
    }

    /// Lets requests go on that send no `Authorization` at all, where `optional` is true.
    #[must_use]
    pub fn optional(mut self, optional: bool) -> Self {
        self.optional = optional;
        self
    }

    /// Checks all that can be checked at once, cheap things first.
    fn check(&self, text: &str, ctx: &RequestContext) -> Result<Check<'_>, (&str, Flaw)> {
        for issuer in &self.issuers {
            if let Some(Entry { principal, binding, .. }) = issuer.cached(text, ctx) {
                return Ok(Check::Passed(issuer, principal, binding));
            }
        }
        if self.others && !self.is_ours(text) {
            return Ok(Check::Elsewhere);
        }
        let (issuer, token, entry) = self.read(text, ctx)?;
        let keys = issuer.keys.current();
        let refuse = |flaw| Err((&*issuer.name, flaw));
        match keys.map(|keys| signed(&keys, &token)) {
            Some(Signed::By(key)) => Ok(issuer.remember(text, entry, key)),
            Some(Signed::No) => refuse(Flaw::Signature),
            Some(Signed::Unknown) | None if issuer.may_refetch(&token, ctx) => Ok(Check::Unverified),
            Some(Signed::Unknown) => refuse(Flaw::Key),
            None => refuse(Flaw::KeysUnavailable),
        }
    }

    /// True for what has the form of a JWT of one of these issuers.
    fn is_ours(&self, text: &str) -> bool {
        token::issuer(text).is_some_and(|iss| self.issuers.iter().any(|issuer| issuer.name == iss))
    }

    /// Reads the token and checks everything but the signature.
    fn read<'a>(&self, text: &'a str, ctx: &RequestContext) -> Result<Candidate<'_, 'a>, (&str, Flaw)> {
        let mut token = Token::parse(text).map_err(|flaw| (&*self.policy, flaw))?;
        let issuer = match token.claims.get("iss") {
            Some(serde_json::Value::String(iss)) => self
                .issuers
                .iter()
                .find(|issuer| *issuer.name == **iss)
                .ok_or((&*self.policy, Flaw::Issuer))?,
            _ => return Err((&self.policy, Flaw::Claim("iss"))),
        };
        if !issuer.algorithms.contains(&token.alg) {
            return Err((&issuer.name, Flaw::Algorithm));
        }
        if !issuer.types.contains(&token.typ) {
            return Err((&issuer.name, Flaw::Type));
        }
        let claims = std::mem::take(&mut token.claims);
        let checked = claims::check(&issuer.name, &issuer.rules, claims, ctx.moment, None)
            .map_err(|flaw| (&*issuer.name, flaw))?;
        Ok((issuer, token, checked))
    }

    /// Fetches the keys anew and checks what was left.
    async fn check_again(&self, text: &str, ctx: &RequestContext) -> Result<Check<'_>, (&str, Flaw)> {
        let (issuer, token, entry) = self.read(text, ctx)?;
        let keys = issuer.keys.refetch(token.kid.as_deref(), ctx.moment).await;
        let flaw = match keys.map(|keys| signed(&keys, &token)) {
            Some(Signed::By(key)) => {
                return Ok(issuer.remember(text, entry, key));
            }
            Some(Signed::No) => Flaw::Signature,
            Some(Signed::Unknown) => Flaw::Key,
            None => Flaw::KeysUnavailable,
        };
        Err((&issuer.name, flaw))
    }

    /// No claims, no headers of claims: nothing that looks like one passes either.
    fn forget(&self, ctx: &mut RequestContext) {
        ctx.edits.request.extend(self.headers.iter().cloned().map(HeaderEdit::Remove));
    }

    /// Turns a finished check into facts, edits and a verdict.
    fn conclude(
        &self,
        check: Result<Check<'_>, (&str, Flaw)>,
        head: &request::Parts,
        ctx: &mut RequestContext,
    ) -> Verdict {
        let (issuer, principal, binding) = match check {
            Ok(Check::Passed(issuer, principal, binding)) => (issuer, principal, binding),
            Ok(Check::Elsewhere) | Err((_, Flaw::Missing)) if self.others => return Verdict::Continue,
            Ok(Check::Elsewhere) => return Flaw::Issuer.reply(&self.policy),
            Ok(Check::Unverified) => return Verdict::Wait,
            Err((rule, flaw)) => return flaw.reply(rule),
        };
        if let Err(flaw) = binding.proven_by(ctx.peer.as_deref()) {
            return flaw.reply(&issuer.name);
        }
        let edited = claim_headers::edit(
            &issuer.slots,
            &self.headers,
            &principal.claims,
            &head.headers,
            &mut ctx.edits,
        );
        if let Err(flaw) = edited {
            return flaw.reply(&issuer.name);
        }
        if !issuer.forward {
            ctx.edits.request.push(HeaderEdit::Remove(AUTHORIZATION));
        }
        ctx.principal = Some(principal);
        Verdict::Continue
    }
}

/// A token whose signature alone is open: its issuer, its parts, the principal it would make.
type Candidate<'i, 't> = (&'i Issuer, Token<'t>, Checked);

impl Issuer {
    fn cached(&self, text: &str, ctx: &RequestContext) -> Option<Entry> {
        self.cache.find(self.cache.key(text), &*self.keys.current()?, ctx.moment)
    }

    fn may_refetch(&self, token: &Token<'_>, ctx: &RequestContext) -> bool {
        self.keys.may_refetch(token.kid.as_deref(), ctx.moment)
    }

    fn remember(&self, text: &str, checked: Checked, key: Arc<VerifyingKey>) -> Check<'_> {
        let Checked { principal, validity, binding } = checked;
        let principal = Arc::new(principal);
        let entry = Entry { principal: Arc::clone(&principal), validity, key, binding: binding.clone() };
        self.cache.insert(self.cache.key(text), entry);
        Check::Passed(self, principal, binding)
    }
}

/// Tries the keys that may have signed this token.
fn signed(keys: &KeySet, token: &Token<'_>) -> Signed {
    let kid = token.kid.as_deref();
    let verified = keys
        .candidates(kid, token.alg)
        .take(MAX_TRIES)
        .find(|key| key.verifies(token.alg, token.message.as_bytes(), token.signature));
    match (verified, kid) {
        (Some(key), _) => Signed::By(Arc::clone(key)),
        (None, Some(kid)) if keys.names(kid) => Signed::No,
        (None, _) => Signed::Unknown,
    }
}

impl Filter for Jwt {
    fn on_request(&self, head: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        if self.optional && !head.headers.contains_key(AUTHORIZATION) {
            self.forget(ctx);
            return Verdict::Continue;
        }
        let check = token::bearer(&head.headers)
            .map_err(|flaw| (&*self.policy, flaw))
            .and_then(|text| self.check(text, ctx));
        self.conclude(check, head, ctx)
    }

    fn rules(&self) -> Vec<Rule> {
        let rule = |(place, issuer): (u16, &Issuer)| {
            let rule = Rule::listed(Arc::from(&*issuer.name), RuleKind::Issuer, "jwt", place);
            rule.reading(&[("jwt", "issuer"), ("jwt", "subject"), ("jwt", "scopes")])
        };
        (0..).zip(&self.issuers).map(rule).collect()
    }

    fn owns(&self) -> Vec<HeaderName> {
        self.headers.clone()
    }

    fn credentials(&self) -> Vec<HeaderName> {
        vec![AUTHORIZATION]
    }

    fn resume<'a>(&'a self, head: &'a request::Parts, ctx: &'a mut RequestContext) -> Pending<'a> {
        Box::pin(async move {
            let check = match token::bearer(&head.headers) {
                Ok(text) => self.check_again(text, ctx).await,
                Err(flaw) => Err((&*self.policy, flaw)),
            };
            self.conclude(check, head, ctx)
        })
    }
}

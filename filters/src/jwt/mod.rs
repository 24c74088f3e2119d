//! Verifies bearer tokens: signature, issuer, audience, times; makes the principal.

pub mod key_set;

use http::request;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::RequestContext;
use crate::fault::{Fault, Path};
use crate::filter::Filter;
use crate::reason::Reason;
use crate::resources::Resources;
use crate::units::TimeSpan;
use crate::verdict::{Reply, Verdict};

/// A signature algorithm (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[expect(clippy::upper_case_acronyms, reason = "the names of RFC 7518")]
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
    /// Accepted algorithms; RS256, PS256, ES256, ES384 and EdDSA where absent. Symmetric ones only by name here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<Alg>,
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

/// Verified tokens, so that each is verified once.
#[derive(Debug)]
pub struct TokenCache;

/// Requires a bearer token of one of several issuers.
#[derive(Debug)]
pub struct Jwt {}

impl Jwt {
    /// Builds the filter for the issuers at `at`, or says everything that is wrong with them.
    pub fn build(
        specs: &[Spec],
        policy: &str,
        at: &Path,
        resources: &dyn Resources,
    ) -> Result<Self, Vec<Fault>> {
        let _ = (specs, policy, at, resources);
        Ok(Self {})
    }
}

impl Filter for Jwt {
    fn on_request(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Reply::new(Reason::TokenMissing).into()
    }
}

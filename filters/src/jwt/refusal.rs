//! What can be wrong with a token, and what caller and operator hear of it.

use http::HeaderValue;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};

use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

/// What is wrong. The text goes to the operator; it never holds a part of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("there is no bearer token")]
    Missing,
    #[error("the Authorization header occurs more than once")]
    Doubled,
    #[error("the token is over 16 KiB")]
    TooLarge,
    #[error("the token has not the form of a signed JWT: {0}")]
    Malformed(&'static str),
    #[error("the header is not strict JSON")]
    HeaderJson,
    #[error("the claims are not strict JSON")]
    ClaimsJson,
    #[error("`crit` asks for an extension, and none is supported")]
    Critical,
    #[error("`typ` is not one that this issuer's access tokens have")]
    Type,
    #[error("it is an ID, logout or refresh token, not an access token")]
    OtherToken,
    #[error("`alg` is unknown or not allowed for this issuer")]
    Algorithm,
    #[error("`iss` names no configured issuer")]
    Issuer,
    #[error("`{0}` is missing or not of its type")]
    Claim(&'static str),
    #[error("`aud` holds none of the accepted audiences")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet (`{0}`)")]
    Early(&'static str),
    #[error("the token is bound in a way that cannot be checked (`cnf`)")]
    Bound,
    #[error("the token is bound to a certificate, and the client has shown none")]
    NoCertificate,
    #[error("the token is bound to another certificate")]
    OtherCertificate,
    #[error("the token is bound to no certificate, and this issuer's must be")]
    Unbound,
    #[error("the claim `{0}` is not of scopes")]
    Scopes(Box<str>),
    #[error("the authorization server says that the token is not active")]
    Inactive,
    #[error("`token_type` is not that of a bearer token")]
    TokenType,
    #[error("the authorization server cannot be asked: {0}")]
    NotIntrospected(Box<str>),
    #[error("no key of the issuer fits the token's `kid` and `alg`")]
    Key,
    #[error("no key of the issuer verifies the signature")]
    Signature,
    #[error("the issuer's keys could not be had yet")]
    KeysUnavailable,
    #[error("claim `{0}` cannot be written as a header value")]
    HeaderClaim(Box<str>),
}

/// Seconds after which a caller may hope that the issuer's keys are there.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// What a caller without token is told (RFC 6750, section 3).
pub(crate) const CHALLENGE: &str = r#"Bearer realm="foregate""#;

impl Flaw {
    /// The refusal for this flaw; `rule` is the issuer, or the policy where the issuer is not known.
    pub(crate) fn reply(&self, rule: &str) -> Verdict {
        let reply = |reason| Reply::new(reason).rule(rule).detail(self.to_string());
        // RFC 6750, section 3: no error code where no token was sent; else one short, fixed text.
        let (reason, challenge) = match self {
            Self::KeysUnavailable => {
                return reply(Reason::KeysUnavailable).header(RETRY_AFTER, RETRY_SECONDS).into();
            }
            Self::NotIntrospected(_) => {
                return reply(Reason::IntrospectionUnavailable).header(RETRY_AFTER, RETRY_SECONDS).into();
            }
            Self::Missing => (Reason::TokenMissing, CHALLENGE),
            Self::Expired => (
                Reason::TokenInvalid,
                r#"Bearer realm="foregate", error="invalid_token", error_description="The token has expired""#,
            ),
            _ => (
                Reason::TokenInvalid,
                r#"Bearer realm="foregate", error="invalid_token", error_description="The token is not valid""#,
            ),
        };
        reply(reason).header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge)).into()
    }
}

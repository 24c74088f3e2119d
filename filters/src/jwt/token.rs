//! Takes a compact token apart, strictly, before anything in it is believed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::{Map, Value};

use crate::jwt::refusal::Flaw;
use crate::jwt::{Alg, strict};

/// Longest token: header bounds of common servers end at 16 KiB too.
const MAX_BYTES: usize = 16 * 1024;
/// Longest `kid` that is looked for.
const MAX_KID_BYTES: usize = 256;
/// Longest `typ`.
const MAX_TYPE_BYTES: usize = 128;

/// The bearer token of a request, not looked into yet (RFC 6750, section 2.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, Flaw> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Flaw::Missing)?;
    if values.next().is_some() {
        return Err(Flaw::Doubled);
    }
    // A header value holds no control characters; this looks at eight bytes at once, `to_str` at one.
    let value = std::str::from_utf8(value.as_bytes()).ok().filter(|text| text.is_ascii());
    let value = value.ok_or(Flaw::Malformed("it is not ASCII"))?;
    let (scheme, token) = value.split_once(' ').ok_or(Flaw::Missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Flaw::Missing);
    }
    let token = token.trim_matches(' ');
    if token.len() > MAX_BYTES {
        return Err(Flaw::TooLarge);
    }
    Ok(token)
}

/// A token in its parts. Nothing of it is verified.
#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) alg: Alg,
    pub(super) kid: Option<Box<str>>,
    /// In lower case and without `application/`.
    pub(super) typ: Option<Box<str>>,
    pub(super) claims: Map<String, Value>,
    /// Header and claims as signed.
    pub(super) message: &'a str,
    /// In base64url, known to be canonical.
    pub(super) signature: &'a str,
}

impl<'a> Token<'a> {
    /// Reads a JWS in compact form (RFC 7515, section 7.1) whose payload is a claims set.
    ///
    /// Keys that the header brings or points to (`jwk`, `jku`, `x5c`, `x5u`) are never used.
    pub(super) fn parse(text: &'a str) -> Result<Self, Flaw> {
        let (message, signature) = text.rsplit_once('.').ok_or(Flaw::Malformed("it has no three parts"))?;
        let (header, claims) = message.split_once('.').ok_or(Flaw::Malformed("it has no three parts"))?;
        if claims.contains('.') {
            return Err(Flaw::Malformed("it has more than three parts"));
        }
        let header = strict::object(&decode(header)?).map_err(|_| Flaw::HeaderJson)?;
        if header.contains_key("crit") {
            return Err(Flaw::Critical);
        }
        let typ = match header.get("typ") {
            None => None,
            Some(Value::String(typ)) if typ.len() <= MAX_TYPE_BYTES => Some(bare_type(typ)),
            Some(_) => return Err(Flaw::Type),
        };
        let alg = header.get("alg").and_then(Value::as_str).and_then(Alg::parse).ok_or(Flaw::Algorithm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= MAX_KID_BYTES => Some(kid.as_str().into()),
            Some(_) => return Err(Flaw::Malformed("`kid` is no string of at most 256 bytes")),
        };
        let claims = strict::object(&decode(claims)?).map_err(|_| Flaw::ClaimsJson)?;
        decode(signature)?;
        Ok(Self { alg, kid, typ, claims, message, signature })
    }
}

/// Decodes base64url: no padding, no white space, and the unused bits zero, so that no two texts
/// are the same token.
fn decode(part: &str) -> Result<Vec<u8>, Flaw> {
    match URL_SAFE_NO_PAD.decode(part) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(Flaw::Malformed("a part is empty or not canonical base64url")),
    }
}

/// A media type in one spelling: `application/` may be left out, and case means nothing (RFC 7515, section
/// 4.1.9).
pub(super) fn bare_type(typ: &str) -> Box<str> {
    let typ = match typ.split_once('/') {
        Some((kind, rest)) if kind.eq_ignore_ascii_case("application") => rest,
        _ => typ,
    };
    typ.to_ascii_lowercase().into()
}

/// `iss` of what has the form of a JWT, however bad it is otherwise; `None` of every other token.
pub(crate) fn issuer(text: &str) -> Option<Box<str>> {
    let mut parts = text.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims: Map<String, Value> = serde_json::from_slice(&decode(claims).ok()?).ok()?;
    claims.get("iss").and_then(Value::as_str).map(Into::into)
}

//! Checks the claims of a token and makes the principal of them.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::jwt::refusal::Flaw;
use crate::moment::Moment;
use crate::principal::Principal;

/// When a token is valid: wall clock, skew included, end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: Duration,
    pub(super) until: Duration,
}

impl Validity {
    /// True where the moment lies within.
    pub(super) fn contains(self, moment: Moment) -> bool {
        self.from <= moment.unix && moment.unix < self.until
    }
}

/// Checks audience and times, and gives the principal this token would speak for, once its
/// signature is verified, with the time within which it does (RFC 7519, section 4.1).
pub(super) fn check(
    issuer: &str,
    audiences: &[String],
    skew: Duration,
    claims: Map<String, Value>,
    moment: Moment,
) -> Result<(Principal, Validity), Flaw> {
    if !audience(&claims)?.iter().any(|sent| audiences.iter().any(|mine| mine == sent)) {
        return Err(Flaw::Audience);
    }
    let expires = date(&claims, "exp")?.ok_or(Flaw::Claim("exp"))?;
    let before = date(&claims, "nbf")?;
    let made = date(&claims, "iat")?;
    let now = moment.unix;
    if now >= expires.saturating_add(skew) {
        return Err(Flaw::Expired);
    }
    for (name, date) in [("nbf", before), ("iat", made)] {
        if date.is_some_and(|date| date > now.saturating_add(skew)) {
            return Err(Flaw::Early(name));
        }
    }
    // RFC 8705 and RFC 9449: whoever stole a bound token must not use it as a plain one.
    if claims.contains_key("cnf") {
        return Err(Flaw::Bound);
    }
    let subject = match claims.get("sub") {
        None => "",
        Some(Value::String(subject)) => subject,
        Some(_) => return Err(Flaw::Claim("sub")),
    };
    let from = before.max(made).unwrap_or_default().saturating_sub(skew);
    let principal = Principal {
        issuer: issuer.into(),
        subject: subject.into(),
        scopes: scopes(&claims)?,
        expires: expires.as_secs(),
        claims,
    };
    Ok((principal, Validity { from, until: expires.saturating_add(skew) }))
}

/// `aud`: a string or a list of strings.
fn audience(claims: &Map<String, Value>) -> Result<Vec<&str>, Flaw> {
    match claims.get("aud") {
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(list)) => list.iter().map(|item| item.as_str().ok_or(Flaw::Claim("aud"))).collect(),
        _ => Err(Flaw::Claim("aud")),
    }
}

/// A `NumericDate`: seconds since the epoch, fractions allowed.
fn date(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Duration>, Flaw> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
            (Some(seconds), _) => Ok(Some(Duration::from_secs(seconds))),
            (None, Some(seconds)) => {
                Duration::try_from_secs_f64(seconds).map(Some).map_err(|_| Flaw::Claim(name))
            }
            (None, None) => Err(Flaw::Claim(name)),
        },
        Some(_) => Err(Flaw::Claim(name)),
    }
}

/// What `scope` (RFC 8693, section 4.2) and `scp` grant: each a list, or a string with spaces.
fn scopes(claims: &Map<String, Value>) -> Result<Vec<Box<str>>, Flaw> {
    let mut scopes: Vec<Box<str>> = Vec::new();
    let mut add = |scope: &str| {
        if !scope.is_empty() && !scopes.iter().any(|known| &**known == scope) {
            scopes.push(scope.into());
        }
    };
    for name in ["scope", "scp"] {
        match claims.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => text.split(' ').for_each(&mut add),
            Some(Value::Array(list)) => {
                for item in list {
                    add(item.as_str().ok_or(Flaw::Claim(name))?);
                }
            }
            Some(_) => return Err(Flaw::Claim(name)),
        }
    }
    Ok(scopes)
}

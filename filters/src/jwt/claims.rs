//! Checks the claims of a token and makes the principal of them.

use std::time::Duration;

use ahash::AHashSet;
use serde_json::{Map, Value};

use crate::jwt::binding::Binding;
use crate::jwt::claim_path::ClaimPath;
use crate::jwt::refusal::Flaw;
use crate::moment::Moment;
use crate::principal::Principal;

/// When a token is valid: wall clock, skew included, end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

/// What the claims of one issuer's tokens are held to.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// At least one of them must be in `aud`; where there is none, `aud` is not looked at.
    pub(crate) audiences: Vec<String>,
    /// Tolerated difference of clocks.
    pub(crate) skew: Duration,
    /// Where scopes are, instead of `scope` and `scp`.
    pub(crate) scopes: Option<ClaimPath>,
    /// True: a token that is bound to no certificate is refused.
    pub(crate) bound: bool,
}

/// Claims that are as they should be.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) principal: Principal,
    pub(crate) validity: Validity,
    pub(crate) binding: Binding,
}

impl Validity {
    /// True where the moment lies within.
    pub(crate) fn contains(self, moment: Moment) -> bool {
        self.from <= moment.unix && moment.unix < self.until
    }
}

/// Checks audience and times, and gives the principal this token would speak for, once its
/// signature is verified, with the time within which it does (RFC 7519, section 4.1). `lasting` is the end of a
/// token without `exp`; where it is `None` too, `exp` is required.
pub(crate) fn check(
    issuer: &str,
    rules: &Rules,
    claims: Map<String, Value>,
    moment: Moment,
    lasting: Option<Duration>,
) -> Result<Checked, Flaw> {
    let skew = rules.skew;
    let accepted = |sent: &&str| rules.audiences.iter().any(|mine| mine == sent);
    if !rules.audiences.is_empty() && !audience(&claims)?.iter().any(accepted) {
        return Err(Flaw::Audience);
    }
    let expires = date(&claims, "exp")?.or(lasting).ok_or(Flaw::Claim("exp"))?;
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
    if is_other_token(&claims) {
        return Err(Flaw::OtherToken);
    }
    let binding = Binding::read(&claims)?;
    if rules.bound && !binding.is_bound() {
        return Err(Flaw::Unbound);
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
        scopes: scopes(&claims, rules.scopes.as_ref())?.into(),
        expires: expires.as_secs(),
        claims: claims.into(),
    };
    Ok(Checked { principal, validity: Validity { from, until: expires.saturating_add(skew) }, binding })
}

/// True for what proves a login, a logout or a refresh to a client, and grants no access (`OpenID` Connect Core
/// 1.0, section 3.3.2.11; RFC 8417; the words of Cognito and Keycloak).
fn is_other_token(claims: &Map<String, Value>) -> bool {
    let says = |name: &str, words: &[&str]| {
        let word = claims.get(name).and_then(Value::as_str).unwrap_or_default();
        words.iter().any(|other| other.eq_ignore_ascii_case(word))
    };
    ["at_hash", "c_hash", "s_hash", "events"].iter().any(|name| claims.contains_key(*name))
        || says("token_use", &["id", "refresh"])
        || says("typ", &["ID", "Refresh", "Offline", "Logout"])
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

/// What `scope` (RFC 8693, section 4.2) and `scp` grant, or the claim named instead of them: each a list, or a
/// string with spaces.
fn scopes(claims: &Map<String, Value>, instead: Option<&ClaimPath>) -> Result<Vec<Box<str>>, Flaw> {
    let mut named: Vec<&str> = Vec::new();
    match instead {
        Some(path) => {
            add_scopes(path.find(claims), &mut named).ok_or_else(|| Flaw::Scopes(path.name().into()))?;
        }
        None => {
            for name in ["scope", "scp"] {
                add_scopes(claims.get(name), &mut named).ok_or(Flaw::Claim(name))?;
            }
        }
    }
    // Looked up, not searched for: nobody has signed for these yet, and there may be thousands.
    let mut known = AHashSet::with_capacity(named.len());
    named.retain(|scope| !scope.is_empty() && known.insert(*scope));
    Ok(named.into_iter().map(Into::into).collect())
}

/// `None` where the value is neither a list of strings nor a string.
fn add_scopes<'a>(value: Option<&'a Value>, named: &mut Vec<&'a str>) -> Option<()> {
    match value {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => named.extend(text.split(' ')),
        Some(Value::Array(list)) => {
            for item in list {
                named.push(item.as_str()?);
            }
        }
        Some(_) => return None,
    }
    Some(())
}

//! What keeps requests together at one endpoint: headers, cookies, addresses, sessions.

use std::net::IpAddr;

use foregate_filters::context::RequestContext;
use foregate_filters::edits::HeaderEdit;
use foregate_filters::expression::Scope;
use foregate_policy::balancing::{HashOn, Session};
use http::header::{COOKIE, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use crate::dispatch::maglev::{hash, mix};
use crate::dispatch::upstream::UpstreamState;
use crate::telemetry::random;

/// Characters of a cookie or header that are looked at.
const LONGEST: usize = 4_096;

/// The key of a request, where its upstream has a use for one. A client without a session is given one, in its
/// response.
pub fn key(upstream: &UpstreamState, head: &Parts, ctx: &mut RequestContext, secure: bool) -> Option<u64> {
    let headers = &head.headers;
    let how = &upstream.spec.balancing;
    if let Some(session) = &how.session {
        return Some(of_session(session, headers, ctx, secure));
    }
    match how.hash_on.as_ref()? {
        HashOn::Source => Some(of_address(ctx.client.address)),
        HashOn::Header(name) => headers.get(name).map(of_value),
        HashOn::Cookie(name) => cookie(headers, name).map(hash),
        HashOn::Expression(key) => key.0.evaluate(&Scope { head, ctx }, |key| hash(key.as_bytes())).ok(),
    }
}

/// The key of a connection that is passed on unread: its client, where its upstream hashes.
pub fn of_connection(upstream: &UpstreamState, client: IpAddr) -> Option<u64> {
    let how = &upstream.spec.balancing;
    (how.hash_on == Some(HashOn::Source) && upstream.is_balanced()).then(|| of_address(client))
}

fn of_address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()),
    }
}

fn of_value(value: &HeaderValue) -> u64 {
    let bytes = value.as_bytes();
    hash(bytes.get(..LONGEST).unwrap_or(bytes))
}

fn of_session(session: &Session, headers: &HeaderMap, ctx: &mut RequestContext, secure: bool) -> u64 {
    let known = match session {
        Session::Cookie { name, .. } => cookie(headers, name).filter(|id| !id.is_empty()).map(hash),
        Session::Header(name) => headers.get(name).filter(|id| !id.is_empty()).map(of_value),
    };
    if let Some(known) = known {
        return known;
    }
    // It says nothing about the endpoint, and another gateway finds the same one by it.
    let id = format!("{:016x}{:016x}", mix(random::next()), mix(random::next()));
    let edit = match session {
        Session::Header(name) => HeaderValue::from_str(&id).ok().map(|id| HeaderEdit::Set(name.clone(), id)),
        Session::Cookie { name, max_age } => {
            let mut text = format!("{name}={id}; Path=/; HttpOnly; SameSite=Lax");
            if secure {
                text.push_str("; Secure");
            }
            if let Some(age) = max_age {
                text.push_str("; Max-Age=");
                text.push_str(&age.as_secs().to_string());
            }
            HeaderValue::from_str(&text).ok().map(|value| HeaderEdit::Add(SET_COOKIE, value))
        }
    };
    ctx.edits.response.extend(edit);
    hash(id.as_bytes())
}

/// The value of a cookie (RFC 6265, section 5.4); the first of several.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs =
        headers.get_all(COOKIE).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.get(..LONGEST).unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use super::cookie;
    use http::HeaderMap;

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "asid=1; sid2=2;sid=3".parse().unwrap());
        headers.append("cookie", "other=4; sid=5".parse().unwrap());
        assert_eq!(cookie(&headers, "sid"), Some(&b"3"[..]));
        assert_eq!(cookie(&headers, "other"), Some(&b"4"[..]));
        assert_eq!(cookie(&headers, "si"), None);
    }
}

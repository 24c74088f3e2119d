//! What keeps requests together at one endpoint: headers, cookies, addresses, sessions.

use std::net::IpAddr;
use std::time::Duration;

use foregate_filters::context::RequestContext;
use foregate_filters::edits::HeaderEdit;
use foregate_filters::expression::Scope;
use foregate_policy::balancing::{Carried, HashOn, Session};
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

/// The key of a session that the route keeps together, over all backends.
pub fn of_route(session: &Session, head: &Parts, ctx: &mut RequestContext, secure: bool) -> u64 {
    of_session(session, &head.headers, ctx, secure)
}

fn of_session(session: &Session, headers: &HeaderMap, ctx: &mut RequestContext, secure: bool) -> u64 {
    let shown = match &session.carried {
        Carried::Cookie(name) => cookie(headers, name),
        Carried::Header(name) => headers.get(name).map(|value| {
            let bytes = value.as_bytes();
            bytes.get(..LONGEST).unwrap_or(bytes)
        }),
    };
    let shown = shown.filter(|id| !id.is_empty());
    let timed = session.absolute.is_some() || session.idle.is_some();
    let now = ctx.moment.unix.as_secs();
    match shown {
        Some(id) if !timed => return hash(id),
        Some(shown) => {
            if let Some(Timed { id, created, seen }) = Timed::read(shown)
                && lasts(session.absolute, now, created)
                && lasts(session.idle, now, seen)
            {
                // Told anew once an eighth of the time has passed, not with every answer.
                if session.idle.is_some_and(|idle| now.saturating_sub(seen) > idle.as_secs() / 8) {
                    tell(session, &format!("{id}.{created:x}.{now:x}"), ctx, secure);
                }
                return hash(id.as_bytes());
            }
        }
        None => {}
    }
    // It says nothing about the endpoint, and another gateway finds the same one by it.
    let id = format!("{:016x}{:016x}", mix(random::next()), mix(random::next()));
    if timed {
        tell(session, &format!("{id}.{now:x}.{now:x}"), ctx, secure);
    } else {
        tell(session, &id, ctx, secure);
    }
    hash(id.as_bytes())
}

/// A session that does not last for ever: its client keeps the times, in seconds since the epoch. Whoever forges
/// them keeps its endpoint for longer, and nothing else.
struct Timed<'a> {
    id: &'a str,
    created: u64,
    seen: u64,
}

impl<'a> Timed<'a> {
    fn read(shown: &'a [u8]) -> Option<Self> {
        let mut parts = str::from_utf8(shown).ok()?.split('.');
        let (id, created, seen) = (parts.next()?, parts.next()?, parts.next()?);
        let number = |text| u64::from_str_radix(text, 16).ok();
        let all = parts.next().is_none() && !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        all.then_some(Self { id, created: number(created)?, seen: number(seen)? })
    }
}

fn lasts(limit: Option<Duration>, now: u64, since: u64) -> bool {
    limit.is_none_or(|limit| now.saturating_sub(since) < limit.as_secs())
}

/// Tells a client of its session, in the response.
fn tell(session: &Session, id: &str, ctx: &mut RequestContext, secure: bool) {
    let edit = match &session.carried {
        Carried::Header(name) => HeaderValue::from_str(id).ok().map(|id| HeaderEdit::Set(name.clone(), id)),
        Carried::Cookie(name) => {
            let mut text = format!("{name}={id}; Path=/; HttpOnly; SameSite=Lax");
            if secure {
                text.push_str("; Secure");
            }
            if let Some(age) = session.max_age {
                text.push_str("; Max-Age=");
                text.push_str(&age.as_secs().to_string());
            }
            HeaderValue::from_str(&text).ok().map(|value| HeaderEdit::Add(SET_COOKIE, value))
        }
    };
    ctx.edits.response.extend(edit);
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
    use super::{Timed, cookie, lasts};
    use http::HeaderMap;
    use std::time::Duration;

    #[test]
    fn a_session_with_times_is_read_whole_or_not_at_all() {
        let read = |text: &'static str| {
            Timed::read(text.as_bytes()).map(|timed| (timed.id, timed.created, timed.seen))
        };
        assert_eq!(read("0af.10.1f"), Some(("0af", 16, 31)));
        for text in ["0af", "0af.10", "0af.10.x", ".10.1f", "0ag.10.1f", "0af.10.1f.", "0af.10.1f.2"] {
            assert_eq!(read(text), None, "{text}");
        }
        let minute = Some(Duration::from_mins(1));
        assert!(
            lasts(minute, 100, 41) && !lasts(minute, 100, 40) && lasts(None, 100, 0) && lasts(minute, 0, 9)
        );
    }

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

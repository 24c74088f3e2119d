//! Edits reach the wire here and nowhere else.

use std::net::IpAddr;

use foregate_filters::edits::HeaderEdit;
use foregate_policy::route::{Rewrite, Route, WeightedBackend};
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use crate::clock;
use crate::life::Life;
use crate::owned;
use crate::rare::{Kind, REQUEST_ID_HEADER, TRACEPARENT, TRACESTATE};
use crate::telemetry::record::DECISION_HEADER;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers by which services let themselves be told of the client or of another target.
const UNTRUSTED: [&str; 8] = [
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-original-url",
    "x-rewrite-url",
];

/// Headers of a response that concern one connection only (RFC 9110, section 7.6.1).
static RESPONSE_HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// How the upstream is spoken to.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    pub http2: bool,
    pub tls: bool,
    /// The caller accepts trailers.
    pub trailers: bool,
}

/// Shapes the request head for the upstream: edits of the filters, then of the route, then of the
/// backend, then what the gateway itself has to say. `credential` is the upstream's: whatever the client or an edit
/// says by that name is replaced.
pub fn request(
    head: &mut Parts,
    life: &Life,
    route: &Route,
    rewrite: &Rewrite,
    backend: &WeightedBackend,
    credential: Option<(&HeaderName, &HeaderValue)>,
    wire: Wire,
) -> Result<(), http::uri::InvalidUri> {
    head.extensions.clear();
    let edits = [&life.ctx.edits.request[..], &route.request_headers[..], &backend.request_headers[..]];
    let credential = credential.map(|(name, value)| HeaderEdit::Set(name.clone(), value.clone()));
    let edits = edits.iter().copied().flatten().chain(&credential);
    // As it came: an edit may have put there what the client did not send.
    let has = |kind| life.rare.has(kind) || edits.clone().next().is_some();
    let (has_state, has_cookies) = (has(Kind::TraceState), has(Kind::Cookie));
    remove_lookalikes(&mut head.headers, &edits);
    for edit in edits {
        edit.apply(&mut head.headers);
    }
    forwarded(&mut head.headers, life);
    if let Some(call) = life.grpc.filter(|call| call.deadline.is_some()) {
        call.pass_on(&mut head.headers, clock::monotonic());
    }
    head.headers.insert(REQUEST_ID_HEADER, life.request_id.clone());
    head.headers.insert(TRACEPARENT, life.trace.header_value());
    match &life.trace.state {
        Some(state) => head.headers.insert(TRACESTATE, state.clone()),
        None if has_state => head.headers.remove(TRACESTATE),
        None => None,
    };
    if let Some(host) = &rewrite.host {
        head.headers.insert(HOST, host.clone());
    }
    if let Some(path) = &rewrite.path {
        let path = path.apply(head.uri.path());
        let target = match head.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        head.uri = Uri::from(PathAndQuery::try_from(target)?);
    }
    if wire.http2 {
        to_http2(head, wire)
    } else {
        if has_cookies {
            join_cookies(&mut head.headers);
        }
        to_http1(head, wire);
        Ok(())
    }
}

/// Removes headers that differ from an edited one only by underscores, which some services read as dashes.
fn remove_lookalikes<'a>(headers: &mut HeaderMap, edits: &(impl Iterator<Item = &'a HeaderEdit> + Clone)) {
    let edited = || {
        edits.clone().map(|edit| match edit {
            HeaderEdit::Set(name, _) | HeaderEdit::Add(name, _) | HeaderEdit::Remove(name) => name,
        })
    };
    let odd = |name: &HeaderName| name.as_str().contains('_');
    if !headers.keys().any(odd) && !edited().any(odd) {
        return;
    }
    let own = [
        X_FORWARDED_FOR,
        X_FORWARDED_PROTO,
        X_FORWARDED_HOST,
        // Two lengths, or two hosts, to a service that reads one as the other.
        TRANSFER_ENCODING,
        CONTENT_LENGTH,
        HOST,
    ];
    let alike = |name: &HeaderName, other: &HeaderName| {
        name != other
            && name.as_str().len() == other.as_str().len()
            && name.as_str().replace('_', "-") == other.as_str().replace('_', "-")
    };
    let lookalikes: Vec<HeaderName> = headers
        .keys()
        .filter(|name| own.iter().chain(edited()).any(|other| alike(name, other)))
        // What one edit sets is not what another's look-alike is.
        .filter(|name| !edited().any(|other| other == *name))
        .cloned()
        .collect();
    for name in lookalikes {
        headers.remove(name);
    }
}

/// Tells the upstream whom the request comes from. What an untrusted peer said of that is dropped.
fn forwarded(headers: &mut HeaderMap, life: &Life) {
    let ctx = &life.ctx;
    let peer = ctx.client.peer.ip().to_canonical();
    let trusted = ctx.client.address != peer;
    if trusted {
        let mut chain: Vec<u8> = Vec::with_capacity(64);
        for value in headers.get_all(&X_FORWARDED_FOR) {
            chain.extend_from_slice(value.as_bytes());
            chain.extend_from_slice(b", ");
        }
        if chain.is_empty() {
            chain.extend_from_slice(ctx.client.address.to_string().as_bytes());
            chain.extend_from_slice(b", ");
        }
        chain.extend_from_slice(peer.to_string().as_bytes());
        if let Ok(chain) = HeaderValue::from_bytes(&chain) {
            headers.insert(X_FORWARDED_FOR, chain);
        }
        return;
    }
    // What an untrusted peer says of where it comes from, or where it wants to go, is worth nothing.
    owned::remove(headers, |name| {
        owned::has_prefix(name.as_str(), "x-forwarded-") || UNTRUSTED.contains(&name.as_str())
    });
    headers.insert(X_FORWARDED_FOR, life.connection.peer_value.clone());
    let scheme = if ctx.client.tls { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    match &life.asked_host {
        Some(host) => headers.insert(X_FORWARDED_HOST, host.clone()),
        None => headers.remove(X_FORWARDED_HOST),
    };
}

/// An address as a header value, without a port.
pub fn address_value(address: IpAddr) -> HeaderValue {
    use std::io::Write;
    let mut text = [0u8; 45];
    let mut left = &mut text[..];
    let written = write!(left, "{address}").map(|()| left.len()).map_or(0, |left| 45 - left);
    text.get(..written)
        .and_then(|text| HeaderValue::from_bytes(text).ok())
        .unwrap_or(HeaderValue::from_static(""))
}

/// HTTP/2 may split cookies; HTTP/1 has one field (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
            headers.insert(COOKIE, joined);
        }
    }
}

fn to_http1(head: &mut Parts, wire: Wire) {
    head.version = Version::HTTP_11;
    // Many servers send trailers only where they were asked for (RFC 9110, section 10.1.4).
    if wire.trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
        head.headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

fn to_http2(head: &mut Parts, wire: Wire) -> Result<(), http::uri::InvalidUri> {
    head.version = Version::HTTP_2;
    let scheme = if wire.tls { "https" } else { "http" };
    let host = head.headers.remove(HOST);
    let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    head.uri = format!("{scheme}://{host}{target}").parse()?;
    head.headers.remove(TRANSFER_ENCODING);
    if wire.trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// Sets the length of a body that filters have changed.
pub fn content_length(headers: &mut HeaderMap, bytes: usize) {
    headers.remove(TRANSFER_ENCODING);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
}

/// Removes what the upstream said of its own connection.
pub fn end_to_end(headers: &mut HeaderMap) {
    // Most responses have none of them: one look at each name costs less than a search for each.
    if !headers.keys().any(|name| RESPONSE_HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        .filter(|name| *name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&RESPONSE_HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Shapes a response head: the filters' edits, those of route and backend, and the decision id.
pub fn response(
    headers: &mut HeaderMap,
    life: &Life,
    route: Option<&Route>,
    backend: Option<&WeightedBackend>,
) {
    let of_route = route.map_or(&[][..], |route| &route.response_headers[..]);
    let of_backend = backend.map_or(&[][..], |backend| &backend.response_headers[..]);
    for edit in life.ctx.edits.response.iter().chain(of_route).chain(of_backend) {
        edit.apply(headers);
    }
    headers.insert(DECISION_HEADER, life.decision.clone());
}

#[cfg(test)]
mod tests {
    use super::{address_value, end_to_end, remove_lookalikes};
    use foregate_filters::edits::HeaderEdit;
    use http::{HeaderMap, HeaderName, HeaderValue};

    #[test]
    fn spellings_that_services_confuse_with_ours_are_removed() {
        let mut headers = HeaderMap::new();
        for name in [
            "x_lead_score",
            "x-lead_score",
            "x_forwarded_for",
            "transfer_encoding",
            "Content_Length",
            "x_other",
        ] {
            headers.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("1"));
        }
        let set = HeaderEdit::Set(HeaderName::from_static("x-lead-score"), HeaderValue::from_static("0.5"));
        remove_lookalikes(&mut headers, &[set].iter());
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x_other"]);
        let mut headers = HeaderMap::new();
        for name in ["client-id", "client_id", "client"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        let kept = HeaderEdit::Set(HeaderName::from_static("client_id"), HeaderValue::from_static("1"));
        remove_lookalikes(&mut headers, &[kept].iter());
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["client", "client_id"]);
    }

    #[test]
    fn responses_keep_end_to_end_headers_only() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("content-length", "3"),
            ("etag", "a"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        end_to_end(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-length", "etag"]);
    }

    #[test]
    fn addresses_are_written_without_a_port() {
        assert_eq!(address_value([127, 0, 0, 1].into()), "127.0.0.1");
        assert_eq!(
            address_value("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"
        );
    }
}

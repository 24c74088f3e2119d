//! Makes a request head canonical, and refuses what could be read in two ways.

use foregate_filters::reason::Reason;
use foregate_filters::verdict::Reply;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::owned::Owned;
use crate::path::canonical;
use crate::rare::{HOP_BY_HOP, Kind, Rare};

/// Most fields of a head. HTTP/1 has its bound in the codec; a small block of HTTP/2 may stand for thousands of
/// fields (RFC 7541, section 6.1).
const MAX_FIELDS: usize = 200;

/// What the head said about its connection, before that was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HopByHop {
    /// The protocol asked for by a valid `Upgrade` (RFC 9110, section 7.8); WebSocket or none.
    pub upgrade: Option<HeaderValue>,
    /// True where the caller accepts trailers.
    pub trailers: bool,
}

/// Makes the head canonical: one path, one lower-case `Host`, origin-form target, end-to-end headers only.
/// `rare` is what it has come with.
///
/// # Errors
/// A reply where the head is malformed or ambiguous (RFC 9112, sections 2.2, 3.2, 6.1 and 6.3).
pub fn canonicalize(head: &mut Parts, rare: Rare, owned: &Owned) -> Result<HopByHop, Box<Reply>> {
    // CONNECT makes a tunnel past every policy; TRACE shows a caller what proxies added (RFC 9110, 9.3.8).
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Box::new(Reply::new(Reason::MethodRefused).detail(head.method.as_str())));
    }
    if head.headers.len() > MAX_FIELDS {
        return Err(Box::new(Reply::new(Reason::HeadersTooLarge).detail("too many fields")));
    }
    if rare.has(Kind::Framing) {
        check_framing(head)?;
        if head.headers.get(TRANSFER_ENCODING).is_some_and(|coding| coding.as_bytes() != b"chunked") {
            // One spelling, for backends that know no other.
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    if rare.has(Kind::Expect) {
        check_expectation(&mut head.headers)?;
    }
    canonical_host(head)?;
    canonical_target(head)?;
    let hop_by_hop = rare.has(Kind::HopByHop).then(|| remove_hop_by_hop(&mut head.headers));
    let facts = hop_by_hop.unwrap_or_default();
    owned.strip(&mut head.headers);
    Ok(facts)
}

fn malformed(detail: &str) -> Box<Reply> {
    Box::new(Reply::new(Reason::RequestMalformed).detail(detail))
}

/// One way to find the end of the body, or none.
fn check_framing(head: &Parts) -> Result<(), Box<Reply>> {
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(malformed("more than one Content-Length"));
    }
    if length.is_some_and(|value| value.is_empty() || !value.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Err(malformed("Content-Length is not a number"));
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(malformed("Transfer-Encoding other than chunked"));
        }
        if length.is_some() || head.version < Version::HTTP_11 {
            return Err(malformed("Transfer-Encoding where it cannot be"));
        }
    }
    Ok(())
}

/// `100-continue` is answered by the codec when the body is first read; nothing else is known.
fn check_expectation(headers: &mut HeaderMap) -> Result<(), Box<Reply>> {
    match headers.remove(EXPECT) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Box::new(Reply::new(Reason::ExpectationFailed)))
        }
        _ => Ok(()),
    }
}

/// Exactly one `Host`, in lower case, equal to the authority of the target where that has one.
fn canonical_host(head: &mut Parts) -> Result<(), Box<Reply>> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(malformed("more than one Host"));
    }
    let authority = head.uri.authority();
    let given = match (host, authority) {
        (Some(host), None) => host.to_str().map_err(|_| malformed("Host is not a name"))?,
        (None, Some(authority)) if head.version >= Version::HTTP_2 => authority.as_str(),
        (Some(host), Some(authority))
            if host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            authority.as_str()
        }
        (Some(_), Some(_)) => return Err(malformed("Host differs from the target")),
        (None, _) => return Err(malformed("no Host")),
    };
    if head.uri.authority().is_none() && is_plain_host(given) {
        return Ok(());
    }
    let parsed: Authority = given.parse().map_err(|_| malformed("Host is not a name"))?;
    if given.contains('@') || parsed.host().is_empty() || parsed.host().contains('%') {
        return Err(malformed("Host is not a name"));
    }
    if !is_port(given.strip_prefix(parsed.host()).unwrap_or(given)) {
        return Err(malformed("Host has an invalid port"));
    }
    // What is routed by is the header: the target may be spelled in lower case beside it.
    if host.is_none_or(|host| host.as_bytes() != given.as_bytes() || has_upper_case(host)) {
        let lower =
            HeaderValue::try_from(given.to_ascii_lowercase()).map_err(|_| malformed("Host is not a name"))?;
        head.headers.insert(HOST, lower);
    }
    Ok(())
}

fn has_upper_case(value: &HeaderValue) -> bool {
    value.as_bytes().iter().any(u8::is_ascii_uppercase)
}

/// True for nothing, and for a colon with a port after it.
fn is_port(rest: &str) -> bool {
    let Some(port) = rest.strip_prefix(':') else { return rest.is_empty() };
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// True for a lower-case name or IPv4 address with no port or a short one: nothing to look at twice.
fn is_plain_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    !name.is_empty()
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
        && (1..5).contains(&port.len())
        && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// The target in origin form with a canonical path.
fn canonical_target(head: &mut Parts) -> Result<(), Box<Reply>> {
    let path = canonical(head.uri.path())
        .map_err(|error| Box::new(Reply::new(Reason::PathMalformed).detail(error.to_string())))?;
    // Behind an authority the path may be absent: then it is `/` (RFC 9110, section 4.2.3).
    let written = head.uri.path_and_query().filter(|target| target.as_str().starts_with('/'));
    if path == head.uri.path()
        && let Some(target) = written
    {
        // HTTP/2 always has an authority in its target: what is left of it is shared, not copied.
        if head.uri.authority().is_some() {
            let target = Uri::from(target.clone());
            // An absent path reads as `/` behind an authority, and as nothing once that is gone.
            head.uri = if target.path().is_empty() { Uri::from_static("/") } else { target };
        }
        return Ok(());
    }
    let target = match head.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    let target =
        PathAndQuery::try_from(target).map_err(|_| malformed("the target is not a path and query"))?;
    head.uri = Uri::from(target);
    Ok(())
}

/// Removes what concerns this connection only.
fn remove_hop_by_hop(headers: &mut HeaderMap) -> HopByHop {
    let mut facts = HopByHop::default();
    let mut named: Vec<HeaderName> = Vec::new();
    for token in
        headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','))
    {
        let token = token.trim();
        if token.eq_ignore_ascii_case("upgrade") {
            facts.upgrade = headers.get(UPGRADE).filter(|protocol| may_be_switched_to(protocol)).cloned();
        } else if !token.eq_ignore_ascii_case("keep-alive") && !token.eq_ignore_ascii_case("close") {
            named.extend(HeaderName::from_bytes(token.as_bytes()).ok().filter(may_be_named));
        }
    }
    facts.trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    facts
}

/// Only WebSocket passes: HTTP/2 in a tunnel (`h2c`) would carry requests past every policy.
fn may_be_switched_to(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// `Connection` cannot take away what makes the message what it is.
fn may_be_named(name: &HeaderName) -> bool {
    *name != HOST && *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING
}

/// The host of a canonical `Host`, without its port.
pub fn host(value: Option<&HeaderValue>) -> &str {
    let host = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => host.get(..colon).unwrap_or(host),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::host;
    use crate::owned::Owned;
    use crate::rare::Rare;
    use foregate_filters::reason::Reason;
    use http::Request;
    use http::request::Parts;

    fn canonicalize(head: &mut Parts) -> Result<super::HopByHop, Box<foregate_filters::verdict::Reply>> {
        let rare = Rare::of(&head.headers);
        super::canonicalize(head, rare, &Owned::default())
    }

    fn head(method: &str, target: &str, version: http::Version, headers: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().method(method).uri(target).version(version);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn h1(target: &str, headers: &[(&str, &str)]) -> Parts {
        head("GET", target, http::Version::HTTP_11, headers)
    }

    #[test]
    fn a_host_is_in_lower_case_however_it_and_the_target_are_spelled() {
        for (target, host) in [
            ("http://crm.example/", "CRM.example"),
            ("http://CRM.example/", "crm.example"),
            ("http://CRM.example/", "CRM.Example"),
            ("/", "CRM.example"),
        ] {
            for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
                let mut head = head("GET", target, version, &[("host", host)]);
                canonicalize(&mut head).unwrap();
                assert_eq!(head.headers["host"], "crm.example", "{target} {host} {version:?}");
            }
        }
    }

    #[test]
    fn a_target_without_path_gets_one() {
        for (target, path, written) in [
            ("http://crm.example", "/", "/"),
            ("http://crm.example?a=b", "/", "/?a=b"),
            ("http://crm.example#part", "/", "/"),
            ("http://crm.example/", "/", "/"),
            ("http://crm.example/a?b", "/a", "/a?b"),
        ] {
            let mut head = h1(target, &[("host", "crm.example")]);
            canonicalize(&mut head).unwrap();
            assert_eq!((head.uri.path(), head.uri.to_string().as_str()), (path, written), "{target}");
        }
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        let ok = ("host", "crm.example");
        let cases: &[(Parts, Reason)] = &[
            (h1("/", &[]), Reason::RequestMalformed),
            (h1("/", &[ok, ("host", "other")]), Reason::RequestMalformed),
            (h1("http://a.example/", &[("host", "b.example")]), Reason::RequestMalformed),
            (h1("/", &[("host", "user@crm.example")]), Reason::RequestMalformed),
            (h1("/", &[("host", "a b")]), Reason::RequestMalformed),
            (h1("/", &[("host", "a:b")]), Reason::RequestMalformed),
            (h1("/", &[("host", "a:")]), Reason::RequestMalformed),
            (h1("/", &[("host", "a:65536")]), Reason::RequestMalformed),
            (h1("/", &[("host", "[::1]:65536")]), Reason::RequestMalformed),
            (h1("/", &[("host", "")]), Reason::RequestMalformed),
            (h1("/", &[ok, ("content-length", "3"), ("content-length", "3")]), Reason::RequestMalformed),
            (h1("/", &[ok, ("content-length", "3, 3")]), Reason::RequestMalformed),
            (h1("/", &[ok, ("content-length", "+3")]), Reason::RequestMalformed),
            (h1("/", &[ok, ("transfer-encoding", "gzip, chunked")]), Reason::RequestMalformed),
            (
                h1("/", &[ok, ("transfer-encoding", "chunked"), ("content-length", "3")]),
                Reason::RequestMalformed,
            ),
            (
                head("GET", "/", http::Version::HTTP_10, &[ok, ("transfer-encoding", "chunked")]),
                Reason::RequestMalformed,
            ),
            (h1("/", &[ok, ("expect", "200-ok")]), Reason::ExpectationFailed),
            (h1("/a%2fb", &[ok]), Reason::PathMalformed),
            (h1("*", &[ok]), Reason::PathMalformed),
            (head("CONNECT", "crm.example:443", http::Version::HTTP_11, &[ok]), Reason::MethodRefused),
            (head("TRACE", "/", http::Version::HTTP_11, &[ok]), Reason::MethodRefused),
        ];
        for (given, want) in cases {
            let mut given = given.clone();
            let told = format!("{given:?}");
            assert_eq!(canonicalize(&mut given).map_err(|reply| reply.reason), Err(*want), "{told}");
        }
    }

    #[test]
    fn the_canonical_head_has_one_host_one_path_and_no_hop_by_hop_headers() {
        let mut given = h1(
            "http://CRM.example:8080/a/%2e%2e/b?q=%2f",
            &[
                ("host", "crm.EXAMPLE:8080"),
                ("connection", "keep-alive, X-Secret, Host"),
                ("x-secret", "1"),
                ("keep-alive", "5"),
                ("te", "trailers"),
                ("x-foregate-decision", "forged"),
                ("x_foregate_decision", "forged"),
                ("x-kept", "yes"),
                ("expect", "100-Continue"),
            ],
        );
        let facts = canonicalize(&mut given).unwrap();
        assert!(facts.trailers);
        assert_eq!(given.uri, "/b?q=%2f");
        let names: Vec<_> = given.headers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["host", "x-kept"]);
        assert_eq!(host(given.headers.get("host")), "crm.example");
    }

    #[test]
    fn http2_authority_becomes_the_host() {
        let mut given = head("GET", "https://crm.example/x", http::Version::HTTP_2, &[]);
        canonicalize(&mut given).unwrap();
        assert_eq!(
            (given.headers["host"].as_bytes(), given.uri.to_string()),
            (&b"crm.example"[..], "/x".to_owned())
        );
    }

    #[test]
    fn an_upgrade_is_remembered_only_where_connection_names_it() {
        let mut asked = h1("/", &[("host", "a"), ("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(canonicalize(&mut asked).unwrap().upgrade.unwrap(), "websocket");
        let mut alone = h1("/", &[("host", "a"), ("upgrade", "websocket")]);
        assert_eq!(canonicalize(&mut alone).unwrap().upgrade, None);
        assert!(alone.headers.get("upgrade").is_none());
        let mut tunnel = h1("/", &[("host", "a"), ("connection", "upgrade"), ("upgrade", "h2c")]);
        assert_eq!(canonicalize(&mut tunnel).unwrap().upgrade, None);
    }

    #[test]
    fn hosts_lose_their_port_only() {
        for (given, want) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")] {
            assert_eq!(host(Some(&given.parse().unwrap())), want);
        }
    }
}

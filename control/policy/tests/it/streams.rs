//! Listeners and routes of connections that are passed on unread, and the PROXY protocol.

use std::time::Duration;

use foregate_policy::snapshot::{Protocol, ProxyVersion, Speaks};

use crate::materials::{self, brief, compiled};

const TCP: &str = "{ name: tcp, protocol: TCP, port: 5432 }";
const HTTP: &str = "{ name: http, protocol: HTTP, port: 80 }";
const THROUGH: &str = "{ name: tls, protocol: TLS, port: 443, tls: { mode: Passthrough } }";
const ALL: &str = "authorize: [{ name: all, allow: 'true' }]";

fn gateway(listeners: &[&str]) -> String {
    materials::gateway("edge", listeners)
}

fn route(kind: &str, name: &str, more: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{ name: {name} }}
spec:
  parentRefs: [{{ name: edge }}]
{more}  rules: [{{ backendRefs: [{{ group: foregate.dev, kind: Upstream, name: db }}] }}]
"
    )
}

fn policy(kind: &str, name: &str, said: &str) -> String {
    format!(
        "---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: {name}-policy }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: {kind}, name: {name} }}]
  {said}
"
    )
}

fn upstream(said: &str) -> String {
    format!(
        "---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: {{ name: db }}
spec: {{ endpoints: [\"db:5432\"]{said} }}
"
    )
}

fn tcp(said: &str) -> String {
    gateway(&[TCP])
        + &route("TCPRoute", "db", "")
        + &policy("TCPRoute", "db", said)
        + &upstream(", protocol: Tcp")
}

#[test]
fn sound_documents_become_routes_of_connections() {
    let text = gateway(&[TCP, THROUGH, HTTP])
        + &route("TCPRoute", "db", "")
        + &route("TLSRoute", "web", "  hostnames: [a.example.com, '*.b.example.com']\n")
        + &policy("TCPRoute", "db", ALL)
        + &policy("TLSRoute", "web", ALL)
        + &upstream(", protocol: Tcp, proxyProtocol: V2, timeouts: { idle: 12h }")
        + &policy("Gateway", "edge", "proxyProtocol: { from: [10.0.0.0/8], listeners: [tcp, tls] }");
    let snapshot = compiled(&text).unwrap();
    assert!(snapshot.warnings.is_empty(), "{:?}", snapshot.warnings);
    let speaks: Vec<_> =
        snapshot.listeners.iter().map(|listener| (listener.speaks, listener.proxies.is_some())).collect();
    assert_eq!(speaks, [(Speaks::Tcp, true), (Speaks::Passthrough, true), (Speaks::Http, false)]);
    let name = |port, name| snapshot.streams.find(port, name).map(|route| route.name.to_string());
    assert_eq!(name(5432, "").as_deref(), Some("db/0"));
    assert_eq!(name(443, "a.example.com").as_deref(), Some("web/0"));
    assert_eq!(name(443, "x.b.example.com").as_deref(), Some("web/0"));
    assert_eq!(name(443, ""), None);
    let upstream = &snapshot.upstreams[0];
    assert_eq!((upstream.protocol, upstream.proxy_protocol), (Protocol::Tcp, Some(ProxyVersion::V2)));
    assert_eq!(upstream.idle_timeout, Duration::from_hours(12));
    assert!(snapshot.routes.all().is_empty());
    let silent = compiled(&tcp(ALL)).unwrap();
    assert_eq!(silent.upstreams[0].idle_timeout, Duration::from_hours(1), "longer than that of pools");
}

#[test]
fn requests_and_everything_else_share_a_port_where_a_policy_says_so() {
    let both = gateway(&[TCP])
        + &route("TCPRoute", "db", "")
        + &route("HTTPRoute", "web", "").replace("name: db }] }]", "name: web }] }]")
        + &policy("TCPRoute", "db", ALL)
        + &policy("HTTPRoute", "web", ALL)
        + &upstream(", protocol: Tcp")
        + &upstream("").replace("name: db", "name: web");
    let told = brief(&compiled(&both).map(drop).unwrap_err());
    assert!(told.iter().any(|told| told.starts_with("FG0670")), "{told:?}");
    let detect = policy("Gateway", "edge", "detect: { listeners: [tcp], within: 300ms }");
    let snapshot = compiled(&(both + &detect)).unwrap();
    assert_eq!(snapshot.listeners[0].speaks, Speaks::Detected(Duration::from_millis(300)));
    assert!(snapshot.streams.find(5432, "").is_some());
    assert!(snapshot.routes.listener(5432, false, "any").is_some());
}

#[test]
fn what_begins_with_tls_shares_a_port_by_name() {
    let web = "{ name: web, protocol: HTTPS, port: 443, hostname: web.test, tls: { certificateRefs: [{ name: web }] } }";
    let text = gateway(&[THROUGH, web])
        + &route("TLSRoute", "db", "  hostnames: ['*.test']\n")
        + &policy("TLSRoute", "db", ALL)
        + &upstream(", protocol: Tcp");
    let snapshot = compiled(&text).unwrap();
    let name = |name| snapshot.streams.find(443, name).map(|route| route.name.to_string());
    assert_eq!((name("a.test").as_deref(), name("web.test")), (Some("db/0"), None), "it is that of requests");
    let serving = |host| snapshot.routes.listener(443, true, host);
    assert!(serving("web.test").is_some() && serving("a.test") != serving("web.test"));
    let plain = compiled(&text.replace("protocol: HTTPS, port: 443", "protocol: HTTP, port: 443"));
    let told = brief(&plain.map(drop).unwrap_err());
    assert!(told.iter().any(|told| told.contains("speaks another protocol on port 443")), "{told:?}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn faults_have_code_and_place() {
    let mut differences = Vec::new();
    for (text, want) in [
        (tcp(""), "FG0303"),
        (tcp("addresses: { allow: [10.0.0.0/8] }"), "FG0303"),
        (
            tcp(&format!(
                "{ALL}\n  jwt: [{{ issuer: https://a/, audiences: [b], jwks: {{ file: none-yet.json }} }}]"
            )),
            "FG0672",
        ),
        (
            tcp(r#"authorize: [{ name: readers, allow: 'request.method == "GET"' }]"#),
            "FG0672 21:17 `request.method` is read, and the TCPRoute `db` has no requests",
        ),
        (
            tcp(r#"authorize: [{ name: named, allow: 'request.host == "a"' }]"#),
            "FG0672 21:17 `request.host` is read",
        ),
        (
            tcp(&format!("{ALL}\n  choose: [{{ name: all, when: 'true', backend: db }}]")),
            "FG0672 22:3 `choose` asks for requests",
        ),
        (tcp(&format!("{ALL}\n  body: {{ maxSize: 1MiB }}")), "FG0672 22:3 `body` asks for requests"),
        (
            gateway(&[HTTP])
                + &route("TCPRoute", "db", "")
                + &policy("TCPRoute", "db", ALL)
                + &upstream(", protocol: Tcp"),
            "FG0670 13:24 no such listener of the Gateway `edge` takes routes of the kind TCPRoute",
        ),
        (
            gateway(&[TCP]) + &route("HTTPRoute", "db", "") + &policy("HTTPRoute", "db", ALL) + &upstream(""),
            "FG0670 13:24 no such listener of the Gateway `edge` takes routes of the kind HTTPRoute",
        ),
        (
            gateway(&[TCP]) + &route("TCPRoute", "db", "") + &policy("TCPRoute", "db", ALL) + &upstream(""),
            "FG0671 14:72 the upstream `db` speaks HTTP",
        ),
        (
            gateway(&[HTTP])
                + &route("HTTPRoute", "db", "")
                + &policy("HTTPRoute", "db", ALL)
                + &upstream(", protocol: Tcp"),
            "FG0671 14:72 the upstream `db` has protocol Tcp",
        ),
        (
            tcp(ALL) + &route("TCPRoute", "two", "") + &policy("TCPRoute", "two", ALL),
            "FG0673 32:18 the connections of the listener `tcp` go to the route `db/0` already",
        ),
        (
            gateway(&["{ name: tcp, protocol: TCP, port: 5432, hostname: a.example.com }"]),
            "FG0674 7:55 connections of a TCP listener name no host",
        ),
        (
            gateway(&["{ name: tls, protocol: TLS, port: 443 }"]),
            "FG0203 7:28 a TLS listener needs to know what to do with TLS",
        ),
        (
            gateway(&["{ name: tls, protocol: HTTPS, port: 443, tls: { mode: Passthrough } }"]),
            "FG0203 7:59 an HTTPS listener reads requests",
        ),
        (
            gateway(&[
                "{ name: tls, protocol: TLS, port: 443, tls: { mode: Passthrough, certificateRefs: [{ name: a }] } }",
            ]),
            "FG0203 7:70 a listener that passes TLS through has no use for `certificateRefs`",
        ),
        (
            gateway(&["{ name: tls, protocol: TCP, port: 443, tls: { mode: Passthrough } }"]),
            "FG0203 7:44 a TCP listener has no TLS",
        ),
        (
            gateway(&[HTTP, "{ name: tcp, protocol: TCP, port: 80 }"]),
            "FG0202 8:28 listener `http` of `edge` speaks another protocol",
        ),
        (
            gateway(&["{ name: a, protocol: TCP, port: 80 }", "{ name: b, protocol: TCP, port: 80 }"]),
            "FG0202 8:37 listener `a` of `edge` has the same port and host name",
        ),
        (
            tcp(ALL) + &policy("Gateway", "edge", "proxyProtocol: { from: [10.0.0.0/8], listeners: [tpc] }"),
            "FG0304 33:52 the Gateway `edge` has no listener `tpc`",
        ),
        (
            tcp(&format!("{ALL}\n  proxyProtocol: {{ from: [10.0.0.0/8] }}")),
            "FG0302 22:3 this is about listeners",
        ),
        (tcp(ALL) + &policy("Gateway", "edge", "proxyProtocol: { from: [10.0.0.1] }"), "FG0116 33:27"),
        (tcp(ALL) + &policy("Gateway", "edge", "proxyProtocol: { from: [] }"), "FG0107"),
        (
            tcp(ALL) + &policy("Gateway", "edge", "detect: { listeners: [tpc] }"),
            "FG0304 33:25 the Gateway `edge` has no listener `tpc`",
        ),
        (
            gateway(&[HTTP]) + &policy("Gateway", "edge", "detect: { listeners: [http] }"),
            "FG0676 14:25 what is spoken to the listener `http` is known",
        ),
        (
            tcp(ALL) + &policy("Gateway", "edge", "detect: { listeners: [tcp], within: 1m }"),
            "FG0301 33:39 the time must be between 10ms and 10s",
        ),
        (tcp(&format!("{ALL}\n  detect: {{ listeners: [tcp] }}")), "FG0302 22:3 this is about listeners"),
        (
            gateway(&[
                "{ name: a, hostname: a.test, protocol: HTTP, port: 80 }",
                "{ name: b, hostname: b.test, protocol: HTTP, port: 80 }",
            ]) + &policy("Gateway", "edge", "proxyProtocol: { from: [10.0.0.0/8], listeners: [a] }"),
            "FG0675 8:56 the listener `a` has the same port, and expects something else",
        ),
    ] {
        let told = brief(&compiled(&text).map(drop).unwrap_err());
        if !told.iter().any(|told| told.starts_with(want)) {
            differences.push(format!("{text}\n{told:#?}\nwanted {want}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

#[test]
fn what_only_requests_could_obey_is_refused_of_upstreams_that_pass_connections_on() {
    let documents = |more: &str| {
        gateway(&[TCP])
            + &route("TCPRoute", "db", "")
            + &policy("TCPRoute", "db", ALL)
            + &upstream(&format!(", protocol: Tcp, {more}"))
    };
    for (more, want) in [
        (
            "loadBalancing: { policy: Maglev, hashOn: { header: x-org } }",
            "a connection that is passed on unread has no header",
        ),
        ("loadBalancing: { policy: Maglev, hashOn: { cookie: org } }", "has no cookie"),
        (
            "loadBalancing: { policy: Maglev, hashOn: { expression: source.address } }",
            "has not what an expression reads",
        ),
        ("sessionPersistence: { type: Cookie }", "has no cookie or header of a session"),
        ("outlierDetection: { consecutiveErrors: 3 }", "has no status"),
        ("retryConstraint: {}", "has no request to be tried again"),
        ("concurrency: { max: 10 }", "has no request to be counted"),
        ("maxIdlePerThread: 3", "has no end after which it serves another client"),
    ] {
        let told = brief(&compiled(&documents(more)).map(drop).unwrap_err());
        let found = |told: &String| told.starts_with("FG0732 26:") && told.contains(want);
        assert!(told.iter().any(found), "{more}: {told:?}");
    }
    for more in [
        "loadBalancing: { policy: Maglev }",
        "loadBalancing: { policy: Maglev, hashOn: { sourceAddress: true } }",
        "loadBalancing: { policy: LeastRequest, slowStart: 10s }, circuitBreaker: { consecutiveFailures: 2 }",
        "healthCheck: { type: TCP }, timeouts: { idle: 12h }, dns: { maxStale: 1h }",
    ] {
        compiled(&documents(more)).unwrap();
    }
}

#[test]
fn what_is_weak_or_dead_is_warned_of() {
    let everywhere = tcp(ALL) + &policy("Gateway", "edge", "proxyProtocol: { from: ['::/0'] }");
    let warnings = brief(&compiled(&everywhere).unwrap().warnings);
    assert!(warnings.iter().any(|told| told.starts_with("FG0719 33:")), "{warnings:?}");
    let apart =
        gateway(&["{ name: tls, protocol: TLS, port: 443, hostname: a.test, tls: { mode: Passthrough } }"])
            + &route("TLSRoute", "db", "  hostnames: [b.test]\n")
            + &policy("TLSRoute", "db", ALL)
            + &upstream(", protocol: Tcp");
    let warnings = brief(&compiled(&apart).unwrap().warnings);
    assert!(warnings.iter().any(|told| told.starts_with("FG0605")), "{warnings:?}");
}

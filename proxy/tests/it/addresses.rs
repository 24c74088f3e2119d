//! Addresses over the wire: who may call, and whom a header may speak for.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;
use tokio::net::TcpSocket;

use crate::support::client::Client;
use crate::support::guarded::routes;
use crate::support::process::{Foregate, Options};
use crate::support::upstream::Upstream;

const POLICIES: [(&str, &str); 4] = [
    ("open", "insecure: { anonymous: true }"),
    ("listed", "insecure: { anonymous: true }\naddresses: { allow: [127.0.0.0/29], deny: [127.0.0.2/32] }"),
    (
        "behind",
        "insecure: { anonymous: true }
addresses: { allow: [203.0.113.0/24, '2001:db8::/32'], deny: [203.0.113.66/32], trustedProxies: [127.0.0.3/32, 10.0.0.0/8] }",
    ),
    (
        "limited",
        "insecure: { anonymous: true }
addresses: { trustedProxies: [127.0.0.3/32] }
rateLimit: [{ name: flood, key: source.address, limit: 1, per: 24h }]",
    ),
];

/// A client whose connections come from 127.0.0.`last`.
async fn client_from(last: u8, address: SocketAddr) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    let stream = socket.connect(address).await.unwrap();
    Client::over(stream, last.is_multiple_of(2), "http").await
}

/// Who connects, where to, with which headers, and whom the gateway takes for the client; a refusal where that is
/// written with an exclamation mark.
type Call = (u8, &'static str, &'static [(&'static str, &'static str)], &'static str);

const CALLS: [Call; 20] = [
    (1, "/listed", &[], "127.0.0.1"),
    (2, "/listed", &[], "!127.0.0.2"),
    (7, "/listed", &[], "127.0.0.7"),
    (8, "/listed", &[], "!127.0.0.8"),
    // Nobody is trusted: headers say nothing.
    (8, "/listed", &[("x-forwarded-for", "127.0.0.1")], "!127.0.0.8"),
    (2, "/listed", &[("forwarded", "for=127.0.0.1")], "!127.0.0.2"),
    (2, "/listed", &[("x-real-ip", "127.0.0.1"), ("true-client-ip", "127.0.0.1")], "!127.0.0.2"),
    (1, "/listed", &[("x-forwarded-for", "127.0.0.2")], "127.0.0.1"),
    // Only 127.0.0.3 is trusted.
    (1, "/behind", &[("x-forwarded-for", "203.0.113.9")], "!127.0.0.1"),
    (3, "/behind", &[], "!127.0.0.3"),
    (3, "/behind", &[("x-forwarded-for", "203.0.113.9")], "203.0.113.9"),
    (3, "/behind", &[("x-forwarded-for", "203.0.113.66")], "!203.0.113.66"),
    (3, "/behind", &[("x-forwarded-for", "::ffff:203.0.113.66")], "!203.0.113.66"),
    // What the client of the proxy wrote stands to the left, and counts for nothing.
    (3, "/behind", &[("x-forwarded-for", "203.0.113.9, 198.51.100.1")], "!198.51.100.1"),
    (3, "/behind", &[("x-forwarded-for", "198.51.100.1, 203.0.113.9, 10.1.1.1")], "203.0.113.9"),
    (
        3,
        "/behind",
        &[("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "198.51.100.1")],
        "!198.51.100.1",
    ),
    (3, "/behind", &[("x-forwarded-for", "203.0.113.9, unknown")], "!127.0.0.3"),
    (3, "/behind", &[("forwarded", "for=\"[2001:db8::7]:4711\";proto=https")], "2001:db8::7"),
    // `Forwarded` is the standard: where it is there, it alone counts.
    (3, "/behind", &[("forwarded", "for=198.51.100.1"), ("x-forwarded-for", "203.0.113.9")], "!127.0.0.3"),
    (3, "/behind", &[("forwarded", "for=_hidden")], "!127.0.0.3"),
];

#[tokio::test]
async fn addresses_are_refused_whatever_headers_say_unless_a_trusted_proxy_says_it() {
    let upstream = Upstream::answering("ok").await;
    let gateway = Foregate::start(&routes(upstream.address, &POLICIES), Options::default()).await;
    let mut passed = 0;
    for (from, target, headers, expected) in CALLS {
        let told = format!("from {from} to {target} with {headers:?}");
        let mut client = client_from(from, gateway.address("edge/http")).await;
        let mut request = client.request("GET", target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = client.send_empty(request).await;
        let record = gateway.record(reply.decision()).await;
        assert_eq!(record["client.address"], expected.trim_start_matches('!'), "{told}");
        if expected.starts_with('!') {
            assert_eq!((reply.status, reply.reason().as_str()), (403, "AddressDenied"), "{told}");
            assert!(
                !reply.text().contains("127.0.0") && !reply.text().contains("203.0.113"),
                "{}",
                reply.text()
            );
            assert_eq!(
                (&record["foregate.step"], &record["foregate.rule"]),
                (&json!("guard"), &json!("addresses"))
            );
        } else {
            passed += 1;
            assert_eq!(reply.status, 200, "{told}: {}", reply.text());
        }
        assert_eq!(upstream.received().len(), passed, "{told}");
    }
    let denied = "foregate_refusals_total{route=\"listed/rule\",step=\"guard\",reason=\"AddressDenied\",rule=\"addresses\"}";
    gateway.wait_sample(denied, |refusals| refusals > 4.5).await;
}

#[tokio::test]
async fn upstreams_hear_of_the_client_only_from_those_who_may_say_it() {
    let upstream = Upstream::answering("ok").await;
    let gateway = Foregate::start(&routes(upstream.address, &POLICIES), Options::default()).await;
    let spoofed = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x_forwarded_for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "bank.test"),
        ("forwarded", "for=203.0.113.9"),
    ];
    for (from, target, forwarded) in
        [(1, "/open", "127.0.0.1"), (2, "/open", "127.0.0.2"), (3, "/behind", "203.0.113.9, 127.0.0.3")]
    {
        let mut client = client_from(from, gateway.address("edge/http")).await;
        let mut request = client.request("GET", target);
        let trusted = target == "/behind";
        // A trusted proxy that sends both ways of naming the client is refused: one may be the client's own.
        for (name, value) in spoofed.into_iter().filter(|(name, _)| !trusted || *name != "forwarded") {
            request = request.header(name, value);
        }
        assert_eq!(client.send_empty(request).await.status, 200, "{target}");
        let seen = upstream.last();
        let all: Vec<_> = seen.headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(all, [forwarded], "{target}");
        assert!(!seen.headers.contains_key("x_forwarded_for"), "{target}");
        assert!(!seen.headers.contains_key("forwarded"), "{target}");
        assert_eq!(seen.header("x-forwarded-proto"), if trusted { "https" } else { "http" }, "{target}");
        assert_eq!(
            seen.header("x-forwarded-host"),
            if trusted { "bank.test" } else { "crm.test" },
            "{target}"
        );
    }
}

#[tokio::test]
async fn limits_count_the_client_behind_a_trusted_proxy_and_nobody_can_dodge_them() {
    let upstream = Upstream::answering("ok").await;
    let gateway = Foregate::start(&routes(upstream.address, &POLICIES), Options::default()).await;
    for (from, forwarded, status) in [
        (3, "198.51.100.1", 200),
        (3, "198.51.100.2", 200),
        (3, "9.9.9.9, 198.51.100.2", 429),
        (1, "198.51.100.3", 200),
        (1, "198.51.100.4", 429),
    ] {
        let mut client = client_from(from, gateway.address("edge/http")).await;
        let request = client.request("GET", "/limited").header("x-forwarded-for", forwarded);
        assert_eq!(client.send_empty(request).await.status, status, "from {from} for {forwarded}");
    }
    assert_eq!(upstream.received().len(), 3);
}

//! Which request reaches which backend, and what it looks like there.

use crate::support::client::Client;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw;
use crate::support::upstream::Upstream;

fn backend(name: &str) -> String {
    format!("backendRefs: [{{ group: foregate.dev, kind: Upstream, name: {name} }}]")
}

#[tokio::test]
async fn hosts_paths_methods_headers_and_queries_choose_the_backend() {
    let names = ["default", "exact", "prefix", "pattern", "method", "header", "query", "host"];
    let mut documents = policies::GATEWAY.to_owned();
    let mut upstreams = Vec::new();
    for name in names {
        let upstream = Upstream::answering(name).await;
        documents.push_str(&policies::upstream(name, upstream.address, ""));
        upstreams.push(upstream);
    }
    let rules = [
        format!("  - {}", backend("default")),
        format!("  - matches: [{{ path: {{ type: Exact, value: /a }} }}]\n    {}", backend("exact")),
        format!("  - matches: [{{ path: {{ value: /a }} }}]\n    {}", backend("prefix")),
        format!(
            "  - matches: [{{ path: {{ type: RegularExpression, value: '/v[0-9]+/.*' }} }}]\n    {}",
            backend("pattern")
        ),
        format!("  - matches: [{{ path: {{ value: /a }}, method: DELETE }}]\n    {}", backend("method")),
        format!(
            "  - matches: [{{ path: {{ value: /a }}, headers: [{{ name: X-Tenant, value: blue }}] }}]\n    {}",
            backend("header")
        ),
        format!(
            "  - matches: [{{ path: {{ value: /a }}, queryParams: [{{ name: v, value: 'é 1' }}] }}]\n    {}",
            backend("query")
        ),
    ];
    documents.push_str(&policies::route("all", &rules.join("\n")));
    let by_host = policies::route("by-host", &format!("  - {}", backend("host")));
    documents.push_str(&by_host.replace("  rules:", "  hostnames: [\"*.example.test\"]\n  rules:"));
    let gateway = Foregate::start(&documents, Options::default()).await;
    for http2 in [false, true] {
        let address = gateway.address("edge/http");
        let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
        for (host, method, target, header, want) in [
            ("crm.test", "GET", "/", "", "default"),
            ("crm.test", "GET", "/ab", "", "default"),
            ("crm.test", "GET", "/a", "", "exact"),
            ("crm.test", "GET", "/a/", "", "prefix"),
            ("crm.test", "GET", "/a/b", "", "prefix"),
            ("crm.test", "GET", "/x/..//%61/b", "", "prefix"),
            ("crm.test", "GET", "/v62/x", "", "pattern"),
            ("crm.test", "GET", "/vx/x", "", "default"),
            ("crm.test", "DELETE", "/a/b", "", "method"),
            ("crm.test", "GET", "/a/b", "blue", "header"),
            ("crm.test", "GET", "/a/b", "Blue", "prefix"),
            ("crm.test", "GET", "/a/b?v=%C3%A9+1", "", "query"),
            ("crm.test", "GET", "/a/b?v=2", "", "prefix"),
            ("eu.EXAMPLE.test:8080", "GET", "/a", "", "host"),
            ("example.test", "GET", "/a", "", "exact"),
        ] {
            let mut request = client.request_to(host, method, target);
            if !header.is_empty() {
                request = request.header("x-tenant", header);
            }
            let reply = client.send_empty(request).await;
            assert_eq!(reply.text(), want, "{method} {host}{target} {header}");
        }
    }
}

#[tokio::test]
async fn backends_get_their_share() {
    let upstreams =
        [Upstream::answering("a").await, Upstream::answering("b").await, Upstream::answering("c").await];
    let rules = "  - backendRefs:
    - { group: foregate.dev, kind: Upstream, name: a, weight: 3 }
    - { group: foregate.dev, kind: Upstream, name: b, weight: 1 }
    - { group: foregate.dev, kind: Upstream, name: c, weight: 0 }";
    let mut documents = [policies::GATEWAY, &policies::route("all", rules)].concat();
    for (name, upstream) in ["a", "b", "c"].iter().zip(&upstreams) {
        documents.push_str(&policies::upstream(name, upstream.address, ""));
    }
    let gateway = Foregate::start(&documents, Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for _ in 0..400 {
        assert_eq!(client.get("/").await.status, 200);
    }
    // Six standard deviations around 300: one run in a billion falls out.
    let first = upstreams[0].received().len();
    assert!((248..=352).contains(&first), "{first} of 400");
    assert_eq!(upstreams[1].received().len(), 400 - first);
    assert_eq!(upstreams[2].connections(), 0);
}

#[tokio::test]
async fn endpoints_take_turns_and_a_dead_one_is_passed_over() {
    let live = Upstream::answering("live").await;
    let dead = unused_address().await;
    let documents = policies::plain(live.address);
    let both = documents.replace("endpoints: [", &format!("endpoints: [\"{dead}\", "));
    assert_ne!(documents, both);
    let gateway = Foregate::start(&both, Options::default()).await;
    for _ in 0..6 {
        // A new connection each, on whichever thread: some try the dead endpoint first.
        let mut client = Client::http1(gateway.address("edge/http")).await;
        assert_eq!(client.get("/").await.text(), "live");
    }
}

#[tokio::test]
async fn redirects_keep_what_they_do_not_change() {
    let rules = "  - matches: [{ path: { value: /old } }]
    filters:
    - type: RequestRedirect
      requestRedirect:
        scheme: https
        hostname: new.test
        port: 8443
        path: { type: ReplacePrefixMatch, replacePrefixMatch: /new }
        statusCode: 308
  - filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, statusCode: 301 } }]";
    let documents = [policies::GATEWAY, &policies::route("all", rules)].concat();
    let gateway = Foregate::start(&documents, Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for (target, status, location) in [
        ("/old/a?b=c%20d", 308, "https://new.test:8443/new/a?b=c%20d"),
        ("/old", 308, "https://new.test:8443/new"),
        ("/a//b/../c", 301, "https://crm.test/a/c"),
    ] {
        let reply = client.get(target).await;
        assert_eq!(
            (reply.status, reply.header("location"), reply.body.len()),
            (status, location, 0),
            "{target}"
        );
    }
}

#[tokio::test]
async fn paths_and_hosts_are_rewritten() {
    let upstream = Upstream::answering("hello").await;
    let rules = format!(
        "  - matches: [{{ path: {{ value: /api/v1 }} }}]
    filters:
    - type: URLRewrite
      urlRewrite:
        hostname: inner.test
        path: {{ type: ReplacePrefixMatch, replacePrefixMatch: /services }}
    {0}
  - filters:
    - type: URLRewrite
      urlRewrite: {{ path: {{ type: ReplaceFullPath, replaceFullPath: /fixed }} }}
    {0}",
        backend("crm")
    );
    let documents = [
        policies::GATEWAY,
        &policies::route("all", &rules),
        &policies::upstream("crm", upstream.address, ""),
    ];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    for (target, uri, host) in [
        ("/api/v1/leads?a=b", "/services/leads?a=b", "inner.test"),
        ("/api/v1", "/services", "inner.test"),
        ("/other?a=b", "/fixed?a=b", "crm.test"),
    ] {
        assert_eq!(client.get(target).await.status, 200);
        let received = upstream.last();
        assert_eq!((received.uri.to_string().as_str(), received.header("host")), (uri, host), "{target}");
        assert_eq!(received.header("x-forwarded-host"), "crm.test", "{target}");
    }
}

#[tokio::test]
async fn header_filters_set_add_and_remove_on_both_ways() {
    let upstream = Upstream::start(|_| async {
        let response = http::Response::builder().header("server", "secret/1.0").header("vary", "a");
        response.body(crate::support::upstream::full("hello")).unwrap()
    })
    .await;
    let rules = "  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{ name: X-Team, value: crm }]
        add: [{ name: X-Tag, value: two }]
        remove: [X-Debug]
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{ name: Cache-Control, value: no-cache }]
        add: [{ name: Vary, value: b }]
        remove: [Server]
    backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]";
    let documents =
        [policies::GATEWAY, &policies::route("all", rules), &policies::upstream("crm", upstream.address, "")];
    let gateway = Foregate::start(&documents.concat(), Options::default()).await;
    let mut client = Client::http1(gateway.address("edge/http")).await;
    let request = client.request("GET", "/");
    let request = request.header("x-team", "forged").header("x_team", "forged").header("x-tag", "one");
    let reply = client.send_empty(request.header("x-debug", "1")).await;
    let received = upstream.last();
    let all =
        |name: &str| received.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(all("x-team"), ["crm"]);
    assert_eq!(all("x_team"), [""; 0], "spelled so that some services read it as x-team");
    assert_eq!(all("x-tag"), ["one", "two"]);
    assert_eq!(all("x-debug"), [""; 0]);
    assert_eq!(reply.header("cache-control"), "no-cache");
    let vary: Vec<_> = reply.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["a", "b"]);
    assert_eq!(reply.header("server"), "");
}

#[tokio::test]
async fn an_absolute_target_that_agrees_with_its_host_becomes_a_path() {
    let upstream = Upstream::answering("hello").await;
    let gateway = Foregate::start(&policies::plain(upstream.address), Options::default()).await;
    for (target, host, path, passed_on) in [
        ("http://Crm.test/a?b", "crm.TEST", "/a?b", "crm.test"),
        ("http://crm.test", "crm.test", "/", "crm.test"),
        ("http://crm.test/", "CRM.test", "/", "crm.test"),
        ("http://crm.test?a=b", "crm.test", "/?a=b", "crm.test"),
        ("http://[::1]:80/a", "[::1]:80", "/a", "[::1]:80"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let reply = raw::exchange(gateway.address("edge/http"), request).await.unwrap();
        assert_eq!(reply.status, 200, "{target}");
        let received = upstream.last();
        assert_eq!(
            (received.uri.to_string().as_str(), received.header("host")),
            (path, passed_on),
            "{target}"
        );
    }
}

/// An address on which nobody listens: just now somebody did, so nobody else is given it soon.
pub async fn unused_address() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

//! Host names of listeners and routes: intersection, wildcards, isolation of listeners.

use crate::gateway_api::{World, answered, route_at, rule, to};
use crate::support::policies;

/// One port, four listeners.
const LISTENERS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners:
  - { name: http, protocol: HTTP, port: 8080 }
  - { name: wild, protocol: HTTP, port: 8080, hostname: '*.example.com' }
  - { name: deep, protocol: HTTP, port: 8080, hostname: '*.foo.example.com' }
  - { name: exact, protocol: HTTP, port: 8080, hostname: abc.foo.example.com }
---";

fn attached(listener: &str, hosts: &str) -> String {
    let route = route_at(listener, hosts, &rule("", listener));
    route.replace(
        "parentRefs: [{ name: edge }]",
        &format!("parentRefs: [{{ name: edge, sectionName: {listener} }}]"),
    )
}

#[tokio::test]
async fn a_listener_serves_its_own_hosts_only() {
    let names = ["http", "wild", "deep", "exact"];
    let routes: String = names.iter().map(|name| attached(name, "")).collect();
    let world = World::new(&names, &[LISTENERS, &routes].concat()).await;
    world
        .check(&[
            to("GET bar.com /", "http"),
            to("GET example.com /", "http"),
            to("GET bar.example.com /", "wild"),
            to("GET foo.example.com /", "wild"),
            to("GET bar.foo.example.com /", "deep"),
            to("GET a.b.foo.example.com /", "deep"),
            to("GET abc.foo.example.com /", "exact"),
            to("GET ABC.foo.example.com:80 /", "exact"),
        ])
        .await;
}

#[tokio::test]
async fn a_host_taken_by_a_narrower_listener_never_reaches_a_wider_one() {
    // The narrow listeners have no route: their hosts are nobody's.
    let routes = [attached("http", ""), attached("wild", "'*.example.com', abc.foo.example.com")].concat();
    let world = World::new(&["http", "wild"], &[LISTENERS, &routes].concat()).await;
    world
        .check(&[
            to("GET bar.com /", "http"),
            to("GET bar.example.com /", "wild"),
            answered("GET bar.foo.example.com /", 404),
            answered("GET abc.foo.example.com /", 404),
        ])
        .await;
}

#[tokio::test]
async fn routes_serve_what_listener_and_route_have_in_common() {
    let listeners = policies::GATEWAY.replace("port: 8080 }", "port: 8080, hostname: '*.example.com' }");
    let routes = [
        route_at("one", "very.specific.com, a.example.com, '*.b.example.com'", &rule("", "one")),
        route_at("two", "'*.com'", &rule("", "two")),
        route_at("three", "", &rule("matches: [{ path: { value: /three } }]", "three")),
    ];
    let world = World::new(&["one", "two", "three"], &[&listeners, &*routes.concat()].concat()).await;
    world
        .check(&[
            to("GET a.example.com /", "one"),
            to("GET x.b.example.com /", "one"),
            to("GET x.y.b.example.com /", "one"),
            to("GET b.example.com /", "two"),
            to("GET c.example.com /", "two"),
            // The most specific host is asked first, whatever the path.
            to("GET a.example.com /three", "one"),
            to("GET c.example.com /three", "two"),
            answered("GET very.specific.com /", 404),
            answered("GET example.com /", 404),
            answered("GET other.com /", 404),
        ])
        .await;
}

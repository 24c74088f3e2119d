//! Listeners for redirected connections, routes by the port that was meant, upstreams without endpoints.

use std::time::Duration;

use foregate_policy::routes::{Door, Takes};
use foregate_policy::snapshot::{Captured, Clients, Speaks};
use http::Request;

use crate::materials::{self, brief, compiled};

const INBOUND: &str = "{ name: in, protocol: foregate.dev/Inbound, port: 15006 }";
const OUTBOUND: &str = "{ name: out, protocol: foregate.dev/Outbound, port: 15001 }";

fn gateway(listeners: &[&str]) -> String {
    materials::gateway("pod", listeners)
}

fn route(kind: &str, name: &str, parent: &str, upstream: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{ name: {name} }}
spec:
  parentRefs: [{{ name: pod, {parent} }}]
  rules: [{{ backendRefs: [{{ group: foregate.dev, kind: Upstream, name: {upstream} }}] }}]
"
    )
}

fn upstream(name: &str, said: &str) -> String {
    format!(
        "---\napiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: {{ name: {name} }}\nspec: {{ {said} }}\n"
    )
}

fn policy(said: &str) -> String {
    format!(
        "---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: open }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: Gateway, name: pod }}]
  authorize: [{{ name: all, allow: 'destination.port > 0' }}]
{said}"
    )
}

const APP: &str = "captured: Address";
const TCP: &str = "captured: Address, protocol: Tcp";

#[test]
fn routes_are_found_by_the_port_that_was_meant() {
    let text = gateway(&[INBOUND])
        + &route("HTTPRoute", "any", "sectionName: in", "app")
        + &route("HTTPRoute", "eight", "port: 8080", "app")
            .replace("rules: [{", "rules: [{ matches: [{ path: { value: /a } }],")
        + &route("TCPRoute", "db", "port: 5432", "tcp")
        + &route("TCPRoute", "rest", "sectionName: in", "tcp")
        + &upstream("app", APP)
        + &upstream("tcp", TCP)
        + &policy("");
    let snapshot = compiled(&text).unwrap();
    let listener = &snapshot.listeners[0];
    assert_eq!(listener.speaks, Speaks::Inbound);
    let clients = Clients::Workloads { plain_until: None, plain_ports: Box::default() };
    assert_eq!(listener.tls.as_ref().unwrap().clients, clients);
    let capture = listener.capture.as_ref().unwrap();
    assert_eq!((capture.within, capture.passes_unknown), (Duration::from_secs(1), false));
    let door = |meant| Door { port: 15006, meant: Some(meant) };
    let find = |meant, path: &str| {
        let (head, ()) = Request::get(path).body(()).unwrap().into_parts();
        snapshot.routes.find(door(meant), true, "h", &head).map(|route| route.name.to_string()).ok()
    };
    // The route of the port and that of all ports, by the more specific match.
    assert_eq!(find(8080, "/a/b").as_deref(), Some("eight/0"));
    assert_eq!(find(8080, "/b").as_deref(), Some("any/0"));
    assert_eq!(find(8081, "/a/b").as_deref(), Some("any/0"));
    let stream = |meant| snapshot.streams.find(door(meant), "").map(|route| route.name.to_string());
    assert_eq!((stream(5432).as_deref(), stream(8080).as_deref()), (Some("db/0"), Some("rest/0")));
    let takes = |meant| (snapshot.routes.takes(door(meant), true), snapshot.streams.takes(door(meant)));
    assert_eq!(takes(8080), (Takes::Named, Takes::Any));
    assert_eq!(takes(5432), (Takes::Any, Takes::Named));
    assert_eq!(takes(1), (Takes::Any, Takes::Any));
    let told = "FG0737 7:7 an HTTPRoute and a TCPRoute take connections to any port: the client's first bytes choose";
    assert!(
        brief(&snapshot.warnings).iter().any(|warning| warning.starts_with(told)),
        "{:?}",
        snapshot.warnings
    );
}

#[test]
fn nobody_warns_where_ports_tell_requests_from_connections() {
    let warned = |port: &str, more: &str| {
        let text = gateway(&[INBOUND])
            + &route("HTTPRoute", "any", "sectionName: in", "app")
            + &route("TCPRoute", "db", port, "tcp")
            + &upstream("app", APP)
            + &upstream("tcp", TCP)
            + &policy(more);
        brief(&compiled(&text).unwrap().warnings).iter().any(|told| told.starts_with("FG0737"))
    };
    assert!(warned("sectionName: in", ""));
    assert!(!warned("port: 5432", ""));
}

#[test]
fn an_address_of_another_namespace_cannot_be_claimed() {
    let claiming = |namespace: &str, name: &str| {
        let said = "endpoints: ['10.0.0.7:8080'], virtualAddresses: ['10.96.0.20:5432']";
        upstream(name, said).replace("name: ", &format!("namespace: {namespace}, name: "))
    };
    let faults = |documents: &[String]| {
        let text = gateway(&[OUTBOUND]) + &documents.concat();
        compiled(&text).map_or_else(|faults| brief(&faults), |_| Vec::new())
    };
    // The Service has the better right, whatever the names.
    let found = faults(&[claiming("aaa", "db"), claiming("crm", "service.db.5432.tcp")]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("FG0738 12:"), "{found:?}");
    assert!(
        found[0].ends_with("10.96.0.20:5432 belongs to `service.db.5432.tcp` of the namespace `crm`"),
        "{found:?}"
    );
    assert_eq!(
        faults(&[claiming("crm", "db"), claiming("crm", "service.db.5432.tcp")]),
        Vec::<String>::new()
    );
    assert_eq!(faults(&[claiming("b", "db"), claiming("a", "db")]).len(), 1);
}

#[test]
fn connections_of_an_application_belong_to_the_upstream_that_has_their_address() {
    let text = gateway(&[OUTBOUND])
        + &route("HTTPRoute", "billing", "port: 80", "billing")
        + &route("TCPRoute", "ledger", "sectionName: out", "ledger")
        + &route("TCPRoute", "else", "sectionName: out", "else")
        + &upstream(
            "billing",
            "endpoints: ['10.0.0.7:8080'], virtualAddresses: ['10.96.0.1:80', '[fd00::1]:80']",
        )
        + &upstream("ledger", "endpoints: ['10.0.0.8:5432'], protocol: Tcp")
        + &upstream("else", TCP)
        + &policy(
            "  insecure: { unknownDestinations: true }\n  detect: { listeners: [out], within: 50ms, opaquePorts: [5432] }\n",
        );
    let snapshot = compiled(&text).unwrap();
    let capture = snapshot.listeners[0].capture.as_ref().unwrap();
    assert!(capture.passes_unknown && *capture.opaque == [5432]);
    assert_eq!(capture.within, Duration::from_millis(50));
    let known = |port| {
        let of = snapshot.destinations.of(15001, port);
        of.map(|known| (known.upstream, known.stream.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(known(80), [(1, true), (2, true), (0, false)]);
    assert_eq!(known(5432), [(1, true), (2, true)], "requests mean port 80 alone");
    let meant =
        |upstream: usize, address: &str| snapshot.upstreams[upstream].is_meant_by(address.parse().unwrap());
    assert!(meant(0, "10.0.0.7:8080") && meant(0, "10.96.0.1:80") && meant(0, "[fd00::1]:80"));
    assert!(meant(0, "[::ffff:10.96.0.1]:80") && !meant(0, "10.96.0.1:81") && !meant(2, "10.0.0.8:5432"));
    assert_eq!(snapshot.upstreams[2].captured, Some(Captured::Address));
    let warned = brief(&snapshot.warnings);
    assert!(warned.iter().any(|told| told.starts_with("FG0773")), "{warned:?}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn faults_have_code_and_place() {
    let all = |listeners: &[&str], more: &str| {
        gateway(listeners) + more + &upstream("app", APP) + &upstream("tcp", TCP)
    };
    let http = |parent: &str, name: &str| route("HTTPRoute", "web", parent, name);
    let loopback = upstream("loop", "captured: Loopback");
    let with = |listener: &str| all(&[listener], &(http("port: 80", "app") + &policy("")));
    for (text, expected) in [
        (
            with("{ name: in, protocol: foregate.dev/Inbound, port: 1, hostname: a.test }"),
            "FG0770 7:68 a listener for redirected connections has no name",
        ),
        (
            with(
                "{ name: in, protocol: foregate.dev/Outbound, port: 1, tls: { certificateRefs: [{ name: a }] } }",
            ),
            "FG0770 7:59 a listener for redirected connections has TLS by its protocol",
        ),
        (with("{ name: in, protocol: foregate.dev/Sideways, port: 1 }"), "FG0106 7:27"),
        (
            all(
                &[
                    INBOUND,
                    "{ name: b, protocol: HTTPS, port: 15006, tls: { options: { foregate.dev/identity: workload } } }",
                ],
                "",
            ),
            "FG0202 8:39 listener `in` of `pod` has the same port, and redirected connections need one of their own",
        ),
        (
            all(&[INBOUND], &policy("  proxyProtocol: { from: [10.0.0.0/8] }\n")),
            "FG0770 7:27 redirected connections begin with no header of the PROXY protocol",
        ),
        (
            all(&[INBOUND], &policy("  insecure: { unknownDestinations: true }\n")),
            "FG0770 15:36 the Gateway `pod` has no listener with protocol foregate.dev/Outbound",
        ),
        (
            all(&[OUTBOUND], &policy("  insecure: { plainPorts: [80] }\n")),
            "FG0770 15:15 the Gateway `pod` has no listener with protocol foregate.dev/Inbound",
        ),
        (
            all(
                &["{ name: tcp, protocol: TCP, port: 1 }"],
                &policy("  detect: { listeners: [tcp], opaquePorts: [80] }\n"),
            ),
            "FG0770 15:25 nothing is redirected to the listener `tcp`",
        ),
        (
            all(&["{ name: plain, protocol: HTTP, port: 80 }"], &http("sectionName: plain", "app")),
            "FG0771 14:72 the upstream `app` is where redirected connections meant to go",
        ),
        (
            all(&[INBOUND], &(http("sectionName: in", "loop") + &loopback)),
            "FG0771 14:72 every port of loopback would be reached by the upstream `loop`",
        ),
        (
            all(&[INBOUND], &upstream("both", "captured: Address, endpoints: ['a:1']")),
            "FG0771 12:28 an upstream that is where connections meant to go has no use for `endpoints`",
        ),
        (
            all(&[INBOUND], &upstream("bad", "endpoints: ['a:1'], virtualAddresses: ['crm:80']")),
            "FG0301 12:48 `crm:80` is no address with a port",
        ),
        (
            all(
                &[OUTBOUND],
                &(route("TCPRoute", "one", "sectionName: out", "tcp")
                    + &route("TCPRoute", "two", "port: 9", "tcp")
                    + &policy("")),
            ),
            "FG0673 20:18 the connections of the listener `out` go to the route `one/0` already",
        ),
    ] {
        let told = brief(&compiled(&text).map(drop).unwrap_err());
        assert!(
            told.iter().any(|told| told.starts_with(expected)),
            "{expected}\n{}\n{text}",
            told.join("\n")
        );
    }
    let named = all(&[INBOUND], &(http("sectionName: in, port: 8080", "loop") + &loopback + &policy("")));
    assert!(compiled(&named).is_ok());
}

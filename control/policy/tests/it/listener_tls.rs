//! What listeners and upstreams may say of certificates, and what comes of it.

use std::path::PathBuf;
use std::time::Duration;

use foregate_policy::snapshot::{ClientAuthorities, Clients, Shown};

use crate::materials::{self, brief, compiled};

/// A gateway with one HTTPS listener on port 443 with this `tls`, and what the gateway says more.
fn gateway(tls: &str, more: &str) -> String {
    let listener = format!("{{ name: https, protocol: HTTPS, port: 443, tls: {tls} }}");
    materials::gateway("edge", &[&listener]) + more
}

fn policy(insecure: &str, target: &str) -> String {
    format!(
        "
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: weak }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: Gateway, name: {target} }}]
  insecure: {insecure}
"
    )
}

const FILES: &str = "{ certificateRefs: [{ name: cert }] }";
const WORKLOAD: &str = "{ options: { foregate.dev/identity: workload } }";
const VALIDATION: &str = "caCertificateRefs: [{ group: \"\", kind: ConfigMap, name: partners }]";

#[test]
fn faults_have_code_and_place() {
    let mut differences = Vec::new();
    let frontend = |said: &str| format!("  tls: {{ frontend: {said} }}\n");
    let optional = frontend(&format!(
        "{{ default: {{ validation: {{ mode: AllowInsecureFallback, {VALIDATION} }} }} }}"
    ));
    let port = |port: u16| format!("{{ port: {port}, tls: {{}} }}");
    for (text, want) in [
        (gateway("{}", ""), "FG0203 7:48 a listener needs a certificate"),
        (
            gateway("{ options: { foregate.dev/identity: mesh } }", ""),
            "FG0220 7:89 `mesh` is no identity to serve with",
        ),
        (
            gateway("{ options: { min-version: '1.3' } }", ""),
            "FG0220 7:79 there is no TLS option `min-version`",
        ),
        (
            gateway(
                "{ certificateRefs: [{ name: cert }], options: { foregate.dev/identity: workload } }",
                "",
            ),
            "FG0203 7:55 a listener shows the identity of this workload",
        ),
        (gateway(FILES, &optional), "FG0303 8:53 clients without a valid certificate would be served"),
        (
            gateway(FILES, &frontend(&format!("{{ default: {{}}, perPort: [{}] }}", port(444)))),
            "FG0304 8:53 no listener with a certificate from files is on port 444",
        ),
        (
            gateway(
                FILES,
                &frontend(&format!("{{ default: {{}}, perPort: [{}, {}] }}", port(443), port(443))),
            ),
            "FG0201 8:77 port 443 is named twice",
        ),
        (
            gateway(WORKLOAD, &frontend(&format!("{{ default: {{}}, perPort: [{}] }}", port(443)))),
            "FG0304 8:53 no listener with a certificate from files is on port 443",
        ),
        (
            gateway(FILES, "  tls: { frontend: { default: {} }, backend: {} }\n"),
            "FG0103 8:37 the field `backend` is not supported by this version",
        ),
        (
            gateway(WORKLOAD, "") + &policy("{ plainUntil: '2027-02-30T00:00:00Z' }", "edge"),
            "FG0301 15:27 `2027-02-30T00:00:00Z` is no time",
        ),
        (
            gateway(WORKLOAD, "") + &policy("{ plainUntil: tomorrow }", "edge"),
            "FG0116 15:27 `tomorrow` is not a time",
        ),
    ] {
        let told = brief(&compiled(&text).map(drop).unwrap_err());
        if !told.iter().any(|told| told.starts_with(want)) {
            differences.push(format!("{text}\n{told:#?}\nwanted {want}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

/// What the one listener of a configuration asks its clients for.
fn asks(text: &str) -> Clients {
    let snapshot = compiled(text).unwrap();
    snapshot.listeners.first().and_then(|listener| listener.tls.clone()).unwrap().clients
}

#[test]
fn what_is_asked_of_clients_is_what_was_written() {
    assert_eq!(asks(&gateway(FILES, "")), Clients::Unasked);
    assert_eq!(
        asks(&gateway(WORKLOAD, "")),
        Clients::Workloads { plain_until: None, plain_ports: Box::default() }
    );
    let validated = format!("  tls: {{ frontend: {{ default: {{ validation: {{ {VALIDATION} }} }} }} }}\n");
    let Clients::Authorities(ClientAuthorities { certificates, revocations, required }) =
        asks(&gateway(FILES, &validated))
    else {
        panic!("no certificate is asked for")
    };
    assert!(required);
    assert_eq!(certificates, [PathBuf::from("policies/secrets/partners/ca.crt")]);
    assert_eq!(revocations, [PathBuf::from("policies/secrets/partners/ca.crl")]);
    // A mesh listener asks for workloads, whatever the gateway says of others; a port of its own wins.
    assert_eq!(
        asks(&gateway(WORKLOAD, &validated)),
        Clients::Workloads { plain_until: None, plain_ports: Box::default() }
    );
    let own = validated.replace("frontend: {", "frontend: { perPort: [{ port: 443, tls: {} }],");
    assert_eq!(asks(&gateway(FILES, &own)), Clients::Unasked);
}

#[test]
fn weakenings_are_named_warned_of_and_of_their_gateway_alone() {
    let until = policy("{ plainUntil: '2027-01-31T00:00:00Z' }", "edge");
    let text = gateway(WORKLOAD, "") + &until;
    let plain_until = Some(Duration::from_hours(500_376));
    assert_eq!(asks(&text), Clients::Workloads { plain_until, plain_ports: Box::default() });
    let warnings = brief(&compiled(&text).unwrap().warnings);
    assert!(warnings.iter().any(|told| told.starts_with("FG0620")), "{warnings:?}");
    // The earliest time counts, and that of another gateway does not.
    let earlier = until.replace("name: weak", "name: weaker").replace("2027-01-31", "2027-01-30");
    let plain_until = Some(Duration::from_hours(500_376 - 24));
    assert_eq!(asks(&(text + &earlier)), Clients::Workloads { plain_until, plain_ports: Box::default() });
    let other = gateway(WORKLOAD, "").replace("443", "444").replace("edge", "other");
    let text = gateway(WORKLOAD, "") + "---\n" + &other + &until.replace("edge", "other");
    assert_eq!(asks(&text), Clients::Workloads { plain_until: None, plain_ports: Box::default() });
}

#[test]
fn an_upstream_of_peers_is_known_by_nothing_else() {
    let upstream = |tls: &str| {
        format!(
            "apiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: {{ name: crm }}\nspec: {{ endpoints: ['a:1'], tls: {tls} }}\n"
        )
    };
    let shown = |tls: &str| {
        let snapshot = compiled(&upstream(tls)).unwrap();
        snapshot.upstreams.first().and_then(|upstream| upstream.tls.clone()).unwrap().shown
    };
    assert_eq!(shown("{ mode: Simple }"), Shown::Nothing);
    let Shown::Workload { peers } =
        shown("{ mode: Mutual, peers: ['spiffe://a.test/b', 'spiffe://a.test/c/*'] }")
    else {
        panic!("no peers")
    };
    assert_eq!(peers.len(), 2);
    assert!(matches!(
        shown("{ mode: Mutual, clientCertificateRef: { name: ours } }"),
        Shown::Certificate(files) if files.key.ends_with("secrets/ours/tls.key")
    ));
    for (tls, want) in [
        ("{ mode: Mutual, peers: ['spiffe://a.test/b', 'b'] }", "FG0301 4:79 `b` names no peer"),
        ("{ mode: Mutual, peers: ['spiffe://a.test/b'], clientCertificateRef: { name: ours } }", "FG0302"),
        ("{ mode: Mutual, clientCertificateRef: { name: gone } }", "FG0305"),
        ("{ mode: Simple, clientCertificateRef: { name: ours } }", "FG0302"),
        ("{ mode: Simple, peers: ['spiffe://a.test/b'] }", "FG0302"),
    ] {
        let told = brief(&compiled(&upstream(tls)).map(drop).unwrap_err());
        assert!(told.iter().any(|told| told.starts_with(want)), "{tls}\n{told:#?}\nwanted {want}");
    }
}

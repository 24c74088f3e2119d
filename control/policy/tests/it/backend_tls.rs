//! `BackendTLSPolicy`: what it makes of upstreams, and what it does not go together with.

use std::path::PathBuf;

use foregate_policy::snapshot::{AltName, Shown};

use crate::materials::{BASE, brief, compiled};

const SYSTEM: &str = "{ hostname: crm.example.com, wellKnownCACertificates: System }";

fn named(name: &str, target: &str, validation: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{ name: {name} }}
spec:
  targetRefs: [{{ group: foregate.dev, kind: Upstream, name: {target} }}]
  validation: {validation}
---
"
    )
}

fn documents(validation: &str) -> String {
    BASE.to_owned()
        + &named("crm-tls", "crm", validation)
        + "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: web }
spec:
  parentRefs: [{ name: edge }]
  rules: [{ backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }] }]
"
}

#[test]
fn an_upstream_has_the_tls_that_a_policy_says() {
    let snapshot = compiled(&documents(SYSTEM)).unwrap();
    let tls = snapshot.upstreams[0].tls.as_ref().unwrap();
    assert_eq!(tls.server_name.as_deref(), Some("crm.example.com"));
    assert!(tls.ca_files.is_empty() && tls.alt_names.is_empty() && tls.shown == Shown::Nothing);
    let said = "{ hostname: crm, caCertificateRefs: [{ kind: ConfigMap, name: partners }], subjectAltNames: [{ type: Hostname, hostname: '*.crm.test' }, { type: URI, uri: 'spiffe://a/b' }] }";
    let snapshot = compiled(&documents(said)).unwrap();
    let tls = snapshot.upstreams[0].tls.as_ref().unwrap();
    assert_eq!(tls.ca_files, [PathBuf::from("policies/secrets/partners/ca.crt")]);
    assert_eq!(tls.alt_names, [AltName::Dns("*.crm.test".into()), AltName::Uri("spiffe://a/b".into())]);
    // Credentials go to an upstream with TLS only, whoever says so.
    let shown = |text: &str| {
        let credentials =
            "endpoints: ['crm:80'], credentials: { static: { header: x-key, value: { file: key } } }";
        compiled(&text.replace("endpoints: ['crm:80']", credentials)).map(drop)
    };
    shown(&documents(SYSTEM)).unwrap();
    let told = brief(
        &shown(&documents(SYSTEM).replace("name: crm }]\n  validation", "name: crn }]\n  validation"))
            .unwrap_err(),
    );
    assert!(told.iter().any(|told| told.starts_with("FG0622")), "{told:?}");
}

#[test]
fn what_does_not_go_together_is_told() {
    let itself = documents(SYSTEM).replace("['crm:80']", "['crm:80'], tls: { mode: Simple }");
    for (text, want) in [
        (itself, "FG0733 22:61 the Upstream `crm` says itself how TLS is spoken to it"),
        (
            documents(SYSTEM) + "---\n" + &named("again", "crm", SYSTEM),
            "FG0733 36:61 the BackendTLSPolicy `crm-tls` is about the Upstream `crm` already",
        ),
        (documents("{ hostname: crm }"), "FG0302 23:3 nothing says which authorities are trusted"),
        (
            documents(
                "{ hostname: crm, wellKnownCACertificates: System, caCertificateRefs: [{ kind: Secret, name: partners }] }",
            ),
            "FG0302 23:65 authorities of files and those of the system are both named",
        ),
        (
            documents("{ hostname: crm, caCertificateRefs: [{ kind: Secret, name: gone }] }"),
            "FG0305 23:74 the authorities `gone` cannot be used",
        ),
        (
            documents(
                "{ hostname: crm, wellKnownCACertificates: System, subjectAltNames: [{ type: URI, hostname: a }] }",
            ),
            "FG0301 23:91 with type URI it has a `uri`, and no `hostname`",
        ),
        (
            documents(
                "{ hostname: crm, wellKnownCACertificates: System, subjectAltNames: [{ type: URI, uri: crm }] }",
            ),
            "FG0301 23:101 this is no URI",
        ),
        (documents("{ hostname: '*.crm', wellKnownCACertificates: System }"), "FG0116 23:27"),
        (
            documents(SYSTEM).replace(
                "group: foregate.dev, kind: Upstream, name: crm }]\n  v",
                "group: '', kind: Service, name: crm }]\n  v",
            ),
            "FG0103 22:35 `Service` is not supported by this version",
        ),
        (BASE.to_owned() + &named("crm-tls", "crn", SYSTEM), "FG0304 22:61"),
    ] {
        let told = brief(&compiled(&text).map(drop).unwrap_err());
        assert!(told.iter().any(|told| told.starts_with(want)), "{text}\n{told:#?}\nwanted {want}");
    }
}

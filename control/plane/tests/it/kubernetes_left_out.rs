//! The fault of one object costs that object: a revision is made of the rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foregate_control::kubernetes::kinds::Resource;
use foregate_control::kubernetes::references::{Content, Holder, Reference, References};
use foregate_control::kubernetes::report::Report;
use foregate_control::kubernetes::verdict::{Outcome, judge};
use foregate_control::revision::merge::merge;
use foregate_control::revision::shelf::Shelf;
use foregate_control::sources::Tree;
use foregate_control::sources::board::{Place, SourceState};

use crate::kubernetes::{CLASS, GATEWAY, POLICY, ROUTE, SERVICE};
use crate::kubernetes_render::{ancestor, policy, report, text, world};

const SOUND: [&str; 5] = [CLASS, GATEWAY, ROUTE, POLICY, SERVICE];

/// Judged with what Secrets and `ConfigMaps` of `crm` hold; a revision is made of the outcome, as the process does.
fn judged(more: &str, held: &[(Holder, &str, &str, &str)]) -> Outcome {
    let mut all: BTreeMap<Reference, BTreeMap<String, bytes::Bytes>> = BTreeMap::new();
    for (holder, name, key, text) in held {
        let keys = all.entry(Reference::new(*holder, "crm", name)).or_default();
        keys.insert((*key).to_owned(), (*text).to_owned().into());
    }
    let references: References =
        all.into_iter().map(|(reference, keys)| (reference, Arc::new(Content::Present(keys)))).collect();
    let outcome = judge(&world(&[&SOUND[..], &[more]].concat()), &references);
    assert_eq!(outcome.stuck, [] as [String; 0]);
    let rendered = &outcome.rendered;
    let mut files: BTreeMap<Arc<str>, bytes::Bytes> =
        rendered.files.iter().map(|(way, file)| (way.clone(), file.text.to_string().into())).collect();
    files.extend(rendered.secrets.clone());
    let tree = Tree { revision: "1".to_owned(), files, ..Tree::default() };
    let place = Place { name: "kubernetes".into(), ..Place::default() };
    let state = SourceState { place, tree: Some(Arc::new(tree)), seen: Duration::ZERO, fault: None };
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(folder.path(), 1).unwrap();
    let made = shelf.make(&merge(&[state]).unwrap());
    let revision = made.unwrap_or_else(|faults| panic!("the revision of all is refused: {faults:#?}"));
    assert!(revision.resources.contains_key("HTTPRoute:crm/leads"), "others are served");
    outcome
}

fn refusal(outcome: &Outcome, resource: Resource, name: &str) -> String {
    let Report::Plain(verdict) = report(outcome, resource, name) else { panic!("no plain report") };
    assert!(!verdict.ok, "{name} is accepted");
    assert_eq!(text(outcome, &format!("kubernetes/crm/{}/{name}.yaml", resource.word())), "");
    verdict.message
}

fn model(spec: &str) -> String {
    format!(
        "apiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: {{ name: lead, namespace: crm }}\nspec: {spec}\n"
    )
}

#[test]
fn a_model_names_bundles_by_absolute_paths_and_features_of_its_own_namespace() {
    let secret = (
        Holder::Secret,
        "features",
        "key",
        "0000000000000000000000000000000000000000000000000000000000000000",
    );
    let key = "key: { secretRef: { name: features, key: key } }";
    let features = |more: &str| format!("{{ bundle: {{ path: /b }}, featureStore: {{ {more} }} }}");
    let folder = "/var/lib/foregate/features";
    for (spec, told) in [
        ("{ bundle: { path: models/lead } }".to_owned(), "FG0752: `models/lead`"),
        ("{ bundle: { path: /b/../../etc } }".to_owned(), "FG0752: `/b/../../etc`"),
        (
            "{ versions: [{ name: a, bundle: { path: a } }], rollout: { production: a } }".to_owned(),
            "FG0752: `a`",
        ),
        ("{ bundle: { path: /b }, signedBy: [{ file: key.pem }] }".to_owned(), "FG0752: `key.pem`"),
        (features(&format!("path: rows, {key}")), "FG0792: spec.featureStore.path"),
        (features(&format!("path: {folder}/other/rows, {key}")), "FG0792: spec.featureStore.path"),
        (features(&format!("path: {folder}/crm/../other/rows, {key}")), "FG0792: spec.featureStore.path"),
        (
            features(&format!("path: {folder}/crm/rows, inbox: {folder}/other/in, {key}")),
            "FG0792: spec.featureStore.inbox",
        ),
        (
            features(&format!("path: {folder}/crm/rows, key: {{ env: HOME }}")),
            "FG0792: spec.featureStore.key.env",
        ),
        (
            features(&format!("path: {folder}/crm/rows, {key}, nextKey: {{ file: /etc/shadow }}")),
            "FG0792: spec.featureStore.nextKey.file",
        ),
    ] {
        let told_now = refusal(&judged(&model(&spec), &[secret]), Resource::Model, "lead");
        assert!(told_now.starts_with(told), "{spec}: {told_now}");
    }
    let good = format!(
        "{{ bundle: {{ path: /b }}, signedBy: [{{ file: /keys/a.pem }}], featureStore: {{ path: {folder}/crm/rows, {key} }} }}"
    );
    let outcome = judged(&model(&good), &[secret]);
    let Report::Plain(verdict) = report(&outcome, Resource::Model, "lead") else { panic!("no model") };
    assert!(verdict.ok, "{verdict:?}");
}

#[test]
fn parts_of_a_secret_that_do_not_fit_cost_whoever_needs_them_both() {
    let (one, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let chain = rcgen::CertificateParams::new(vec!["crm.test".to_owned()]).unwrap();
    let chain = chain.self_signed(&one).unwrap().pem();
    let upstream = "apiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: { name: partner, namespace: crm }\n\
spec: { endpoints: ['10.0.0.1:80'], tls: { mode: Mutual, clientCertificateRef: { name: ours } } }\n";
    let gateway = GATEWAY.replace("name: edge", "name: other").replace(
        "protocol: HTTP, port: 8080,",
        "protocol: HTTPS, port: 8443, tls: { certificateRefs: [{ name: ours }] },",
    );
    let more = format!("{upstream}---{gateway}");
    // Half a rotation: the chain of yesterday, the key of today.
    let key = other.serialize_pem();
    let held = [(Holder::Secret, "ours", "tls.crt", &*chain), (Holder::Secret, "ours", "tls.key", &*key)];
    let outcome = judged(&more, &held);
    assert!(refusal(&outcome, Resource::Upstream, "partner").contains("do not fit"));
    let Report::Gateway(refused) = report(&outcome, Resource::Gateway, "other") else { panic!("no gateway") };
    assert!(!refused.programmed.ok);
    let ours = Reference::new(Holder::Secret, "crm", "ours");
    assert_eq!(outcome.rendered.needed[&ours].len(), 2, "it is watched until it fits");
    let key = one.serialize_pem();
    let held = [(Holder::Secret, "ours", "tls.crt", &*chain), (Holder::Secret, "ours", "tls.key", &*key)];
    let outcome = judged(&more, &held);
    let Report::Plain(verdict) = report(&outcome, Resource::Upstream, "partner") else {
        panic!("no upstream")
    };
    assert!(verdict.ok, "{verdict:?}");
}

#[test]
fn authorities_that_are_none_cost_the_policy_that_names_them() {
    let tls = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: { name: other, namespace: crm }\n\
spec:\n  targetRefs: [{ group: '', kind: Service, name: other }]\n\
\x20 validation: { hostname: other.test, caCertificateRefs: [{ group: '', kind: ConfigMap, name: roots }] }\n";
    let service = SERVICE.replace("name: leads,", "name: other,");
    let route = ROUTE
        .replace("metadata: { name: leads", "metadata: { name: other")
        .replace("name: leads, port", "name: other, port")
        .replace("value: /", "value: /other");
    let gateway = GATEWAY.replace("name: edge", "name: asking").replace(
        "protocol: HTTP, port: 8080,",
        "protocol: HTTPS, port: 8443, tls: { certificateRefs: [{ name: ours }] },",
    ) + "  tls: { frontend: { default: { validation: { caCertificateRefs: [{ group: '', kind: ConfigMap, name: roots }] } } } }\n";
    let more = [tls, &service, &route, &policy("HTTPRoute", "other"), &gateway].join("---\n");
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = rcgen::CertificateParams::new(vec!["crm.test".to_owned()]).unwrap();
    let (chain, key) = (chain.self_signed(&key).unwrap().pem(), key.serialize_pem());
    let held = |roots: &str| {
        judged(
            &more,
            &[
                (Holder::ConfigMap, "roots", "ca.crt", roots),
                (Holder::Secret, "ours", "tls.crt", &chain),
                (Holder::Secret, "ours", "tls.key", &key),
            ],
        )
    };
    let outcome = held("not yet");
    let verdict = ancestor(&outcome, Resource::BackendTlsPolicy, "other");
    assert_eq!((verdict.ok, verdict.reason), (false, "NoValidCACertificate"));
    assert!(verdict.message.contains("ca.crt of the ConfigMap `roots`"), "{verdict:?}");
    let Report::Gateway(asking) = report(&outcome, Resource::Gateway, "asking") else { panic!("no gateway") };
    assert_eq!(asking.listeners[0].resolved.reason, "InvalidCACertificateRef");
    let outcome = held(&chain);
    assert!(ancestor(&outcome, Resource::BackendTlsPolicy, "other").ok);
    let Report::Gateway(asking) = report(&outcome, Resource::Gateway, "asking") else { panic!("no gateway") };
    assert!(asking.programmed.ok, "{asking:?}");
}

#[test]
fn a_secret_that_no_proxy_can_use_costs_what_names_it() {
    let upstream = "apiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: { name: partner, namespace: crm }\n\
spec:\n  endpoints: ['10.0.0.1:80']\n  insecure: { plainCredentials: true }\n\
\x20 credentials: { static: { header: authorization, value: { secretRef: { name: token, key: value } } } }\n";
    for (value, told) in [("", "is empty"), ("a\u{1}b", "what a header cannot carry")] {
        let outcome = judged(upstream, &[(Holder::Secret, "token", "value", value)]);
        let message = refusal(&outcome, Resource::Upstream, "partner");
        assert!(message.contains(told), "{message}");
        assert!(!outcome.rendered.secrets.contains_key("secrets/secret.crm.token/value"), "nobody gets it");
    }
}

#[test]
fn an_object_that_becomes_too_large_a_file_is_left_out() {
    let groups: Vec<String> = (0..64).map(|at| format!("\"{at}-{}\"", "x".repeat(20_000))).collect();
    let consumer = format!(
        "apiVersion: foregate.dev/v1alpha1\nkind: Consumer\nmetadata: {{ name: partner, namespace: crm }}\nspec: {{ metadata: {{ all: [{}] }} }}\n",
        groups.join(", ")
    );
    let message = refusal(&judged(&consumer, &[]), Resource::Consumer, "partner");
    assert!(message.contains("larger than 1024 KiB"), "{message}");
}

//! Trees of sources to revisions: conflicts, files, who gets what.

use std::sync::Arc;

use bytes::Bytes;
use foregate_policy::document::ObjectName;

use crate::revision::Revision;
use crate::revision::merge::{Merged, merge};
use crate::revision::shelf::Shelf;
use crate::sources::Tree;
use crate::sources::board::{Place, SourceState};

fn source(name: &str, place: Place, files: &[(&str, &str)]) -> SourceState {
    let files = files.iter().map(|(way, text)| (Arc::from(*way), Bytes::copy_from_slice(text.as_bytes())));
    let tree = Tree { revision: "1".to_owned(), files: files.collect(), ..Tree::default() };
    let place = Place { name: name.into(), ..place };
    SourceState { place, tree: Some(Arc::new(tree)), seen: std::time::Duration::ZERO, fault: None }
}

fn one(files: &[(&str, &str)]) -> Merged {
    merge(&[source("one", Place::default(), files)]).unwrap()
}

/// Codes, places and messages of what refuses these trees.
fn refused(merged: &Merged) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(folder.path(), 10).unwrap();
    let faults = shelf.make(merged).unwrap_err();
    assert!(shelf.labels().is_empty(), "what is refused is not kept");
    faults
        .iter()
        .map(|fault| format!("{} {}:{} {}", fault.code, fault.file, fault.line, fault.message))
        .collect()
}

fn made(merged: &Merged) -> Revision {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(folder.path(), 10).unwrap();
    let made = shelf.make(merged).unwrap_or_else(|faults| panic!("{faults:#?}"));
    shelf.keep_secrets(|| Some(merged.secrets())).unwrap();
    let read = shelf.read(&made.label.id).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(read.label, made.label);
    assert_eq!(read.resources, made.resources, "what is read again is the same");
    made
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: edge, namespace: NS }\n\
spec: { gatewayClassName: foregate, listeners: [{ name: http, protocol: HTTP, port: 8080, allowedRoutes: { namespaces: { from: All } } }] }\n";

fn route(namespace: &str, name: &str, gateways: &str, upstream: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec:\n  parentRefs: {gateways}\n  rules:\n\
         \x20 - matches: [{{ path: {{ type: PathPrefix, value: /{name} }} }}]\n\
         \x20   backendRefs: [{upstream}]\n\
         ---\napiVersion: foregate.dev/v1alpha1\nkind: Policy\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec:\n  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: {name} }}]\n\
         \x20 insecure: {{ anonymous: true }}\n"
    )
}

fn upstream(namespace: &str, name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec: {{ endpoints: [\"10.0.0.1:80\"]{more} }}\n"
    )
}

fn backend(name: &str) -> String {
    format!("{{ group: foregate.dev, kind: Upstream, name: {name} }}")
}

/// A gateway of this namespace, with everything behind it.
fn whole(namespace: &str) -> String {
    [
        GATEWAY.replace("NS", namespace),
        route(namespace, "all", "[{ name: edge }]", &backend("crm")),
        upstream(namespace, "crm", ""),
    ]
    .concat()
}

#[test]
fn files_and_documents_that_two_sources_have_are_conflicts() {
    let place = Place::default();
    let (a, b) = (whole("a"), whole("b"));
    let same = merge(&[
        source("one", place.clone(), &[("edge.yaml", &a), ("shared.json", "{}")]),
        source("two", place.clone(), &[("edge.yaml", &b), ("shared.json", "{}")]),
    ]);
    let told = refused(&same.unwrap());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("FG0750 edge.yaml:0") && told[0].contains("`one` and `two`"), "{told:?}");
    let teams = Place { mount: "teams/two".to_owned(), ..place.clone() };
    let twice = merge(&[
        source("one", place.clone(), &[("edge.yaml", &a)]),
        source("two", teams, &[("edge.yaml", &a)]),
    ]);
    let told = refused(&twice.unwrap());
    let double = told.iter().filter(|line| line.starts_with("FG0201 two:teams/two/edge.yaml:")).count();
    assert!(double >= 4 && told.iter().all(|line| line.contains("edge.yaml")), "{told:#?}");
    // Until all sources have given something, nothing is known to be gone.
    let mut waiting = source("two", place, &[]);
    waiting.tree = None;
    assert!(merge(&[waiting]).is_none() && merge(&[]).is_none());
}

#[test]
fn a_file_where_another_source_has_a_folder_is_a_conflict() {
    let place = Place::default();
    let merged = |one: &[(&str, &str)], two: &[(&str, &str)]| {
        merge(&[source("one", place.clone(), one), source("two", place.clone(), two)]).unwrap()
    };
    let text = whole("a");
    let edge = ("edge.yaml", text.as_str());
    let (file, folder) = (("secrets/edge", "1"), ("secrets/edge/tls/key", "2"));
    for (merged, named) in [
        (merged(&[edge, file], &[folder]), ["`one`, and a folder", "`two`"]),
        (merged(&[edge, folder, ("secrets/edge/tls/crt", "3")], &[file]), ["`two`, and a folder", "`one`"]),
    ] {
        let told = refused(&merged);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].starts_with("FG0750 secrets/edge:0"), "{told:#?}");
        assert!(named.iter().all(|named| told[0].contains(named)), "{told:#?}");
        assert!(merged.faults[0].help.as_ref().unwrap().contains("does not move"), "{:?}", merged.faults);
    }
    // Endpoints are in no tree here, and in one at each proxy.
    let told =
        refused(&merged(&[edge, ("crm.endpoints", "endpoints: []")], &[("crm.endpoints/a.json", "{}")]));
    assert!(told.len() == 1 && told[0].starts_with("FG0750 crm.endpoints:0"), "{told:#?}");
    let told = refused(&merged(&[edge, ("teams", "")], &[("teams/crm.endpoints", "endpoints: []")]));
    assert!(told.len() == 1 && told[0].starts_with("FG0750 teams:0"), "{told:#?}");
    // Folders are shared, and names may begin alike.
    made(&merged(&[edge, ("secrets/edge/a", "1")], &[("secrets/edge/b", "2"), ("secrets/edge-2", "3")]));
}

#[test]
fn a_source_keeps_to_its_namespaces() {
    let place = Place { namespaces: vec!["a".to_owned()], ..Place::default() };
    let told = refused(&merge(&[source("one", place.clone(), &[("edge.yaml", &whole("b"))])]).unwrap());
    assert!(told.iter().all(|line| line.starts_with("FG0760 edge.yaml:")) && told.len() == 4, "{told:#?}");
    made(&merge(&[source("one", place, &[("edge.yaml", &whole("a"))])]).unwrap());
}

fn certificate() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
}

#[test]
fn a_source_with_namespaces_gets_no_files_of_others() {
    let bound = |namespace: &str| Place { namespaces: vec![namespace.to_owned()], ..Place::default() };
    let secret = ("secrets/redis/password", "hunter2");
    let keyed = ", insecure: { plainCredentials: true }, credentials: { static: { header: x-key, value: { secretRef: { name: redis, key: password } } } }";
    let mine = whole("a").replace("10.0.0.1:80\"]", &format!("10.0.0.1:80\"]{keyed}"));
    let leads = source("leads", bound("a"), &[("edge.yaml", &mine)]);
    for place in [Place::default(), bound("b")] {
        let others = source("platform", place, &[secret]);
        let told = refused(&merge(&[others, leads.clone()]).unwrap());
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].starts_with("FG0795 leads:edge.yaml:") && told[0].contains(secret.0), "{told:#?}");
    }
    // Endpoints of others are theirs as well.
    let elsewhere =
        mine.replace(keyed, ", endpointsFile: crm.endpoints").replace("endpoints: [\"10.0.0.1:80\"], ", "");
    let others = source("platform", Place::default(), &[("crm.endpoints", "endpoints: []")]);
    let told = refused(&merge(&[others, source("leads", bound("a"), &[("edge.yaml", &elsewhere)])]).unwrap());
    assert!(told.iter().any(|line| line.starts_with("FG0795 leads:edge.yaml:")), "{told:#?}");
    // What is brought for the namespace, or by the source itself, is its own, also where another has the same.
    made(&merge(&[source("given", bound("a"), &[secret]), leads]).unwrap());
    let both = source("leads", bound("a"), &[("edge.yaml", &mine), secret]);
    made(&merge(&[source("platform", Place::default(), &[secret]), both]).unwrap());
    // A source for all namespaces has all.
    let all = source("all", Place::default(), &[("edge.yaml", &mine)]);
    made(&merge(&[source("platform", Place::default(), &[secret]), all]).unwrap());
}

/// A gateway whose certificate is a secret.
const SECURE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  gatewayClassName: foregate
  listeners: [{ name: https, protocol: HTTPS, port: 8443, tls: { certificateRefs: [{ name: edge }] } }]
";

/// A certificate and its key.
fn pair() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    (chain.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn secure(chain: &str, key: &str) -> Merged {
    one(&[("edge.yaml", SECURE), ("secrets/edge/tls.crt", chain), ("secrets/edge/tls.key", key)])
}

/// Ways of the files below a folder that hold this.
fn holding(folder: &std::path::Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if std::fs::read_to_string(&path).is_ok_and(|content| content.contains(text)) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn keys_lie_apart_from_revisions_and_none_of_before_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let shelf = Shelf::open(place, 10).unwrap();
    let (old, new) = (pair(), pair());
    let (before, after) = (secure(&old.0, &old.1), secure(&new.0, &new.1));
    assert_eq!(before.id, after.id, "a key that was renewed makes no other revision");
    assert_ne!(before.secrets, after.secrets);
    let revision = shelf.make(&before).unwrap();
    shelf.keep_secrets(|| Some(before.secrets())).unwrap();
    assert_eq!(holding(folder.path(), &old.1), [place.join("secrets/edge/tls.key").display().to_string()]);
    let renewed = shelf.again(&after).unwrap();
    assert_eq!((&renewed.label.id, renewed.label.made), (&revision.label.id, revision.label.made));
    shelf.keep_secrets(|| Some(after.secrets())).unwrap();
    assert!(holding(folder.path(), &old.1).is_empty() && holding(folder.path(), &old.0).is_empty());
    let read = |shelf: &Shelf| shelf.read(&before.id).unwrap().resources["secrets/edge/tls.key"].clone();
    let key = crate::revision::Resource::file("secrets/edge/tls.key", Bytes::from(new.1.clone()));
    assert_eq!(*read(&shelf), key, "read with the key of today");
    // A pair that does not fit is found before anybody has it.
    let faults = shelf.again(&secure(&new.0, &old.1)).unwrap_err();
    assert!(faults[0].message.contains("do not fit"), "{faults:#?}");
    // What was cut off is mended.
    drop(shelf);
    std::fs::rename(place.join("secrets"), place.join("secrets.old")).unwrap();
    std::fs::create_dir(place.join("secrets.new")).unwrap();
    let shelf = Shelf::open(place, 10).unwrap();
    assert_eq!(*read(&shelf), key);
    assert!(!place.join("secrets.old").exists() && !place.join("secrets.new").exists());
    // An earlier version kept them among the revisions.
    drop(shelf);
    std::fs::rename(place.join("secrets"), place.join("revisions/secrets")).unwrap();
    let shelf = Shelf::open(place, 10).unwrap();
    assert_eq!(*read(&shelf), key);
    assert!(!place.join("revisions/secrets").exists());
    // Whose secret is gone cannot be gone back to, and the reason is told.
    shelf.keep_secrets(|| Some(crate::revision::secrets::Secrets::new())).unwrap();
    let faults = shelf.read(&before.id).unwrap_err();
    assert!(faults.iter().any(|fault| fault.message.contains("edge")), "{faults:#?}");
}

#[test]
fn keys_that_earlier_versions_kept_in_revisions_are_taken_out_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("revisions");
    let merged = secure(&pair().0, "");
    let (old, new) = (pair(), pair());
    {
        let shelf = Shelf::open(folder.path(), 10).unwrap();
        shelf.make(&secure(&old.0, &old.1)).unwrap();
    }
    let within = place.join(&merged.id).join("tree/secrets/edge");
    std::fs::create_dir_all(&within).unwrap();
    std::fs::write(within.join("tls.crt"), &new.0).unwrap();
    std::fs::write(within.join("tls.key"), &new.1).unwrap();
    // An older one, with another key.
    let other = place.join("0123456789ab");
    std::fs::create_dir_all(other.join("tree/secrets/edge")).unwrap();
    std::fs::write(other.join("tree/secrets/edge/tls.key"), &old.1).unwrap();
    let label = std::fs::read_to_string(place.join(&merged.id).join("revision.json")).unwrap();
    let label: serde_json::Value = serde_json::from_str(&label).unwrap();
    let label = serde_json::json!({ "id": "0123456789ab", "made": 1, "origins": label["origins"] });
    std::fs::write(other.join("revision.json"), label.to_string()).unwrap();

    let shelf = Shelf::open(folder.path(), 10).unwrap();
    assert!(holding(folder.path(), &old.1).is_empty());
    let kept = folder.path().join("secrets/edge/tls.key");
    assert_eq!(holding(folder.path(), &new.1), [kept.display().to_string()]);
    assert!(shelf.read(&merged.id).is_ok(), "it starts from what it had");
}

#[test]
fn no_source_forges_a_revision_nor_leads_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (state, revisions) = (folder.path(), folder.path().join("revisions"));
    let label = |id: &str| serde_json::json!({ "id": id, "made": 1, "origins": [] }).to_string();
    let shelf = Shelf::open(state, 10).unwrap();
    let forged = label("0123456789ab");
    let teams = Place { mount: "teams/one".to_owned(), ..Place::default() };
    let merged =
        merge(&[source("one", teams, &[("edge.yaml", &whole("a")), ("secrets/revision.json", &forged)])]);
    let merged = merged.unwrap();
    shelf.make(&merged).unwrap();
    shelf.keep_secrets(|| Some(merged.secrets())).unwrap();
    assert_eq!(holding(state, &forged), [state.join("secrets/revision.json").display().to_string()]);
    // However a label comes to lie there: it counts where its name leads, and leads to nothing else.
    let elsewhere = state.join("elsewhere");
    let precious = [state.join("tree/secrets/precious"), elsewhere.join("tree/secrets/precious")];
    for file in &precious {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "precious").unwrap();
    }
    let absolute = elsewhere.display().to_string();
    for (name, id) in [
        ("secrets", "0123456789ab"),
        ("0123456789ac", ".."),
        ("0123456789ad", absolute.as_str()),
        ("0123456789ae", merged.id.as_str()),
        ("others", "others"),
    ] {
        std::fs::create_dir(revisions.join(name)).unwrap();
        std::fs::write(revisions.join(name).join("revision.json"), label(id)).unwrap();
        let ids = |shelf: &Shelf| shelf.labels().into_iter().map(|label| label.id).collect::<Vec<_>>();
        assert_eq!(ids(&shelf), [merged.id.as_str()], "{name}");
        let opened = Shelf::open(state, 10).unwrap();
        assert_eq!(ids(&opened), [merged.id.as_str()], "{name}");
        assert!(opened.read(id).is_err() || id == merged.id, "{name}");
        assert!(precious.iter().all(|file| file.is_file()), "{name}");
    }
}

#[test]
fn what_a_file_holds_is_looked_at_before_proxies_are_asked() {
    let tls = "{ mode: Mutual, clientCertificateRef: { name: ours } }";
    let policies = [
        GATEWAY.replace("NS", "a"),
        route("a", "all", "[{ name: edge }]", &backend("crm")),
        upstream("a", "crm", &format!(", tls: {tls}")),
    ]
    .concat();
    let key = |key: &rcgen::KeyPair| key.serialize_pem();
    let (one_key, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let chain = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let chain = chain.self_signed(&one_key).unwrap().pem();
    let files = |key: &str| {
        one(&[("edge.yaml", &policies), ("secrets/ours/tls.crt", &chain), ("secrets/ours/tls.key", key)])
    };
    made(&files(&key(&one_key)));
    let told = refused(&files(&key(&other)));
    assert!(told.len() == 1 && told[0].contains("do not fit"), "{told:#?}");
    let told = refused(&files("not yet"));
    assert!(told.len() == 1 && told[0].contains("tls.key is no private key in PEM"), "{told:#?}");
    let token = upstream(
        "a",
        "crm",
        ", insecure: { plainCredentials: true }, credentials: { static: { header: x-key, value: { secretRef: { name: crm, key: token } } } }",
    );
    let policies =
        [GATEWAY.replace("NS", "a"), route("a", "all", "[{ name: edge }]", &backend("crm")), token];
    let told = refused(&one(&[("edge.yaml", &policies.concat()), ("secrets/crm/token", "a\u{1}b")]));
    assert!(told.len() == 1 && told[0].contains("what a header cannot carry"), "{told:#?}");
}

#[test]
fn a_model_comes_with_its_store_and_its_keys() {
    let policy = "insecure: { anonymous: true }\n  enrich: [{ name: lead, model: a/lead, deadline: 3ms, onError: continue, default: 0.0, set: { header: x-lead } }]";
    let models = "---\napiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: { name: lead, namespace: a }\n\
spec:\n  bundle: { path: /bundles/lead }\n  featureStore:\n    path: /var/lib/features.rows\n\
\x20   key: { secretRef: { name: features, key: now } }\n    nextKey: { secretRef: { name: features, key: next } }\n\
\x20   stream: { store: redis, name: rows }\n\
---\napiVersion: foregate.dev/v1alpha1\nkind: Store\nmetadata: { name: redis, namespace: a }\n\
spec: { redis: { addresses: [\"127.0.0.1:6379\"] } }\n";
    let text = [whole("a").replace("insecure: { anonymous: true }", policy), models.to_owned()].concat();
    let (now, next) = ("0".repeat(64), "1".repeat(64));
    let revision =
        made(&one(&[("all.yaml", &text), ("secrets/features/now", &now), ("secrets/features/next", &next)]));
    let closure = revision.objects.closure(&[ObjectName::new(Some("a"), "edge")]);
    assert_eq!(
        closure.files.iter().map(|way| &**way).collect::<Vec<_>>(),
        ["secrets/features/next", "secrets/features/now"]
    );
    // What a proxy compiles, of all that it gets.
    let mut sources = foregate_policy::load::Sources::default();
    for name in &closure.documents {
        let crate::revision::Content::Document { text, .. } = &revision.resources[name].content else {
            panic!()
        };
        sources.add(format!("{}.yaml", name.replace([':', '/'], "-")).into(), text.to_string());
    }
    let options = foregate_policy::compile::Options { part: true, ..Default::default() };
    let compiled =
        foregate_policy::compile::compile(&sources, &crate::declared::Declared::default(), options);
    compiled.unwrap_or_else(|faults| panic!("{faults:#?}"));
}

#[test]
fn files_that_documents_refer_to_must_be_there_and_come_along() {
    let tls = ", tls: { mode: Simple, caFile: FILE }";
    let policies = |file: &str| {
        let upstream = upstream("a", "crm", &tls.replace("FILE", file));
        [GATEWAY.replace("NS", "a"), route("a", "all", "[{ name: edge }]", &backend("crm")), upstream]
            .concat()
    };
    let told = refused(&one(&[("gateways/edge.yaml", &policies("ca.pem"))]));
    assert!(
        told[0].starts_with("FG0752 gateways/edge.yaml:") && told[0].contains("`gateways/ca.pem`"),
        "{told:?}"
    );
    let told = refused(&one(&[("gateways/edge.yaml", &policies("../../ca.pem"))]));
    assert!(told[0].starts_with("FG0751 gateways/edge.yaml:"), "{told:?}");
    let files =
        [("gateways/edge.yaml", policies("../ca.pem")), ("ca.pem", certificate()), ("other", "x".to_owned())];
    let files: Vec<(&str, &str)> = files.iter().map(|(way, text)| (*way, text.as_str())).collect();
    let revision = made(&one(&files));
    assert!(revision.resources.contains_key("ca.pem") && !revision.resources.contains_key("other"));
    let absolute = made(&one(&[("edge.yaml", &policies("/etc/ssl/ca.pem"))]));
    assert!(absolute.resources.keys().all(|name| name.contains(':')), "only documents");
}

#[test]
fn faults_are_told_with_their_lines_and_compile_as_a_whole() {
    let two = [whole("a"), "---\n".to_owned(), whole("b")].concat();
    // Each on port 8080, for processes of their own.
    let revision = made(&one(&[("edge.yaml", &two)]));
    let crm = &revision.resources["Upstream:b/crm"];
    let crate::revision::Content::Document { line, text, .. } = &crm.content else { panic!() };
    let there: Vec<&str> = two.lines().skip(*line as usize - 1).take(text.lines().count()).collect();
    assert_eq!(there, text.lines().collect::<Vec<_>>());
    let told = refused(&one(&[("edge.yaml", &two.replace("name: crm }]", "name: crn }]"))]));
    assert!(told.iter().any(|line| line.starts_with("FG0304 edge.yaml:13")), "{told:#?}");
    let told = refused(&one(&[(
        "edge.yaml",
        &two.replacen(
            "---\napiVersion: foregate.dev/v1alpha1\nkind: Policy",
            "...\napiVersion: foregate.dev/v1alpha1\nkind: Policy",
            1,
        ),
    )]));
    assert!(told.iter().any(|line| line.starts_with("FG0761")), "{told:#?}");
}

#[test]
fn what_hangs_on_a_gateway_comes_along_and_nothing_else() {
    let apis = "---\napiVersion: foregate.dev/v1alpha1\nkind: Consumer\nmetadata: { name: NAME, namespace: NS }\n\
spec: { keys: [{ prefix: NS0000000000, hash: \"sha256:0000000000000000000000000000000000000000000000000000000000000000\" }] }\n";
    let consumer = |namespace: &str| apis.replace("NS", namespace).replace("NAME", "partner");
    let keyed = |text: String| {
        text.replace(
            "insecure: { anonymous: true }",
            "apiKey: {}\n  authorize: [{ name: all, allow: 'true' }]",
        )
    };
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: { name: NAME, namespace: shared }\n\
spec: { from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: FROM }], to: [{ group: foregate.dev, kind: Upstream }] }\n";
    let shared = "{ group: foregate.dev, kind: Upstream, name: crm, namespace: shared }";
    let all = [
        keyed(whole("a")),
        route("a", "both", "[{ name: edge }, { name: edge, namespace: b }]", shared),
        consumer("a"),
        "---\n".to_owned(),
        whole("b"),
        consumer("b"),
        upstream("shared", "crm", ", endpointsFile: crm.endpoints"),
        upstream("shared", "other", ""),
        grant.replace("NAME", "for-a").replace("FROM", "a"),
        grant.replace("NAME", "for-c").replace("FROM", "c"),
    ]
    .concat();
    let revision = made(&one(&[("all.yaml", &all), ("crm.endpoints", "endpoints: []")]));
    let closure = |namespace: &str| {
        let closure = revision.objects.closure(&[ObjectName::new(Some(namespace), "edge")]);
        assert_eq!(closure.files.iter().map(|way| &**way).collect::<Vec<_>>(), ["crm.endpoints"]);
        closure.documents.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let a = [
        "Consumer:a/partner",
        "Gateway:a/edge",
        "HTTPRoute:a/all",
        "HTTPRoute:a/both",
        "Policy:a/all",
        "Policy:a/both",
        "ReferenceGrant:shared/for-a",
        "Upstream:a/crm",
        "Upstream:shared/crm",
    ];
    assert_eq!(closure("a"), a);
    let b = [
        "Gateway:b/edge",
        "HTTPRoute:a/both",
        "HTTPRoute:b/all",
        "Policy:a/both",
        "Policy:b/all",
        "ReferenceGrant:shared/for-a",
        "Upstream:b/crm",
        "Upstream:shared/crm",
    ];
    assert_eq!(closure("b"), b);
    assert!(revision.objects.closure(&[ObjectName::new(Some("c"), "edge")]).documents.is_empty());
}

#[test]
fn only_so_many_revisions_are_kept_besides_those_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(folder.path(), 2).unwrap();
    let mut ids = Vec::new();
    for port in 1..=5 {
        let text = whole("a").replace("10.0.0.1:80", &format!("10.0.0.1:{port}"));
        ids.push(shelf.make(&one(&[("edge.yaml", &text)])).unwrap().label.id);
    }
    shelf.prune(&[ids[0].as_str().into()]);
    let kept: Vec<String> = shelf.labels().into_iter().map(|label| label.id).collect();
    assert!(kept.len() == 2 || (kept.len() == 3 && kept.contains(&ids[0])), "{kept:?}");
    assert!(shelf.read("../../../etc").is_err() && shelf.read("0123456789ab").is_err());
}

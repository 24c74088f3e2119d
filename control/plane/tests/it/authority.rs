//! An authority that others made, in files that change while certificates are signed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use foregate_policy::fleet::BundleRequest;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;

use crate::support::client::{id, identity, join, sign};
use crate::support::process::Control;
use crate::support::within;

const SETTINGS: &str = "joinTokens: {}
authority: { roots: roots.pem, issuer: issuer.pem, issuerKey: issuer.key, lifetime: 1h, overlap: 2s }
";

/// A root, or an issuer below one.
struct Pair {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    key: String,
}

fn pair(name: &str, above: Option<&Pair>) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = match above {
        Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    let text = key.serialize_pem();
    Pair { issuer: Issuer::new(params, key), certificate, key: text }
}

/// Replaces a file in one step.
fn put(folder: &Path, name: &str, text: &str) {
    let new = folder.join("new.tmp");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&new, folder.join(name)).unwrap();
}

fn der(pair: &Pair) -> CertificateDer<'static> {
    pair.certificate.der().clone()
}

#[tokio::test]
async fn files_rotate_root_and_issuer_and_a_fault_in_them_changes_nothing() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let (old, new) = (pair("old", None), pair("new", None));
    let (before, after) = (pair("before", Some(&old)), pair("after", Some(&new)));
    put(folder.path(), "roots.pem", &old.certificate.pem());
    put(folder.path(), "issuer.pem", &before.certificate.pem());
    put(folder.path(), "issuer.key", &before.key);
    let control = Control::start_in(Arc::clone(&folder), SETTINGS).await;
    let first = sign(&control, None, join(&control.token("ns/crm/sa/leads", &[]))).await.unwrap();
    assert_eq!(first.chain[1], der(&before));
    let mut client = identity(&control, Some(&first)).await;
    let mut bundles = client.bundles(BundleRequest {}).await.unwrap().into_inner();
    assert_eq!(bundles.message().await.unwrap().unwrap().roots.len(), 1);
    let output = control.command(&["authority", "rotate"], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("authority.roots"), "it says what to do");

    // Half a change: the key is not that of the certificate.
    put(folder.path(), "issuer.pem", &after.certificate.pem());
    let fault = control.event("authority not changed").await;
    let said = fault["error"].as_str().unwrap();
    assert!(said.contains("issuer.key: the key is not that of the first certificate"), "{said}");
    let second = sign(&control, Some(&first), None).await.unwrap();
    assert_eq!(second.chain[1], der(&before));

    // All of it: the root is trusted at once, and signs when it has been out for a while.
    put(folder.path(), "roots.pem", &[old.certificate.pem(), new.certificate.pem()].concat());
    put(folder.path(), "issuer.key", &after.key);
    let bundle = within("the new root", bundles.message()).await.unwrap().unwrap();
    assert_eq!(bundle.roots.len(), 2);
    control.event("issuer changed").await;
    let third = sign(&control, Some(&second), None).await.unwrap();
    assert_eq!(third.chain[1], der(&after));
    assert_eq!(id(&third), "spiffe://example.org/ns/crm/sa/leads");
    let text = std::fs::read_to_string(control.path("state/authority.json")).unwrap();
    assert!(!text.contains(&after.key.lines().nth(1).unwrap()[..40]), "the key of others is not kept");
    assert!(!control.text().contains("PRIVATE"));
}

#[tokio::test]
async fn a_key_that_everybody_may_read_is_refused_and_a_switch_takes_it() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let root = pair("root", None);
    let issuer = pair("issuer", Some(&root));
    for (name, text) in [
        ("roots.pem", root.certificate.pem()),
        ("issuer.pem", issuer.certificate.pem()),
        ("issuer.key", issuer.key),
    ] {
        put(folder.path(), name, &text);
    }
    let key = folder.path().join("issuer.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(folder.path().join("control.yaml"), format!("{}{SETTINGS}", Control::base())).unwrap();
    let config = folder.path().join("control.yaml");
    let output = crate::support::process::command(&["run", "--config"]).arg(config).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("issuer.key: others on this machine may read the key"), "{said}");
    let control =
        Control::start_in(Arc::clone(&folder), &format!("{SETTINGS}insecure: {{ readableKeys: true }}\n"))
            .await;
    sign(&control, None, join(&control.token("ns/crm/sa/leads", &[]))).await.unwrap();
}

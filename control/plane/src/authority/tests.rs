//! Tests of the authority in time, apart from any socket and clock.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use tempfile::TempDir;

use crate::authority::certificate::Facts;
use crate::authority::files::{FileError, Material};
use crate::authority::signer::{SignerError, Subject};
use crate::authority::{Authority, AuthorityError, Terms, fingerprint};
use crate::config::authority::AuthorityFiles;

/// 2026-09-21, since the epoch.
const NOW: Duration = Duration::from_secs(1_790_000_000);
const HOUR: Duration = Duration::from_hours(1);
const ID: &str = "spiffe://example.org/ns/crm/sa/leads";

fn terms() -> Terms {
    Terms { trust_domain: "example.org".into(), lifetime: HOUR * 24, overlap: HOUR }
}

fn subject() -> Subject {
    Subject { id: SpiffeId::parse(ID).unwrap(), names: Vec::new(), addresses: Vec::new(), attested: None }
}

fn open(folder: &Path, material: Option<Material>, now: Duration) -> Authority {
    Authority::open(terms(), folder, material, now).unwrap()
}

/// A certificate for a new key.
fn issue(authority: &Authority, now: Duration) -> Vec<CertificateDer<'static>> {
    authority.issue(&KeyPair::generate().unwrap(), &subject(), now).unwrap().chain
}

/// True where the roots in force vouch for a chain.
fn trusted(authority: &Authority, chain: &[CertificateDer<'static>], now: Duration) -> bool {
    let bundle = authority.bundles().borrow().clone();
    bundle.verify(chain, UnixTime::since_unix_epoch(now)).is_ok_and(|(id, _)| id.as_str() == ID)
}

fn roots(authority: &Authority) -> usize {
    authority.bundles().borrow().roots.len()
}

#[test]
fn a_certificate_is_that_of_a_workload_and_of_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path(), None, NOW);
    let chain = issue(&authority, NOW);
    assert_eq!(chain.len(), 2, "leaf and issuer, no root");
    let facts = Facts::read(&chain[0]).unwrap();
    assert_eq!(facts.workload().unwrap().as_str(), ID);
    assert_eq!(facts.uris, [ID]);
    assert_eq!(facts.not_after, NOW + HOUR * 24);
    assert_eq!(facts.not_before, NOW.saturating_sub(Duration::from_mins(1)));
    assert!(!facts.authority && !facts.signs_certificates);
    assert!(trusted(&authority, &chain, NOW));
    assert!(!trusted(&authority, &chain, NOW + HOUR * 25), "expired");
    assert!(!trusted(&authority, &chain, NOW.saturating_sub(HOUR)), "not valid yet");
    let other = tempfile::tempdir().unwrap();
    let other = open(other.path(), None, NOW);
    assert!(!trusted(&other, &chain, NOW), "another authority");
    let serial = |der: &[u8]| x509_parser::parse_x509_certificate(der).unwrap().1.raw_serial().to_vec();
    let again = issue(&authority, NOW);
    assert_ne!(serial(&chain[0]), serial(&again[0]));
    assert_eq!(serial(&chain[0]).len(), 16);
}

#[test]
fn a_new_root_is_trusted_first_signs_later_and_the_old_one_outlives_its_last_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path(), None, NOW);
    let before = issue(&authority, NOW);
    let from = authority.rotate(NOW).unwrap();
    assert_eq!(from, NOW + HOUR);
    assert_eq!((roots(&authority), authority.bundles().borrow().sequence), (2, 2));
    assert!(matches!(authority.rotate(NOW), Err(AuthorityError::UnderWay(_))));

    // Until the overlap is over the old issuer signs, also after a restart.
    let almost = (NOW + HOUR).saturating_sub(Duration::from_secs(1));
    authority.advance(almost).unwrap();
    let late = issue(&authority, almost);
    assert_eq!(late[1], before[1]);
    drop(authority);
    let authority = open(folder.path(), None, almost);
    assert_eq!(issue(&authority, almost)[1], before[1]);

    authority.advance(from).unwrap();
    let after = issue(&authority, from);
    assert_ne!(after[1], before[1]);
    assert!([&before, &late, &after].iter().all(|chain| trusted(&authority, chain, from)));
    drop(authority);
    let authority = open(folder.path(), None, from);
    assert_eq!(issue(&authority, from)[1], after[1], "known after a restart");

    // The last certificate of the old issuer expires a day after the switch, at the latest.
    let day = from + HOUR * 24;
    authority.advance(day.saturating_sub(Duration::from_secs(1))).unwrap();
    assert_eq!(roots(&authority), 2);
    authority.advance(day).unwrap();
    assert_eq!((roots(&authority), authority.bundles().borrow().sequence), (1, 3));
    assert!(trusted(&authority, &issue(&authority, day), day));
    authority.rotate(day).unwrap();
}

#[test]
fn an_old_root_may_be_withdrawn_before_its_time_and_one_that_is_needed_may_not() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path(), None, NOW);
    let chain = issue(&authority, NOW);
    let old = fingerprint(&authority.bundles().borrow().roots[0]);
    let withdraw = |root: &str, now| authority.withdraw(root, now);
    assert!(matches!(withdraw(&old, NOW), Err(AuthorityError::Needed)));
    let from = authority.rotate(NOW).unwrap();
    let new = fingerprint(&authority.bundles().borrow().roots[1]);
    assert!(matches!(withdraw(&new, NOW), Err(AuthorityError::Needed)));
    authority.advance(from).unwrap();
    assert!(trusted(&authority, &chain, from));
    assert!(matches!(withdraw(&"0".repeat(64), from), Err(AuthorityError::UnknownRoot)));
    withdraw(&old, from).unwrap();
    assert!(!trusted(&authority, &chain, from));
    assert!(trusted(&authority, &issue(&authority, from), from));
}

#[test]
fn the_state_is_for_this_user_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), None, NOW));
    let file = folder.path().join("authority.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let error = Authority::open(terms(), folder.path(), None, NOW).unwrap_err().to_string();
    assert!(error.contains("authority.json") && error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, "{}").unwrap();
    assert!(matches!(Authority::open(terms(), folder.path(), None, NOW), Err(AuthorityError::State { .. })));
}

/// An authority that others made.
struct Made {
    folder: TempDir,
    files: AuthorityFiles,
}

/// A root, or an issuer below one.
struct Pair {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    key: String,
}

fn pair(
    name: &str,
    above: Option<&Pair>,
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> Pair {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    change(&mut params);
    let certificate = match above {
        Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    let (pem, text) = (certificate.pem(), key.serialize_pem());
    Pair { issuer: Issuer::new(params, key), pem, key: text }
}

fn p256(name: &str, above: Option<&Pair>) -> Pair {
    pair(name, above, &rcgen::PKCS_ECDSA_P256_SHA256, |_| ())
}

impl Made {
    fn new(roots: &[&Pair], issuer: &Pair) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let files =
            AuthorityFiles { roots: file("roots.pem"), issuer: file("issuer.pem"), key: file("issuer.key") };
        let this = Self { folder, files };
        this.put(roots, issuer);
        this
    }

    fn put(&self, roots: &[&Pair], issuer: &Pair) {
        let roots: String = roots.iter().map(|root| root.pem.as_str()).collect();
        std::fs::write(&self.files.roots, roots).unwrap();
        std::fs::write(&self.files.issuer, &issuer.pem).unwrap();
        std::fs::write(&self.files.key, &issuer.key).unwrap();
        std::fs::set_permissions(&self.files.key, Permissions::from_mode(0o600)).unwrap();
    }

    fn material(&self) -> Result<Material, FileError> {
        Material::read(&self.files, false, NOW)
    }

    fn said(&self) -> String {
        self.material().unwrap_err().to_string()
    }
}

#[test]
fn issuers_of_every_kind_of_key_sign() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let root = pair("root", None, algorithm, |_| ());
        let issuer = pair("issuer", Some(&root), algorithm, |_| ());
        let made = Made::new(&[&root], &issuer);
        let state = tempfile::tempdir().unwrap();
        let authority = open(state.path(), Some(made.material().unwrap()), NOW);
        assert!(trusted(&authority, &issue(&authority, NOW), NOW));
        let text = std::fs::read_to_string(state.path().join("authority.json")).unwrap();
        assert!(text.contains("\"key\":null"), "the key of others is not kept: {text}");
    }
    // A root may sign itself.
    let root = p256("root", None);
    let made = Made::new(&[&root], &root);
    let state = tempfile::tempdir().unwrap();
    let authority = open(state.path(), Some(made.material().unwrap()), NOW);
    let chain = issue(&authority, NOW);
    assert_eq!(chain.len(), 1);
    assert!(trusted(&authority, &chain, NOW));
}

#[test]
fn an_authority_that_could_not_sign_is_refused_with_the_file_and_the_reason() {
    let root = p256("root", None);
    let issuer = p256("issuer", Some(&root));
    let made = Made::new(&[&root], &issuer);
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2021, 1, 1);
    let no_authority = |params: &mut CertificateParams| params.is_ca = IsCa::ExplicitNoCa;
    let no_usage =
        |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let of = |change: fn(&mut CertificateParams)| pair("issuer", Some(&root), &PKCS_ED25519, change);
    for (issuer, want) in [
        (of(expired), "issuer.pem: certificate 1 has expired"),
        (of(no_authority), "issuer.pem: the first certificate is not that of an authority"),
        (of(no_usage), "issuer.pem: the first certificate must not sign others"),
        (p256("issuer", Some(&p256("root", None))), "issuer.pem: none of the roots vouches for it"),
        (
            Pair { key: p256("x", None).key, ..p256("issuer", Some(&root)) },
            "issuer.key: the key is not that of",
        ),
        (
            pair("i", Some(&root), &rcgen::PKCS_ECDSA_P521_SHA512, |_| ()),
            "issuer.key: the key is none of P-256",
        ),
    ] {
        made.put(&[&root], &issuer);
        assert!(made.said().contains(want), "{want}: {}", made.said());
    }
    made.put(&[&root, &issuer], &issuer);
    assert!(made.said().contains("roots.pem: certificate 2 is no root"), "{}", made.said());
    made.put(&[&root], &issuer);
    for mode in [0o644, 0o604] {
        std::fs::set_permissions(&made.files.key, Permissions::from_mode(mode)).unwrap();
        let said = made.said();
        assert!(said.contains("issuer.key: others on this machine may read the key"), "{said}");
        assert!(!said.contains("PRIVATE"), "{said}");
        assert!(Material::read(&made.files, true, NOW).is_ok(), "insecure.readableKeys");
    }
    std::fs::set_permissions(&made.files.key, Permissions::from_mode(0o640)).unwrap();
    assert!(made.material().is_ok(), "a group may read it");
    std::fs::write(&made.files.key, "no key").unwrap();
    assert!(made.said().contains("issuer.key"), "{}", made.said());
    std::fs::remove_file(&made.files.issuer).unwrap();
    assert!(made.said().contains("issuer.pem"), "{}", made.said());
    assert!(made.folder.path().is_dir());
}

#[test]
fn files_that_change_rotate_an_authority_with_the_same_overlap() {
    let (old, new) = (p256("old", None), p256("new", None));
    let (before, after) = (p256("before", Some(&old)), p256("after", Some(&new)));
    let made = Made::new(&[&old], &before);
    let state = tempfile::tempdir().unwrap();
    let authority = open(state.path(), Some(made.material().unwrap()), NOW);
    assert!(matches!(authority.rotate(NOW), Err(AuthorityError::NotGenerated)));
    let first = issue(&authority, NOW);

    // Both at once: the root is trusted now, and signs when it has been out for the overlap.
    made.put(&[&old, &new], &after);
    authority.adopt(made.material().unwrap(), NOW).unwrap();
    assert_eq!(roots(&authority), 2);
    assert_eq!(issue(&authority, NOW)[1], first[1]);
    authority.advance(NOW + HOUR).unwrap();
    let second = issue(&authority, NOW + HOUR);
    assert_ne!(second[1], first[1]);

    // Another issuer below a root that is known needs no time.
    let again = p256("again", Some(&new));
    made.put(&[&old, &new], &again);
    authority.adopt(made.material().unwrap(), NOW + HOUR).unwrap();
    assert_ne!(issue(&authority, NOW + HOUR)[1], second[1]);

    // A root that is gone from the file is trusted as long as what it has vouched for may live.
    made.put(&[&new], &again);
    let now = NOW + HOUR * 2;
    authority.adopt(made.material().unwrap(), now).unwrap();
    assert!(trusted(&authority, &first, now));
    authority.advance(now + HOUR * 24).unwrap();
    assert_eq!(roots(&authority), 1);
    assert!(!trusted(&authority, &first, now));
    let last = issue(&authority, now + HOUR * 24);
    assert!(trusted(&authority, &last, now + HOUR * 24));
}

#[test]
fn nothing_outlives_its_issuer() {
    let root = p256("root", None);
    let soon = date_time_ymd(1970, 1, 1) + NOW + HOUR;
    let issuer = pair("issuer", Some(&root), &PKCS_ED25519, |params| params.not_after = soon);
    let made = Made::new(&[&root], &issuer);
    let state = tempfile::tempdir().unwrap();
    let authority = open(state.path(), Some(made.material().unwrap()), NOW);
    let signed = authority.issue(&KeyPair::generate().unwrap(), &subject(), NOW).unwrap();
    assert_eq!(signed.expires, NOW + HOUR);
    let late = authority.issue(&KeyPair::generate().unwrap(), &subject(), NOW + HOUR);
    assert!(matches!(late, Err(AuthorityError::IssuerExpires)));
    let late = Material::read(&made.files, false, NOW + HOUR);
    assert!(matches!(late, Err(FileError::Signer { source: SignerError::Expired(1), .. })));
}

#[test]
fn an_authority_of_others_takes_over_from_one_that_was_generated() {
    let state = tempfile::tempdir().unwrap();
    let authority = open(state.path(), None, NOW);
    let ours = issue(&authority, NOW);
    drop(authority);
    let root = p256("root", None);
    let made = Made::new(&[&root], &p256("issuer", Some(&root)));
    let authority = open(state.path(), Some(made.material().unwrap()), NOW);
    assert_eq!(roots(&authority), 2);
    assert_eq!(issue(&authority, NOW)[1], ours[1], "the new root is not known yet");
    authority.advance(NOW + HOUR).unwrap();
    assert_ne!(issue(&authority, NOW + HOUR)[1], ours[1]);
    assert!(trusted(&authority, &ours, NOW + HOUR));
}

//! Tests of certificates and trust, apart from any socket.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};

use crate::identity::certificate::{Facts, Role, svid};
use crate::identity::trust::{Trust, TrustBuilder};
use foregate_filters::svid::SvidError;

/// 2020-01-01 and 2030-01-01, since the epoch.
const BEGIN: u64 = 1_577_836_800;
const END: u64 = 1_893_456_000;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// An authority below this one.
    fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn leaf(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.subject_alt_names =
            uris.iter().map(|uri| SanType::URI((*uri).to_owned().try_into().unwrap())).collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }
}

const ID: &str = "spiffe://a.test/ns/crm/sa/web";

#[test]
fn a_workload_is_named_by_exactly_one_sound_id() {
    let authority = Authority::new("a");
    let sound = authority.leaf(&[ID], |_| ());
    for role in [Role::Client, Role::Server] {
        assert_eq!(svid(&sound, role).unwrap().as_str(), ID);
    }
    let facts = Facts::read(&sound).unwrap();
    assert_eq!((facts.not_before.as_secs(), facts.not_after.as_secs()), (BEGIN, END));
    // Names of other kinds beside the id say nothing.
    let named = authority.leaf(&[ID], |leaf| {
        leaf.subject_alt_names.push(SanType::DnsName("web.crm".to_owned().try_into().unwrap()));
        leaf.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    });
    assert_eq!(svid(&named, Role::Client).unwrap().as_str(), ID);
    for (leaf, want) in [
        (authority.leaf(&[], |_| ()), SvidError::NoId),
        (authority.leaf(&[ID, ID], |_| ()), SvidError::ManyIds),
        (authority.leaf(&["spiffe://a.test"], |_| ()), SvidError::DomainOnly),
        (authority.leaf(&[ID], |leaf| leaf.key_usages.clear()), SvidError::KeyUsage),
        (
            authority.leaf(&[ID], |leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            SvidError::KeyUsage,
        ),
        (authority.leaf(&[ID], |leaf| leaf.key_usages.push(KeyUsagePurpose::CrlSign)), SvidError::KeyUsage),
        (authority.leaf(&[ID], |leaf| leaf.extended_key_usages.clear()), SvidError::Purpose),
        (
            authority.leaf(&[ID], |leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
            SvidError::Authority,
        ),
    ] {
        assert_eq!(svid(&leaf, Role::Client), Err(want));
    }
    let served = |purpose| authority.leaf(&[ID], |leaf| leaf.extended_key_usages = vec![purpose]);
    assert_eq!(svid(&served(ExtendedKeyUsagePurpose::ServerAuth), Role::Client), Err(SvidError::Purpose));
    assert_eq!(svid(&served(ExtendedKeyUsagePurpose::ClientAuth), Role::Server), Err(SvidError::Purpose));
    assert!(matches!(
        svid(&authority.leaf(&["https://a.test/b"], |_| ()), Role::Client),
        Err(SvidError::Id(_))
    ));
}

#[test]
fn what_is_no_certificate_is_read_without_harm() {
    let sound = Authority::new("a").leaf(&[ID], |_| ());
    for length in 0..sound.len() {
        assert!(Facts::read(&sound[..length]).is_none(), "the first {length} bytes");
    }
    // Any byte changed: refused or read, never a panic.
    for index in 0..sound.len() {
        for change in [0x00, 0x80, 0xff] {
            let mut bytes = sound.to_vec();
            bytes[index] ^= change;
            let _ = svid(&bytes, Role::Client);
        }
    }
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn trust(domains: &[(&str, &Authority)]) -> Trust {
    let mut trust = TrustBuilder::default();
    for (domain, authority) in domains {
        trust.authorities(domain, vec![authority.certificate.clone()]);
    }
    trust.build().unwrap()
}

#[test]
fn each_domain_vouches_for_its_own_within_their_time() {
    let (a, b) = (Authority::new("a"), Authority::new("b"));
    let trust = trust(&[("a.test", &a), ("b.test", &b)]);
    let leaf = a.leaf(&[ID], |_| ());
    let verify = |domain: &str, seconds| trust.verify(domain, &leaf, &[], Role::Client, at(seconds));
    assert_eq!(verify("a.test", BEGIN), Ok(()));
    assert_eq!(verify("a.test", END), Ok(()));
    let refused = |error: CertificateError| Err(Error::InvalidCertificate(error));
    assert_eq!(verify("a.test", BEGIN - 1), refused(CertificateError::NotValidYet));
    assert_eq!(verify("a.test", END + 1), refused(CertificateError::Expired));
    for domain in ["b.test", "c.test", "", "A.TEST"] {
        assert_eq!(verify(domain, BEGIN), refused(CertificateError::UnknownIssuer), "{domain}");
    }
    assert_eq!(
        Trust::nobody().verify("a.test", &leaf, &[], Role::Client, at(BEGIN)),
        refused(CertificateError::UnknownIssuer)
    );
}

#[test]
fn intermediate_authorities_come_with_the_leaf() {
    let root = Authority::new("root");
    let middle = root.below("middle");
    let trust = trust(&[("a.test", &root)]);
    let leaf = middle.leaf(&[ID], |_| ());
    assert!(trust.verify("a.test", &leaf, &[], Role::Server, at(BEGIN)).is_err());
    let chain = [middle.certificate.clone()];
    assert_eq!(trust.verify("a.test", &leaf, &chain, Role::Server, at(BEGIN)), Ok(()));
    // A leaf that plays the authority.
    let forger = root.leaf(&["spiffe://a.test/forger"], |_| ());
    assert!(trust.verify("a.test", &leaf, &[forger], Role::Server, at(BEGIN)).is_err());
}

#[test]
fn equal_trust_has_equal_fingerprints() {
    let (a, b) = (Authority::new("a"), Authority::new("b"));
    let print = |domains: &[(&str, &Authority)]| *trust(domains).fingerprint();
    assert_eq!(print(&[("a.test", &a), ("a.test", &b)]), print(&[("a.test", &b), ("a.test", &a)]));
    assert_ne!(print(&[("a.test", &a)]), print(&[("b.test", &a)]));
    assert_ne!(print(&[("a.test", &a)]), print(&[("a.test", &b)]));
    assert_ne!(print(&[("a.test", &a), ("b.test", &b)]), print(&[("a.test", &b), ("b.test", &a)]));
    assert!(TrustBuilder::default().build().is_ok());
    let mut empty = TrustBuilder::default();
    empty.authorities("a.test", Vec::new());
    assert!(empty.build().is_err());
}

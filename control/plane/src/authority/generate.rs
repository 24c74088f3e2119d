//! A root and an issuer below it, made here.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::CertificateDer;

use crate::authority::signer::{BACKDATED, serial};

/// Life of a root and its issuer.
const LIFE: Duration = Duration::from_hours(10 * 365 * 24);

/// A new authority. The key of the root is not kept: it signs one issuer.
#[derive(Debug)]
pub struct Generated {
    pub root: CertificateDer<'static>,
    pub issuer: CertificateDer<'static>,
    pub key: KeyPair,
}

impl Generated {
    /// # Errors
    /// Where there is no randomness.
    pub fn new(trust_domain: &str, now: Duration) -> Result<Self, rcgen::Error> {
        let params = |kind: &str, constraints| -> Result<CertificateParams, rcgen::Error> {
            let mut params = CertificateParams::new(Vec::new())?;
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, trust_domain);
            params.distinguished_name.push(DnType::CommonName, format!("{kind} {}", now.as_secs()));
            params.is_ca = IsCa::Ca(constraints);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.serial_number = Some(serial()?);
            let epoch = date_time_ymd(1970, 1, 1);
            let now = Duration::from_secs(now.as_secs());
            params.not_before = epoch + now.saturating_sub(BACKDATED);
            params.not_after = epoch + now + LIFE;
            Ok(params)
        };
        let (root_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let root = params("Foregate root", BasicConstraints::Constrained(1))?;
        let root_certificate = root.self_signed(&root_key)?;
        let above = Issuer::new(root, root_key);
        let mut below = params("Foregate issuer", BasicConstraints::Constrained(0))?;
        below.use_authority_key_identifier_extension = true;
        let issuer = below.signed_by(&key, &above)?;
        Ok(Self { root: root_certificate.into(), issuer: issuer.into(), key })
    }
}

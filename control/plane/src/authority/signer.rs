//! An issuer that signs certificates of workloads.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::rand;
use foregate_filters::peer::SpiffeId;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::authority::bundle::Bundle;
use crate::authority::certificate::{self, ATTESTED, Facts};
use crate::authority::state::Kept;

/// How long before it is signed a certificate begins: clocks differ.
pub const BACKDATED: Duration = Duration::from_mins(1);

/// Bytes of a serial number; 16 random ones are never the same twice.
const SERIAL: usize = 16;

/// Signs below some of the trusted roots.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    /// From the issuer towards a root, as it was given.
    given: Vec<CertificateDer<'static>>,
    /// True where it was made here, and its key is kept here.
    generated: bool,
    /// The issuer, then those between it and a root; no root. Sent behind every certificate.
    pub chain: Vec<CertificateDer<'static>>,
    /// The certificate of the issuer, which may be a root.
    pub certificate: CertificateDer<'static>,
    /// Roots that vouch for what it signs.
    pub roots: Vec<CertificateDer<'static>>,
    /// When the first of the chain and the last of the roots expires, since the epoch.
    pub expires: Duration,
}

/// Whom a certificate is for.
#[derive(Clone, Debug)]
pub struct Subject {
    pub id: SpiffeId,
    /// Where it is reached; workloads have none.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// When a token last proved it, since the epoch; `None` where it needs no proof.
    pub attested: Option<Duration>,
}

/// Why an issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error("there is no certificate")]
    Empty,
    #[error("certificate {0} cannot be read")]
    Malformed(usize),
    #[error("the first certificate is not that of an authority: basicConstraints lacks CA")]
    NotAuthority,
    #[error("the first certificate must not sign others: keyUsage lacks keyCertSign")]
    KeyUsage,
    #[error("the key is none of P-256, P-384 and Ed25519")]
    Algorithm,
    #[error("the key is not that of the first certificate")]
    OtherKey,
    #[error("certificate {0} has expired, or is not valid yet")]
    Expired(usize),
    #[error("none of the roots vouches for it: {0}")]
    Unvouched(webpki::Error),
    #[error(transparent)]
    Rcgen(#[from] rcgen::Error),
}

impl Signer {
    /// Puts an issuer together: certificates from the issuer towards a root, its key, and the roots.
    ///
    /// # Errors
    /// Why what it signs would be worth nothing.
    pub fn new(
        given: Vec<CertificateDer<'static>>,
        key: KeyPair,
        roots: &[CertificateDer<'static>],
        now: Duration,
    ) -> Result<Self, SignerError> {
        let certificate = given.first().cloned().ok_or(SignerError::Empty)?;
        let facts: Vec<Option<Facts>> = given.iter().map(|der| Facts::read(der)).collect();
        let mut expires = Duration::MAX;
        for (number, facts) in (1..).zip(&facts) {
            let facts = facts.as_ref().ok_or(SignerError::Malformed(number))?;
            if !(facts.not_before..facts.not_after).contains(&now) {
                return Err(SignerError::Expired(number));
            }
            expires = expires.min(facts.not_after);
        }
        let first = facts.first().and_then(Option::as_ref).ok_or(SignerError::Empty)?;
        if !first.authority {
            return Err(SignerError::NotAuthority);
        }
        if !first.signs_certificates {
            return Err(SignerError::KeyUsage);
        }
        let known = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
        if !known.iter().any(|known| key.is_compatible(known)) {
            return Err(SignerError::Algorithm);
        }
        if first.key != key.der_bytes() {
            return Err(SignerError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let chain = given.iter().filter(|der| !roots.contains(der)).cloned().collect();
        let mut this =
            Self { issuer, given, generated: false, chain, certificate, roots: Vec::new(), expires };
        this.prove(roots, now)?;
        Ok(this)
    }

    /// The same, made here.
    #[must_use]
    pub fn ours(self) -> Self {
        Self { generated: true, ..self }
    }

    /// As it is written down.
    pub fn kept(&self) -> Kept {
        Kept::new(&self.given, self.generated.then(|| self.issuer.key()))
    }

    /// Signs for a key that nobody has, and looks which roots vouch for that.
    fn prove(&mut self, roots: &[CertificateDer<'static>], now: Duration) -> Result<(), SignerError> {
        let id = SpiffeId::parse("spiffe://test/test").map_err(|_| SignerError::Empty)?;
        let subject = Subject { id, names: Vec::new(), addresses: Vec::new(), attested: None };
        let until = now + Duration::from_mins(1);
        let leaf = self.sign(&KeyPair::generate()?, &subject, now, until)?;
        let mut last = webpki::Error::UnknownIssuer;
        let mut expires = Duration::ZERO;
        for root in roots {
            let vouches = Bundle::new("test", vec![root.clone()], 0)
                .and_then(|alone| alone.vouches(&leaf, &self.chain, UnixTime::since_unix_epoch(now)));
            let facts = Facts::read(root).filter(|facts| (facts.not_before..facts.not_after).contains(&now));
            match (vouches, facts) {
                (Ok(()), Some(facts)) => {
                    expires = expires.max(facts.not_after);
                    self.roots.push(root.clone());
                }
                (Ok(()), None) => last = webpki::Error::UnknownIssuer,
                (Err(error), _) => last = error,
            }
        }
        self.expires = self.expires.min(expires);
        if self.roots.is_empty() { Err(SignerError::Unvouched(last)) } else { Ok(()) }
    }

    /// Signs a certificate for a public key. Both times are since the epoch.
    ///
    /// # Errors
    /// Where the key cannot be written or signing fails.
    pub fn sign(
        &self,
        key: &impl PublicKeyData,
        subject: &Subject,
        from: Duration,
        until: Duration,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let mut params = CertificateParams::new(subject.names.clone())?;
        params.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
        params.subject_alt_names.push(SanType::URI(subject.id.as_str().try_into()?));
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions.extend(subject.attested.map(|attested| {
            // Not critical: whoever verifies the certificate has no use for it.
            CustomExtension::from_oid_content(ATTESTED, certificate::integer(attested.as_secs()))
        }));
        params.serial_number = Some(serial()?);
        let epoch = date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(from.as_secs());
        params.not_after = epoch + Duration::from_secs(until.as_secs());
        Ok(params.signed_by(key, &self.issuer)?.into())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Random and positive (RFC 5280, section 4.1.2.2).
pub fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; SERIAL];
    rand::fill(&mut bytes).map_err(|_| rcgen::Error::RemoteKeyError)?;
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

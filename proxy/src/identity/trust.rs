//! Whom to trust: authorities by trust domain, and what they revoked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertRevocationListError, CertificateError, DistinguishedName, Error, OtherError};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use crate::identity::certificate::Role;
use crate::tls::{self, TlsError};

/// Largest revocation list, in bytes.
const MAX_LIST: u64 = 16 << 20;

/// Authorities by trust domain. Those of one domain vouch for nobody of another, and revoke nobody there:
/// authorities of several domains often have one name.
pub struct Trust {
    domains: BTreeMap<Box<str>, Domain>,
    subjects: Vec<DistinguishedName>,
    fingerprint: [u8; 32],
}

/// One trust domain.
struct Domain {
    anchors: Vec<TrustAnchor<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    /// Two lists are of authorities of one name.
    doubled: bool,
}

/// Gathers what a [`Trust`] is made of.
#[derive(Debug, Default)]
pub struct TrustBuilder {
    domains: BTreeMap<Box<str>, Vec<CertificateDer<'static>>>,
    revoked: BTreeMap<Box<str>, Vec<CertificateRevocationListDer<'static>>>,
}

/// Why an authority or a revocation list is none.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("an authority of {domain} cannot be used: {source}")]
    Authority { domain: Box<str>, source: webpki::Error },
    #[error("the trust domain {0} has no authority")]
    Empty(Box<str>),
    #[error("a list of revoked certificates cannot be used: {0}")]
    Revocations(webpki::Error),
}

impl TrustBuilder {
    /// Adds authorities of a trust domain; a name for all of them serves where there are no trust domains.
    pub fn authorities(&mut self, domain: &str, certificates: Vec<CertificateDer<'static>>) {
        self.domains.entry(domain.into()).or_default().extend(certificates);
    }

    /// What was added of a trust domain.
    pub fn of(&self, domain: &str) -> Vec<CertificateDer<'static>> {
        self.domains.get(domain).cloned().unwrap_or_default()
    }

    /// Adds lists of revoked certificates of a trust domain.
    pub fn revocations(&mut self, domain: &str, lists: Vec<CertificateRevocationListDer<'static>>) {
        self.revoked.entry(domain.into()).or_default().extend(lists);
    }

    /// # Errors
    /// The first authority or list that is none.
    pub fn build(self) -> Result<Trust, TrustError> {
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        };
        let mut unread = self.revoked;
        let mut domains = BTreeMap::new();
        let mut subjects: Vec<DistinguishedName> = Vec::new();
        for (domain, mut certificates) in self.domains {
            if certificates.is_empty() {
                return Err(TrustError::Empty(domain));
            }
            certificates.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
            certificates.dedup();
            add(domain.as_bytes());
            let mut anchors = Vec::with_capacity(certificates.len());
            for certificate in &certificates {
                add(certificate);
                let anchor = anchor_from_trusted_cert(certificate)
                    .map_err(|source| TrustError::Authority { domain: domain.clone(), source })?;
                let subject = DistinguishedName::in_sequence(&anchor.subject);
                if subjects.iter().all(|known| known.as_ref() != subject.as_ref()) {
                    subjects.push(subject);
                }
                anchors.push(anchor.to_owned());
            }
            let mut lists = unread.remove(&domain).unwrap_or_default();
            lists.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
            lists.dedup();
            add(&[]);
            let mut revoked = Vec::with_capacity(lists.len());
            for list in &lists {
                add(list);
                let list = OwnedCertRevocationList::from_der(list).map_err(TrustError::Revocations)?;
                revoked.push(CertRevocationList::from(list));
            }
            add(&[]);
            let mut issuers: Vec<&[u8]> = revoked.iter().map(CertRevocationList::issuer).collect();
            issuers.sort_unstable();
            let doubled = issuers.windows(2).any(|pair| pair.first() == pair.last());
            domains.insert(domain, Domain { anchors, revoked, doubled });
        }
        match unread.into_keys().next() {
            Some(domain) => Err(TrustError::Empty(domain)),
            None => Ok(Trust { domains, subjects, fingerprint: hash.finalize().into() }),
        }
    }
}

impl Trust {
    /// Nobody.
    pub fn nobody() -> Self {
        Self { domains: BTreeMap::new(), subjects: Vec::new(), fingerprint: [0; 32] }
    }

    /// Equal for equal authorities and revocations.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The trust domains that have authorities here.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.domains.keys().map(|domain| &**domain)
    }

    /// Lists of revoked certificates.
    pub fn revocations(&self) -> usize {
        self.domains.values().map(|domain| domain.revoked.len()).sum()
    }

    /// The names of all authorities, as clients are told them.
    pub fn subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    /// Verifies a chain up to an authority of this trust domain, its time, and that nothing in it is revoked.
    /// An authority without a list revokes nobody; a list that is out of date cannot tell, and nobody passes.
    ///
    /// # Errors
    /// Why the chain is not trusted.
    pub fn verify(
        &self,
        domain: &str,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), Error> {
        let Domain { anchors, revoked, doubled } =
            self.domains.get(domain).ok_or(CertificateError::UnknownIssuer)?;
        let leaf = EndEntityCert::try_from(leaf).map_err(told)?;
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let algorithms = tls::algorithms().all;
        let verify = |lists: &[&CertRevocationList<'_>], unknown, depth| {
            let revocation = RevocationOptionsBuilder::new(lists).ok().map(|options| {
                options
                    .with_depth(depth)
                    .with_status_policy(unknown)
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build()
            });
            leaf.verify_for_usage(algorithms, anchors, intermediates, now, usage, revocation, None).map(drop)
        };
        let (allow, chain) = (UnknownStatusPolicy::Allow, RevocationCheckDepth::Chain);
        let lists: Vec<&CertRevocationList<'_>> = revoked.iter().collect();
        let whole = verify(&lists, allow, chain);
        // Of several lists of one name only the first was heard.
        if !doubled || whole.as_ref().is_err_and(|error| !is_foreign(error)) {
            return whole.map_err(told);
        }
        verify(&[], allow, chain).map_err(told)?;
        // An authority that changed its key has lists of both under one name, and may have published a list
        // anew while the one before is still in force. Each is heard alone; that of another key tells nothing,
        // but where the first was of another key one must be there that knows the leaf.
        let mut known = whole;
        for list in &lists {
            if let Err(error) = verify(&[*list], allow, chain)
                && !is_foreign(&error)
            {
                return Err(told(error));
            }
            if verify(&[*list], UnknownStatusPolicy::Deny, RevocationCheckDepth::EndEntity).is_ok() {
                known = Ok(());
            }
        }
        known.map_err(told)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("domains", &self.domains.keys())
            .field("revocations", &self.revocations())
            .finish_non_exhaustive()
    }
}

/// True where a signature is by another key: of a list, or of a certificate, where another authority of the
/// same name was tried last.
fn is_foreign(error: &webpki::Error) -> bool {
    matches!(
        error,
        webpki::Error::InvalidCrlSignatureForPublicKey | webpki::Error::InvalidSignatureForPublicKey
    )
}

/// The error as TLS tells it.
fn told(error: webpki::Error) -> Error {
    match error {
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet.into(),
        webpki::Error::CertExpired { .. } => CertificateError::Expired.into(),
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        webpki::Error::CertRevoked => CertificateError::Revoked.into(),
        webpki::Error::CrlExpired { .. } => CertificateError::ExpiredRevocationList.into(),
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
        webpki::Error::InvalidCrlSignatureForPublicKey => CertRevocationListError::BadSignature.into(),
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose.into(),
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateError::BadEncoding.into()
        }
        other => CertificateError::Other(OtherError(Arc::new(other))).into(),
    }
}

/// Lists of revoked certificates in a file: PEM, or one list in DER.
///
/// # Errors
/// Names the file that is missing, malformed, empty or too large.
pub fn revocations(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let name = file.display().to_string();
    let read = || {
        let length = std::fs::metadata(file)?.len();
        if length > MAX_LIST { Err(std::io::ErrorKind::FileTooLarge.into()) } else { std::fs::read(file) }
    };
    let bytes = read().map_err(|source| TlsError::File { file: name.clone(), source })?;
    lists(&bytes, &name)
}

/// Says why a file holds no lists of revoked certificates that can be used.
///
/// # Errors
/// The file that is none, or the list.
pub fn check_revocations(file: &Path) -> Result<(), TlsError> {
    for list in revocations(file)? {
        OwnedCertRevocationList::from_der(&list).map_err(|source| TlsError::Trust {
            file: file.display().to_string(),
            source: TrustError::Revocations(source),
        })?;
    }
    Ok(())
}

/// The same of bytes that were read; `name` is that of their file.
///
/// # Errors
/// Where there is no list.
pub fn lists(bytes: &[u8], name: &str) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let lists = lists.map_err(|source| TlsError::Pem { file: name.to_owned(), source })?;
    if lists.is_empty() { Err(TlsError::Empty(name.to_owned())) } else { Ok(lists) }
}

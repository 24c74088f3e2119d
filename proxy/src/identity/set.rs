//! One state of an identity: certificate, key and trust that fit together.

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use foregate_filters::svid::SvidError;
use rustls::pki_types::UnixTime;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use crate::identity::certificate::{Facts, Role, svid};
use crate::identity::trust::{Trust, TrustBuilder, TrustError};
use crate::tls::provider;

/// What a source found, not yet looked at together.
#[derive(Debug)]
pub struct Parts {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// Authorities of the workload's own trust domain.
    pub bundle: Vec<CertificateDer<'static>>,
    /// Authorities of other trust domains.
    pub federated: Vec<(String, Vec<CertificateDer<'static>>)>,
    /// Lists of revoked certificates, by trust domain; those of the own domain under the empty name.
    pub revocations: Vec<(String, Vec<CertificateRevocationListDer<'static>>)>,
}

/// An identity that can be used. Never changes: a new one takes its place.
#[derive(Debug)]
pub struct Set {
    pub id: SpiffeId,
    /// `notAfter` of the certificate, since the epoch.
    pub expires: Duration,
    /// When a token last proved the workload to the control plane, since the epoch, where the certificate says so.
    pub attested: Option<Duration>,
    /// Until when the control plane renews the certificate with itself, since the epoch, where it said so.
    pub attested_until: Option<Duration>,
    pub key: Arc<CertifiedKey>,
    pub trust: Arc<Trust>,
    /// Equal for equal certificates, keys apart.
    certificate: [u8; 32],
}

/// Why what was found is no identity.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error("there is no certificate")]
    Empty,
    #[error("the certificate is not that of a workload: {0}")]
    Svid(#[from] SvidError),
    #[error("certificate and key do not fit: {0}")]
    Key(rustls::Error),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the bundle of {domain} does not vouch for the certificate: {source}")]
    Foreign { domain: String, source: rustls::Error },
    #[error("a federated bundle is named after the own trust domain, {0}")]
    OwnDomain(String),
}

impl Set {
    /// Puts the parts together. An expired certificate is an identity still, so that new authorities and
    /// revocations are obeyed; its peers will refuse it.
    ///
    /// # Errors
    /// What does not fit.
    pub fn new(parts: Parts, now: Duration) -> Result<Self, SetError> {
        let Parts { chain, key, bundle, federated, revocations } = parts;
        let (leaf, intermediates) = chain.split_first().ok_or(SetError::Empty)?;
        let id = svid(leaf, Role::Server)?;
        svid(leaf, Role::Client)?;
        let facts = Facts::read(leaf).ok_or(SvidError::Malformed)?;
        let mut trust = TrustBuilder::default();
        trust.authorities(id.trust_domain(), bundle);
        for (domain, certificates) in federated {
            if domain == id.trust_domain() {
                return Err(SetError::OwnDomain(domain));
            }
            trust.authorities(&domain, certificates);
        }
        // Vouched for by what is in the bundle; a list that revokes it is for its peers to obey, and must
        // not keep the list from being obeyed here.
        let own = {
            let mut own = TrustBuilder::default();
            own.authorities(id.trust_domain(), trust.of(id.trust_domain()));
            own.build()?
        };
        let at = UnixTime::since_unix_epoch(now.min(facts.not_after));
        own.verify(id.trust_domain(), leaf, intermediates, Role::Server, at)
            .map_err(|source| SetError::Foreign { domain: id.trust_domain().to_owned(), source })?;
        for (domain, lists) in revocations {
            let domain = if domain.is_empty() { id.trust_domain() } else { &domain };
            trust.revocations(domain, lists);
        }
        let trust = Arc::new(trust.build()?);
        let mut hash = Sha256::new();
        for certificate in &chain {
            hash.update(certificate);
        }
        let (expires, attested) = (facts.not_after, facts.attested);
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(SetError::Key)?;
        let (key, certificate) = (Arc::new(key), hash.finalize().into());
        Ok(Self { id, expires, attested, attested_until: None, key, trust, certificate })
    }

    /// The same with what its control plane says besides.
    #[must_use]
    pub fn attested_until(self, attested_until: Option<Duration>) -> Self {
        Self { attested_until, ..self }
    }

    /// A hash of what is shown and who is trusted.
    pub fn mark(&self) -> [u8; 32] {
        Sha256::new().chain_update(self.certificate).chain_update(self.trust.fingerprint()).finalize().into()
    }

    /// True where both show the same certificate and trust the same authorities.
    pub fn same_as(&self, other: &Self) -> bool {
        self.certificate == other.certificate && self.trust.fingerprint() == other.trust.fingerprint()
    }
}

//! The roots to trust, as they are at one moment.

use std::fmt;
use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use foregate_filters::svid::SvidError;
use foregate_policy::fleet;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, Error, OtherError};
use std::sync::Arc;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::authority::certificate::Facts;

/// Most certificates that a peer may send along.
const MAX_INTERMEDIATES: usize = 8;

/// Never changes: a new one takes its place.
#[derive(Clone)]
pub struct Bundle {
    pub trust_domain: Box<str>,
    pub roots: Vec<CertificateDer<'static>>,
    /// Grows with every change.
    pub sequence: u64,
    anchors: Vec<TrustAnchor<'static>>,
}

/// A workload of another trust domain.
#[derive(Debug, thiserror::Error)]
#[error("{0} is of another trust domain")]
struct Foreign(SpiffeId);

impl Bundle {
    /// # Errors
    /// The root that is no certificate.
    pub fn new(
        trust_domain: &str,
        roots: Vec<CertificateDer<'static>>,
        sequence: u64,
    ) -> Result<Self, webpki::Error> {
        let anchors = roots.iter().map(|root| Ok(anchor_from_trusted_cert(root)?.to_owned()));
        let anchors = anchors.collect::<Result<_, webpki::Error>>()?;
        Ok(Self { trust_domain: trust_domain.into(), roots, sequence, anchors })
    }

    /// As it is sent to proxies.
    pub fn message(&self) -> fleet::Bundle {
        fleet::Bundle {
            trust_domain: self.trust_domain.to_string(),
            roots: self.roots.iter().map(|root| root.to_vec().into()).collect(),
            sequence: self.sequence,
        }
    }

    /// Verifies the chain of a client, leaf first: who it is, and until when that is so, since the epoch.
    ///
    /// # Errors
    /// Why it is no workload of this trust domain.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(SpiffeId, Duration), Error> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(CertificateError::BadEncoding.into());
        };
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(CertificateError::BadEncoding.into());
        }
        let facts = Facts::read(leaf).ok_or_else(|| other(SvidError::Malformed))?;
        let id = facts.workload().map_err(other)?;
        if id.trust_domain() != &*self.trust_domain {
            return Err(other(Foreign(id)));
        }
        self.vouches(leaf, intermediates, now).map_err(told)?;
        Ok((id, facts.not_after))
    }

    /// Verifies the path from a client's certificate to a root, and the times of all on it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn vouches(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let usage = KeyUsage::client_auth();
        let leaf = EndEntityCert::try_from(leaf)?;
        leaf.verify_for_usage(algorithms, &self.anchors, intermediates, now, usage, None, None).map(drop)
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.roots.len())
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// The error as TLS tells it.
fn told(error: webpki::Error) -> Error {
    match error {
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet.into(),
        webpki::Error::CertExpired { .. } => CertificateError::Expired.into(),
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
        error => other(error),
    }
}

//! Clients of a listener: verified in the handshake, and again whenever trust changes.

use std::sync::Arc;

use foregate_filters::peer::Peer;
use foregate_filters::svid::SvidError;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, Error, OtherError};
use sha2::{Digest, Sha256};

use crate::identity::certificate::{Facts, Role, svid};
use crate::identity::trust::Trust;
use crate::tls::verifies_signatures;

/// Most certificates that a peer may send along.
pub const MAX_INTERMEDIATES: usize = 8;

/// Whose certificates a listener accepts, and as what.
#[derive(Clone, Debug)]
pub enum ClientTrust {
    /// Any that these authorities vouch for. Whatever it calls itself, it is no workload: its authority may
    /// write any name.
    Authorities { trust: Arc<Trust>, required: bool },
    /// Workloads, each vouched for by its own trust domain.
    Workloads(Arc<Trust>),
}

/// The trust domain under which authorities without one are kept.
pub const NO_DOMAIN: &str = "";

/// Verifies clients for rustls.
#[derive(Debug)]
pub struct ClientVerifier(pub ClientTrust);

impl ClientTrust {
    fn trust(&self) -> &Trust {
        match self {
            Self::Authorities { trust, .. } | Self::Workloads(trust) => trust,
        }
    }

    /// False where a client without a valid certificate is served as nobody.
    pub fn required(&self) -> bool {
        !matches!(self, Self::Authorities { required: false, .. })
    }

    /// True where the same certificates are accepted as the same peers.
    pub fn same_as(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
            && self.required() == other.required()
            && self.trust().fingerprint() == other.trust().fingerprint()
    }

    /// The peer that a chain proves, leaf first.
    ///
    /// # Errors
    /// Why it proves none.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Peer, Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(CertificateError::BadEncoding.into());
        }
        let peer = self.read(leaf)?;
        let domain = peer.id.as_ref().map_or(NO_DOMAIN, |id| id.trust_domain());
        self.trust().verify(domain, leaf, intermediates, Role::Client, now)?;
        Ok(peer)
    }

    /// The peer that a leaf names, which the handshake has verified.
    ///
    /// # Errors
    /// Where it names none.
    pub fn read(&self, leaf: &CertificateDer<'_>) -> Result<Peer, Error> {
        let id = match self {
            Self::Authorities { .. } => None,
            Self::Workloads(_) => Some(svid(leaf, Role::Client).map_err(unfit)?),
        };
        let facts = Facts::read(leaf).ok_or(CertificateError::BadEncoding)?;
        Ok(Peer { id, thumbprint: Sha256::digest(leaf).into(), expires: facts.not_after })
    }
}

/// A certificate that is not fit for a workload, as TLS tells it.
pub fn unfit(error: SvidError) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.0.required()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.trust().subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.0.required() {
            let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
            self.0.verify(&chain, now)?;
        }
        // Where none is required, a certificate that is not valid is none: looked at after the handshake.
        Ok(ClientCertVerified::assertion())
    }

    verifies_signatures!();
}

//! Workloads at the other end of an upstream connection, verified by their SPIFFE id.

use std::sync::Arc;

use foregate_filters::peer::{PeerPattern, SpiffeId};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, OtherError, SignatureScheme};

use crate::identity::certificate::{Role, svid};
use crate::identity::clients::{MAX_INTERMEDIATES, unfit};
use crate::identity::trust::Trust;
use crate::tls::verifies_signatures;

/// Accepts the workloads of a list, each vouched for by its own trust domain. No name of a host counts, so
/// none that is missing or empty turns anything off.
#[derive(Debug)]
pub struct PeerVerifier {
    trust: Arc<Trust>,
    peers: Vec<PeerPattern>,
}

/// A workload that is who it says, and not whom we want.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not one of the peers")]
struct NotOneOfThePeers(SpiffeId);

/// Shows one certificate, whatever is asked for: it is the only one there is.
#[derive(Debug)]
pub struct Shows(pub Arc<CertifiedKey>);

impl PeerVerifier {
    pub fn new(trust: Arc<Trust>, peers: Vec<PeerPattern>) -> Self {
        Self { trust, peers }
    }

    /// Verifies a chain, leaf first.
    ///
    /// # Errors
    /// Why it is not that of one of the peers.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let id = svid(leaf, Role::Server).map_err(unfit)?;
        self.trust.verify(id.trust_domain(), leaf, intermediates, Role::Server, now)?;
        if self.peers.iter().any(|peer| peer.matches(&id)) {
            Ok(())
        } else {
            Err(CertificateError::Other(OtherError(Arc::new(NotOneOfThePeers(id)))).into())
        }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(CertificateError::BadEncoding.into());
        }
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        self.verify(&chain, now)?;
        Ok(ServerCertVerified::assertion())
    }

    verifies_signatures!();
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

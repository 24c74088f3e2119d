//! How the control plane is reached, and whether the one that answers is it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, Error, OtherError};

use crate::identity::certificate::{Role, svid};
use crate::identity::clients::{MAX_INTERMEDIATES, unfit};
use crate::identity::peers::Shows;
use crate::identity::set::Set;
use crate::identity::trust::{Trust, TrustBuilder, TrustError};
use crate::rpc::endpoint::Endpoint;
use crate::tls::{TlsError, certificates, provider, verifies_signatures};

/// The path of the control plane's own SPIFFE id.
pub const PATH: &str = "/foregate/control";

/// How the control plane is found and known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlOptions {
    pub endpoint: Endpoint,
    /// PEM: roots to trust while there is no bundle, and beside it.
    pub roots: PathBuf,
    /// Longest pause between two attempts to reach it.
    pub retry: Duration,
}

/// Accepts `spiffe://<trust domain>/foregate/control` under the name that was asked for. Its roots are those of the
/// bundle of this workload and those of the file: the bundle follows rotations, the file mends a bundle that is of
/// the past.
#[derive(Debug)]
struct ControlVerifier {
    identity: Option<(SpiffeId, Arc<Trust>)>,
    roots: Vec<CertificateDer<'static>>,
}

/// A server that is somebody else.
#[derive(Debug, thiserror::Error)]
enum NotControl {
    #[error("{0} is not the control plane")]
    Other(SpiffeId),
    #[error("{0} is of another trust domain than this workload")]
    Foreign(SpiffeId),
    #[error("the roots cannot be used: {0}")]
    Roots(TrustError),
}

impl ControlOptions {
    /// TLS of one connection, which shows the certificate of this workload where there is one. The file of roots is
    /// read anew: it may have changed.
    ///
    /// # Errors
    /// Where that file cannot be read.
    pub fn tls(&self, identity: Option<&Set>) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = ControlVerifier {
            identity: identity.map(|set| (set.id.clone(), Arc::clone(&set.trust))),
            roots: certificates(&self.roots)?,
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity {
            Some(set) => builder.with_client_cert_resolver(Arc::new(Shows(Arc::clone(&set.key)))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that is taken up again would show no certificate.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }
}

fn other(error: NotControl) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

impl ControlVerifier {
    fn vouched(
        &self,
        id: &SpiffeId,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let domain = id.trust_domain();
        if let Some((own, trust)) = &self.identity {
            if own.trust_domain() != domain {
                return Err(other(NotControl::Foreign(id.clone())));
            }
            if trust.verify(domain, leaf, intermediates, Role::Server, now).is_ok() {
                return Ok(());
            }
        }
        let mut trust = TrustBuilder::default();
        trust.authorities(domain, self.roots.clone());
        let trust = trust.build().map_err(|error| other(NotControl::Roots(error)))?;
        trust.verify(domain, leaf, intermediates, Role::Server, now)
    }
}

impl ServerCertVerifier for ControlVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(CertificateError::BadEncoding.into());
        }
        let id = svid(end_entity, Role::Server).map_err(unfit)?;
        if id.path() != PATH {
            return Err(other(NotControl::Other(id)));
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        self.vouched(&id, end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    verifies_signatures!();
}

//! TLS towards upstreams: whom to trust, and what to speak.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use foregate_policy::snapshot::{Protocol, Shown, UpstreamTls};
use rustls::pki_types::UnixTime;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};

use crate::clock;
use crate::dispatch::alt_names::AltNameVerifier;
use crate::identity::peers::{PeerVerifier, Shows};
use crate::identity::set::Set;
use crate::identity::trust::Trust;
use crate::tls::{TlsError, certificate, certificates, provider};

/// TLS of all connections to one upstream, within one identity of this workload.
#[derive(Clone, Debug)]
pub struct UpstreamTrust {
    pub config: Arc<ClientConfig>,
    /// Set where the upstream is a workload: whom a session that is taken up again must still be.
    pub peers: Option<Arc<PeerVerifier>>,
    /// [`Set::mark`] of the identity, where there is one.
    pub identity: Option<[u8; 32]>,
}

impl UpstreamTrust {
    /// A session that is taken up again shows no certificate: the one it began with is verified once more.
    ///
    /// # Errors
    /// Why the peer is not trusted any more.
    pub fn still_trusts(&self, connection: &ClientConnection) -> Result<(), rustls::Error> {
        let Some(peers) = &self.peers else { return Ok(()) };
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(());
        }
        let now = UnixTime::since_unix_epoch(clock::now().unix);
        peers.verify(connection.peer_certificates().unwrap_or_default(), now)
    }
}

/// The configuration of all connections to one upstream. Who the server is, is always verified: by its name,
/// or by its SPIFFE id where the document names peers. Without an identity of ours no peer is trusted.
///
/// # Errors
/// Where the trusted authorities or our certificate cannot be read.
pub fn config(
    tls: &UpstreamTls,
    protocol: Protocol,
    identity: Option<&Set>,
) -> Result<UpstreamTrust, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let mut peers = None;
    let mut config = match &tls.shown {
        Shown::Workload { peers: named } => {
            let trust = identity.map_or_else(|| Arc::new(Trust::nobody()), |set| Arc::clone(&set.trust));
            let verifier = Arc::new(PeerVerifier::new(trust, named.clone()));
            peers = Some(Arc::clone(&verifier));
            let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
            match identity {
                Some(set) => builder.with_client_cert_resolver(Arc::new(Shows(Arc::clone(&set.key)))),
                None => builder.with_no_client_auth(),
            }
        }
        shown @ (Shown::Nothing | Shown::Certificate(_)) => {
            let roots = roots(&tls.ca_files)?;
            let builder = if tls.alt_names.is_empty() {
                builder.with_root_certificates(roots)
            } else {
                let verifier = AltNameVerifier::new(roots, tls.alt_names.clone());
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            };
            match shown {
                Shown::Certificate(files) => {
                    builder.with_client_cert_resolver(Arc::new(Shows(Arc::new(certificate(files)?))))
                }
                _ => builder.with_no_client_auth(),
            }
        }
    };
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
        // What is passed on is agreed on by others.
        Protocol::Tcp => Vec::new(),
    };
    Ok(UpstreamTrust { config: Arc::new(config), peers, identity: identity.map(Set::mark) })
}

/// The authorities in these files; those of the system where there are none.
fn roots(files: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    if files.is_empty() {
        return system_authorities();
    }
    let mut roots = RootCertStore::empty();
    for file in files {
        roots.extend(authorities(file)?.roots);
    }
    Ok(roots)
}

/// The authorities in a PEM file; at least one.
///
/// # Errors
/// Names the file that is missing, malformed or holds something else.
pub fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Key { file: file.display().to_string(), source })?;
    }
    Ok(roots)
}

/// The authorities that this system trusts.
fn system_authorities() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(TlsError::System(std::io::Error::other("none found")));
    }
    Ok(roots)
}

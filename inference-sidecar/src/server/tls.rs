//! TLS of the server: its certificate, and those of clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::connections::Protocol;

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {source}", .file.display())]
    Pem { file: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{}: no certificate in it", .0.display())]
    Empty(PathBuf),
    #[error("{}: {source}", .file.display())]
    Certificate { file: PathBuf, source: rustls::Error },
    #[error("{}: {source}", .file.display())]
    Clients { file: PathBuf, source: VerifierBuilderError },
}

/// What clients are shown and asked for.
#[derive(Clone, Debug)]
pub struct Terms {
    config: ServerConfig,
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |source| TlsError::Pem { file: file.to_owned(), source };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(fault)?.collect();
    let chain = chain.map_err(fault)?;
    if chain.is_empty() { Err(TlsError::Empty(file.to_owned())) } else { Ok(chain) }
}

impl Terms {
    /// Reads a chain and its key; where there are authorities, clients must show a certificate of theirs.
    pub fn read(chain: &Path, key: &Path, clients: Option<&Path>) -> Result<Self, TlsError> {
        let provider = Arc::new(default_provider());
        let certificates_of_server = certificates(chain)?;
        let secret = PrivateKeyDer::from_pem_file(key)
            .map_err(|source| TlsError::Pem { file: key.to_owned(), source })?;
        let refused = |source| TlsError::Certificate { file: chain.to_owned(), source };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(refused)?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(file)? {
                    roots
                        .add(authority)
                        .map_err(|source| TlsError::Certificate { file: file.to_owned(), source })?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|source| TlsError::Clients { file: file.to_owned(), source })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder.with_single_cert(certificates_of_server, secret).map_err(refused)?;
        Ok(Self { config })
    }

    /// The same for one of the two ports.
    pub fn acceptor(&self, protocol: Protocol) -> TlsAcceptor {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![match protocol {
            Protocol::Rest => b"http/1.1".to_vec(),
            Protocol::Grpc => b"h2".to_vec(),
        }];
        TlsAcceptor::from(Arc::new(config))
    }
}

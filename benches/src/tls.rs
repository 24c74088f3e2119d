//! TLS 1.3 of load, origin and peer, from the files of a folder.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The name of every server.
pub const NAME: &str = "svc.local";

/// Who must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Servers alone.
    Server,
    /// Clients, too.
    Both,
}

/// What a client offers; sessions are resumed only where `resume` says so.
pub fn client(folder: &Path, shows: Shows, protocol: &[u8], resume: bool) -> Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let builder = builder.with_root_certificates(roots(folder)?);
    let mut config = if shows == Shows::Both {
        let (chain, key) = identity(folder, "client")?;
        builder.with_client_auth_cert(chain, key)?
    } else {
        builder.with_no_client_auth()
    };
    if !resume {
        config.resumption = Resumption::disabled();
    }
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

/// What a server requires, and the protocols that it speaks.
pub fn server(folder: &Path, shows: Shows, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let builder = if shows == Shows::Both {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(folder)?), provider());
        builder.with_client_cert_verifier(verifier.build()?)
    } else {
        builder.with_no_client_auth()
    };
    let (chain, key) = identity(folder, "server")?;
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(folder: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.crt"))?)?;
    Ok(roots)
}

fn identity(folder: &Path, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let certificate = CertificateDer::from_pem_file(folder.join(format!("{name}.crt")))?;
    Ok((vec![certificate], PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key")))?))
}

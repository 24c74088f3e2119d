//! TLS towards upstreams: whom to trust, and what to speak.

use std::path::Path;
use std::sync::Arc;

use foregate_policy::snapshot::{Protocol, UpstreamTls};
use rustls::{ClientConfig, RootCertStore};

use crate::tls::{TlsError, certificates, provider};

/// The configuration of all connections to one upstream. The server's name is always verified.
///
/// # Errors
/// Where the trusted authorities cannot be read.
pub fn config(tls: &UpstreamTls, protocol: Protocol) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match &tls.ca_file {
        Some(file) => authorities(file)?,
        None => system_authorities()?,
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
    };
    Ok(Arc::new(config))
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

//! TLS towards clients: certificates by server name, read from files.

use std::io;
use std::path::Path;
use std::sync::Arc;

use foregate_policy::snapshot::{CertificateFiles, Listener};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a certificate, key or list of authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{file}: {source}")]
    Pem { file: String, source: rustls_pki_types::pem::Error },
    #[error("{0}: no certificate in the file")]
    Empty(String),
    #[error("{file}: {source}")]
    Key { file: String, source: rustls::Error },
    #[error("the system's trusted authorities cannot be read: {0}")]
    System(io::Error),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// TLS of one port: which configuration serves which server name.
#[derive(Debug)]
pub struct PortTls {
    /// Exact names first, then wildcards from the longest to the shortest, then the rest.
    names: Vec<(Option<Box<str>>, Arc<ServerConfig>)>,
}

/// Certificates of one listener, tried in order.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

/// The cryptography of this process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Reads a certificate chain and its key, and checks that they belong together.
///
/// # Errors
/// Names the file that is missing, malformed or does not fit. Never says anything of the key itself.
pub fn certificate(files: &CertificateFiles) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(&files.certificate)?;
    let name = files.key.display().to_string();
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| TlsError::Pem { file: name.clone(), source })?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|source| TlsError::Key { file: name, source })
}

/// Every certificate in a PEM file; at least one.
///
/// # Errors
/// Names the file that is missing, malformed or empty.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let name = file.display().to_string();
    let pem = |source| TlsError::Pem { file: name.clone(), source };
    let chain =
        CertificateDer::pem_file_iter(file).map_err(pem)?.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if chain.is_empty() { Err(TlsError::Empty(name)) } else { Ok(chain) }
}

impl PortTls {
    /// Builds the TLS of one port from all its listeners.
    ///
    /// # Errors
    /// The first certificate that cannot be used.
    pub fn new<'a>(listeners: impl Iterator<Item = &'a Listener>) -> Result<Self, TlsError> {
        let mut names = Vec::new();
        for listener in listeners {
            let Some(tls) = &listener.tls else { continue };
            let keys = tls.certificates.iter().map(|files| certificate(files).map(Arc::new));
            let keys = Certificates(keys.collect::<Result<Vec<_>, _>>()?);
            let mut config = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(keys));
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            config.ticketer = aws_lc_rs::Ticketer::new()?;
            names.push((listener.hostname.clone(), Arc::new(config)));
        }
        names.sort_by_key(|(name, _)| match name.as_deref() {
            Some(name) if name.starts_with('*') => (1, usize::MAX - name.len()),
            Some(_) => (0, 0),
            None => (2, 0),
        });
        Ok(Self { names })
    }

    /// The configuration for a server name (RFC 6066, section 3); without one, that of the listener for
    /// any name, or the first.
    pub fn config(&self, server_name: Option<&str>) -> Option<&Arc<ServerConfig>> {
        let fits = |pattern: Option<&str>| match (pattern, server_name) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(pattern), Some(name)) => covers(pattern, name),
        };
        let found = self.names.iter().find(|(pattern, _)| fits(pattern.as_deref()));
        let found = found.or(if server_name.is_none() { self.names.first() } else { None });
        found.map(|(_, config)| config)
    }
}

/// True where a listener's hostname covers a server name; `*.` stands for one or more labels, as in Gateway API.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => {
            name.len() > suffix.len()
                && name.get(name.len() - suffix.len()..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        }
        None => pattern.eq_ignore_ascii_case(name),
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = self.0.first();
        let (Some(name), true) = (hello.server_name(), self.0.len() > 1) else { return first.cloned() };
        let name = ServerName::try_from(name).ok()?;
        let fitting = self.0.iter().find(|key| {
            key.end_entity_cert()
                .and_then(ParsedCertificate::try_from)
                .and_then(|leaf| rustls::client::verify_server_name(&leaf, &name))
                .is_ok()
        });
        fitting.or(first).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn wildcards_cover_names_below_them_only() {
        for (pattern, name, want) in [
            ("crm.example", "CRM.example", true),
            ("crm.example", "a.crm.example", false),
            ("*.example", "crm.example", true),
            ("*.example", "a.crm.example", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "crmexample", false),
        ] {
            assert_eq!(covers(pattern, name), want, "{pattern} {name}");
        }
    }
}

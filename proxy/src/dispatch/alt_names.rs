//! Endpoints whose certificate must have one of some names, whatever was asked for.

use std::sync::Arc;

use foregate_policy::snapshot::AltName;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use webpki::EndEntityCert;

use crate::identity::clients::MAX_INTERMEDIATES;
use crate::tls::{algorithms, verifies_signatures};

/// Accepts certificates of these authorities that have one of these names.
#[derive(Debug)]
pub struct AltNameVerifier {
    roots: Arc<RootCertStore>,
    names: Vec<AltName>,
}

impl AltNameVerifier {
    pub fn new(roots: RootCertStore, names: Vec<AltName>) -> Self {
        Self { roots: Arc::new(roots), names }
    }
}

impl ServerCertVerifier for AltNameVerifier {
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
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms().all,
        )?;
        let leaf = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        if self.names.iter().any(|name| has(&parsed, &leaf, name)) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::NotValidForName.into())
    }

    verifies_signatures!();
}

/// True where a certificate has the name. `*.` in front stands for one label, or for itself.
fn has(parsed: &ParsedCertificate<'_>, leaf: &EndEntityCert<'_>, name: &AltName) -> bool {
    match name {
        AltName::Uri(uri) => leaf.valid_uri_names().any(|found| found == &**uri),
        AltName::Dns(name) => match name.strip_prefix("*.") {
            None => ServerName::try_from(&**name).is_ok_and(|name| verify_server_name(parsed, &name).is_ok()),
            Some(below) => leaf.valid_dns_names().any(|found| {
                found
                    .split_once('.')
                    .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(below))
            }),
        },
    }
}

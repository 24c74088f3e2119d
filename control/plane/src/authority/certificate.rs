//! What a certificate says of itself that path validation does not look at.

use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use foregate_filters::svid::{Svid, SvidError};
use x509_parser::extensions::{GeneralName, KeyUsage};
use x509_parser::parse_x509_certificate;

/// What is read of one certificate.
#[expect(clippy::struct_excessive_bools, reason = "each is one bit of a certificate")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every URI among the alternative names.
    pub uris: Vec<String>,
    /// Since the epoch.
    pub not_before: Duration,
    /// Since the epoch.
    pub not_after: Duration,
    pub authority: bool,
    /// True where the key may sign certificates.
    pub signs_certificates: bool,
    /// True where issuer and subject are one.
    pub self_issued: bool,
    /// The public key, as the certificate has it.
    pub key: Vec<u8>,
    digital_signature: bool,
    signs_lists: bool,
    client: bool,
}

impl Facts {
    /// Reads a certificate in DER; `None` for what is none, or has more behind it.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = parse_x509_certificate(der).ok()?;
        let names = certificate.subject_alternative_name().ok()?;
        let constraints = certificate.basic_constraints().ok()?;
        let usage = certificate.key_usage().ok()?.map(|found| found.value);
        let purposes = certificate.extended_key_usage().ok()?;
        let uris = names.iter().flat_map(|names| &names.value.general_names);
        let uris = uris.filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
        let seconds = |at: i64| Duration::from_secs(u64::try_from(at).unwrap_or_default());
        rest.is_empty().then(|| Self {
            uris: uris.collect(),
            not_before: seconds(certificate.validity().not_before.timestamp()),
            not_after: seconds(certificate.validity().not_after.timestamp()),
            authority: constraints.is_some_and(|found| found.value.ca),
            signs_certificates: usage.is_some_and(KeyUsage::key_cert_sign),
            self_issued: certificate.issuer().as_raw() == certificate.subject().as_raw(),
            key: certificate.public_key().subject_public_key.data.to_vec(),
            digital_signature: usage.is_some_and(KeyUsage::digital_signature),
            signs_lists: usage.is_some_and(KeyUsage::crl_sign),
            client: purposes.is_some_and(|found| found.value.client_auth),
        })
    }

    /// The workload that the certificate names, where it is fit to name one as a client. Says nothing of who
    /// signed it.
    ///
    /// # Errors
    /// The first rule of X509-SVID that it breaks.
    pub fn workload(&self) -> Result<SpiffeId, SvidError> {
        let svid = Svid {
            uris: &self.uris,
            authority: self.authority,
            digital_signature: self.digital_signature,
            signs_others: self.signs_certificates || self.signs_lists,
            purpose: self.client,
        };
        svid.workload()
    }
}

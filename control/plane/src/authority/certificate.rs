//! What a certificate says of itself that path validation does not look at.

use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use foregate_filters::svid::{Svid, SvidError};
use x509_parser::der_parser::der::parse_der_integer;
use x509_parser::extensions::{GeneralName, KeyUsage, X509Extension};
use x509_parser::parse_x509_certificate;

/// The extension that tells when a token last proved the workload: an INTEGER, seconds since the epoch. An arc below 2.25
/// needs no registration (X.667), and this one was drawn by chance.
pub const ATTESTED: &[u64] = &[2, 25, 5_739_218_406_193_482_117];

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
    attested: Option<Duration>,
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
            attested: certificate.extensions().iter().find(|found| is_attested(found)).map(attested),
            digital_signature: usage.is_some_and(KeyUsage::digital_signature),
            signs_lists: usage.is_some_and(KeyUsage::crl_sign),
            client: purposes.is_some_and(|found| found.value.client_auth),
        })
    }

    /// When a token last proved the workload, since the epoch. Certificates of earlier versions do not say so, nor do those
    /// that others signed below the same root: such a one counts from when it began.
    pub fn attested(&self) -> Duration {
        self.attested.unwrap_or(self.not_before)
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

fn is_attested(extension: &X509Extension<'_>) -> bool {
    extension.oid.iter().is_some_and(|arcs| arcs.eq(ATTESTED.iter().copied()))
}

/// What cannot be read is of no use: as if it were long ago.
fn attested(extension: &X509Extension<'_>) -> Duration {
    let read = parse_der_integer(extension.value).ok().filter(|(rest, _)| rest.is_empty());
    let seconds = read.and_then(|(_, value)| value.as_u64().ok());
    Duration::from_secs(seconds.unwrap_or_default())
}

/// An INTEGER in DER (X.690, section 8.3): as few bytes as tell that it is not negative.
pub fn integer(value: u64) -> Vec<u8> {
    const INTEGER: u8 = 2;
    let bytes = value.to_be_bytes();
    let mut content: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    if content.first().is_none_or(|first| first & 0x80 != 0) {
        content.insert(0, 0);
    }
    let length = u8::try_from(content.len()).unwrap_or_default();
    [&[INTEGER, length], content.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use x509_parser::der_parser::der::parse_der_integer;

    use super::integer;

    #[test]
    fn an_integer_is_read_as_it_was_written() {
        for value in [0, 1, 127, 128, 255, 256, 1_790_000_000, u64::from(u32::MAX), u64::MAX / 2] {
            let der = integer(value);
            let (rest, read) = parse_der_integer(&der).unwrap();
            assert_eq!((rest.len(), read.as_u64().unwrap()), (0, value));
        }
        assert_eq!(integer(128), [2, 2, 0, 128]);
        assert_eq!(integer(0), [2, 1, 0]);
    }
}

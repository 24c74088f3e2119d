//! Requests for a certificate, of which only the public key is used.

use foregate_filters::peer::SpiffeId;
use rcgen::{
    CertificateSigningRequestParams, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData,
    SanType,
};
use rustls::pki_types::CertificateSigningRequestDer;

/// Largest request, in bytes: one for a P-256 key with a long name has under 1 KiB.
pub const MAX_CSR: usize = 4 << 10;

/// Bytes of an uncompressed point of P-256, and how it begins (SEC 1, section 2.3.3).
const POINT: usize = 65;
const UNCOMPRESSED: u8 = 4;

/// A request whose sender has the key.
#[derive(Debug)]
pub struct Request {
    pub key: PublicKey,
    names: Vec<SanType>,
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("the request has {0} bytes, and at most {MAX_CSR} are read")]
    Long(usize),
    #[error("the request is no PKCS#10 in DER")]
    Malformed,
    #[error("the request is not signed with the key that it names")]
    Signature,
    #[error("the key must be P-256")]
    Key,
    #[error("the request asks to be an authority")]
    Authority,
    #[error("the request asks for a key that signs certificates or revocation lists")]
    KeyUsage,
    #[error("the request asks for an extension that workloads have no use for")]
    Extension,
    #[error("the request asks for other names than {0}; leave them out")]
    Names(SpiffeId),
}

impl Request {
    /// Reads a request and verifies its signature.
    ///
    /// # Errors
    /// What it asks for besides a certificate for its key, names apart.
    pub fn read(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR {
            return Err(CsrError::Long(der.len()));
        }
        let read = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der));
        let CertificateSigningRequestParams { params, public_key: key } =
            read.map_err(|error| match error {
                rcgen::Error::InvalidCertificationRequestSignature => CsrError::Signature,
                rcgen::Error::UnsupportedExtension => CsrError::Extension,
                rcgen::Error::UnsupportedSignatureAlgorithm => CsrError::Key,
                _ => CsrError::Malformed,
            })?;
        let point = key.der_bytes();
        // The algorithm is that of the signature; the point tells the curve.
        let p256 = PublicKeyData::algorithm(&key) == &PKCS_ECDSA_P256_SHA256;
        if !p256 || point.len() != POINT || point.first() != Some(&UNCOMPRESSED) {
            return Err(CsrError::Key);
        }
        if matches!(params.is_ca, IsCa::Ca(_)) {
            return Err(CsrError::Authority);
        }
        let signs = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if params.key_usages.iter().any(|usage| signs.contains(usage)) {
            return Err(CsrError::KeyUsage);
        }
        Ok(Self { key, names: params.subject_alt_names })
    }

    /// Looks that no name is asked for but the one that is given.
    ///
    /// # Errors
    /// Where another is.
    pub fn is_for(&self, id: &SpiffeId) -> Result<(), CsrError> {
        let ours = |name: &SanType| matches!(name, SanType::URI(uri) if uri.as_str() == id.as_str());
        if self.names.iter().all(ours) { Ok(()) } else { Err(CsrError::Names(id.clone())) }
    }
}

#[cfg(test)]
mod tests {
    use foregate_filters::peer::SpiffeId;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, KeyUsagePurpose, SanType,
        SignatureAlgorithm,
    };

    use super::{CsrError, Request};

    fn request(
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn a_request_is_for_a_key_and_nothing_else() {
        const ID: &str = "spiffe://example.org/ns/crm/sa/leads";
        let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
        let id = SpiffeId::parse(ID).unwrap();
        let asks = |csr: &[u8]| Request::read(csr).and_then(|request| request.is_for(&id));
        assert_eq!(asks(&request(p256, |_| ())), Ok(()));
        assert_eq!(asks(&request(p256, |params| params.subject_alt_names = vec![uri(ID)])), Ok(()));
        let others = [
            vec![uri(ID), SanType::DnsName("crm.example.org".try_into().unwrap())],
            vec![uri("spiffe://example.org/ns/crm/sa/billing")],
            vec![SanType::IpAddress([127, 0, 0, 1].into())],
        ];
        for names in others {
            let csr = request(p256, |params| params.subject_alt_names = names);
            assert_eq!(asks(&csr), Err(CsrError::Names(id.clone())));
        }
        let authority =
            |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(asks(&request(p256, authority)), Err(CsrError::Authority));
        let signs = |params: &mut CertificateParams| params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        assert_eq!(asks(&request(p256, signs)), Err(CsrError::KeyUsage));
        let strange = |params: &mut CertificateParams| {
            params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 3, 6, 1], vec![5, 0]));
        };
        assert_eq!(asks(&request(p256, strange)), Err(CsrError::Extension));
        for other in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            assert_eq!(asks(&request(other, |_| ())), Err(CsrError::Key));
        }
        let mut forged = request(p256, |_| ());
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(matches!(asks(&forged), Err(CsrError::Signature | CsrError::Malformed)));
        assert_eq!(asks(b"no request"), Err(CsrError::Malformed));
        assert_eq!(asks(&[0; 5000]), Err(CsrError::Long(5000)));
    }
}

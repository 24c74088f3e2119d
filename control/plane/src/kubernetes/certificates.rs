//! Certificates in files and Secrets: whether proxies can use them.

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use webpki::{OwnedCertRevocationList, anchor_from_trusted_cert};

/// Says why a chain and a key in PEM cannot be served.
pub fn fits(chain: &[u8], key: &[u8]) -> Result<(), String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|_| "tls.crt is no chain of certificates in PEM".to_owned())?;
    if chain.is_empty() {
        return Err("tls.crt holds no certificate".to_owned());
    }
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|_| "tls.key is no private key in PEM".to_owned())?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map(drop)
        .map_err(|error| format!("tls.crt and tls.key do not fit: {error}"))
}

/// Says why nothing can be trusted by these authorities in PEM.
pub fn authorities(pem: &[u8]) -> Result<(), String> {
    let authorities: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| "it is no list of certificates in PEM".to_owned())?;
    if authorities.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    let unfit = authorities.iter().find_map(|one| anchor_from_trusted_cert(one).err());
    unfit.map_or(Ok(()), |error| Err(format!("one of its certificates is no authority: {error}")))
}

/// Says why no certificate can be looked for in these lists of revoked ones, in PEM or DER.
pub fn revocations(bytes: &[u8]) -> Result<(), String> {
    let lists = if bytes.first() == Some(&0x30) {
        vec![CertificateRevocationListDer::from(bytes.to_vec())]
    } else {
        let lists = CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
        lists.map_err(|_| "it is no list of revoked certificates in PEM".to_owned())?
    };
    if lists.is_empty() {
        return Err("it holds no list of revoked certificates".to_owned());
    }
    let unfit = lists.iter().find_map(|list| OwnedCertRevocationList::from_der(list).err());
    unfit.map_or(Ok(()), |error| Err(format!("one of its lists cannot be read: {error}")))
}

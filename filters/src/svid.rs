//! The rules of X509-SVID that path validation does not look at.

use crate::peer::{SpiffeId, SpiffeIdError};

/// What a certificate says of itself, as far as these rules are about it.
#[expect(clippy::struct_excessive_bools, reason = "each is one bit of a certificate")]
#[derive(Clone, Copy, Debug)]
pub struct Svid<'a, U> {
    /// Every URI among the alternative names.
    pub uris: &'a [U],
    pub authority: bool,
    /// True where the key may sign what its holder says.
    pub digital_signature: bool,
    /// True where the key may sign certificates or revocation lists.
    pub signs_others: bool,
    /// True where the extended key usage names the end of the connection at which it is shown.
    pub purpose: bool,
}

/// Why a certificate is not that of a workload (X509-SVID, sections 2 to 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    #[error("not a certificate")]
    Malformed,
    #[error("the certificate names no URI")]
    NoId,
    #[error("the certificate names more than one URI")]
    ManyIds,
    #[error("its URI is no SPIFFE id: {0}")]
    Id(#[from] SpiffeIdError),
    #[error("its SPIFFE id names a trust domain only")]
    DomainOnly,
    #[error("the certificate is that of an authority")]
    Authority,
    #[error("its key usage is not that of a workload: digitalSignature, and nothing that signs others")]
    KeyUsage,
    #[error("its extended key usage does not name this end of a connection")]
    Purpose,
}

impl<U: AsRef<str>> Svid<'_, U> {
    /// The workload that the certificate names, where it is fit to name one. Says nothing of who signed it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn workload(&self) -> Result<SpiffeId, SvidError> {
        let id = match self.uris {
            [] => return Err(SvidError::NoId),
            [id] => SpiffeId::parse(id.as_ref())?,
            [..] => return Err(SvidError::ManyIds),
        };
        if id.path().is_empty() {
            return Err(SvidError::DomainOnly);
        }
        if self.authority {
            return Err(SvidError::Authority);
        }
        if !self.digital_signature || self.signs_others {
            return Err(SvidError::KeyUsage);
        }
        if self.purpose { Ok(id) } else { Err(SvidError::Purpose) }
    }
}

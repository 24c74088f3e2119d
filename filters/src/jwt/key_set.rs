//! A JWK set read for verification only (RFC 7517).

/// Keys by `kid`, ready to verify.
#[derive(Debug)]
pub struct KeySet;

//! An issuer with one P-256 key, and tokens it signed.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foregate_filters::jwt::key_set::KeySet;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

/// `iss` of the tokens.
pub const ISSUER: &str = "https://idp.test";
/// `kid` of the key.
const KID: &str = "es";

/// A key that signs.
pub struct Issuer {
    key: EncodingKey,
    jwks: Value,
}

impl Issuer {
    pub fn new() -> Result<Self> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        // An uncompressed point: 4, x, y.
        let point = pair.public_key_raw();
        let (x, y) = (point.get(1..33).context("x")?, point.get(33..65).context("y")?);
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": KID, "x": encode(x), "y": encode(y) });
        Ok(Self { key: EncodingKey::from_ec_der(pair.serialized_der()), jwks: json!({ "keys": [jwk] }) })
    }

    /// The public key.
    pub fn keys(&self) -> Result<KeySet> {
        Ok(KeySet::parse(self.jwks.to_string().as_bytes())?)
    }

    /// A token as a CRM's callers have: nine claims, good until `expires` in Unix seconds.
    pub fn token(&self, expires: u64) -> Result<String> {
        self.token_of("user-17", expires)
    }

    /// The same of somebody else.
    pub fn token_of(&self, subject: &str, expires: u64) -> Result<String> {
        let claims = json!({
            "iss": ISSUER, "aud": "crm", "sub": subject, "iat": expires - 3600, "exp": expires,
            "scope": "crm.read crm.write", "org": "00D5g000007XyZa", "roles": ["sales", "support"],
            "jti": "0d1c7a52-7d5c-4f2e-9e43-0a4f6a1f5b0e",
        });
        let header = Header { kid: Some(KID.to_owned()), ..Header::new(Algorithm::ES256) };
        Ok(encode(&header, &claims, &self.key)?)
    }
}

//! Issuers with one key each, and tokens they signed.

use anyhow::{Context, Result};
use foregate_filters::jwt::key_set::KeySet;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

/// `iss` of the tokens.
pub const ISSUER: &str = "https://idp.test";
/// Seconds that tokens are good.
const LIFETIME: u64 = 86_400;
/// What callers of a CRM may do.
pub const SCOPE: &str = "crm.read crm.write";

/// A key that signs.
pub struct Issuer {
    key: EncodingKey,
    header: Header,
    public: String,
    jwk: Value,
}

impl Issuer {
    /// A new key for RS256 (2,048 bits), ES256 or `EdDSA`; its `kid` is the name of the algorithm.
    pub fn new(algorithm: Algorithm) -> Result<Self> {
        let pair = match algorithm {
            Algorithm::RS256 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
            Algorithm::EdDSA => KeyPair::generate_for(&PKCS_ED25519)?,
            _ => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
        };
        let private = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(private.as_bytes())?,
            Algorithm::EdDSA => EncodingKey::from_ed_der(&without_public(pair.serialized_der())?),
            _ => EncodingKey::from_ec_pem(private.as_bytes())?,
        };
        let mut jwk = Jwk::from_encoding_key(&key, algorithm)?;
        let kid = format!("{algorithm:?}");
        jwk.common.key_id = Some(kid.clone());
        let header = Header { kid: Some(kid), ..Header::new(algorithm) };
        Ok(Self { key, header, public: pair.public_key_pem(), jwk: serde_json::to_value(jwk)? })
    }

    /// The public key as a key set holds it.
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// The public key, PEM.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The public key.
    pub fn keys(&self) -> Result<KeySet> {
        Ok(KeySet::parse(json!({ "keys": [self.jwk] }).to_string().as_bytes())?)
    }

    /// A token as a CRM's callers have: nine claims, made at `issued` in Unix seconds.
    pub fn token(&self, issued: u64) -> Result<String> {
        self.token_of("user-17", SCOPE, issued)
    }

    /// The same of somebody else.
    pub fn token_of(&self, subject: &str, scope: &str, issued: u64) -> Result<String> {
        let claims = json!({
            "iss": ISSUER, "aud": "crm", "sub": subject, "iat": issued, "exp": issued + LIFETIME,
            "scope": scope, "org": "00D5g000007XyZa", "roles": ["sales", "support"],
            "jti": "0d1c7a52-7d5c-4f2e-9e43-0a4f6a1f5b0e",
        });
        Ok(encode(&self.header, &claims, &self.key)?)
    }
}

/// An Ed25519 key in version 1 of PKCS #8 (RFC 8410), which holds the private key alone.
fn without_public(der: &[u8]) -> Result<Vec<u8>> {
    const HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let seed = der.get(HEAD.len()..48).context("no Ed25519 key")?;
    Ok([HEAD.as_slice(), seed].concat())
}

//! A JWK set or PEM file read for verification only (RFC 7517).

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use crate::jwt::{Alg, strict};

/// Longest text a key set is read from: real ones are a few KiB.
pub const MAX_BYTES: usize = 256 * 1024;
/// Most keys in a set: enough for any rotation, few enough to try.
pub const MAX_KEYS: usize = 64;
/// Shortest RSA modulus in bits (RFC 7518, section 3.3), and the longest the verifier takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Longest RSA exponent in bytes: a longer one only makes verification dear.
const RSA_EXPONENT_BYTES: usize = 5;

/// Keys that verify signatures, each with the algorithms it may be used with.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Arc<VerifyingKey>>,
    skipped: usize,
}

/// One key. Which algorithms it serves is fixed by its type, never by a token.
pub struct VerifyingKey {
    kid: Option<Box<str>>,
    algorithms: SmallVec<[Alg; 6]>,
    key: DecodingKey,
}

/// Why a text is not a key set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    #[error("the key set is over 256 KiB")]
    TooLarge,
    #[error("the key set has over 64 keys")]
    TooMany,
    #[error("the key set is not a JSON object with a list `keys`, nor a PEM file: {0}")]
    Malformed(String),
    #[error("the file holds a private key where a public one belongs")]
    PrivateKey,
    #[error("no key of the set can verify signatures{}", .0.as_ref().map_or(String::new(), |why| format!(": {why}")))]
    NoneUsable(Option<Skip>),
}

/// Why a key of a set is not used (RFC 7517, section 5: such keys are ignored).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    #[error("a key is not an object")]
    NotAnObject,
    #[error("a key's type, curve or algorithm is not supported")]
    Unsupported,
    #[error("a key is not for verifying signatures (`use`, `key_ops`)")]
    OtherUse,
    #[error("an RSA key is not of 2048 to 8192 bits")]
    RsaSize,
    #[error("a symmetric key is shorter than 256 bits")]
    SecretTooShort,
    #[error("a key's members are malformed")]
    Malformed,
}

impl KeySet {
    /// Reads a JWK set, or public keys in PEM.
    ///
    /// Keys that cannot verify are left out: encryption keys, unknown types, RSA under 2048 bits.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > MAX_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let keys = if text.trim_ascii_start().starts_with(b"-----BEGIN ") {
            pem(text)?
        } else {
            let set = strict::object(text).map_err(|error| KeySetError::Malformed(error.to_string()))?;
            let Some(Value::Array(keys)) = set.get("keys") else {
                return Err(KeySetError::Malformed("`keys` is missing".to_owned()));
            };
            if keys.len() > MAX_KEYS {
                return Err(KeySetError::TooMany);
            }
            keys.iter().map(VerifyingKey::from_jwk).collect()
        };
        Self::gather(keys)
    }

    fn gather(found: Vec<Result<VerifyingKey, Skip>>) -> Result<Self, KeySetError> {
        let mut keys = Vec::with_capacity(found.len());
        let (mut skipped, mut first) = (0, None);
        for key in found {
            match key {
                Ok(key) => keys.push(Arc::new(key)),
                Err(skip) => {
                    skipped += 1;
                    first = first.or(Some(skip));
                }
            }
        }
        if keys.is_empty() { Err(KeySetError::NoneUsable(first)) } else { Ok(Self { keys, skipped }) }
    }

    /// Number of usable keys, at least 1.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Number of keys left out because they cannot verify signatures.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// True where the next set lacks a key of this one.
    pub fn loses(&self, next: &Self) -> bool {
        self.keys.iter().any(|key| !next.holds(key))
    }

    /// True where some key has this `kid`.
    pub fn names(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid() == Some(kid))
    }

    /// True where some key serves one of these algorithms.
    pub fn serves(&self, algorithms: &[Alg]) -> bool {
        self.keys.iter().any(|key| algorithms.iter().any(|alg| key.serves(*alg)))
    }

    /// True where this very key is still in the set: same `kid`, material and algorithms.
    pub fn holds(&self, key: &Arc<VerifyingKey>) -> bool {
        self.keys.iter().any(|mine| Arc::ptr_eq(mine, key)) || self.keys.iter().any(|mine| mine == key)
    }

    /// The keys a token may have been signed with: those of its `kid`, else those without one.
    /// A token without `kid` may be signed with any. Only keys that serve `alg` are given.
    pub fn candidates(&self, kid: Option<&str>, alg: Alg) -> impl Iterator<Item = &Arc<VerifyingKey>> {
        let named = kid.filter(|kid| self.names(kid));
        self.keys.iter().filter(move |key| {
            let fits = match (kid, named) {
                (None, _) => true,
                (Some(_), Some(kid)) => key.kid() == Some(kid),
                (Some(_), None) => key.kid().is_none(),
            };
            fits && key.serves(alg)
        })
    }
}

impl VerifyingKey {
    /// The name its issuer gave it.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// True where signatures of this algorithm may be verified with this key.
    pub fn serves(&self, alg: Alg) -> bool {
        self.algorithms.contains(&alg)
    }

    /// True where `signature` (base64url) over `message` was made with this key and `alg`.
    pub fn verifies(&self, alg: Alg, message: &[u8], signature: &str) -> bool {
        self.serves(alg)
            && jsonwebtoken::crypto::verify(signature, message, &self.key, alg.into()).unwrap_or(false)
    }

    fn from_jwk(jwk: &Value) -> Result<Self, Skip> {
        let jwk = jwk.as_object().ok_or(Skip::NotAnObject)?;
        for_verifying(jwk)?;
        let (mut algorithms, key) = match member(jwk, "kty")? {
            "RSA" => rsa(&bytes(jwk, "n")?, &bytes(jwk, "e")?)?,
            "EC" => elliptic(member(jwk, "crv")?, &bytes(jwk, "x")?, &bytes(jwk, "y")?)?,
            "OKP" if member(jwk, "crv")? == "Ed25519" => edwards(&bytes(jwk, "x")?)?,
            "oct" => secret(&bytes(jwk, "k")?)?,
            _ => return Err(Skip::Unsupported),
        };
        if let Some(declared) = jwk.get("alg") {
            let declared = declared.as_str().and_then(Alg::parse).ok_or(Skip::Unsupported)?;
            algorithms.retain(|alg| *alg == declared);
        }
        if algorithms.is_empty() {
            return Err(Skip::Unsupported);
        }
        let kid = match jwk.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.as_str().into()),
            Some(_) => return Err(Skip::Malformed),
        };
        Ok(Self { kid, algorithms, key })
    }
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        let same = match (self.key.kind(), other.key.kind()) {
            (DecodingKeyKind::SecretOrDer(mine), DecodingKeyKind::SecretOrDer(theirs)) => mine == theirs,
            (
                DecodingKeyKind::RsaModulusExponent { n, e },
                DecodingKeyKind::RsaModulusExponent { n: other_n, e: other_e },
            ) => n == other_n && e == other_e,
            _ => false,
        };
        same && self.kid == other.kid && self.algorithms == other.algorithms
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key itself may be a shared secret.
        f.debug_struct("VerifyingKey")
            .field("kid", &self.kid)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

type Typed = (SmallVec<[Alg; 6]>, DecodingKey);

fn rsa(n: &[u8], e: &[u8]) -> Result<Typed, Skip> {
    let n = n.get(n.iter().take_while(|byte| **byte == 0).count()..).unwrap_or_default();
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(Skip::RsaSize);
    }
    // An even exponent, or one of 1, is no RSA key at all.
    let odd = e.last().is_some_and(|byte| byte % 2 == 1);
    if !odd || e == [1] || e.len() > RSA_EXPONENT_BYTES {
        return Err(Skip::Malformed);
    }
    let algorithms = [Alg::RS256, Alg::RS384, Alg::RS512, Alg::PS256, Alg::PS384, Alg::PS512];
    Ok((SmallVec::from(algorithms), DecodingKey::from_rsa_raw_components(n, e)))
}

fn elliptic(curve: &str, x: &[u8], y: &[u8]) -> Result<Typed, Skip> {
    let (length, alg) = match curve {
        "P-256" => (32, Alg::ES256),
        "P-384" => (48, Alg::ES384),
        _ => return Err(Skip::Unsupported),
    };
    if x.len() != length || y.len() != length {
        return Err(Skip::Malformed);
    }
    // An uncompressed point (SEC 1, section 2.3.3).
    let point = [&[4], x, y].concat();
    Ok((SmallVec::from_slice(&[alg]), DecodingKey::from_ec_der(&point)))
}

fn edwards(x: &[u8]) -> Result<Typed, Skip> {
    if x.len() != 32 {
        return Err(Skip::Malformed);
    }
    Ok((SmallVec::from_slice(&[Alg::EdDSA]), DecodingKey::from_ed_der(x)))
}

/// A shared secret serves the hashes that are no longer than itself (RFC 7518, section 3.2).
fn secret(k: &[u8]) -> Result<Typed, Skip> {
    let algorithms: SmallVec<[Alg; 6]> = [(Alg::HS256, 32), (Alg::HS384, 48), (Alg::HS512, 64)]
        .into_iter()
        .filter(|(_, length)| k.len() >= *length)
        .map(|(alg, _)| alg)
        .collect();
    if algorithms.is_empty() {
        return Err(Skip::SecretTooShort);
    }
    Ok((algorithms, DecodingKey::from_secret(k)))
}

/// Keys for encryption or signing only do not verify (RFC 7517, sections 4.2 and 4.3).
fn for_verifying(jwk: &Map<String, Value>) -> Result<(), Skip> {
    let usage = jwk.get("use").is_none_or(|usage| usage.as_str() == Some("sig"));
    let operations = jwk.get("key_ops").is_none_or(|operations| {
        operations
            .as_array()
            .is_some_and(|operations| operations.iter().any(|operation| operation.as_str() == Some("verify")))
    });
    if usage && operations { Ok(()) } else { Err(Skip::OtherUse) }
}

fn member<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<&'a str, Skip> {
    jwk.get(name).and_then(Value::as_str).ok_or(Skip::Malformed)
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, Skip> {
    URL_SAFE_NO_PAD.decode(member(jwk, name)?).map_err(|_| Skip::Malformed)
}

/// Reads one or more `PUBLIC KEY` blocks; their keys have no `kid`.
fn pem(text: &[u8]) -> Result<Vec<Result<VerifyingKey, Skip>>, KeySetError> {
    let text = std::str::from_utf8(text).map_err(|error| KeySetError::Malformed(error.to_string()))?;
    let mut keys = Vec::new();
    for block in text.split("-----BEGIN ").skip(1) {
        let label = block.split("-----").next().unwrap_or_default();
        if label.ends_with("PRIVATE KEY") {
            return Err(KeySetError::PrivateKey);
        }
        if keys.len() == MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        keys.push(pem_block(label, &format!("-----BEGIN {block}")));
    }
    Ok(keys)
}

fn pem_block(label: &str, block: &str) -> Result<VerifyingKey, Skip> {
    if label != "PUBLIC KEY" && label != "RSA PUBLIC KEY" {
        return Err(Skip::Unsupported);
    }
    let block = block.as_bytes();
    let key = DecodingKey::from_rsa_pem(block)
        .or_else(|_| DecodingKey::from_ec_pem(block))
        .or_else(|_| DecodingKey::from_ed_pem(block))
        .map_err(|_| Skip::Malformed)?;
    // By way of its JWK, so that sizes and curves are checked in one place.
    let jwk = jsonwebtoken::jwk::Jwk::from_decoding_key(&key, None).map_err(|_| Skip::Unsupported)?;
    VerifyingKey::from_jwk(&serde_json::to_value(jwk).map_err(|_| Skip::Malformed)?)
}

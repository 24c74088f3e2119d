//! Test keys that stand in for those of issuers while cases run.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::jwt::key_set::KeySet;
use foregate_filters::keys::Keys;
use foregate_filters::moment::Moment;
use foregate_policy::cases::CaseTokens;
use foregate_policy::document::Kind;
use foregate_policy::documents::case::{SignedBy, Token};
use foregate_policy::load::Sources;
use foregate_policy::node::Node;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};
use serde_json::{Value, json};

use crate::keys::FixedKeys;
use crate::telemetry::random;

/// Lifetime of a token whose case says nothing of it, in seconds.
const LIFETIME: u64 = 300;
/// How long ago an expired token ran out, in seconds: more than any clock skew.
const AGO: u64 = 3600;

/// One key for each issuer of the policies, and one that nobody trusts.
#[derive(Debug)]
pub struct CaseKeys {
    issuers: BTreeMap<String, TestKey>,
    other: TestKey,
}

/// Signs, and is published to whoever verifies.
struct TestKey {
    algorithm: Algorithm,
    key: EncodingKey,
    set: Arc<KeySet>,
}

/// Why there is no test key.
#[derive(Debug, thiserror::Error)]
#[error("no test key for {algorithm:?}: {why}")]
pub struct CaseKeyError {
    algorithm: Algorithm,
    why: String,
}

impl fmt::Debug for TestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl CaseKeys {
    /// Makes keys for every issuer that a policy names, of the first algorithm that it accepts.
    ///
    /// # Errors
    /// Where a key cannot be made.
    pub fn new(sources: &Sources) -> Result<Self, CaseKeyError> {
        let mut issuers = BTreeMap::new();
        for policy in sources.documents.iter().filter(|document| document.kind == Kind::Policy) {
            let jwt = policy.root.key("spec").and_then(|spec| spec.key("jwt"));
            for issuer in jwt.into_iter().flat_map(Node::items) {
                let Some(name) = issuer.key("issuer").and_then(Node::text) else { continue };
                if !issuers.contains_key(name) {
                    issuers.insert(name.to_owned(), TestKey::new(algorithm(issuer))?);
                }
            }
        }
        Ok(Self { issuers, other: TestKey::new(Algorithm::ES256)? })
    }

    /// The keys that verify what [`CaseTokens::token`] signs for this issuer.
    pub(super) fn keys(&self, issuer: &str, at: &Path) -> Result<Arc<dyn Keys>, Fault> {
        let missing = || Fault::new(Code::REFERENCE, at.clone(), format!("no test key for `{issuer}`"));
        let key = self.issuers.get(issuer).ok_or_else(missing)?;
        Ok(Arc::new(FixedKeys::new(Arc::clone(&key.set))))
    }
}

/// The first algorithm that an entry of `jwt` accepts.
fn algorithm(issuer: &Node) -> Algorithm {
    let listed = issuer.key("algorithms").into_iter().flat_map(Node::items);
    listed.filter_map(Node::text).find_map(|name| Algorithm::from_str(name).ok()).unwrap_or(Algorithm::ES256)
}

impl CaseTokens for CaseKeys {
    fn token(&self, token: &Token, moment: Moment) -> Result<String, String> {
        let now = moment.unix_seconds();
        let mut claims = token.claims.clone();
        if !claims.contains_key("exp") || token.expired {
            let expires = if token.expired { now.saturating_sub(AGO) } else { now + LIFETIME };
            claims.insert("exp".to_owned(), expires.into());
        }
        // A case takes a claim away by saying that it is null.
        claims.retain(|_, value| !value.is_null());
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let key = match token.signed_by {
            SignedBy::Issuer => self.issuers.get(issuer).unwrap_or(&self.other),
            SignedBy::Other => &self.other,
        };
        let header = Header::new(key.algorithm);
        jsonwebtoken::encode(&header, &claims, &key.key).map_err(|error| format!("cannot sign: {error}"))
    }
}

impl TestKey {
    fn new(algorithm: Algorithm) -> Result<Self, CaseKeyError> {
        let fault = |why: String| CaseKeyError { algorithm, why };
        let made = |pair: Result<KeyPair, rcgen::Error>| pair.map_err(|error| fault(error.to_string()));
        let signs = |error: jsonwebtoken::errors::Error| fault(error.to_string());
        let (key, jwk) = match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                let secret: Vec<u8> = (0..8).flat_map(|_| random::next().to_be_bytes()).collect();
                (EncodingKey::from_secret(&secret), None)
            }
            Algorithm::ES256 | Algorithm::ES384 => {
                let curve = match algorithm {
                    Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
                    _ => &PKCS_ECDSA_P384_SHA384,
                };
                let pair = made(KeyPair::generate_for(curve))?;
                (EncodingKey::from_ec_der(pair.serialized_der()), None)
            }
            Algorithm::EdDSA => {
                let pair = made(KeyPair::generate_for(&PKCS_ED25519))?;
                let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key_raw()) });
                (EncodingKey::from_ed_der(pair.serialized_der()), Some(jwk))
            }
            _ => {
                let pair = made(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048))?;
                (EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).map_err(signs)?, None)
            }
        };
        let jwk = match jwk {
            Some(jwk) => jwk,
            None => json!(Jwk::from_encoding_key(&key, algorithm).map_err(signs)?),
        };
        let set = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes());
        Ok(Self { algorithm, key, set: Arc::new(set.map_err(|error| fault(error.to_string()))?) })
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::TestKey;
    use foregate_filters::jwt::Alg;
    use jsonwebtoken::{Algorithm, Header};
    use serde_json::json;

    #[test]
    fn a_test_key_of_every_algorithm_verifies_what_it_signs() {
        for (algorithm, alg) in [
            (Algorithm::ES256, Alg::ES256),
            (Algorithm::ES384, Alg::ES384),
            (Algorithm::RS256, Alg::RS256),
            (Algorithm::PS384, Alg::PS384),
            (Algorithm::EdDSA, Alg::EdDSA),
            (Algorithm::HS512, Alg::HS512),
        ] {
            let key = TestKey::new(algorithm).unwrap();
            let token =
                jsonwebtoken::encode(&Header::new(algorithm), &json!({ "sub": "a" }), &key.key).unwrap();
            let (message, signature) = token.rsplit_once('.').unwrap();
            let verifies =
                key.set.candidates(None, alg).any(|key| key.verifies(alg, message.as_bytes(), signature));
            assert!(verifies, "{algorithm:?}");
        }
    }
}

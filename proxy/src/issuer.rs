//! A token issuer for development: demos, tests, `foregate token`. Never for production.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Keys published at most: the one that signs and those before it, so that tokens in use stay good.
const PUBLISHED: usize = 2;

/// An issuer for development. Its P-256 keys are made when it starts and are kept in memory only;
/// it gives a token to whoever holds it.
#[derive(Clone)]
pub struct Issuer {
    url: Arc<str>,
    /// Newest first; the first one signs.
    keys: Arc<RwLock<Vec<SigningKey>>>,
}

/// Why the development issuer cannot make a key or a token.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("cannot make a key: {0}")]
    Key(String),
    #[error("cannot sign: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

struct SigningKey {
    kid: String,
    key: EncodingKey,
    jwk: Value,
}

impl Issuer {
    /// A development issuer whose tokens have this `iss`, with a fresh key.
    pub fn new(issuer_url: &str) -> Result<Self, IssuerError> {
        let keys = Arc::new(RwLock::new(vec![SigningKey::generate()?]));
        Ok(Self { url: issuer_url.into(), keys })
    }

    /// An issuer that signs with the P-256 key in this PEM text (PKCS #8).
    pub fn from_pem(issuer_url: &str, pem: &str) -> Result<Self, IssuerError> {
        let pair = KeyPair::from_pem(pem).map_err(|error| IssuerError::Key(error.to_string()))?;
        let keys = Arc::new(RwLock::new(vec![SigningKey::new(&pair)?]));
        Ok(Self { url: issuer_url.into(), keys })
    }

    /// `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a new key that signs from now on; the one before it stays published.
    pub fn rotate(&self) -> Result<(), IssuerError> {
        let key = SigningKey::generate()?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(0, key);
        keys.truncate(PUBLISHED);
        Ok(())
    }

    /// Signs these claims with ES256 for development; `iss` is ours where the claims name none.
    pub fn token(&self, claims: &Map<String, Value>) -> Result<String, IssuerError> {
        let mut claims = claims.clone();
        claims.entry("iss").or_insert_with(|| Value::from(&*self.url));
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let key = keys.first().ok_or_else(|| IssuerError::Key("there is none".to_owned()))?;
        let header = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, &claims, &key.key)?)
    }

    /// The JWK set (RFC 7517).
    pub fn jwks(&self) -> Value {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        json!({ "keys": keys.iter().map(|key| &key.jwk).collect::<Vec<_>>() })
    }

    /// The metadata of `OpenID` Connect Discovery 1.0, section 3, as far as a gateway reads it.
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": &*self.url,
            "jwks_uri": format!("{}/jwks", self.url.trim_end_matches('/')),
            "response_types_supported": ["token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// Serves `/jwks` and `/.well-known/openid-configuration`. It hands out no tokens.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/jwks", get(async |State(issuer): State<Self>| answer(&issuer.jwks())))
            .route(
                "/.well-known/openid-configuration",
                get(async |State(issuer): State<Self>| answer(&issuer.discovery())),
            )
            .with_state(self.clone())
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A fresh P-256 key as PEM text (PKCS #8), for [`Issuer::from_pem`].
pub fn generate_pem() -> Result<String, IssuerError> {
    generate().map(|pair| pair.serialize_pem())
}

fn generate() -> Result<KeyPair, IssuerError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| IssuerError::Key(error.to_string()))
}

impl SigningKey {
    fn generate() -> Result<Self, IssuerError> {
        Self::new(&generate()?)
    }

    fn new(pair: &KeyPair) -> Result<Self, IssuerError> {
        let fault = |text: &str| IssuerError::Key(text.to_owned());
        if !pair.is_compatible(&PKCS_ECDSA_P256_SHA256) {
            return Err(fault("it is not a P-256 key"));
        }
        // An uncompressed point: 4, x, y (SEC 1, section 2.3.3).
        let point = pair.public_key_raw();
        let (x, y) = point
            .split_first()
            .filter(|(form, rest)| **form == 4 && rest.len() == 64)
            .and_then(|(_, rest)| rest.split_at_checked(32))
            .ok_or_else(|| fault("the public key is not a P-256 point"))?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // The thumbprint of RFC 7638 names the key.
        let thumbprint = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(thumbprint));
        let jwk =
            json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": x, "y": y });
        Ok(Self { kid, key: EncodingKey::from_ec_der(pair.serialized_der()), jwk })
    }
}

fn answer(document: &Value) -> impl IntoResponse + use<> {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "max-age=60")];
    (headers, document.to_string())
}

#[cfg(test)]
mod tests {
    use super::{Issuer, generate_pem};
    use foregate_filters::jwt::Alg;
    use foregate_filters::jwt::key_set::KeySet;
    use serde_json::{Map, json};

    fn verifies(issuer: &Issuer, token: &str) -> bool {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let keys = KeySet::parse(issuer.jwks().to_string().as_bytes()).unwrap();
        let kid = jsonwebtoken::decode_header(token).unwrap().kid;
        keys.candidates(kid.as_deref(), Alg::ES256)
            .any(|key| key.verifies(Alg::ES256, message.as_bytes(), signature))
    }

    #[test]
    fn tokens_verify_with_the_published_keys_until_two_rotations_later() {
        let issuer = Issuer::new("http://127.0.0.1:1").unwrap();
        let token = issuer.token(&Map::new()).unwrap();
        assert!(verifies(&issuer, &token));
        issuer.rotate().unwrap();
        assert!(verifies(&issuer, &token));
        assert!(verifies(&issuer, &issuer.token(&Map::new()).unwrap()));
        issuer.rotate().unwrap();
        assert!(!verifies(&issuer, &token));
    }

    #[test]
    fn a_key_in_a_file_signs_the_same_tomorrow() {
        let pem = generate_pem().unwrap();
        let (today, tomorrow) = (Issuer::from_pem("a", &pem).unwrap(), Issuer::from_pem("a", &pem).unwrap());
        assert_eq!(today.jwks(), tomorrow.jwks());
        assert!(verifies(&today, &tomorrow.token(&Map::new()).unwrap()));
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(Issuer::from_pem("a", &other.serialize_pem()).is_err());
        assert!(Issuer::from_pem("a", "no key").is_err());
    }

    #[test]
    fn the_metadata_point_to_the_keys() {
        let issuer = Issuer::new("http://127.0.0.1:1/").unwrap();
        assert_eq!(issuer.discovery()["jwks_uri"], json!("http://127.0.0.1:1/jwks"));
        assert_eq!(issuer.discovery()["issuer"], json!("http://127.0.0.1:1/"));
    }
}

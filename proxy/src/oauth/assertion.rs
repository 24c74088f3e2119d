//! Signed assertions: who the gateway is, or whom it acts for (RFC 7523).

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::jwt::Alg;
use foregate_filters::moment::Moment;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use zeroize::Zeroizing;

use crate::secrets::{Derived, LiveSecret, SecretError};
use crate::telemetry::random;

/// How long an assertion is good: Salesforce takes none of more than three minutes.
const LIFETIME: Duration = Duration::from_mins(2);

/// What is signed, and with what.
#[derive(Debug)]
pub struct Assertion {
    issuer: Box<str>,
    subject: Box<str>,
    audience: Box<str>,
    key_id: Option<String>,
    alg: Alg,
    key: Derived<EncodingKey>,
}

/// The words of an assertion.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
    pub audience: &'a str,
    pub key_id: Option<&'a str>,
    /// RS256 where absent.
    pub alg: Option<Alg>,
}

impl Assertion {
    /// # Errors
    /// Where the secret is not a private key for the algorithm.
    pub fn new(words: Words<'_>, key: Arc<LiveSecret>) -> Result<Self, SecretError> {
        let alg = words.alg.unwrap_or(Alg::RS256);
        let key = Derived::new(key, move |secret| private_key(alg, secret.expose()))?;
        Ok(Self {
            issuer: words.issuer.into(),
            subject: words.subject.into(),
            audience: words.audience.into(),
            key_id: words.key_id.map(Into::into),
            alg,
            key,
        })
    }

    /// A new one, for one use; `None` where the key cannot sign after all.
    pub fn sign(&self, moment: Moment) -> Option<Zeroizing<String>> {
        let now = moment.unix_seconds();
        let claims = json!({
            "iss": self.issuer,
            "sub": self.subject,
            "aud": self.audience,
            "iat": now,
            "exp": now.saturating_add(LIFETIME.as_secs()),
            "jti": format!("{:016x}{:016x}", random::next(), random::next()),
        });
        let header = Header { kid: self.key_id.clone(), ..Header::new(Algorithm::from(self.alg)) };
        jsonwebtoken::encode(&header, &claims, &self.key.value()).ok().map(Zeroizing::new)
    }
}

fn private_key(alg: Alg, pem: &[u8]) -> Result<EncodingKey, SecretError> {
    let (name, key) = match alg {
        Alg::RS256 | Alg::RS384 | Alg::RS512 | Alg::PS256 | Alg::PS384 | Alg::PS512 => {
            ("an RSA algorithm", EncodingKey::from_rsa_pem(pem))
        }
        Alg::ES256 | Alg::ES384 => ("an ECDSA algorithm", EncodingKey::from_ec_pem(pem)),
        Alg::EdDSA => ("EdDSA", EncodingKey::from_ed_pem(pem)),
        Alg::HS256 | Alg::HS384 | Alg::HS512 => return Err(SecretError::NotAKey("an asymmetric algorithm")),
    };
    let key = key.map_err(|_| SecretError::NotAKey(name))?;
    // A key of another curve is found out now rather than by the first request.
    let signs = jsonwebtoken::encode(&Header::new(Algorithm::from(alg)), &json!({}), &key).is_ok();
    if signs { Ok(key) } else { Err(SecretError::NotAKey(name)) }
}

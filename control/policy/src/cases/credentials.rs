//! Keys of consumers as cases send them: known to everybody, and accepted nowhere else.

use foregate_filters::api_key::key::{PREFIX_BYTES, SECRET_BYTES, key, secret};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

/// What a case sends for a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub key: String,
    /// Id and secret, where the consumer has an id.
    pub client: Option<(String, String)>,
}

fn digest(purpose: &str, consumer: &str) -> [u8; SECRET_BYTES] {
    Sha256::digest(format!("foregate case {purpose} {consumer}").as_bytes()).into()
}

/// The key of a consumer in cases.
pub fn case_key(consumer: &str) -> String {
    let first = digest("prefix", consumer).first_chunk::<PREFIX_BYTES>().copied().unwrap_or_default();
    key(&first, &digest("key", consumer))
}

/// The secret of a consumer in cases.
pub fn case_secret(consumer: &str) -> String {
    secret(&digest("secret", consumer))
}

impl Credentials {
    /// Puts the credentials where the filters of a route look for them.
    pub fn put(&self, names: impl Iterator<Item = HeaderName>, headers: &mut HeaderMap) {
        // Tokens are a case's own affair.
        let names: Vec<HeaderName> = names.filter(|name| *name != AUTHORIZATION).collect();
        let mut put = |name: &HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        match (names.as_slice(), &self.client) {
            ([name], _) => put(name, &self.key),
            ([id, secret], Some((client, value))) => {
                put(id, client);
                put(secret, value);
            }
            _ => {}
        }
    }
}

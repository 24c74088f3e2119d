//! Proves the gateway to an endpoint: secret or signed assertion.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use foregate_filters::client_auth::{ClientAuth, Method};
use foregate_filters::fault::{Code, Fault, Path};
use foregate_filters::moment::Moment;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::oauth::assertion::{Assertion, Words};
use crate::oauth::form::{Form, encode};
use crate::secrets::{LiveSecret, SecretError};

/// How an assertion of a client is called (RFC 7523, section 2.2).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The secrets of the process, by reference.
pub type Secrets<'a> =
    &'a dyn Fn(&foregate_filters::secret::SecretRef) -> Result<Arc<LiveSecret>, SecretError>;

/// What proves the gateway, ready to be sent.
#[derive(Debug)]
pub struct ClientProof {
    client_id: Box<str>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Basic(Arc<LiveSecret>),
    Post(Arc<LiveSecret>),
    Signed(Assertion),
}

impl ClientProof {
    /// `at` is the way to `said`, `endpoint` the URL that is asked.
    ///
    /// # Errors
    /// A secret that cannot be had or used.
    pub fn open(said: &ClientAuth, endpoint: &str, at: &Path, secrets: Secrets<'_>) -> Result<Self, Fault> {
        let at = at.key(said.proof_field());
        let open = || {
            let secret = secrets(said.proof().ok_or(SecretError::Unnamed)?)?;
            Ok(match said.method {
                Method::Basic => Kind::Basic(text(secret)?),
                Method::Post => Kind::Post(text(secret)?),
                Method::PrivateKeyJwt => {
                    let words = Words {
                        issuer: &said.client_id,
                        subject: &said.client_id,
                        audience: said.audience.as_deref().unwrap_or(endpoint),
                        key_id: said.key_id.as_deref(),
                        alg: said.alg,
                    };
                    Kind::Signed(Assertion::new(words, secret)?)
                }
            })
        };
        let kind = open().map_err(|error: SecretError| secret_fault(&at, &error))?;
        Ok(Self { client_id: said.client_id.as_str().into(), kind })
    }

    /// Adds the proof to a form, or gives the `Authorization` header; `None` where the secret is no longer fit.
    pub fn apply(&self, form: &mut Form, moment: Moment) -> Option<Option<HeaderValue>> {
        match &self.kind {
            Kind::Basic(secret) => {
                let secret = secret.current();
                let mut pair = Zeroizing::new(String::with_capacity(1024));
                encode(&self.client_id, &mut pair);
                pair.push(':');
                encode(secret.expose_text()?, &mut pair);
                let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair)));
                let mut value = HeaderValue::from_str(&value).ok()?;
                value.set_sensitive(true);
                return Some(Some(value));
            }
            Kind::Post(secret) => {
                form.add("client_id", &self.client_id);
                form.add("client_secret", secret.current().expose_text()?);
            }
            Kind::Signed(assertion) => {
                form.add("client_id", &self.client_id);
                form.add("client_assertion_type", ASSERTION_TYPE);
                form.add("client_assertion", &assertion.sign(moment)?);
            }
        }
        Some(None)
    }
}

/// A secret that is text.
fn text(secret: Arc<LiveSecret>) -> Result<Arc<LiveSecret>, SecretError> {
    if secret.current().expose_text().is_some() { Ok(secret) } else { Err(SecretError::NotText) }
}

/// A secret that cannot be had or used, at its place.
pub fn secret_fault(at: &Path, error: &SecretError) -> Fault {
    Fault::new(Code::SECRET, at.clone(), error.to_string())
}

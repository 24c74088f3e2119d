//! Tokens for the gateway's own use, from token endpoints.

use std::time::Duration;

use foregate_filters::fault::{Fault, Path};
use foregate_filters::moment::Moment;
use foregate_policy::documents::credentials::{ClientCredentials, JwtBearer};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::oauth::assertion::{Assertion, Words};
use crate::oauth::form::Form;
use crate::oauth::http::{Http, HttpError, trusted};
use crate::oauth::proof::{ClientProof, Secrets, secret_fault};

/// Largest answer in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Longest token in bytes: what servers take as a header.
const MAX_TOKEN: usize = 16 * 1024;
/// Lifetime where neither the server nor the policy says one.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(10);
/// Longest lifetime that is believed.
const MAX_LIFETIME: Duration = Duration::from_hours(24);
/// How a grant by assertion is called (RFC 7523, section 2.1).
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Errors of RFC 6749, section 5.2, and of Salesforce, that may be repeated to the operator.
const KNOWN_ERRORS: [&str; 10] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "invalid_client_id",
    "invalid_app_access",
    "inactive_user",
];

/// One way to a token.
#[derive(Debug)]
pub struct Grant {
    endpoint: String,
    ask: Ask,
    scope: Option<String>,
    audience: Option<String>,
    lifetime: Duration,
}

#[derive(Debug)]
enum Ask {
    Client(ClientProof),
    Assertion(Assertion),
}

/// A token, ready to be sent.
#[derive(Debug)]
pub struct Granted {
    /// `Bearer` and the token; marked sensitive, so that it is neither printed nor indexed.
    pub value: HeaderValue,
    pub lifetime: Duration,
}

/// Why there is no token. Never tells a part of an answer but the code of its error.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    #[error("{0}")]
    Http(#[from] HttpError),
    #[error("the answer has status {0}, error {1}")]
    Refused(StatusCode, &'static str),
    #[error("the secret is not fit for it any more")]
    Unfit,
    #[error("the answer is not a token response")]
    Malformed,
    #[error("the token is not a bearer token")]
    OtherType,
    #[error("the token is over 16 KiB or cannot stand in a header")]
    Unsendable,
}

/// RFC 6749, section 5.1.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: Value,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: String,
}

impl Grant {
    /// # Errors
    /// A secret that cannot be had or used.
    pub fn client_credentials(
        said: &ClientCredentials,
        at: &Path,
        secrets: Secrets<'_>,
    ) -> Result<Self, Fault> {
        let proof =
            ClientProof::open(&said.client_auth, &said.token_endpoint, &at.key("clientAuth"), secrets)?;
        Ok(Self {
            endpoint: said.token_endpoint.clone(),
            ask: Ask::Client(proof),
            scope: said.scope.clone(),
            audience: said.audience.clone(),
            lifetime: said.lifetime.map_or(DEFAULT_LIFETIME, |span| span.0),
        })
    }

    /// # Errors
    /// A key that cannot be had or used.
    pub fn jwt_bearer(said: &JwtBearer, at: &Path, secrets: Secrets<'_>) -> Result<Self, Fault> {
        let words = Words {
            issuer: &said.issuer,
            subject: &said.subject,
            audience: said.audience.as_deref().unwrap_or(&said.token_endpoint),
            key_id: said.key_id.as_deref(),
            alg: said.alg,
        };
        let assertion = secrets(&said.key).and_then(|key| Assertion::new(words, key));
        Ok(Self {
            endpoint: said.token_endpoint.clone(),
            ask: Ask::Assertion(assertion.map_err(|error| secret_fault(&at.key("key"), &error))?),
            scope: said.scope.clone(),
            audience: None,
            lifetime: said.lifetime.map_or(DEFAULT_LIFETIME, |span| span.0),
        })
    }

    /// Asks for a token once.
    ///
    /// # Errors
    /// Whatever is not a bearer token.
    pub async fn fetch(&self, http: &Http, moment: Moment) -> Result<Granted, GrantError> {
        let url = trusted(&self.endpoint, true)?;
        let mut form = Form::default();
        let authorization = match &self.ask {
            Ask::Client(proof) => {
                form.add("grant_type", "client_credentials");
                proof.apply(&mut form, moment).ok_or(GrantError::Unfit)?
            }
            Ask::Assertion(assertion) => {
                form.add("grant_type", JWT_BEARER);
                form.add("assertion", &assertion.sign(moment).ok_or(GrantError::Unfit)?);
                None
            }
        };
        for (name, value) in [("scope", &self.scope), ("audience", &self.audience)] {
            if let Some(value) = value {
                form.add(name, value);
            }
        }
        let json = http.form(MAX_ANSWER, url, form, authorization).await?;
        let body = Zeroizing::new(json.body);
        if json.status != StatusCode::OK {
            return Err(refused(json.status, &body));
        }
        self.read(&body)
    }

    fn read(&self, body: &[u8]) -> Result<Granted, GrantError> {
        let answer: Answer = serde_json::from_slice(body).map_err(|_| GrantError::Malformed)?;
        let token = Zeroizing::new(answer.access_token);
        if !answer.token_type.eq_ignore_ascii_case("bearer") {
            return Err(GrantError::OtherType);
        }
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(GrantError::Unsendable);
        }
        let text = Zeroizing::new(format!("Bearer {}", *token));
        let mut value = HeaderValue::from_str(&text).map_err(|_| GrantError::Unsendable)?;
        value.set_sensitive(true);
        // Some servers write the number as text.
        let seconds = match &answer.expires_in {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            Value::Null => None,
            _ => return Err(GrantError::Malformed),
        };
        let lifetime = seconds.map_or(self.lifetime, Duration::from_secs).min(MAX_LIFETIME);
        Ok(Granted { value, lifetime })
    }
}

fn refused(status: StatusCode, body: &[u8]) -> GrantError {
    let error = serde_json::from_slice::<ErrorAnswer>(body).ok();
    let known = error.and_then(|said| KNOWN_ERRORS.into_iter().find(|known| *known == said.error));
    known.map_or(GrantError::Http(HttpError::Status(status)), |known| GrantError::Refused(status, known))
}

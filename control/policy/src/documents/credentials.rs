//! Credentials that the gateway shows to an upstream.

use std::path::Path as FilePath;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use foregate_filters::client_auth::ClientAuth;
use foregate_filters::jwt::Alg;
use foregate_filters::secret::SecretRef;
use foregate_filters::units::TimeSpan;

use crate::documents::HEADER_NAME;

/// What every request to the upstream carries: exactly one of the three. Clients' own copies of the header are
/// removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamCredentials")]
pub struct Credentials {
    /// A token for the gateway itself (RFC 6749, section 4.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_credentials: Option<ClientCredentials>,
    /// A token for an assertion signed with a key of the gateway's (RFC 7523, section 2.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt_bearer: Option<JwtBearer>,
    /// A secret in a header.
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    pub fixed: Option<Fixed>,
}

/// How a token is had by client credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCredentials {
    /// `https`, or `http` to loopback.
    #[schemars(length(min = 1, max = 2048))]
    pub token_endpoint: String,
    pub client_auth: ClientAuth,
    /// Scopes asked for, with spaces between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub scope: Option<String>,
    /// `audience` asked for, where the server knows that parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,
    /// Lifetime of tokens that come without `expires_in`, 1m to 24h; 10m where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<TimeSpan>,
}

/// How a token is had by an assertion.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtBearer {
    /// `https`, or `http` to loopback.
    #[schemars(length(min = 1, max = 2048))]
    pub token_endpoint: String,
    /// `iss` of the assertion: the client id, or consumer key of Salesforce.
    #[schemars(length(min = 1, max = 1024))]
    pub issuer: String,
    /// `sub` of the assertion: whom the gateway acts for.
    #[schemars(length(min = 1, max = 1024))]
    pub subject: String,
    /// `aud` of the assertion; the URL of the endpoint where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,
    /// Private key in PEM.
    pub key: SecretRef,
    /// RS256 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<Alg>,
    /// `kid` in the header of the assertion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub key_id: Option<String>,
    /// Scopes asked for, with spaces between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub scope: Option<String>,
    /// Lifetime of tokens that come without `expires_in`, 1m to 24h; 10m where absent. Salesforce never says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<TimeSpan>,
}

/// A secret that is sent as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "StaticCredential")]
pub struct Fixed {
    /// Header that carries it, such as `Authorization` or `x-api-key`.
    #[schemars(regex(pattern = HEADER_NAME), length(max = 256))]
    pub header: String,
    /// Stands before the secret, with a space between them, such as `Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub prefix: Option<String>,
    pub value: SecretRef,
}

impl Credentials {
    /// See [`SecretRef::anchor`].
    pub fn anchor(&mut self, folder: &FilePath, secrets: &FilePath) {
        if let Some(client) = &mut self.client_credentials {
            client.client_auth.anchor(folder, secrets);
        }
        if let Some(assertion) = &mut self.jwt_bearer {
            assertion.key.anchor(folder, secrets);
        }
        if let Some(fixed) = &mut self.fixed {
            fixed.value.anchor(folder, secrets);
        }
    }
}

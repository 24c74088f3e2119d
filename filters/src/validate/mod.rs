//! Nothing malformed reaches a service: bodies by schema, requests and responses by contract.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::authorize::Mode;
use crate::units::ByteSize;

mod answers;
mod build;
pub mod decode;
pub mod findings;
pub mod limits;
pub mod media;
pub mod openapi;
mod requests;
pub mod schema;
pub mod tape;
#[cfg(test)]
mod tests;
pub mod text;

pub use answers::{BodyCheck, MAX_RESPONSE, Matched};
pub use build::{Compiled, compile};
pub use requests::{ValidateBody, ValidateHead};

/// Largest body where neither `validate` nor `body` says anything.
pub const MAX_SIZE: u64 = 1 << 20;
/// What a policy may raise it to.
pub const LARGEST: u64 = 16 << 20;

/// What requests, and the responses to them, must be like.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Validate")]
pub struct Spec {
    /// Bodies are JSON within bounds, and of one schema where there is one. In force where `openapi` is absent, too:
    /// `validate: {}` is `validate: { body: {} }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    /// The contract of the service. What it does not name is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openapi: Option<OpenApi>,
    /// `audit`: what would be refused is logged and counted, and passes as it came.
    #[serde(default)]
    pub mode: Mode,
}

/// Bodies of requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ValidateBody")]
pub struct Body {
    /// What bodies must be like. With one, POST, PUT and PATCH need a body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Source>,
    /// Media types in JSON that a body may have, such as `application/json`; every one where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub content_types: Vec<String>,
    /// Largest body, decoded; 1MiB where absent, at most 16MiB, and never more than `body.maxSize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<ByteSize>,
    #[serde(default)]
    pub limits: limits::Spec,
    /// True: `format` is checked, not only noted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub formats: bool,
}

/// A schema of JSON Schema 2020-12: exactly one of both.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "SchemaSource")]
pub struct Source {
    /// A file in JSON, relative to the file of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The schema itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<Value>,
}

/// A contract in `OpenAPI` 3.0 or 3.1.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ValidateOpenApi")]
pub struct OpenApi {
    /// A file in YAML or JSON, relative to the file of the policy.
    pub file: String,
    #[serde(default)]
    pub responses: Responses,
    /// What stands before every path of the contract in requests, such as `/crm`; nothing where absent. `servers` of
    /// the contract are not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"))]
    pub base_path: Option<String>,
    #[serde(default)]
    pub undeclared_query: UndeclaredQuery,
    /// True: known values of `format` are checked, not only noted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub formats: bool,
}

/// What becomes of responses that the contract does not allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ValidateResponses")]
pub enum Responses {
    /// They are not looked at.
    #[default]
    Off,
    /// They pass as they came, and are logged and counted.
    Audit,
    /// The caller gets 502 instead.
    Enforce,
}

/// What becomes of query parameters that the contract does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum UndeclaredQuery {
    #[default]
    Reject,
    Continue,
}

/// Files that schemas are read from. Whoever implements it bounds what they take.
pub trait Files {
    /// A document in JSON, or in YAML; why it cannot be had otherwise.
    fn read(&self, file: &str) -> Result<Arc<Value>, String>;
}

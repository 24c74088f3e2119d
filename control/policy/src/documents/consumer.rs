//! `Consumer`: a client known by key, its keys as hashes, its groups and metadata.

use foregate_filters::api_key::key::{DIGEST, PREFIX};
use foregate_filters::timestamp::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A client id: no character that ends a header or a line.
const CLIENT_ID: &str = r"^[0-9A-Za-z][0-9A-Za-z._\-]*$";

/// A `Consumer` of `foregate.dev/v1alpha1`.
pub type Consumer = crate::documents::Resource<Spec>;

/// What is known of the client. Policies of its namespace that have an `apiKey` section accept it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ConsumerSpec")]
pub struct Spec {
    /// Keys made by `foregate token key`; two while one replaces the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub keys: Vec<Key>,
    /// For clients that send an id and a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Client>,
    /// Expressions read them as `consumer.groups`; `apiKey` sections may let in some only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub groups: Vec<String>,
    /// Anything else that rules ask for, as `consumer.metadata.region`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// One key. The key itself is written down nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ConsumerKey")]
pub struct Key {
    /// The public part: what stands between `fg_` and the next `_`. Unique among all consumers.
    #[schemars(regex(pattern = PREFIX))]
    pub prefix: String,
    /// SHA-256 of the whole key.
    #[schemars(regex(pattern = DIGEST))]
    pub hash: String,
    /// From then on the key is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// An id and its secrets, made by `foregate token key --client`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ConsumerClient")]
pub struct Client {
    /// Unique among all consumers.
    #[schemars(regex(pattern = CLIENT_ID), length(max = 128))]
    pub id: String,
    /// Two while one replaces the other.
    #[schemars(length(min = 1, max = 2))]
    pub secrets: Vec<ClientSecret>,
}

/// One secret of a client. The secret itself is written down nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ConsumerSecret")]
pub struct ClientSecret {
    /// SHA-256 of id, NUL and secret.
    #[schemars(regex(pattern = DIGEST))]
    pub hash: String,
    /// From then on the secret is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

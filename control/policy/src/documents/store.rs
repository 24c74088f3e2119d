//! `Store`: a Redis or Valkey that several gateways share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use foregate_filters::secret::SecretRef;
use foregate_filters::units::TimeSpan;

use crate::documents::upstream::{Insecure, Tls};

/// A `Store` of `foregate.dev/v1alpha1`.
pub type Store = crate::documents::Resource<Spec>;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "StoreSpec")]
pub struct Spec {
    pub redis: Redis,
    /// Every weakening of a safe default, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure: Option<Insecure>,
}

/// Redis 6.2 or later, or Valkey.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redis {
    /// `host:port` each. The first that can be written to is used; of a cluster, they tell of all others.
    #[schemars(length(min = 1, max = 32), inner(length(max = 260)))]
    pub addresses: Vec<String>,
    /// The servers are a Redis Cluster.
    #[serde(default)]
    pub cluster: bool,
    /// Plain connections where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// User of an access control list; the user `default` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub username: Option<String>,
    /// No password where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Number of the database; 0 where absent, and always of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16383))]
    pub database: Option<u16>,
    /// How long a request waits for an answer, 1ms to 5s; 50ms where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// What every key begins with; `foregate` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9._/-]+$"), length(min = 1, max = 64))]
    pub prefix: Option<String>,
}

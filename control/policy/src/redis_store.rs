//! A store that gateways share, as the proxy reaches it.

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::secret::SecretRef;

use crate::snapshot::{Endpoint, UpstreamTls};

/// A Redis or Valkey, one server or a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisStore {
    /// Name of the document; with its namespace in front where that is not `default`.
    pub name: Arc<str>,
    /// At least one. Without `cluster` the first that can be written to is used.
    pub servers: Vec<Endpoint>,
    pub cluster: bool,
    pub tls: Option<UpstreamTls>,
    /// User of an access control list; the default user where absent.
    pub username: Option<Box<str>>,
    /// Paths are anchored.
    pub password: Option<SecretRef>,
    pub database: u16,
    /// For one request.
    pub timeout: Duration,
    /// Every key begins with it.
    pub prefix: Box<str>,
}

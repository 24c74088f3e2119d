//! How a store is reached: what its document says, with what the process adds.

use std::sync::Arc;
use std::time::Duration;

use foregate_policy::redis_store::RedisStore;
use foregate_policy::snapshot::{Endpoint, UpstreamTls};

use crate::identity::Identity;
use crate::secrets::LiveSecret;

/// Everything that decides how a store is asked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) name: Arc<str>,
    /// Tried in order, or those of a cluster that are asked for the others.
    pub(super) servers: Vec<Endpoint>,
    pub(super) cluster: bool,
    pub(super) tls: Option<UpstreamTls>,
    /// Of this workload, where TLS shows it.
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) username: Option<Box<str>>,
    pub(super) password: Option<Arc<LiveSecret>>,
    pub(super) database: u16,
    /// For one request, from the first wait to the answer.
    pub(super) timeout: Duration,
    /// Every key begins with it.
    pub(super) prefix: Box<str>,
}

impl Settings {
    pub(super) fn new(
        store: &RedisStore,
        password: Option<Arc<LiveSecret>>,
        identity: Option<Arc<Identity>>,
    ) -> Self {
        Self {
            name: Arc::clone(&store.name),
            servers: store.servers.clone(),
            cluster: store.cluster,
            tls: store.tls.clone(),
            identity,
            username: store.username.clone(),
            password,
            database: store.database,
            timeout: store.timeout,
            prefix: store.prefix.clone(),
        }
    }
}

//! How a store stands, for the admin page and metrics.

use std::sync::Arc;

use serde::Serialize;

use crate::store::node::Circuit;
use crate::store::{Servers, Store};

/// Servers of one store that are shown.
const MAX_SHOWN: usize = 100;

/// One store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    name: Arc<str>,
    servers: Vec<ServerStatus>,
    answered: u64,
    failed: u64,
    decided_here: u64,
    /// Taken in advance and not used yet.
    units_held: u64,
}

/// One server of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerStatus {
    address: String,
    /// `connecting`, `closed`, `open` or `half_open`.
    circuit: &'static str,
}

impl Store {
    /// How it stands now.
    pub fn status(&self) -> StoreStatus {
        let servers = match &self.servers {
            Servers::One(node) => vec![(node.address(), node.circuit())],
            Servers::Cluster(cluster) => {
                let nodes = cluster.nodes();
                nodes.iter().take(MAX_SHOWN).map(|node| (node.address(), node.circuit())).collect()
            }
        };
        let server =
            |(address, circuit): (String, Circuit)| ServerStatus { address, circuit: circuit.name() };
        let kinds = 0..crate::store::error::StoreError::KINDS.len();
        StoreStatus {
            name: Arc::clone(self.name()),
            servers: servers.into_iter().map(server).collect(),
            answered: self.stats.answers(),
            failed: kinds.map(|kind| self.stats.failures(kind)).sum(),
            decided_here: self.stats.here(),
            units_held: self.leases.held().0,
        }
    }

    /// Servers that are not asked at the moment; a cluster that is not known yet counts as one.
    pub fn open_circuits(&self) -> u64 {
        let open = |circuit: Circuit| u64::from(circuit != Circuit::Closed);
        match &self.servers {
            Servers::One(node) => open(node.circuit()),
            Servers::Cluster(cluster) => {
                let nodes = cluster.nodes();
                if nodes.is_empty() { 1 } else { nodes.iter().map(|node| open(node.circuit())).sum() }
            }
        }
    }

    /// Units that were taken in advance and not used yet.
    pub fn units_held(&self) -> u64 {
        self.leases.held().0
    }
}

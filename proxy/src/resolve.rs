//! DNS names of upstreams, looked up again and again in the background.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use log::Level;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::dispatch::upstream::{Address, Addresses, UpstreamState, literal};
use crate::telemetry::event::event;

/// Time between two looks at the same names. The system's resolver does not tell how long an answer lasts.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Time for one look-up.
const LIMIT: Duration = Duration::from_secs(5);

/// Addresses kept of one name.
const MAX_ADDRESSES: usize = 64;

/// Looks up every name of these upstreams at the same time. Where a look-up fails, the last good
/// addresses stay.
pub async fn resolve(upstreams: &[Arc<UpstreamState>]) {
    join_all(upstreams.iter().filter(|upstream| upstream.needs_resolution()).map(resolve_one)).await;
}

async fn resolve_one(upstream: &Arc<UpstreamState>) {
    let mut all = Vec::new();
    for endpoint in &upstream.spec.endpoints {
        if let Some(address) = literal(endpoint) {
            all.push(address);
            continue;
        }
        let name = (endpoint.host.to_string(), endpoint.port);
        let failure = match timeout(LIMIT, lookup_host(name)).await {
            Ok(Ok(found)) => {
                let mut found: Vec<_> = found.take(MAX_ADDRESSES).collect();
                found.sort_unstable();
                all.extend(found.into_iter().map(|address| Address { host: endpoint.host.clone(), address }));
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        let fields = [
            ("upstream", upstream.spec.name.as_ref().into()),
            ("host", endpoint.host.as_ref().into()),
            ("error", failure.into()),
        ];
        event(Level::Warn, "resolution failed", &fields);
        let known = upstream.endpoints();
        all.extend(known.in_turn(0).filter(|known| known.host == endpoint.host).cloned());
    }
    upstream.resolved(Addresses::new(all));
}

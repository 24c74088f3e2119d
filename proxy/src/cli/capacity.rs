//! Arguments of `foregate run` that bound what the process takes on.

use std::collections::HashMap;

use clap::Args;
use foregate_filters::units::ByteSize;

use crate::admission::capacity::Bounds;
use crate::listeners::Connections;

/// Connections that one address may have at least where nothing else is said: many clients may stand behind it.
const LEAST: usize = 1_000;

#[derive(Debug, Args)]
pub(super) struct CapacityArgs {
    /// Most client connections at once, 1 or more; beyond them they wait in the kernel.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    max_connections: usize,
    /// Most connections of one client address (one /64 of IPv6), 1 or more; beyond them they are closed at once [default: half of
    /// --max-connections, and 1000 at least].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    client_connections: Option<u32>,
    /// Most connections of one listener, 1 or more; beyond them they wait in the kernel, and those of other listeners do not. Repeatable.
    #[arg(long, value_name = "GATEWAY/LISTENER=N", value_parser = parse_listener)]
    listener_connections: Vec<(String, usize)>,
    /// Most requests at once on one HTTP/2 connection, 1 to 10000.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_streams: u32,
    /// Requests after which a connection is asked to end, as at a drain, 1 or more.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_requests_per_connection: u32,
    /// Most memory for request bodies that filters wait for, over all requests; more get 503.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    max_body_memory: ByteSize,
}

/// Reads `edge/https=5000`.
fn parse_listener(text: &str) -> Result<(String, usize), String> {
    let (listener, most) = text.split_once('=').ok_or("expected GATEWAY/LISTENER=N")?;
    if !listener.contains('/') {
        return Err("a listener is named as GATEWAY/LISTENER, such as edge/https".to_owned());
    }
    let most = most.parse().ok().filter(|most| *most > 0);
    let most = most.ok_or_else(|| format!("`{text}` names no number of connections, 1 or more"))?;
    Ok((listener.to_owned(), most))
}

impl CapacityArgs {
    pub(super) fn bounds(&self) -> Bounds {
        let half = self.max_connections.div_ceil(2).max(LEAST);
        let client = self.client_connections.and_then(|most| usize::try_from(most).ok());
        Bounds {
            bodies: self.max_body_memory.0,
            client_connections: client.unwrap_or(half),
            streams: self.max_streams,
            requests: self.max_requests_per_connection,
        }
    }

    pub(super) fn connections(self) -> Connections {
        let listeners: HashMap<_, _> = self.listener_connections.into_iter().collect();
        Connections { total: self.max_connections.max(1), listeners }
    }
}

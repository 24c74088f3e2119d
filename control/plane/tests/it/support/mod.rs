//! What tests stand on: the process, clients of its ports, an API server.

pub mod api_server;
pub mod client;
pub mod pods;
pub mod process;
pub mod webhook;

use std::future::Future;
use std::time::Duration;

/// Longest wait for anything that is expected to happen.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for what must happen; panics with `what` where it does not.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(DEADLINE, future).await;
    output.unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain for {what}"))
}

//! What tests stand on: the process, upstreams, clients, certificates, policies.

pub mod certificates;
pub mod client;
pub mod command;
pub mod consumers;
pub mod control;
pub mod gate;
pub mod grpc;
pub mod guarded;
pub mod idp;
pub mod lines;
pub mod netns;
pub mod oidc;
pub mod org;
pub mod otlp;
pub mod policies;
pub mod process;
pub mod raw;
pub mod redis;
pub mod trouble;
pub mod upstream;
pub mod workload_api;
pub mod workloads;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest wait for anything that is expected to happen.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for what must happen; panics with `what` where it does not.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(DEADLINE, future).await;
    output.unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain for {what}"))
}

/// An address on which nobody listens.
pub async fn unused_address() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

//! The port for proxies: gRPC over mutual TLS.

pub mod accept;
pub mod own;
pub mod peer;
pub mod tls;

use std::time::Duration;

use log::Level;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::event::event;
use crate::process::Shutdown;
use crate::serve::accept::Door;

/// Time for calls to end once the process does.
const DRAIN: Duration = Duration::from_secs(10);

/// How often a silent client is asked whether it lives, and how long it may think about it.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(15);

/// Largest head of a call, in bytes.
const MAX_HEADERS: u32 = 16 << 10;

/// Serves these services at the door, until the process ends and calls have ended, or are late.
pub async fn serve(door: Door, routes: Routes, calls: u32, shutdown: Shutdown) {
    let begun = {
        let shutdown = shutdown.clone();
        async move { shutdown.begun().await }
    };
    let served = Server::builder()
        .max_concurrent_streams(calls)
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PONG))
        .http2_max_header_list_size(MAX_HEADERS)
        .serve_with_incoming_shutdown(routes, door.incoming(), begun);
    let late = async {
        shutdown.begun().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        outcome = served => if let Err(error) = outcome {
            event(Level::Error, "serving failed", &[("error", error.to_string().into())]);
        },
        () = late => event(Level::Warn, "calls cut off", &[]),
    }
}

//! The admin endpoint: `/livez`, `/readyz`, `/metrics`.

use std::io;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get as on_get;
use tokio::net::TcpListener;

use crate::process::Process;

/// The text format of Prometheus.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until the process ends.
///
/// # Errors
/// Where the socket fails.
pub async fn serve(listener: TcpListener, process: Process) -> io::Result<()> {
    let shutdown = process.shutdown.clone();
    let routes = Router::new()
        .route("/livez", on_get(async || "ok\n"))
        .route("/readyz", on_get(readyz))
        .route("/metrics", on_get(metrics))
        .with_state(process);
    axum::serve(listener, routes).with_graceful_shutdown(async move { shutdown.begun().await }).await
}

async fn readyz(State(process): State<Process>) -> Response {
    let missing = process.readiness.missing();
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join(", "))).into_response()
}

async fn metrics(State(process): State<Process>) -> Response {
    ([(header::CONTENT_TYPE, METRICS)], process.metrics.text()).into_response()
}

//! Policy text to diagnostics, snapshots, routes and verdicts of cases.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backend_tls;
mod balancing;
mod capture;
mod cases;
mod compile;
mod consumers;
mod credentials;
mod faults;
mod folder;
mod gateway_api;
mod listener_tls;
mod materials;
mod models;
mod once;
mod partial;
mod routing;
mod stores;
mod streams;
mod validate;

//! The gateway process: listeners, TLS, the life of a request, telemetry, the command line.

pub mod admin;
pub mod clock;
pub mod issuer;
pub mod keys;
pub mod telemetry;

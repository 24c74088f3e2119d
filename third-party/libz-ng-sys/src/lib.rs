//! The zlib interface in pure Rust, so that a machine without cmake builds the gateway.

pub use libz_rs_sys::*;

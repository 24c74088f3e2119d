//! The control plane, from a proxy's side.

pub mod backoff;
pub mod call;
pub mod channel;
pub mod endpoint;

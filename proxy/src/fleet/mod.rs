//! The control plane, from a proxy's side.

pub mod arrival;
pub mod backoff;
pub mod call;
pub mod channel;
pub mod endpoint;
mod finding;
pub mod follow;
pub mod keep;
pub mod node;
pub mod status;
mod tree;

//! In-line inference: model bundles, features, the engine, scorers.

#[cfg(feature = "server")]
pub mod batch;
pub mod bell;
pub mod bench;
pub mod bundle;
#[cfg(feature = "server")]
pub mod cli;
mod clock;
pub mod features;
pub mod forest;
pub mod graph;
mod linear;
mod live;
pub mod model;
pub mod onnx;
pub mod output;
pub mod pool;
pub mod protocol;
mod put;
pub mod rank;
pub mod reasons;
pub mod remote;
pub mod rollout;
pub mod scorer;
#[cfg(feature = "server")]
pub mod server;
pub mod store;
pub mod table;

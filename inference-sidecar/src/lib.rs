//! In-line inference: model bundles, features, the engine, scorers.

pub mod bundle;
mod clock;
pub mod features;
pub mod forest;
pub mod graph;
pub mod model;
pub mod onnx;
mod pool;
pub mod scorer;

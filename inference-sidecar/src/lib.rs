//! In-line inference: model bundles, features, the engine, scorers.

pub mod features;

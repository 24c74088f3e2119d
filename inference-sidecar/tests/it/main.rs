//! Model bundles, features and scorers, end to end.
#![allow(
    clippy::expect_used,
    clippy::float_cmp,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and compares exact results"
)]

mod batches;
mod bundles;
mod draw;
mod ensembles;
mod features;
mod forests;
mod hostile;
mod operators;
mod outputs;
mod reasons;
mod remote;
mod rollout;
mod scorers;
mod serving;
mod shipped;
mod stored;

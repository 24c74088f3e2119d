//! The control plane: policies from Kubernetes, and what injects sidecars there.

pub mod clock;
pub mod declared;
pub mod event;
pub mod injection;
pub mod kubernetes;
pub mod metrics;
pub mod process;

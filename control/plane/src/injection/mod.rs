//! Webhooks: sidecars injected into pods, objects checked before they are stored.

pub mod certificate;
pub mod configurations;
pub mod pod;
pub mod probes;
pub mod question;
pub mod review;
pub mod roots;
pub mod serve;
pub mod settings;
pub mod sidecar;
pub mod validate;
pub mod wishes;

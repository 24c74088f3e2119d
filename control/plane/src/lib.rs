//! The control plane: policies and identities for proxies, sidecars for pods.

pub mod admin;
pub mod attest;
pub mod authority;
pub mod check;
pub mod clock;
pub mod config;
pub mod crds;
pub mod declared;
pub mod distribution;
pub mod event;
pub mod files;
pub mod fleet;
pub mod grants;
pub mod hex;
pub mod identity;
pub mod injection;
pub mod kubernetes;
pub mod metrics;
pub mod operate;
pub mod process;
pub mod revision;
pub mod rollout;
pub mod run;
pub mod serve;
pub mod sources;
pub mod stream;

//! Policies from objects of a Kubernetes cluster, and the statuses that tell of them.

pub mod certificates;
pub mod controller;
pub mod crds;
pub mod health;
pub mod kinds;
pub mod lease;
pub mod objects;
pub mod part;
pub mod rbac;
pub mod reach;
pub mod references;
pub mod render;
pub mod report;
pub mod services;
pub mod state;
pub mod status;
pub mod tree;
pub mod verdict;
pub mod watch;
pub mod write;
pub mod yaml;

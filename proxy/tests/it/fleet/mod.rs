//! Policies of a control plane: taken, refused, kept, and nobody else's.

mod distribution;
mod git;
mod rollout;

use std::path::Path;

use tempfile::TempDir;

use crate::support::control::{Control, identity};
use crate::support::process::{Foregate, Options};
use crate::support::workloads::Domain;

/// Every workload of the domain may have every gateway.
pub const EVERYTHING: &str = "grants:\n- { identities: [\"spiffe://example.org/*\"], gateways: [\"*/*\"] }\n";

/// What a proxy needs besides the control plane.
#[derive(Debug)]
pub struct Place {
    identity: TempDir,
    state: TempDir,
}

impl Place {
    pub fn new(domain: &Domain, path: &str) -> Self {
        Self { identity: identity(domain, &domain.svid(path)), state: tempfile::tempdir().unwrap() }
    }

    /// Where policies are kept.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    fn options(&self, control: &Control, more: &[&str]) -> Options {
        let identity = format!("dir:{}", self.identity.path().display());
        let state = self.state.path().display().to_string();
        let roots = control.roots().display().to_string();
        let url = control.url();
        let args =
            ["--control", &url, "--control-ca", &roots, "--identity", &identity, "--state-dir", &state];
        Options::default().args(&args).args(more)
    }

    /// Starts a gateway here; its admin endpoint is there when this returns.
    pub async fn start(&self, control: &Control, policies: &str, more: &[&str]) -> Foregate {
        Foregate::following(policies, &self.options(control, more)).await
    }
}

/// A gateway that serves the policies of the control plane.
pub async fn serving(place: &Place, control: &Control, policies: &str) -> Foregate {
    let mut gateway = place.start(control, policies, &[]).await;
    gateway.wait_serving(policies).await;
    gateway
}

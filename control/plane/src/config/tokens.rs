//! The sections `joinTokens` and `tokenReview`: how workloads prove who they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use foregate_filters::units::TimeSpan;
use serde::Deserialize;

use crate::config::Fault;

/// Longest life of a join token.
const MAX_LIFETIME: Duration = Duration::from_hours(30 * 24);

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct JoinTokens {
    /// Longest life that a token may be made for, 1s to 720h.
    pub lifetime: TimeSpan,
    /// Most certificates that a token may be made for, 1 to 100000.
    pub uses: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TokenReview {
    /// The audience that a token must be made for.
    pub audience: String,
    /// How to reach the API server; where it is not given, as the environment says (`KUBECONFIG`, or the cluster
    /// that this runs in).
    pub kubeconfig: Option<PathBuf>,
}

impl Default for JoinTokens {
    fn default() -> Self {
        Self { lifetime: TimeSpan(Duration::from_hours(24)), uses: 1_000 }
    }
}

impl Default for TokenReview {
    fn default() -> Self {
        Self { audience: "foregate-control".to_owned(), kubeconfig: None }
    }
}

impl JoinTokens {
    pub(super) fn check(&self) -> Result<(), Fault> {
        let fault = |keys, message: String, help| Err(Fault { keys, message, help });
        if !(Duration::from_secs(1)..=MAX_LIFETIME).contains(&self.lifetime.0) {
            let message = format!("join tokens would live for up to {}", self.lifetime);
            return fault(&["joinTokens", "lifetime"], message, "1s to 720h");
        }
        if !(1..=100_000).contains(&self.uses) {
            return fault(&["joinTokens", "uses"], format!("{} uses", self.uses), "1 to 100000");
        }
        Ok(())
    }
}

impl TokenReview {
    pub(super) fn resolve(&mut self, folder: &Path) {
        if let Some(file) = &mut self.kubeconfig {
            *file = folder.join(&*file);
        }
    }

    pub(super) fn check(&self) -> Result<(), Fault> {
        if (1..=253).contains(&self.audience.len()) {
            return Ok(());
        }
        let message = "the audience is empty or longer than 253 bytes".to_owned();
        Err(Fault { keys: &["tokenReview", "audience"], message, help: "such as foregate-control" })
    }
}

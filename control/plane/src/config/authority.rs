//! The section `authority`: who signs, and for how long.

use std::path::{Path, PathBuf};
use std::time::Duration;

use foregate_filters::units::TimeSpan;
use serde::Deserialize;

use crate::config::{Fault, Insecure};

/// Bounds of a certificate's life.
const LIFETIME: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(7 * 24));

/// Longest overlap.
const MAX_OVERLAP: Duration = Duration::from_hours(30 * 24);

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorityConfig {
    /// PEM: every root to trust.
    pub roots: Option<PathBuf>,
    /// PEM: the certificate of the issuer, then those between it and a root.
    pub issuer: Option<PathBuf>,
    /// PEM: the key of the issuer, P-256, P-384 or Ed25519.
    pub issuer_key: Option<PathBuf>,
    /// Of a workload's certificate, 5s to 168h.
    pub lifetime: TimeSpan,
    /// Time for which a new root is trusted before anything is signed below it, 0s to 720h; `lifetime` where it is
    /// not given.
    pub overlap: Option<TimeSpan>,
}

impl Default for AuthorityConfig {
    fn default() -> Self {
        let lifetime = TimeSpan(Duration::from_hours(24));
        Self { roots: None, issuer: None, issuer_key: None, lifetime, overlap: None }
    }
}

/// The three files of an authority that others made.
#[derive(Clone, Debug)]
pub struct AuthorityFiles {
    pub roots: PathBuf,
    pub issuer: PathBuf,
    pub key: PathBuf,
}

impl AuthorityConfig {
    /// The files, where all three are given.
    pub fn files(&self) -> Option<AuthorityFiles> {
        let (roots, issuer, key) = (self.roots.clone()?, self.issuer.clone()?, self.issuer_key.clone()?);
        Some(AuthorityFiles { roots, issuer, key })
    }

    pub fn overlap(&self) -> Duration {
        self.overlap.unwrap_or(self.lifetime).0
    }

    pub(super) fn resolve(&mut self, folder: &Path) {
        for file in [&mut self.roots, &mut self.issuer, &mut self.issuer_key].into_iter().flatten() {
            *file = folder.join(&*file);
        }
    }

    pub(super) fn check(&self, insecure: Insecure) -> Result<(), Fault> {
        let fault = |keys, message: String, help| Err(Fault { keys, message, help });
        let given = [&self.roots, &self.issuer, &self.issuer_key].into_iter().flatten().count();
        match (given, insecure.generate_authority) {
            (3, false) | (0, true) => {}
            (0, false) => {
                let help = "give authority.roots, authority.issuer and authority.issuerKey; for development, \
                            insecure.generateAuthority: true makes one";
                return fault(&["authority"], "there is no certificate authority".to_owned(), help);
            }
            (_, true) => {
                let message = "an authority is both named by files and to be generated".to_owned();
                return fault(&["insecure", "generateAuthority"], message, "leave one of them out");
            }
            (_, false) => {
                let message = "an authority is made of three files, and not all are named".to_owned();
                let help = "give authority.roots, authority.issuer and authority.issuerKey";
                return fault(&["authority"], message, help);
            }
        }
        if !(LIFETIME.0..=LIFETIME.1).contains(&self.lifetime.0) {
            let message = format!("certificates would live for {}", self.lifetime);
            return fault(&["authority", "lifetime"], message, "5s to 168h; 24h is usual");
        }
        if self.overlap() > MAX_OVERLAP {
            let message = "the overlap is too long".to_owned();
            return fault(
                &["authority", "overlap"],
                message,
                "0s to 720h; the life of a certificate is usual",
            );
        }
        Ok(())
    }
}

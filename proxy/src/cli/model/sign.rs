//! `foregate model sign` and `key`: detached signatures of bundles.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use foregate_inference::bundle::error::BundleError;
use foregate_inference::bundle::manifest::MANIFEST;
use foregate_inference::bundle::{Bundle, SIGNATURE};
use foregate_policy::files::Beside;
use sha2::{Digest, Sha256};

use crate::cli::REFUSED;
use crate::cli::decisions::{failed, put};
use crate::cli::output;
use crate::decision_log::entry::hex;
use crate::decision_log::keys::{KeyError, KeyRef, SigningKey};
use crate::shared::models::Signers;

#[derive(Debug, Args)]
pub(super) struct Sign {
    /// Folder of the bundle; `bundle.sig` is written into it.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// What it is signed with: an Ed25519 private key in PKCS #8 PEM.
    #[arg(long, value_name = "file:PATH|env:NAME")]
    key: KeyRef,
}

#[derive(Debug, Args)]
pub(super) struct Key {
    /// The private key, which must not exist yet.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Why a bundle is not signed.
#[derive(Debug, thiserror::Error)]
enum Unsigned {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{}: {error}", bundle.display())]
    Bundle { bundle: PathBuf, error: Box<BundleError> },
    #[error("{}: model.yaml was replaced meanwhile", .0.display())]
    Replaced(PathBuf),
    #[error("{}: {error}", file.display())]
    File { file: PathBuf, error: io::Error },
}

impl Sign {
    pub(super) fn run(self) -> ExitCode {
        match self.sign() {
            Ok(line) => {
                output::line(&output::printable(&line));
                ExitCode::SUCCESS
            }
            Err(error @ Unsigned::Key(_)) => failed(&error, ExitCode::from(REFUSED)),
            Err(error) => failed(&output::printable(&error.to_string()), ExitCode::FAILURE),
        }
    }

    fn sign(&self) -> Result<String, Unsigned> {
        let key = SigningKey::load(&self.key)?;
        let told = |error| Unsigned::Bundle { bundle: self.bundle.clone(), error: Box::new(error) };
        // Nobody should vouch for what no gateway would take.
        let bundle = Bundle::load(&self.bundle).map_err(told)?;
        let manifest = self.bundle.join(MANIFEST);
        let text = fs::read(&manifest).map_err(|error| Unsigned::File { file: manifest, error })?;
        if hex(&Sha256::digest(&text)) != *bundle.digest {
            return Err(Unsigned::Replaced(self.bundle.clone()));
        }
        let file = self.bundle.join(SIGNATURE);
        replace(&file, &key.sign(&text)).map_err(|error| Unsigned::File { file: file.clone(), error })?;
        Signers::new(vec![key.public()]).load_bundle(&self.bundle).map_err(told)?;
        Ok(format!("{}: {} {} signed by {}", file.display(), bundle.name, bundle.version, key.id()))
    }
}

/// Writes a file whole, in the place of one that may be there: a gateway that reloads meanwhile finds one or the other.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = Beside::public(file)?;
    beside.file().write_all(bytes)?;
    beside.put()
}

impl Key {
    pub(super) fn run(self) -> ExitCode {
        let made = SigningKey::generate().and_then(|(_, private, public)| {
            put(&self.file, &private)?;
            Ok(public)
        });
        match made {
            Ok(public) => {
                output::line(public.trim_end());
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error, ExitCode::FAILURE),
        }
    }
}

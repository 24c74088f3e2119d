//! `foregate model pull`: fetches registered bundles into the folders that policies name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use foregate_filters::units::TimeSpan;
use foregate_policy::document::{Document, Kind};
use foregate_policy::load::load_folder;
use foregate_policy::node::Node;
use serde_json::json;

use crate::cli::REFUSED;
use crate::cli::output::{self, Format, TextFormat};
use crate::decision_log::keys::{KeyError, KeyRef, PublicKey};
use crate::mlflow::{Login, PullError, Registry};
use crate::shared::models::Signers;

#[derive(Debug, Args)]
pub(super) struct Pull {
    /// Folder with policy files, or one file.
    #[arg(value_name = "FOLDER")]
    policies: PathBuf,
    /// Name of the model [default: every model].
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    /// Time for one bundle.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: TimeSpan,
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

/// A bundle that a document gets from a registry.
struct Wanted {
    model: String,
    folder: PathBuf,
    uri: String,
    name: String,
    alias: String,
    signed_by: Vec<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{0}")]
    Write(#[from] std::io::Error),
}

impl Pull {
    pub(super) fn run(self) -> ExitCode {
        let sources = match load_folder(&self.policies) {
            Ok(sources) if sources.faults.is_empty() => sources,
            Ok(sources) => return refused(&sources.faults, self.format),
            Err(faults) => return refused(&faults, self.format),
        };
        // Not compiled: what is to be pulled need not be there yet.
        let models = sources.documents.iter().filter(|document| document.kind == Kind::Model);
        let wanted: Vec<Wanted> = models
            .flat_map(wanted)
            .filter(|wanted| self.model.as_ref().is_none_or(|model| *model == wanted.model))
            .collect();
        if wanted.is_empty() {
            output::error("foregate: no bundle of these models names a registry (bundle.mlflow)");
            return ExitCode::FAILURE;
        }
        let mut all = true;
        for wanted in &wanted {
            let outcome = wanted.pull(self.timeout.0);
            all &= outcome.is_ok();
            self.tell(wanted, &outcome);
        }
        if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn tell(&self, wanted: &Wanted, outcome: &Result<String, Failure>) {
        let Wanted { model, folder, name, alias, .. } = wanted;
        let folder = folder.display();
        match (outcome, self.format) {
            (outcome, TextFormat::Json) => {
                let (version, error) =
                    (outcome.as_ref().ok(), outcome.as_ref().err().map(ToString::to_string));
                let line = json!({ "ok": outcome.is_ok(), "model": model, "folder": folder.to_string(),
                                   "version": version, "error": error });
                output::line(&line.to_string());
            }
            (Ok(version), TextFormat::Human) => {
                output::line(&output::printable(&format!("{folder}: version {version} of {name}@{alias}")));
            }
            (Err(error), TextFormat::Human) => {
                let text = format!("foregate: {model}: {name}@{alias} was not pulled: {error}");
                output::error(&output::printable(&text));
            }
        }
    }
}

fn refused(faults: &[foregate_policy::diagnostic::Diagnostic], format: TextFormat) -> ExitCode {
    output::diagnostics(faults, if format == TextFormat::Json { Format::Json } else { Format::Human });
    ExitCode::from(REFUSED)
}

/// Every bundle of a document that names a registry.
fn wanted(document: &Document) -> Vec<Wanted> {
    let text = |node: &Node, key: &str| node.key(key).and_then(Node::text).map(str::to_owned);
    let Some(spec) = document.root.key("spec") else { return Vec::new() };
    let folder = document.file.folder();
    let versions = spec.key("versions").map(Node::items).unwrap_or_default();
    let bundles = versions.iter().filter_map(|version| version.key("bundle")).chain(spec.key("bundle"));
    let keys = spec.key("signedBy").map(Node::items).unwrap_or_default();
    let signed_by: Vec<PathBuf> =
        keys.iter().filter_map(|key| Some(folder.join(text(key, "file")?))).collect();
    let wanted = bundles.filter_map(|bundle| {
        let mlflow = bundle.key("mlflow")?;
        Some(Wanted {
            model: document.name.to_string(),
            folder: folder.join(text(bundle, "path")?),
            uri: text(mlflow, "uri")?,
            name: text(mlflow, "model")?,
            alias: text(mlflow, "alias")?,
            signed_by: signed_by.clone(),
        })
    });
    wanted.collect()
}

impl Wanted {
    /// Fetches the bundle beside its folder, checks it as a gateway would, and puts it in its place.
    fn pull(&self, timeout: Duration) -> Result<String, Failure> {
        let keys = self.signed_by.iter().map(|file| PublicKey::load(&KeyRef::File(file.clone())));
        let signers = Signers::new(keys.collect::<Result<_, _>>()?);
        let registry = Registry::new(&self.uri, !self.signed_by.is_empty(), Login::from_env())?;
        let new = beside(&self.folder, "new");
        let _ = fs::remove_dir_all(&new);
        fs::create_dir_all(&new)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let pulled = runtime.block_on(async {
            let pull = registry.pull(&self.name, &self.alias, &new);
            tokio::time::timeout(timeout, pull).await.unwrap_or(Err(PullError::Late(timeout)))
        });
        let checked = pulled.and_then(|version| {
            signers.load_bundle(&new)?;
            Ok(version)
        });
        match checked {
            Ok(version) => {
                replace(&self.folder, &new)?;
                Ok(version)
            }
            Err(error) => {
                let _ = fs::remove_dir_all(&new);
                Err(error.into())
            }
        }
    }
}

/// A hidden folder next to this one: policies are not looked for in it.
fn beside(folder: &Path, end: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.{end}"))
}

/// Puts a folder in the place of another. A gateway that looks in between finds no bundle, and goes on with what
/// it has.
fn replace(folder: &Path, new: &Path) -> std::io::Result<()> {
    let old = beside(folder, "old");
    let _ = fs::remove_dir_all(&old);
    if folder.exists() {
        fs::rename(folder, &old)?;
    }
    fs::rename(new, folder)?;
    let _ = fs::remove_dir_all(&old);
    Ok(())
}

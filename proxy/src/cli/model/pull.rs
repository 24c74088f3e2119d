//! `foregate model pull`: fetches registered bundles into the folders that policies name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use foregate_filters::units::TimeSpan;
use foregate_inference::bundle::manifest::MANIFEST;
use foregate_inference::bundle::{Bundle, SIGNATURE, files};
use foregate_policy::document::{Document, Kind};
use foregate_policy::load::load_folder;
use foregate_policy::node::Node;
use serde_json::json;

use crate::cli::REFUSED;
use crate::cli::output::{self, TextFormat};
use crate::decision_log::keys::{KeyError, KeyRef, PublicKey};
use crate::mlflow::{CARD, Login, PullError, Registry};
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
    /// How it is written.
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
    /// `None` for one that names no file.
    signed_by: Vec<Option<PathBuf>>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("spec.signedBy[{0}] names no file")]
    Unsigned(usize),
    #[error("{} is not replaced: {what}; move it away, or name another path", folder.display())]
    Foreign { folder: PathBuf, what: String },
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
    output::diagnostics(faults, format.into());
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
    let signed_by: Vec<_> = keys.iter().map(|key| text(key, "file").map(|file| folder.join(file))).collect();
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
        let keys = self.signed_by.iter().enumerate().map(|(place, file)| -> Result<_, Failure> {
            let file = file.clone().ok_or(Failure::Unsigned(place))?;
            Ok(PublicKey::load(&KeyRef::File(file))?)
        });
        let signers = Signers::new(keys.collect::<Result<_, _>>()?);
        replaceable(&self.folder)?;
        let registry = Registry::new(&self.uri, !self.signed_by.is_empty(), Login::from_env())?;
        let new = beside(&self.folder, "new");
        let _ = fs::remove_dir_all(&new);
        fs::create_dir_all(&new)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let pulled = runtime.block_on(async {
            let pull = registry.pull(&self.name, &self.alias, &signers, &new);
            tokio::time::timeout(timeout, pull).await.unwrap_or(Err(PullError::Late(timeout)))
        });
        let checked = pulled.and_then(|version| {
            signers.load_bundle(&new)?;
            Ok(version)
        });
        let done = checked.map_err(Failure::from).and_then(|version| {
            // Again: the folder may have changed meanwhile.
            replaceable(&self.folder)?;
            replace(&self.folder, &new)?;
            Ok(version)
        });
        if done.is_err() {
            let _ = fs::remove_dir_all(&new);
        }
        done
    }
}

/// A hidden folder next to this one: policies are not looked for in it.
fn beside(folder: &Path, end: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.{end}"))
}

/// Refuses a folder that holds anything but a bundle: it would be gone.
fn replaceable(folder: &Path) -> Result<(), Failure> {
    let foreign = |what: String| Failure::Foreign { folder: folder.to_owned(), what };
    if folder.file_name().is_none() {
        return Err(foreign("the path has no name of its own".to_owned()));
    }
    if !folder.exists() || fs::read_dir(folder)?.next().is_none() {
        return Ok(());
    }
    if !folder.join(MANIFEST).exists() {
        return Err(foreign(format!("it is not empty and has no {MANIFEST}")));
    }
    let manifest = Bundle::peek(folder).map_err(|error| foreign(error.to_string()))?;
    let named = files(&manifest).into_iter().map(|(file, _)| PathBuf::from(&file.path));
    let named: BTreeSet<PathBuf> = named.chain([MANIFEST, SIGNATURE, CARD].map(PathBuf::from)).collect();
    let mut open = vec![PathBuf::new()];
    while let Some(inner) = open.pop() {
        for entry in fs::read_dir(folder.join(&inner))? {
            let entry = entry?;
            let path = inner.join(entry.file_name());
            let directory = entry.file_type()?.is_dir();
            if directory && named.iter().any(|file| file.starts_with(&path)) {
                open.push(path);
            } else if directory || !named.contains(&path) {
                return Err(foreign(format!("its {MANIFEST} does not name {}", path.display())));
            }
        }
    }
    Ok(())
}

/// Puts a folder in the place of another, or leaves that where it is. A gateway that looks in between finds no bundle,
/// and goes on with what it has.
fn replace(folder: &Path, new: &Path) -> std::io::Result<()> {
    let old = beside(folder, "old");
    let _ = fs::remove_dir_all(&old);
    let there = folder.exists();
    if there {
        fs::rename(folder, &old)?;
    }
    if let Err(error) = fs::rename(new, folder) {
        if there {
            fs::rename(&old, folder)?;
        }
        return Err(error);
    }
    let _ = fs::remove_dir_all(&old);
    Ok(())
}

//! `foregate features`: makes feature stores, fills them, shows what they hold.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use foregate_filters::timestamp::Timestamp;
use foregate_inference::store::error::StoreFault;
use foregate_inference::store::line::{Form, LineError, columns, read};
use foregate_inference::store::{self, FeatureStore, StoreKey};
use serde_json::{Map, Value, json};

use crate::cli::decisions::{failed, put};
use crate::cli::output::{self, TextFormat};
use crate::clock;
use crate::decision_log::keys::{KeyError, KeyRef, SealKey};
use crate::features;

#[derive(Debug, Args)]
pub(super) struct Features {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Writes the rows of NDJSON and CSV files into a store, and makes the store where there is none.
    Import(Import),
    /// Tells columns, rows and age of a store, and the row of a key.
    Show(Show),
    /// Seals a store with another key, while gateways look up in it.
    Rekey(Rekey),
    /// Makes a key, in a file that does not exist yet, readable by its owner only.
    Key(Key),
}

#[derive(Debug, Args)]
struct Opened {
    /// The store.
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
    /// What it is sealed with: 32 bytes in base64 or hexadecimal, see `foregate features key`.
    #[arg(long, value_name = "file:PATH|env:NAME")]
    key: KeyRef,
}

#[derive(Debug, Args)]
struct Import {
    #[command(flatten)]
    opened: Opened,
    /// Columns of a store that is made now; those of the first file where absent.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    columns: Vec<String>,
    /// Files that end in .ndjson, .jsonl or .csv; each is written whole or not at all.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    opened: Opened,
    /// Shows the row of this key.
    #[arg(long, value_name = "KEY")]
    row: Option<String>,
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

#[derive(Debug, Args)]
struct Rekey {
    #[command(flatten)]
    opened: Opened,
    /// What it is sealed with from now on.
    #[arg(long, value_name = "file:PATH|env:NAME")]
    new_key: KeyRef,
}

#[derive(Debug, Args)]
struct Key {
    /// The key, which must not exist yet.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Undone {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{0}: {1}")]
    Form(KeyRef, store::KeyError),
    #[error(transparent)]
    Store(#[from] StoreFault),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{}: {error}", path.display())]
    Line { path: PathBuf, error: LineError },
    #[error("{}: it ends in neither .ndjson, .jsonl nor .csv", .0.display())]
    Ending(PathBuf),
    #[error("{}: it has its columns already; make another store for others", .0.display())]
    Columns(PathBuf),
    #[error("the store has no row {0}")]
    NoRow(String),
}

impl Features {
    pub(super) fn run(self) -> ExitCode {
        let done = match self.what {
            What::Import(import) => import.run(),
            What::Show(show) => show.run(),
            What::Rekey(rekey) => rekey.run(),
            What::Key(key) => key.run(),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error, ExitCode::FAILURE),
        }
    }
}

impl Opened {
    fn key(&self) -> Result<StoreKey, Undone> {
        read_key(&self.key)
    }

    fn open(&self) -> Result<FeatureStore, Undone> {
        Ok(features::open(&self.store, &[self.key()?])?)
    }
}

fn read_key(key: &KeyRef) -> Result<StoreKey, Undone> {
    StoreKey::parse(key.read()?.as_bytes()).map_err(|error| Undone::Form(key.clone(), error))
}

/// A file of updates, and how it is written.
fn open(path: &Path) -> Result<(File, Form), Undone> {
    let form = Form::of(path).ok_or_else(|| Undone::Ending(path.to_owned()))?;
    let file = File::open(path).map_err(|error| Undone::File { path: path.to_owned(), error })?;
    Ok((file, form))
}

fn in_line(path: &Path) -> impl Fn(LineError) -> Undone {
    move |error| Undone::Line { path: path.to_owned(), error }
}

impl Import {
    fn run(&self) -> Result<(), Undone> {
        let store = &self.opened.store;
        if !store.exists() {
            FeatureStore::create(store, &self.opened.key()?, &self.columns()?)?;
        } else if !self.columns.is_empty() {
            return Err(Undone::Columns(store.clone()));
        }
        let opened = self.opened.open()?;
        let now = Timestamp::from_unix(clock::now().unix);
        for path in &self.files {
            let columns = opened.pin().columns().clone();
            let (file, form) = open(path)?;
            let updates = read(file, form, &columns, now).map_err(in_line(path))?;
            let applied = features::in_turn(|| opened.apply(updates.clone()))?;
            let (rows, older) = (applied.applied, applied.outdated);
            output::line(&format!("{}: {rows} rows written, {older} older than known", path.display()));
        }
        output::line(&format!("{} holds {} rows", store.display(), opened.pin().rows()));
        Ok(())
    }

    fn columns(&self) -> Result<Vec<String>, Undone> {
        match self.files.first() {
            Some(path) if self.columns.is_empty() => {
                let (file, form) = open(path)?;
                columns(file, form).map_err(in_line(path))
            }
            _ => Ok(self.columns.clone()),
        }
    }
}

impl Show {
    fn run(&self) -> Result<(), Undone> {
        let opened = self.opened.open()?;
        let snapshot = opened.pin();
        let newest =
            snapshot.newest().and_then(|micros| Timestamp::from_seconds(micros.div_euclid(1_000_000)));
        let newest = newest.map_or(Value::Null, |newest| newest.to_string().into());
        let columns: Vec<&str> = snapshot.columns().iter().map(|column| &**column).collect();
        let mut told = json!({ "columns": columns, "rows": snapshot.rows(), "newest": newest });
        if let Some(key) = &self.row {
            let row = snapshot.find(key).ok_or_else(|| Undone::NoRow(key.clone()))?;
            let named = columns.iter().zip(row.cells).filter(|(_, cell)| !cell.is_nan());
            let features: Map<String, Value> =
                named.map(|(name, cell)| ((*name).to_owned(), json!(cell))).collect();
            let at = Timestamp::from_seconds(row.at.div_euclid(1_000_000)).map(|at| at.to_string());
            told = json!({ "key": key, "features": features, "at": at });
        }
        if self.format == TextFormat::Json {
            output::line(&told.to_string());
            return Ok(());
        }
        for (name, value) in told.as_object().into_iter().flatten() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            output::line(&format!("{name}: {text}"));
        }
        Ok(())
    }
}

impl Rekey {
    fn run(&self) -> Result<(), Undone> {
        let Opened { store, .. } = &self.opened;
        let rows = FeatureStore::rekey(store, &self.opened.key()?, &read_key(&self.new_key)?)?;
        output::line(&format!("{}: {rows} rows sealed with the new key", store.display()));
        Ok(())
    }
}

impl Key {
    fn run(&self) -> Result<(), Undone> {
        let (_, text) = SealKey::generate()?;
        Ok(put(&self.file, &text)?)
    }
}

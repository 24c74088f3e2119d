//! The models of a folder: found, loaded, replaced, unloaded.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::fault::{Fault, Kind};
use super::served::Served;
use crate::bundle::Bundle;
use crate::bundle::manifest::MANIFEST;

/// Folders that are looked at, at most.
const MAX_FOLDERS: usize = 10_000;
/// Bundles in the folder at most.
const MAX_BUNDLES: usize = 1_000;

/// The loaded versions of each model, the oldest first.
pub type Models = BTreeMap<Box<str>, Vec<Arc<Served>>>;

/// A folder of bundles, and what of it is loaded.
#[derive(Debug)]
pub struct Repository {
    folder: PathBuf,
    /// Threads of each model.
    threads: usize,
    /// True where clients may load and unload.
    controlled: bool,
    loaded: ArcSwap<Models>,
    /// Held while models change.
    changing: Arc<Mutex<()>>,
}

/// Why the folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error("{}: {source}", .folder.display())]
    Folder { folder: PathBuf, source: std::io::Error },
    #[error("{}: over {MAX_BUNDLES} bundles, or over {MAX_FOLDERS} folders", .0.display())]
    TooMany(PathBuf),
    #[error("{}: no bundle in it, nor in the folders below it; a bundle is a folder with a {MANIFEST}", .0.display())]
    Empty(PathBuf),
    #[error("{0}")]
    Bundle(String),
}

/// One line of the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub name: String,
    pub version: String,
    /// `READY` or `UNAVAILABLE`.
    pub state: &'static str,
    pub reason: String,
}

/// A bundle in the folder, by its manifest alone.
struct Found {
    folder: PathBuf,
    name: String,
    version: String,
    /// Why it cannot be loaded, where its manifest tells already.
    fault: Option<String>,
}

impl Repository {
    /// Loads every bundle of the folder; one that cannot be loaded is an error.
    pub fn open(folder: &Path, threads: usize, controlled: bool) -> Result<Self, RepositoryError> {
        let found = scan(folder)?;
        if found.is_empty() {
            return Err(RepositoryError::Empty(folder.to_owned()));
        }
        let mut models = Models::new();
        for bundle in found {
            let served = load(&bundle, threads).map_err(RepositoryError::Bundle)?;
            if !insert(&mut models, served) {
                let what = format!("{}: its name and version occur twice", bundle.folder.display());
                return Err(RepositoryError::Bundle(what));
            }
        }
        let (folder, loaded) = (folder.to_owned(), ArcSwap::from_pointee(models));
        Ok(Self { folder, threads, controlled, loaded, changing: Arc::default() })
    }

    /// All that is loaded.
    pub fn loaded(&self) -> Arc<Models> {
        self.loaded.load_full()
    }

    /// A loaded model; the newest version where none is named.
    pub fn find(&self, name: &str, version: Option<&str>) -> Result<Arc<Served>, Fault> {
        let loaded = self.loaded.load();
        let versions = loaded
            .get(name)
            .ok_or_else(|| Fault::new(Kind::NotFound, format!("no model `{}` is loaded", shown(name))))?;
        let found = match version {
            None => versions.last(),
            Some(version) => versions.iter().find(|served| *served.version == *version),
        };
        found.cloned().ok_or_else(|| {
            let message =
                format!("no version `{}` of model `{name}` is loaded", shown(version.unwrap_or_default()));
            Fault::new(Kind::NotFound, message)
        })
    }

    /// The loaded versions of one model or of all, of one version where it is named.
    pub fn select(&self, name: Option<&str>, version: Option<&str>) -> Result<Vec<Arc<Served>>, Fault> {
        match (name, version) {
            (Some(name), Some(version)) => Ok(vec![self.find(name, Some(version))?]),
            (Some(name), None) => {
                self.find(name, None)?;
                Ok(self.loaded.load().get(name).cloned().unwrap_or_default())
            }
            (None, _) => Ok(self.loaded.load().values().flatten().cloned().collect()),
        }
    }

    /// What is loaded and what lies in the folder. Reads files.
    pub fn index(&self, ready_alone: bool) -> Result<Vec<Listed>, Fault> {
        let loaded = self.loaded.load();
        let line = |served: &Arc<Served>| Listed {
            name: served.name.to_string(),
            version: served.version.to_string(),
            state: "READY",
            reason: String::new(),
        };
        let mut lines: Vec<Listed> = loaded.values().flatten().map(line).collect();
        if !ready_alone {
            for Found { name, version, fault, .. } in scan(&self.folder).map_err(|error| internal(&error))? {
                if !lines.iter().any(|line| line.name == name && line.version == version) {
                    let reason = fault.unwrap_or_else(|| "unloaded".to_owned());
                    lines.push(Listed { name, version, state: "UNAVAILABLE", reason });
                }
            }
        }
        Ok(lines)
    }

    /// Loads all versions of a model that lie in the folder; where one is at fault, all stays as it was.
    ///
    /// What was begun is finished, also where nobody waits for it any more; no other change is begun before.
    pub async fn load(self: &Arc<Self>, name: &str) -> Result<(), Fault> {
        let changing = self.change()?;
        let (repository, name) = (Arc::clone(self), name.to_owned());
        let loading = tokio::task::spawn_blocking(move || {
            let _changing = changing;
            let versions = repository.read(&name)?;
            let mut models = Models::clone(&repository.loaded.load());
            models.insert(name.into(), versions);
            repository.loaded.store(Arc::new(models));
            Ok(())
        });
        loading.await.map_err(|error| internal(&error))?
    }

    /// Unloads all versions of a model. Requests under way end as they would have.
    pub fn unload(&self, name: &str) -> Result<(), Fault> {
        let _changing = self.change()?;
        let mut models = Models::clone(&self.loaded.load());
        if models.remove(name).is_none() {
            return Err(Fault::new(Kind::NotFound, format!("no model `{}` is loaded", shown(name))));
        }
        self.loaded.store(Arc::new(models));
        Ok(())
    }

    fn change(&self) -> Result<OwnedMutexGuard<()>, Fault> {
        if !self.controlled {
            let message =
                "models are neither loaded nor unloaded on request: `--model-control explicit` allows it";
            return Err(Fault::new(Kind::Forbidden, message));
        }
        Arc::clone(&self.changing)
            .try_lock_owned()
            .map_err(|_| Fault::new(Kind::Busy, "models are being loaded; try again later"))
    }

    fn read(&self, name: &str) -> Result<Vec<Arc<Served>>, Fault> {
        let mut models = Models::new();
        for bundle in scan(&self.folder).map_err(|error| internal(&error))? {
            if bundle.name == name {
                let served = load(&bundle, self.threads).map_err(Fault::invalid)?;
                if !insert(&mut models, served) {
                    return Err(Fault::invalid(format!("a version of `{name}` occurs twice in the folder")));
                }
            }
        }
        models.remove(name).ok_or_else(|| {
            Fault::new(Kind::NotFound, format!("no bundle of a model `{}` is in the folder", shown(name)))
        })
    }
}

fn internal(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(Kind::Internal, error.to_string())
}

/// The beginning of a name that a client made up.
fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}

fn load(found: &Found, threads: usize) -> Result<Served, String> {
    let told = |what: &dyn std::fmt::Display| format!("{}: {what}", found.folder.display());
    if let Some(fault) = &found.fault {
        return Err(told(fault));
    }
    let bundle = Bundle::load_alone(&found.folder).map_err(|error| told(&error))?;
    Ok(Served::new(bundle, threads))
}

/// Adds a version in its place; false where it is there already.
fn insert(models: &mut Models, served: Served) -> bool {
    let versions = models.entry(served.name.clone()).or_default();
    let place = versions.binary_search_by(|other| order(&other.version, &served.version));
    match place {
        Ok(_) => false,
        Err(place) => {
            versions.insert(place, Arc::new(served));
            true
        }
    }
}

/// Numbers in versions count as numbers: 1.10 is newer than 1.9.
fn order(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(Option<u64>, String)> {
        text.split(['.', '-', '+', '_']).map(|part| (part.parse().ok(), part.to_owned())).collect()
    };
    parts(a).cmp(&parts(b)).then_with(|| a.cmp(b))
}

/// The bundles of the folder: those of folders in it, and of folders in these.
fn scan(folder: &Path) -> Result<Vec<Found>, RepositoryError> {
    let mut left = MAX_FOLDERS;
    let mut found = Vec::new();
    for first in folders(folder, &mut left)? {
        if first.join(MANIFEST).is_file() {
            found.push(first);
        } else {
            found.extend(
                folders(&first, &mut left)?.into_iter().filter(|second| second.join(MANIFEST).is_file()),
            );
        }
    }
    if found.len() > MAX_BUNDLES {
        return Err(RepositoryError::TooMany(folder.to_owned()));
    }
    Ok(found.into_iter().map(peek).collect())
}

fn peek(folder: PathBuf) -> Found {
    match Bundle::peek(&folder) {
        Ok(manifest) => Found { folder, name: manifest.name, version: manifest.version, fault: None },
        Err(error) => {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Found { folder, name, version: String::new(), fault: Some(error.to_string()) }
        }
    }
}

/// Folders in a folder, sorted; no hidden ones, which half-written bundles may be.
fn folders(folder: &Path, left: &mut usize) -> Result<Vec<PathBuf>, RepositoryError> {
    let fault = |source| RepositoryError::Folder { folder: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        *left = left.checked_sub(1).ok_or_else(|| RepositoryError::TooMany(folder.to_owned()))?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Repository, order};
    use crate::server::fault::Kind;
    use std::cmp::Ordering;
    use std::path::Path;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        for (older, newer) in [("1.9.0", "1.10.0"), ("1", "1.0"), ("2", "10"), ("1.0.0-rc1", "1.0.0-rc2")] {
            assert_eq!(order(older, newer), Ordering::Less, "{older} {newer}");
            assert_eq!(order(newer, older), Ordering::Greater, "{newer} {older}");
        }
        assert_eq!(order("1.2.3", "1.2.3"), Ordering::Equal);
        assert_ne!(order("1.2", "1-2"), Ordering::Equal, "other texts are other versions");
    }

    #[tokio::test]
    async fn a_load_that_nobody_waits_for_is_finished_and_no_second_one_runs_beside_it() {
        const MODEL: &str = "lead-score-logistic";
        let folder = tempfile::tempdir().unwrap();
        let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(MODEL);
        std::os::unix::fs::symlink(bundle, folder.path().join(MODEL)).unwrap();
        let repository = Arc::new(Repository::open(folder.path(), 1, true).unwrap());
        repository.unload(MODEL).unwrap();
        {
            let load = pin!(repository.load(MODEL));
            assert_eq!(load.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
        }
        assert_eq!(repository.load(MODEL).await.map_err(|fault| fault.kind), Err(Kind::Busy));
        while repository.find(MODEL, None).is_err() {
            tokio::task::yield_now().await;
        }
        while repository.load(MODEL).await.is_err() {}
    }
}

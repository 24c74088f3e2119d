//! Revisions on disk: the good ones of late, over restarts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::files;

use crate::revision::build::{build, compile_tree, discard};
use crate::revision::merge::Merged;
use crate::revision::secrets::{self, Secrets, unbounded};
use crate::revision::{ID_LENGTH, Label, Revision};
use crate::sources::folder;

/// The folder of revisions. What is written and what is read whole wait for each other: operators read beside what is made.
#[derive(Debug)]
pub struct Shelf {
    folder: PathBuf,
    /// How many are kept, besides those in use.
    most: usize,
    busy: Mutex<()>,
    /// Those that were kept last.
    kept: Mutex<Option<Secrets>>,
}

impl Shelf {
    /// # Errors
    /// Where the folder cannot be made.
    pub fn open(folder: PathBuf, most: usize) -> io::Result<Self> {
        files::make_folder(&folder)?;
        // What was cut off while it was made.
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.path().extension().is_some_and(|end| end == "new") {
                discard(&entry.path());
            }
        }
        let this = Self { folder, most, busy: Mutex::default(), kept: Mutex::default() };
        let ids: Vec<String> = this.labels().into_iter().map(|label| label.id).collect();
        secrets::settle(&this.folder, &ids)?;
        Ok(this)
    }

    fn busy(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, id: &str) -> Option<PathBuf> {
        let plain = id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| self.folder.join(id))
    }

    /// Makes a revision of merged trees and keeps it.
    ///
    /// # Errors
    /// Every fault; nothing is kept then.
    pub fn make(&self, merged: &Merged) -> Result<Revision, Vec<Diagnostic>> {
        let _busy = self.busy();
        let beside = self.folder.join(format!("{}.new", merged.id));
        discard(&beside);
        let made = build(merged, &beside);
        let Some(place) = self.place(&merged.id).filter(|_| made.is_ok()) else {
            discard(&beside);
            return made;
        };
        // The same content may be there from before, and is the same.
        discard(&place);
        if files::put(&beside, &place).is_err() {
            discard(&beside);
        }
        made
    }

    /// Compiles a revision that is kept with secrets that are others by now, and is the same revision with them.
    ///
    /// # Errors
    /// Every fault; what is kept stays as it is.
    pub fn again(&self, merged: &Merged) -> Result<Revision, Vec<Diagnostic>> {
        let place = self.place(&merged.id).filter(|_| merged.faults.is_empty());
        let Some((place, label)) = place.and_then(|place| label(&place).map(|label| (place, label))) else {
            return self.make(merged);
        };
        let _busy = self.busy();
        let label = Label { origins: merged.origins.clone(), ..label };
        compile_tree(merged, &place.join("tree"), label)
    }

    /// Keeps these secrets for revisions that are read, and no others.
    ///
    /// # Errors
    /// What the system says; then what was kept before still is.
    pub fn keep_secrets(&self, secrets: Secrets) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref() == Some(&secrets) {
            return Ok(());
        }
        let _busy = self.busy();
        secrets::write(&self.folder, &secrets)?;
        *kept = Some(secrets);
        Ok(())
    }

    /// What is kept, the newest first.
    pub fn labels(&self) -> Vec<Label> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut labels: Vec<Label> = entries.filter_map(|entry| label(&entry.path())).collect();
        labels.sort_by(|a, b| (b.made, &b.id).cmp(&(a.made, &a.id)));
        labels
    }

    /// Reads a revision that is kept, with the secrets of today.
    ///
    /// # Errors
    /// What is wrong with it now, such as another version of this program that refuses what the last one took.
    pub fn read(&self, id: &str) -> Result<Revision, Vec<Diagnostic>> {
        let missing = || {
            let message = format!("there is no revision {id}");
            vec![Diagnostic::file(Path::new(id), foregate_policy::codes::SOURCE_UNREADABLE, message)]
        };
        let _busy = self.busy();
        let place = self.place(id).ok_or_else(missing)?;
        let label = label(&place).ok_or_else(missing)?;
        let tree = place.join("tree");
        let read = folder::read(id, &tree, unbounded()).map_err(|fault| fault.0)?;
        let secrets = secrets::read(&self.folder).map_err(|error| {
            let message = format!("the secrets that it refers to cannot be read: {error}");
            vec![Diagnostic::file(Path::new(id), foregate_policy::codes::SOURCE_UNREADABLE, message)]
        })?;
        let all = read.files.into_iter().chain(secrets);
        let files: BTreeMap<_, _> = all.map(|(way, content)| (way, (content, 0))).collect();
        let merged = Merged { id: id.to_owned(), files, ..Merged::default() };
        compile_tree(&merged, &tree, label)
    }

    /// Lets go of old revisions, but for those in use.
    pub fn prune(&self, used: &[Arc<str>]) {
        let _busy = self.busy();
        let old = self.labels().into_iter().skip(self.most);
        for label in old.filter(|label| !used.iter().any(|used| **used == *label.id)) {
            if let Some(place) = self.place(&label.id) {
                discard(&place);
            }
        }
    }
}

fn label(place: &Path) -> Option<Label> {
    let text = fs::read(place.join("revision.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

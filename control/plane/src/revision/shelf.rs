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
use crate::revision::{ID_LENGTH, Label, Revision};
use crate::sources::folder;
use crate::sources::spec::Limits;

/// The folder of revisions. What is written and what is read whole wait for each other: operators read beside what is made.
#[derive(Debug)]
pub struct Shelf {
    folder: PathBuf,
    /// How many are kept, besides those in use.
    most: usize,
    busy: Mutex<()>,
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
        Ok(Self { folder, most, busy: Mutex::default() })
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

    /// What is kept, the newest first.
    pub fn labels(&self) -> Vec<Label> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut labels: Vec<Label> = entries.filter_map(|entry| label(&entry.path())).collect();
        labels.sort_by(|a, b| (b.made, &b.id).cmp(&(a.made, &a.id)));
        labels
    }

    /// Reads a revision that is kept.
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
        let limits = Limits {
            size: Some(foregate_filters::units::ByteSize(u64::MAX)),
            files: Some(u32::MAX),
            depth: None,
        };
        let read = folder::read(id, &tree, limits).map_err(|fault| fault.0)?;
        let files: BTreeMap<_, _> =
            read.files.into_iter().map(|(way, content)| (way, (content, 0))).collect();
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

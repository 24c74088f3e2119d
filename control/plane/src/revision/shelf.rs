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

/// Where revisions lie among what is kept.
const REVISIONS: &str = "revisions";

/// The folder of revisions. What is written and what is read whole wait for each other: operators read beside what is made.
#[derive(Debug)]
pub struct Shelf {
    folder: PathBuf,
    /// Secrets lie in it beside the revisions: sources name their files, and must not name one among revisions.
    state: PathBuf,
    /// How many are kept, besides those in use.
    most: usize,
    busy: Mutex<()>,
    /// Those that were kept last.
    kept: Mutex<Option<Secrets>>,
    /// Why those in use are not the ones on disk. Never held while something is written.
    unkept: Mutex<Option<String>>,
}

impl Shelf {
    /// Opens what is kept below the folder of state.
    ///
    /// # Errors
    /// Where folders cannot be made, or what earlier versions kept cannot be put in order.
    pub fn open(state: &Path, most: usize) -> io::Result<Self> {
        let (folder, state) = (state.join(REVISIONS), state.to_owned());
        files::make_folder(&folder)?;
        // What was cut off while it was made.
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.path().extension().is_some_and(|end| end == "new") {
                discard(&entry.path());
            }
        }
        let (busy, kept, unkept) = (Mutex::default(), Mutex::default(), Mutex::default());
        let this = Self { folder, state, most, busy, kept, unkept };
        let labels = this.labels();
        let trees = labels.iter().filter_map(|label| Some(this.place(&label.id)?.join("tree"))).collect();
        secrets::settle(&this.state, &this.folder, trees)?;
        Ok(this)
    }

    fn busy(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, id: &str) -> Option<PathBuf> {
        let plain = id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| self.folder.join(id))
    }

    /// Where a revision lies, and what is known of it; only what lies where its label says is one.
    fn find(&self, id: &str) -> Option<(PathBuf, Label)> {
        let place = self.place(id)?;
        let text = fs::read(place.join("revision.json")).ok()?;
        let label: Label = serde_json::from_slice(&text).ok()?;
        (label.id == id).then_some((place, label))
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
        let found = self.find(&merged.id).filter(|_| merged.faults.is_empty());
        let Some((place, label)) = found else { return self.make(merged) };
        let _busy = self.busy();
        let label = Label { origins: merged.origins.clone(), ..label };
        compile_tree(merged, &place.join("tree"), label)
    }

    /// Keeps the secrets in use for revisions that are read, and no others; nothing changes where it is not known which are. They
    /// are asked for in turn, so that nobody writes down what was in use before over what is.
    ///
    /// # Errors
    /// What the system says; then what was kept before still is, until this is called again.
    pub fn keep_secrets(&self, in_use: impl FnOnce() -> Option<Secrets>) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(secrets) = in_use() else { return Ok(()) };
        let mut outcome = Ok(());
        if kept.as_ref() != Some(&secrets) {
            let _busy = self.busy();
            outcome = secrets::write(&self.state, &secrets);
            if outcome.is_ok() {
                *kept = Some(secrets);
            }
        }
        *self.lock_unkept() = outcome.as_ref().err().map(ToString::to_string);
        outcome
    }

    /// Why the secrets in use are not the ones on disk; a key that was replaced may lie there still.
    pub fn unkept(&self) -> Option<String> {
        self.lock_unkept().clone()
    }

    fn lock_unkept(&self) -> MutexGuard<'_, Option<String>> {
        self.unkept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept, the newest first.
    pub fn labels(&self) -> Vec<Label> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let found = entries.filter_map(|entry| self.find(entry.file_name().to_str()?));
        let mut labels: Vec<Label> = found.map(|(_, label)| label).collect();
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
        let (place, label) = self.find(id).ok_or_else(missing)?;
        let tree = place.join("tree");
        let read = folder::read(id, &tree, unbounded()).map_err(|fault| fault.0)?;
        let secrets = secrets::read(&self.state).map_err(|error| {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::Shelf;
    use crate::revision::secrets::{Secrets, read};

    #[test]
    fn secrets_in_use_are_asked_for_while_nobody_else_writes_any_down() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path(), 10).unwrap();
        let secrets = Secrets::from([("secrets/a".into(), Bytes::from_static(b"1"))]);
        let in_use = || {
            assert!(shelf.kept.try_lock().is_err(), "whoever else has some to keep waits");
            Some(secrets.clone())
        };
        shelf.keep_secrets(in_use).unwrap();
        assert_eq!(read(folder.path()).unwrap(), secrets);
        shelf.keep_secrets(|| None).unwrap();
        assert_eq!(read(folder.path()).unwrap(), secrets, "where none are known, those of before stay");
    }

    #[test]
    fn what_could_not_be_kept_is_remembered_until_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(folder.path(), 10).unwrap();
        let secrets = |key: &'static str| {
            let all = [("secrets/a", "1"), ("secrets/b", key)];
            let all = all.map(|(way, text)| (way.into(), Bytes::from_static(text.as_bytes())));
            Some(Secrets::from(all))
        };
        shelf.keep_secrets(|| secrets("old")).unwrap();
        assert_eq!(shelf.unkept(), None);
        // Where they are laid out something is in the way.
        let blocked = folder.path().join("secrets.new");
        std::fs::write(&blocked, "").unwrap();
        for _ in 0..2 {
            let error = shelf.keep_secrets(|| secrets("new")).unwrap_err();
            assert_eq!(shelf.unkept(), Some(error.to_string()));
        }
        shelf.keep_secrets(|| None).unwrap();
        assert!(shelf.unkept().is_some(), "nothing was kept");
        assert_eq!(read(folder.path()).unwrap(), secrets("old").unwrap());
        std::fs::remove_file(&blocked).unwrap();
        shelf.keep_secrets(|| secrets("new")).unwrap();
        assert_eq!((shelf.unkept(), read(folder.path()).unwrap()), (None, secrets("new").unwrap()));
        // What is in use once more needs nothing written.
        std::fs::write(&blocked, "").unwrap();
        shelf.keep_secrets(|| secrets("old")).unwrap_err();
        shelf.keep_secrets(|| secrets("new")).unwrap();
        assert_eq!(shelf.unkept(), None);
    }
}

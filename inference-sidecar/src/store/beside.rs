//! One writer at a time; what takes long is written beside a store, and renamed.

use std::ffi::OsString;
use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use crate::put::put;

/// Held by whoever writes; nobody who reads waits for it.
const LOCK: &str = "lock";
/// The store that is to take the place of another.
const NEW: &str = "new";

/// A store that is written beside the one that is read; dropped without [`Self::put`] it leaves nothing behind.
pub(super) struct Beside<'a> {
    path: &'a Path,
    new: PathBuf,
}

/// The file itself where the path is a link to it: it must not be the link that is replaced.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    fs::canonicalize(path).map_err(|error| StoreError::Unreadable(error.to_string()))
}

/// Makes sure that nobody else writes the store while the file lasts. Does not wait.
pub(super) fn hold(path: &Path) -> Result<File, StoreError> {
    let lock = named(path, LOCK);
    let opened = match File::open(&lock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Others who may write the store must be able to open it; where that cannot be said, they are told.
            File::create(&lock).inspect(|_| drop(adopt(path, &lock)))
        }
        opened => opened,
    };
    let told = |error: io::Error| StoreError::Unreadable(format!("{}: {error}", lock.display()));
    let file = opened.map_err(told)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Busy),
        Err(TryLockError::Error(error)) => Err(told(error)),
    }
}

impl<'a> Beside<'a> {
    /// A copy of the store, for the same user; `None` where it could not be given to that user. The caller holds the store.
    pub(super) fn copy(path: &'a Path) -> Result<Option<Self>, StoreError> {
        let beside = Self::empty(path)?;
        fs::copy(path, &beside.new).map_err(|error| beside.told(&error))?;
        Ok(beside.adopted().then_some(beside))
    }

    /// The place for a store that is made anew. The caller holds the store.
    pub(super) fn empty(path: &'a Path) -> Result<Self, StoreError> {
        let beside = Self { path, new: named(path, NEW) };
        // What a crash left behind.
        match fs::remove_file(&beside.new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(beside.told(&error)),
            _ => Ok(beside),
        }
    }

    /// Where it is written.
    pub(super) fn new_path(&self) -> &Path {
        &self.new
    }

    /// Gives it to whom the store belongs; true where that can be done.
    pub(super) fn adopted(&self) -> bool {
        adopt(self.path, &self.new).is_ok()
    }

    /// Puts it in the place of the store: who opens the path gets the one or the other, each whole.
    pub(super) fn put(self) -> Result<(), StoreError> {
        put(&self.new, self.path).map_err(|error| self.told(&error))
    }

    fn told(&self, error: &io::Error) -> StoreError {
        StoreError::Unreadable(format!("{}: {error}", self.new.display()))
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing left of this name.
        let _ = fs::remove_file(&self.new);
    }
}

fn named(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(".");
    name.push(ending);
    name.into()
}

/// Gives a file the owner and the permissions of another.
fn adopt(from: &Path, to: &Path) -> io::Result<()> {
    let (from, now) = (fs::metadata(from)?, fs::metadata(to)?);
    if (from.uid(), from.gid()) != (now.uid(), now.gid()) {
        chown(to, Some(from.uid()), Some(from.gid()))?;
    }
    fs::set_permissions(to, Permissions::from_mode(from.mode() & 0o777))
}

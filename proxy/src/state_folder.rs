//! Files of the state folder: held by one process, set aside where unsound.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::clock;

/// Waits until nobody else holds the lock of this name; it is held for as long as the file lasts.
pub fn lock(folder: &Path, name: &str) -> io::Result<File> {
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(folder.join(name))?;
    lock.lock()?;
    Ok(lock)
}

/// Renames a file that is no sound one; gives where it is then.
pub fn set_aside(folder: &Path, name: &str) -> io::Result<PathBuf> {
    let aside = folder.join(format!("{name}.refused-{}", clock::now().unix.as_millis()));
    fs::rename(folder.join(name), &aside)?;
    Ok(aside)
}

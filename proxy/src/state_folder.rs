//! Files of the state folder: held by one process, replaced whole, set aside where unsound.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
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

/// Writes a file for this user alone, in the place of one that may be there: a crash leaves the one or the other.
pub fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = folder.join(format!("{name}.new"));
    let mut out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&new, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// Renames a file that is no sound one; gives where it is then.
pub fn set_aside(folder: &Path, name: &str) -> io::Result<PathBuf> {
    let aside = folder.join(format!("{name}.refused-{}", clock::now().unix.as_millis()));
    fs::rename(folder.join(name), &aside)?;
    Ok(aside)
}

//! Folders and files of state, for this user alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::Path;

/// Makes a folder and those above it.
///
/// # Errors
/// What the system says.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a file; it is on disk when this returns.
///
/// # Errors
/// What the system says.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Puts a file in the place of another: readers see one or the other, also after a crash.
///
/// # Errors
/// What the system says; the old file is still there then.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    write(&beside, content)?;
    fs::rename(&beside, path)?;
    sync(path)
}

/// Makes `link` lead to `target` from now on: readers see one or the other.
///
/// # Errors
/// What the system says; the link leads where it did then.
pub fn point(link: &Path, target: &Path) -> io::Result<()> {
    let beside = link.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(target, &beside)?;
    fs::rename(&beside, link)?;
    sync(link)
}

/// Waits until the folder of `path` is on disk.
fn sync(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

//! Secrets on disk: those in use alone, apart from the revisions that refer to them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use foregate_policy::files;

use crate::revision::build::discard;
use crate::sources::folder;
use crate::sources::spec::Limits;

/// Below this, files are secrets.
const BELOW: &str = "secrets/";

/// Folders beside the revisions: what is kept, what is about to take its place, and what gives way to that.
const KEPT: &str = "secrets";
const NEW: &str = "secrets.new";
const OLD: &str = "secrets.old";

/// What secrets hold, by their way.
pub type Secrets = BTreeMap<Arc<str>, Bytes>;

/// True for files that no revision keeps: it refers to them by their way, and has what they hold today.
pub fn is_secret(way: &str) -> bool {
    way.starts_with(BELOW)
}

/// Everything below a folder of our own, however much that is.
pub fn unbounded() -> Limits {
    Limits { size: Some(foregate_filters::units::ByteSize(u64::MAX)), files: Some(u32::MAX), depth: None }
}

/// What is kept.
///
/// # Errors
/// What the system says.
pub fn read(folder: &Path) -> io::Result<Secrets> {
    let kept = folder.join(KEPT);
    if !kept.is_dir() {
        return Ok(Secrets::new());
    }
    let read = folder::read(KEPT, &kept, unbounded()).map_err(|fault| io::Error::other(fault.to_string()))?;
    Ok(read.files.into_iter().map(|(way, content)| (format!("{BELOW}{way}").into(), content)).collect())
}

/// Keeps these and no others: whatever else was kept is gone from the disk.
///
/// # Errors
/// What the system says; then what was kept before still is.
pub fn write(folder: &Path, secrets: &Secrets) -> io::Result<()> {
    let (kept, new, old) = (folder.join(KEPT), folder.join(NEW), folder.join(OLD));
    discard(&new);
    files::make_folder(&new)?;
    for (way, content) in secrets {
        let Some(way) = way.strip_prefix(BELOW) else { continue };
        let path = new.join(way);
        files::make_folder(path.parent().unwrap_or(&new))?;
        files::write(&path, content)?;
    }
    discard(&old);
    if kept.is_dir() {
        fs::rename(&kept, &old)?;
    }
    files::put(&new, &kept).inspect_err(|_| drop(fs::rename(&old, &kept)))?;
    discard(&old);
    Ok(())
}

/// Mends what was cut off, and takes secrets out of the revisions of earlier versions, which had them in their trees.
///
/// # Errors
/// What the system says.
pub fn settle(folder: &Path, newest_first: &[String]) -> io::Result<()> {
    let (kept, old) = (folder.join(KEPT), folder.join(OLD));
    if old.is_dir() && !kept.is_dir() {
        fs::rename(&old, &kept)?;
    }
    discard(&old);
    let trees = newest_first.iter().map(|id| folder.join(id).join("tree").join(KEPT));
    let within: Vec<_> = trees.filter(|secrets| secrets.is_dir()).collect();
    if within.is_empty() {
        return Ok(());
    }
    let mut secrets = read(folder)?;
    for tree in &within {
        let read = folder::read(KEPT, tree, unbounded());
        let read = read.map_err(|fault| io::Error::other(fault.to_string()))?;
        for (way, content) in read.files {
            secrets.entry(format!("{BELOW}{way}").into()).or_insert(content);
        }
    }
    write(folder, &secrets)?;
    within.iter().try_for_each(fs::remove_dir_all)
}

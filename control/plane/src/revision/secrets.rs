//! Secrets on disk: those in use alone, apart from the revisions that refer to them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use foregate_policy::files;

use crate::revision::build::discard;
use crate::sources::folder;
use crate::sources::spec::Limits;

/// Below this, files are secrets.
const BELOW: &str = "secrets/";

/// Folders of the state, beside that of the revisions: what is kept, what is about to take its place, and what gives way to that.
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
pub fn read(state: &Path) -> io::Result<Secrets> {
    let kept = state.join(KEPT);
    if !kept.is_dir() {
        return Ok(Secrets::new());
    }
    let read = folder::read(KEPT, &kept, unbounded()).map_err(|fault| io::Error::other(fault.to_string()))?;
    Ok(read.files.into_iter().map(|(way, content)| (format!("{BELOW}{way}").into(), content)).collect())
}

/// Keeps these and no others: whatever else was kept is gone from the disk.
///
/// # Errors
/// What the system says; then what was kept before still is, and nothing of these.
pub fn write(state: &Path, secrets: &Secrets) -> io::Result<()> {
    let (kept, new, old) = (state.join(KEPT), state.join(NEW), state.join(OLD));
    discard(&new);
    lay_out(&new, secrets).inspect_err(|_| discard(&new))?;
    discard(&old);
    if kept.is_dir() {
        fs::rename(&kept, &old)?;
    }
    files::put(&new, &kept).inspect_err(|_| drop(fs::rename(&old, &kept)))?;
    discard(&old);
    Ok(())
}

fn lay_out(folder: &Path, secrets: &Secrets) -> io::Result<()> {
    files::make_folder(folder)?;
    for (way, content) in secrets {
        let Some(way) = way.strip_prefix(BELOW) else { continue };
        let path = folder.join(way);
        files::make_folder(path.parent().unwrap_or(folder))?;
        files::write(&path, content)?;
    }
    Ok(())
}

/// Mends what was cut off, and takes secrets from where earlier versions had them: among the revisions, and in their trees.
///
/// # Errors
/// What the system says.
pub fn settle(state: &Path, revisions: &Path, newest_first: Vec<PathBuf>) -> io::Result<()> {
    let (kept, old) = (state.join(KEPT), state.join(OLD));
    if old.is_dir() && !kept.is_dir() {
        fs::rename(&old, &kept)?;
    }
    discard(&old);
    discard(&state.join(NEW));
    // Only an earlier version leaves any there, so that they are newer than what this one kept.
    let [among, older] = [KEPT, OLD].map(|name| revisions.join(name));
    if let Some(last) = [&among, &older].into_iter().find(|place| place.is_dir()) {
        discard(&kept);
        fs::rename(last, &kept)?;
    }
    discard(&older);
    let within = newest_first.into_iter().map(|tree| tree.join(KEPT));
    let within: Vec<PathBuf> = within.filter(|secrets| secrets.is_dir()).collect();
    if within.is_empty() {
        return Ok(());
    }
    let mut secrets = read(state)?;
    for tree in &within {
        let read = folder::read(KEPT, tree, unbounded());
        let read = read.map_err(|fault| io::Error::other(fault.to_string()))?;
        for (way, content) in read.files {
            secrets.entry(format!("{BELOW}{way}").into()).or_insert(content);
        }
    }
    write(state, &secrets)?;
    within.iter().try_for_each(fs::remove_dir_all)
}

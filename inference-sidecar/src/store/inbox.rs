//! A folder of dropped updates: each file is taken whole, or refused with a reason.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use foregate_filters::timestamp::Timestamp;

use super::FeatureStore;
use super::error::StoreError;
use super::line::{Form, read};
use crate::store::Applied;

/// Files taken at once, at most; the others wait for the next time.
const AT_ONCE: usize = 64;
/// Bytes of one file at most.
const MAX_BYTES: u64 = 1 << 30;

/// Files being read; those that a crash left here are read again.
const TAKEN: &str = "taken";
const DONE: &str = "done";
const REJECTED: &str = "rejected";

/// One file, and what became of it.
#[derive(Debug)]
pub struct Dropped {
    pub name: String,
    pub outcome: Result<Applied, String>,
}

/// Takes up the files of a folder that end in `.ndjson`, `.jsonl` or `.csv`, by the order of their names.
///
/// A file is first moved to `taken/`, which only one process can do; then to `done/`, or to `rejected/` beside a
/// `NAME.reason` that says why. Whoever drops a file writes it under another ending and renames it. A store that another
/// process is writing leaves the file where it is, for the next time.
pub fn sweep(store: &FeatureStore, folder: &Path, now: Timestamp) -> io::Result<Vec<Dropped>> {
    for name in [TAKEN, DONE, REJECTED] {
        fs::create_dir_all(folder.join(name))?;
    }
    for name in files(folder)? {
        // Where it is gone, somebody else was faster.
        let _ = fs::rename(folder.join(&name), folder.join(TAKEN).join(&name));
    }
    let mut dropped = Vec::new();
    for name in files(&folder.join(TAKEN))? {
        let file = folder.join(TAKEN).join(&name);
        let outcome = match take(store, &file, now) {
            Ok(applied) => Ok(applied),
            Err(Refusal::Later) => break,
            Err(Refusal::Never(why)) => Err(why),
        };
        match &outcome {
            Ok(_) => fs::rename(&file, free(&folder.join(DONE), &name))?,
            Err(why) => {
                store.counts.rejected.fetch_add(1, Ordering::Relaxed);
                let rejected = free(&folder.join(REJECTED), &name);
                let mut reason = rejected.clone().into_os_string();
                reason.push(".reason");
                fs::write(reason, format!("{why}\n"))?;
                fs::rename(&file, rejected)?;
            }
        }
        dropped.push(Dropped { name, outcome });
    }
    Ok(dropped)
}

enum Refusal {
    Later,
    Never(String),
}

fn take(store: &FeatureStore, file: &Path, now: Timestamp) -> Result<Applied, Refusal> {
    let never = |error: &dyn std::fmt::Display| Refusal::Never(error.to_string());
    let form = Form::of(file).ok_or_else(|| never(&"neither .ndjson nor .csv"))?;
    let opened = File::open(file).map_err(|error| never(&error))?;
    if opened.metadata().map_err(|error| never(&error))?.len() > MAX_BYTES {
        return Err(never(&format!("over {MAX_BYTES} bytes")));
    }
    let columns = store.pin().columns().clone();
    let updates = read(opened, form, &columns, now).map_err(|error| never(&error))?;
    store.apply(&updates).map_err(|error| match error.fault {
        StoreError::Busy => Refusal::Later,
        _ => never(&error),
    })
}

/// Names of the files to take, in order; links and folders are none.
fn files(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().filter(|name| Form::of(Path::new(name)).is_some());
        if let Some(name) = name.filter(|name| !name.starts_with('.'))
            && entry.file_type()?.is_file()
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    names.truncate(AT_ONCE);
    Ok(names)
}

/// The name, or the first of `NAME.1`, `NAME.2` and so on that is not taken by an earlier file.
fn free(folder: &Path, name: &str) -> PathBuf {
    let plain = folder.join(name);
    if !plain.exists() {
        return plain;
    }
    let numbered = (1..u32::MAX).map(|number| folder.join(format!("{name}.{number}")));
    numbered.into_iter().find(|path| !path.exists()).unwrap_or(plain)
}

//! A folder of dropped updates: each file is taken whole, or refused with a reason.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use foregate_filters::timestamp::Timestamp;

use super::FeatureStore;
use super::error::{StoreError, StoreFault};
use super::line::{Form, read};
use crate::store::Applied;

/// Files taken at once, at most; the others wait for the next time.
const AT_ONCE: usize = 64;
/// Bytes of one file at most.
const MAX_BYTES: u64 = 1 << 30;

/// Locked by the process that sweeps.
const LOCK: &str = ".lock";
/// Files being read; those that a crash left here are read again.
const TAKEN: &str = "taken";
const REJECTED: &str = "rejected";

/// One file, and what became of it.
#[derive(Debug)]
pub struct Dropped {
    pub name: String,
    pub outcome: Result<Applied, String>,
}

/// What one sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    pub dropped: Vec<Dropped>,
    /// Why files stay for the next time, where an operator has to do something about it.
    pub waiting: Option<String>,
}

/// Takes up the files of a folder that end in `.ndjson`, `.jsonl` or `.csv`, by the order of their names.
///
/// A file is first moved to `taken/`. What was taken up is removed: the store has it, sealed, and a copy in the clear beside
/// it would not be. What was refused goes to `rejected/`, beside a `NAME.reason` that says why. Whoever
/// drops a file writes it under another ending and renames it. One process sweeps at a time: where it is another one,
/// nothing happens. Only what the file itself says is a reason to refuse it: where it cannot be read, or the store cannot
/// be written, it stays for the next time.
pub fn sweep(store: &FeatureStore, folder: &Path, now: Timestamp) -> io::Result<Swept> {
    fs::create_dir_all(folder)?;
    let lock = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Swept::default()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    for name in [TAKEN, REJECTED] {
        fs::create_dir_all(folder.join(name))?;
    }
    let mut swept = Swept::default();
    for name in files(folder)? {
        let taken = folder.join(TAKEN).join(&name);
        // An earlier file of this name is still waiting there.
        if !taken.exists() {
            swept.note(&name, fs::rename(folder.join(&name), taken));
        }
    }
    for name in files(&folder.join(TAKEN))? {
        let outcome = match take(store, &folder.join(TAKEN).join(&name), now) {
            Ok(applied) => Ok(applied),
            Err(Refusal::Never(why)) => Err(why),
            Err(Refusal::File(error)) => {
                swept.note(&name, Err(error));
                continue;
            }
            Err(Refusal::Store(fault)) => {
                // Whoever writes the store is done before the next time.
                if fault.fault != StoreError::Busy {
                    swept.waiting.get_or_insert_with(|| fault.to_string());
                }
                break;
            }
        };
        if let Err(error) = put_away(folder, &name, &outcome) {
            swept.note(&name, Err(error));
            continue;
        }
        if outcome.is_err() {
            store.counts.rejected.fetch_add(1, Ordering::Relaxed);
        }
        swept.dropped.push(Dropped { name, outcome });
    }
    Ok(swept)
}

impl Swept {
    /// Tells the first fault; the files after it are taken nevertheless.
    fn note(&mut self, name: &str, done: io::Result<()>) {
        if let Err(error) = done {
            self.waiting.get_or_insert_with(|| format!("{name}: {error}"));
        }
    }
}

enum Refusal {
    /// The store cannot be written now.
    Store(StoreFault),
    /// The file cannot be read now.
    File(io::Error),
    /// The file is no good.
    Never(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

fn take(store: &FeatureStore, file: &Path, now: Timestamp) -> Result<Applied, Refusal> {
    let form = Form::of(file).ok_or_else(|| Refusal::Never("neither .ndjson nor .csv".to_owned()))?;
    let opened = File::open(file)?;
    if opened.metadata()?.len() > MAX_BYTES {
        return Err(Refusal::Never(format!("over {MAX_BYTES} bytes")));
    }
    let columns = store.pin().columns().clone();
    let updates = read(opened, form, &columns, now).map_err(|error| match error.unread {
        Some(kind) => Refusal::File(io::Error::new(kind, error)),
        None => Refusal::Never(error.to_string()),
    })?;
    store.apply(updates).map_err(|error| match error.fault {
        StoreError::TooLarge => Refusal::Never(error.to_string()),
        _ => Refusal::Store(error),
    })
}

/// Takes a file out of `taken/`, as its outcome wants it.
fn put_away(folder: &Path, name: &str, outcome: &Result<Applied, String>) -> io::Result<()> {
    let taken = folder.join(TAKEN).join(name);
    let Err(why) = outcome else { return fs::remove_file(taken) };
    let rejected = free(&folder.join(REJECTED), name);
    let mut reason = rejected.clone().into_os_string();
    reason.push(".reason");
    fs::write(reason, format!("{why}\n"))?;
    fs::rename(taken, rejected)
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

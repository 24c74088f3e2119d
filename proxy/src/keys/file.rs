//! Keys from a file, read anew when the watcher says it changed.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use foregate_filters::jwt::key_set::{KeySet, MAX_BYTES};
use foregate_filters::keys::Keys;
use foregate_filters::moment::Moment;

use crate::clock;
use crate::keys::{KeysError, KeysStatus};

/// A JWK set or PEM file, and the keys last read from it.
#[derive(Debug)]
pub struct FileKeys {
    path: PathBuf,
    current: ArcSwap<KeySet>,
    succeeded: AtomicU64,
    failed: AtomicU64,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    /// Monotonic time of the last good read.
    read: Duration,
    fault: Option<String>,
}

impl FileKeys {
    /// Reads the file; blocks for as long as the disk does.
    pub fn open(path: PathBuf) -> Result<Self, KeysError> {
        let keys = read(&path)?;
        Ok(Self {
            path,
            current: ArcSwap::from_pointee(keys),
            succeeded: AtomicU64::new(1),
            failed: AtomicU64::new(0),
            last: Mutex::new(Last { read: clock::now().monotonic, fault: None }),
        })
    }

    /// Reads the file anew. Where that fails the old keys stay, and the status says so.
    pub fn reload(&self) -> Result<(), KeysError> {
        let outcome = read(&self.path);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(keys) => {
                self.current.store(Arc::new(keys));
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                *last = Last { read: clock::now().monotonic, fault: None };
                Ok(())
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                last.fault = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// The file these keys come from.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    pub fn status(&self, moment: Moment) -> KeysStatus {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        KeysStatus {
            source: "file",
            keys: self.current.load().count(),
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            age: Some(moment.monotonic.saturating_sub(last.read)),
            fault: last.fault.clone(),
        }
    }
}

impl Keys for FileKeys {
    fn current(&self) -> Option<Arc<KeySet>> {
        Some(self.current.load_full())
    }
}

fn read(path: &std::path::Path) -> Result<KeySet, KeysError> {
    let failed = |error| KeysError::Read { path: path.display().to_string(), error };
    let mut text = Vec::new();
    // One byte over the bound is enough to be refused; a device or a pipe is never read to its end.
    let bound = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).map_err(failed)?.take(bound).read_to_end(&mut text).map_err(failed)?;
    Ok(KeySet::parse(&text)?)
}

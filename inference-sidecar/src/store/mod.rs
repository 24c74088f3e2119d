//! Features by key: rows in memory, sealed on disk, changed while requests read them.

mod beside;
mod disk;
pub mod error;
pub mod inbox;
mod key;
pub mod line;
mod snapshot;
pub mod stream;
#[cfg(test)]
mod tests;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::rand;

pub use key::{KeyError, StoreKey};
pub use snapshot::{MAX_COLUMNS, Row, RowKey, Snapshot};

use crate::store::disk::{Batch, Head, Written};
use crate::store::error::{StoreError, StoreFault};
use crate::store::line::Update;
use crate::store::snapshot::MAX_ROWS;
use crate::store::stream::Position;

/// Longest name of a column, in bytes.
const MAX_NAME: usize = 128;

/// A feature store that is open: lookups meet memory only.
#[derive(Debug)]
pub struct FeatureStore {
    path: PathBuf,
    /// One of them opens the file: while keys change, the old one or the new one.
    keys: ArcSwap<Vec<StoreKey>>,
    current: ArcSwap<Snapshot>,
    /// What was read of the file last; whoever changes `current` holds it.
    seen: Mutex<Seen>,
    counts: Counts,
}

#[derive(Debug)]
struct Seen {
    head: Head,
    stamp: Option<Stamp>,
    /// What was wrong with a later file, as long as that stays the same: it is not read again for nothing.
    failed: Option<(Option<Stamp>, StoreError)>,
}

/// Number, length and time of a file: it changes whenever the file does.
type Stamp = (u64, u64, i64, i64);

/// How often what happened, since the store was opened.
#[derive(Debug, Default)]
pub struct Counts {
    found: AtomicU64,
    absent: AtomicU64,
    stale: AtomicU64,
    applied: AtomicU64,
    rejected: AtomicU64,
}

/// The outcome of one lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    Found,
    Absent,
    /// Every feature that wanted the row wanted it newer.
    Stale,
}

/// What became of updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub applied: usize,
    /// Older than what the store knew already.
    pub outdated: usize,
}

impl Counts {
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    pub fn absent(&self) -> u64 {
        self.absent.load(Ordering::Relaxed)
    }

    pub fn stale(&self) -> u64 {
        self.stale.load(Ordering::Relaxed)
    }

    /// Rows that were written.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Files that were refused.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    fn note(&self, lookup: Lookup) {
        let count = match lookup {
            Lookup::Found => &self.found,
            Lookup::Absent => &self.absent,
            Lookup::Stale => &self.stale,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl FeatureStore {
    /// Makes an empty store with these columns; refuses to touch a file that is there.
    pub fn create(path: &Path, key: &StoreKey, columns: &[String]) -> Result<(), StoreFault> {
        let named = |name: &String| (1..=MAX_NAME).contains(&name.len());
        let distinct: std::collections::BTreeSet<&String> = columns.iter().collect();
        let sound = columns.iter().all(named) && distinct.len() == columns.len();
        let told = |fault| StoreFault { path: path.to_owned(), fault };
        if !sound || columns.is_empty() || columns.len() > MAX_COLUMNS {
            return Err(told(StoreError::Columns));
        }
        let mut id = [0; 16];
        rand::fill(&mut id).map_err(|_| told(StoreError::Unreadable("no random bytes".to_owned())))?;
        disk::create(path, key, columns, id).map_err(told)
    }

    /// Reads all rows into memory. Blocks for as long as the disk does.
    pub fn open(path: &Path, key: StoreKey) -> Result<Self, StoreFault> {
        Self::open_with(path, vec![key])
    }

    /// The same with the first of several keys that opens it.
    pub fn open_with(path: &Path, keys: Vec<StoreKey>) -> Result<Self, StoreFault> {
        let stamp = stamp(path);
        let (head, snapshot) =
            disk::load(path, &keys).map_err(|fault| StoreFault { path: path.to_owned(), fault })?;
        Ok(Self {
            path: path.to_owned(),
            keys: ArcSwap::from_pointee(keys),
            current: ArcSwap::from_pointee(snapshot),
            seen: Mutex::new(Seen { head, stamp, failed: None }),
            counts: Counts::default(),
        })
    }

    /// Seals a store with another key, beside it and then in its place; gives how many rows it has. Those who have it
    /// open go on with what is in memory, and take it up once they know the key. Nothing changes where that fails.
    pub fn rekey(path: &Path, old: &StoreKey, new: &StoreKey) -> Result<usize, StoreFault> {
        let rekeyed = disk::rekey(path, std::slice::from_ref(old), new);
        rekeyed.map_err(|fault| StoreFault { path: path.to_owned(), fault })
    }

    /// From now on these keys are tried, one after another.
    pub fn set_keys(&self, keys: Vec<StoreKey>) {
        let mut seen = self.seen();
        self.keys.store(Arc::new(keys));
        // What could not be opened is looked at again.
        (seen.stamp, seen.failed) = (None, None);
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// All rows as they are now.
    #[inline]
    pub fn pin(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Counts a lookup.
    #[inline]
    pub(crate) fn note(&self, lookup: Lookup) {
        self.counts.note(lookup);
    }

    /// Writes all updates or none, to disk and then to memory. An update older than what is known of its key is passed
    /// over, so that the same updates may come twice and in any order.
    pub fn apply(&self, updates: impl Into<Vec<Update>>) -> Result<Applied, StoreFault> {
        self.told(self.write(updates.into(), None))
    }

    /// The same for updates of a stream, which is taken up as far as `position` with them: where another process has
    /// done so already, nothing is written.
    pub fn apply_from(&self, updates: Vec<Update>, position: Position) -> Result<Applied, StoreFault> {
        self.told(self.write(updates, Some(position)))
    }

    /// How far a stream was taken up, by this process or another; `None` where it never was.
    pub fn position(&self, stream: &str) -> Option<Position> {
        self.seen().head.position.clone().filter(|position| *position.stream == *stream)
    }

    fn write(&self, updates: Vec<Update>, position: Option<Position>) -> Result<Applied, StoreError> {
        let mut seen = self.seen();
        let columns = &seen.head.columns;
        let batch = Batch { columns, updates, position, most: MAX_ROWS };
        let Written { before, after, changes, outdated } = disk::write(&self.path, &self.keys.load(), batch)?;
        let applied = changes.len();
        self.counts.applied.fetch_add(applied as u64, Ordering::Relaxed);
        if before.same(&seen.head) {
            let changed = self.current.load().with(changes).map_err(|_| StoreError::TooLarge)?;
            self.current.store(Arc::new(changed));
            seen.head = after;
        } else {
            // Somebody else wrote in between.
            self.reload(&mut seen)?;
        }
        Ok(Applied { applied, outdated })
    }

    /// Reads the file anew where somebody else has written it; true where there was something new.
    pub fn refresh(&self) -> Result<bool, StoreFault> {
        let mut seen = self.seen();
        let now = stamp(&self.path);
        if now == seen.stamp {
            return Ok(false);
        }
        if let Some((_, fault)) = seen.failed.as_ref().filter(|(stamp, _)| *stamp == now) {
            let fault = fault.clone();
            drop(seen);
            return self.told(Err(fault));
        }
        let refreshed = disk::look(&self.path, &self.keys.load()).and_then(|head| {
            if head.same(&seen.head) { Ok(false) } else { self.reload(&mut seen).map(|()| true) }
        });
        // Taken before the file was read: what is written meanwhile is seen the next time.
        match &refreshed {
            Ok(_) => (seen.stamp, seen.failed) = (now, None),
            // Whoever writes it is done before the next time.
            Err(StoreError::Busy | StoreError::Unreadable(_)) => {}
            Err(fault) => seen.failed = Some((now, fault.clone())),
        }
        drop(seen);
        self.told(refreshed)
    }

    /// True where a store with other columns has taken the place of this one: it must be opened anew. Blocks for as long
    /// as the disk does.
    pub fn is_replaced(&self) -> bool {
        let columns = Arc::clone(&self.seen().head.columns);
        disk::look(&self.path, &self.keys.load()).is_ok_and(|head| head.columns != columns)
    }

    fn reload(&self, seen: &mut Seen) -> Result<(), StoreError> {
        let (head, snapshot) = disk::load(&self.path, &self.keys.load())?;
        // Models know columns by their place.
        if head.columns != seen.head.columns {
            return Err(StoreError::OtherColumns);
        }
        self.current.store(Arc::new(snapshot));
        seen.head = head;
        Ok(())
    }

    fn told<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreFault> {
        result.map_err(|fault| StoreFault { path: self.path.clone(), fault })
    }

    /// Nothing is left by halves in it.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

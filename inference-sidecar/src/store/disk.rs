//! Rows of a feature store on disk: redb, every value sealed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, Table,
    TableDefinition, TableError,
};
use serde::{Deserialize, Serialize};

use super::beside::{Beside, hold, resolve};
use super::error::StoreError;
use super::key::{RowHasher, SEALED, StoreKey};
use super::line::Update;
use super::snapshot::{MAX_CELLS, MAX_ROWS, RowKey, Snapshot, StoredRow};
use super::stream::Position;

/// One sealed record: what the store is.
const HEAD: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("head");
/// Hashed keys, sealed rows.
const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");
/// The key of the head, and the place it is sealed for.
const HEAD_KEY: &[u8] = b"head";
/// Version of the format, the only one that is read.
const FORMAT: u32 = 1;
/// Memory that redb keeps of the file while it is open, in bytes.
const CACHE: usize = 16 << 20;

/// Updates beyond which they are written beside the store, so that nobody who opens it waits for long.
const BESIDE: usize = 4_096;

/// Older than the newest update by so much, in microseconds, a deleted row keeps nothing out any more: 30 days.
const DELETED_FOR: i64 = 30 * 86_400 * 1_000_000;

/// What a store is, and how far it came.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    format: u32,
    /// Tells this store from one that takes its place.
    id: [u8; 16],
    pub(super) columns: Arc<[Box<str>]>,
    /// Rows, deleted ones included: a row that is missing is found out.
    rows: usize,
    /// Counts writes.
    generation: u64,
    /// How far a stream of updates was taken up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) position: Option<Position>,
    /// What the numbers of rows are made with, where that is not the key that the store is sealed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    numbered: Option<[u8; 16]>,
}

impl Head {
    /// True where nothing was written in between.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.id == other.id && self.generation == other.generation
    }

    /// With the key among these that opens it, which numbers rows as this store has them.
    fn open(keys: &[StoreKey], sealed: &[u8]) -> Result<(Self, StoreKey), StoreError> {
        let opened = keys.iter().find_map(|key| Some((key.open(HEAD_KEY, sealed).ok()?, key.clone())));
        let (plain, key) = opened.ok_or(StoreError::Key)?;
        let head: Self =
            serde_json::from_slice(&plain).map_err(|error| StoreError::Damaged(error.to_string()))?;
        if head.format != FORMAT {
            return Err(StoreError::Format(head.format));
        }
        let key = match &head.numbered {
            Some(numbered) => key.with_rows(RowHasher::new(numbered)),
            None => key,
        };
        Ok((head, key))
    }

    fn seal(&self, key: &StoreKey) -> Result<Vec<u8>, StoreError> {
        let plain = serde_json::to_vec(self).map_err(|error| StoreError::Damaged(error.to_string()))?;
        key.seal(HEAD_KEY, &plain).map_err(|_| StoreError::Key)
    }
}

/// Makes an empty store; refuses to touch one that is there.
pub(super) fn create(
    path: &Path,
    key: &StoreKey,
    columns: &[String],
    id: [u8; 16],
) -> Result<(), StoreError> {
    guarded(|| {
        if path.exists() {
            return Err(StoreError::Exists);
        }
        let columns = columns.iter().map(|column| column.as_str().into()).collect();
        let (position, numbered) = (None, None);
        let head = Head { format: FORMAT, id, columns, rows: 0, generation: 0, position, numbered };
        let database = builder().create(path).map_err(opening)?;
        let write = database.begin_write().map_err(damaged)?;
        write.open_table(ROWS).map_err(damaged)?;
        write.open_table(HEAD).map_err(damaged)?.insert(HEAD_KEY, &*head.seal(key)?).map_err(damaged)?;
        write.commit().map_err(damaged)
    })
}

/// What the store is, and all its rows.
pub(super) fn load(path: &Path, keys: &[StoreKey]) -> Result<(Head, Snapshot), StoreError> {
    guarded(|| {
        let read = reading(path)?;
        let (head, key) = head(&read, keys)?;
        if head.rows > MAX_ROWS || head.rows.saturating_mul(head.columns.len()) > MAX_CELLS {
            return Err(StoreError::TooLarge);
        }
        let table = read.open_table(ROWS).map_err(missing)?;
        let (mut fault, mut count) = (None, 0_usize);
        let rows = table.iter().map_err(damaged)?.map_while(|row| {
            let row = row.map_err(damaged).and_then(|(place, sealed)| {
                open_row(&key, place.value(), sealed.value(), head.columns.len())
            });
            count += 1;
            row.map_err(|error| fault = Some(error)).ok()
        });
        let columns = Arc::clone(&head.columns);
        let snapshot = Snapshot::new(columns, key.rows, rows).map_err(|_| StoreError::TooLarge)?;
        match fault {
            Some(fault) => Err(fault),
            None if count != head.rows => {
                Err(StoreError::Damaged(format!("it holds {count} rows and should hold {}", head.rows)))
            }
            None => Ok((head, snapshot)),
        }
    })
}

/// What the store is.
pub(super) fn look(path: &Path, keys: &[StoreKey]) -> Result<Head, StoreError> {
    guarded(|| Ok(head(&reading(path)?, keys)?.0))
}

/// What became of updates.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) before: Head,
    pub(super) after: Head,
    pub(super) changes: Vec<(RowKey, StoredRow)>,
    /// Updates older than what the store knows.
    pub(super) outdated: usize,
}

/// What is to be written.
pub(super) struct Batch<'a> {
    /// The cells of the updates are those of these columns.
    pub(super) columns: &'a [Box<str>],
    pub(super) updates: Vec<Update>,
    /// How far a stream is taken up with them. Where it was before, nothing of them is written.
    pub(super) position: Option<Position>,
    /// Rows that there may be at most.
    pub(super) most: usize,
}

/// Writes all updates or none; those older than what is known are passed over.
///
/// Where there would be over `most` rows, or more than a store holds, those that were deleted long ago are dropped.
/// One process writes at a time; nobody who opens the store meanwhile waits for longer than a few updates take.
pub(super) fn write(path: &Path, keys: &[StoreKey], batch: Batch<'_>) -> Result<Written, StoreError> {
    guarded(|| {
        let path = &resolve(path)?;
        let _held = hold(path)?;
        let beside = if batch.updates.len() > BESIDE { Beside::copy(path)? } else { None };
        let Some(beside) = beside else { return write_to(path, keys, batch) };
        let written = write_to(beside.new_path(), keys, batch)?;
        beside.put()?;
        Ok(written)
    })
}

fn write_to(path: &Path, keys: &[StoreKey], batch: Batch<'_>) -> Result<Written, StoreError> {
    let Batch { columns, updates, position, most } = batch;
    let database = builder().open(path).map_err(opening)?;
    let write = database.begin_write().map_err(damaged)?;
    let (before, key) = {
        let table = write.open_table(HEAD).map_err(missing)?;
        let sealed = table.get(HEAD_KEY).map_err(damaged)?.ok_or(StoreError::NoStore)?;
        Head::open(keys, sealed.value())?
    };
    if *before.columns != *columns {
        return Err(StoreError::OtherColumns);
    }
    let mut after = Head { generation: before.generation + 1, ..before.clone() };
    if let Some(position) = position {
        if before.position.as_ref().is_some_and(|before| before.covers(&position)) {
            let changes = Vec::new();
            return Ok(Written { after: before.clone(), before, changes, outdated: updates.len() });
        }
        after.position = Some(position);
    }
    let width = before.columns.len();
    let (mut changes, mut outdated) = (Vec::with_capacity(updates.len()), 0);
    {
        let mut table = write.open_table(ROWS).map_err(missing)?;
        for update in updates {
            let place = key.row(&update.key);
            let known = table.get(&place.0[..]).map_err(damaged)?;
            let known = known.map(|sealed| open_row(&key, &place.0, sealed.value(), width)).transpose()?;
            if known.as_ref().is_some_and(|(_, known)| known.at > update.at) {
                outdated += 1;
                continue;
            }
            // A deleted row is kept so that older updates stay out; of one that never was, there is nothing to keep.
            if known.is_none() && update.cells.is_none() {
                continue;
            }
            after.rows += usize::from(known.is_none());
            let row = StoredRow { at: update.at, cells: update.cells };
            let sealed = key.seal(&place.0, &bytes_of(&row)).map_err(|_| StoreError::Key)?;
            table.insert(&place.0[..], &*sealed).map_err(damaged)?;
            changes.push((place, row));
        }
    }
    let most = most.min(MAX_ROWS).min(MAX_CELLS / width.max(1));
    if after.rows > most {
        let newest = changes.iter().map(|(_, row)| row.at).max().unwrap_or(i64::MIN);
        let mut table = write.open_table(ROWS).map_err(missing)?;
        after.rows -= drop_deleted(&mut table, &key, newest.saturating_sub(DELETED_FOR))?;
    }
    if after.rows > most {
        return Err(StoreError::TooLarge);
    }
    write.open_table(HEAD).map_err(missing)?.insert(HEAD_KEY, &*after.seal(&key)?).map_err(damaged)?;
    write.commit().map_err(damaged)?;
    Ok(Written { before, after, changes, outdated })
}

/// Seals everything with another key. Rows keep their numbers: what they stand for is not known here.
pub(super) fn rekey(path: &Path, keys: &[StoreKey], new: &StoreKey) -> Result<usize, StoreError> {
    guarded(|| {
        let path = &resolve(path)?;
        let _held = hold(path)?;
        let beside = Beside::empty(path)?;
        let read = reading_held(path)?;
        let (before, key) = head(&read, keys)?;
        let rows = read.open_table(ROWS).map_err(missing)?;
        {
            let database = builder().create(beside.new_path()).map_err(opening)?;
            if !beside.adopted() {
                let why = "it belongs to another user, to whom a new file cannot be given";
                return Err(StoreError::Unreadable(why.to_owned()));
            }
            let write = database.begin_write().map_err(damaged)?;
            let after = Head { numbered: Some(key.rows.key()), ..before };
            let sealed = after.seal(new)?;
            write.open_table(HEAD).map_err(missing)?.insert(HEAD_KEY, &*sealed).map_err(damaged)?;
            {
                let mut table = write.open_table(ROWS).map_err(missing)?;
                for row in rows.iter().map_err(damaged)? {
                    let (place, sealed) = row.map_err(damaged)?;
                    let place = place.value();
                    let plain = key.open(place, sealed.value()).map_err(|_| foreign())?;
                    let sealed = new.seal(place, &plain).map_err(|_| StoreError::Key)?;
                    table.insert(place, &*sealed).map_err(damaged)?;
                }
            }
            write.commit().map_err(damaged)?;
        }
        // Rows that are missing, or not sound, are found out before it takes the place of the other.
        let (_, snapshot) = load(beside.new_path(), std::slice::from_ref(new))?;
        beside.put()?;
        Ok(snapshot.rows())
    })
}

/// Drops the rows that were deleted before this moment; gives how many there were.
fn drop_deleted(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    key: &StoreKey,
    before: i64,
) -> Result<usize, StoreError> {
    // What is sealed is as long as its parts: rows with cells are not opened.
    let mut fault = None;
    let mut dropped = 0;
    let kept = |place: &[u8], sealed: &[u8]| {
        if sealed.len() != SEALED + 8 {
            return true;
        }
        match open_row(key, place, sealed, 0) {
            Ok((_, row)) if row.at < before => {
                dropped += 1;
                false
            }
            Ok(_) => true,
            Err(error) => {
                fault = Some(error);
                true
            }
        }
    };
    table.retain(kept).map_err(damaged)?;
    fault.map_or(Ok(dropped), Err)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

/// A view of the file; one that a crash left behind is mended first, where it may be written.
fn reading(path: &Path) -> Result<ReadTransaction, StoreError> {
    match builder().open_read_only(path) {
        Err(DatabaseError::RepairAborted) => {
            let _held = hold(&resolve(path)?)?;
            reading_held(path)
        }
        opened => opened.map_err(opening)?.begin_read().map_err(damaged),
    }
}

/// The same for whoever holds the store already.
fn reading_held(path: &Path) -> Result<ReadTransaction, StoreError> {
    let database = match builder().open_read_only(path) {
        Err(DatabaseError::RepairAborted) => {
            drop::<Database>(builder().open(path).map_err(opening)?);
            builder().open_read_only(path)
        }
        opened => opened,
    };
    database.map_err(opening)?.begin_read().map_err(damaged)
}

fn head(read: &ReadTransaction, keys: &[StoreKey]) -> Result<(Head, StoreKey), StoreError> {
    let table = read.open_table(HEAD).map_err(missing)?;
    let sealed = table.get(HEAD_KEY).map_err(damaged)?.ok_or(StoreError::NoStore)?;
    Head::open(keys, sealed.value())
}

/// The moment, then the cells; none for a deleted row. All little-endian.
fn bytes_of(row: &StoredRow) -> Vec<u8> {
    let cells = row.cells.as_deref().unwrap_or_default();
    let mut bytes = Vec::with_capacity(8 + 4 * cells.len());
    bytes.extend_from_slice(&row.at.to_le_bytes());
    for cell in cells {
        bytes.extend_from_slice(&cell.to_le_bytes());
    }
    bytes
}

fn open_row(
    key: &StoreKey,
    place: &[u8],
    sealed: &[u8],
    width: usize,
) -> Result<(RowKey, StoredRow), StoreError> {
    let number = RowKey(place.try_into().map_err(|_| foreign())?);
    let plain = key.open(place, sealed).map_err(|_| foreign())?;
    let (at, cells) = plain.split_first_chunk().ok_or_else(foreign)?;
    let (cells, rest) = cells.as_chunks::<4>();
    if !rest.is_empty() || !(cells.is_empty() || cells.len() == width) {
        return Err(foreign());
    }
    let cells = (!cells.is_empty()).then(|| cells.iter().map(|cell| f32::from_le_bytes(*cell)).collect());
    Ok((number, StoredRow { at: i64::from_le_bytes(*at), cells }))
}

fn foreign() -> StoreError {
    StoreError::Damaged("a row was changed from outside, or sealed with another key".to_owned())
}

fn opening(error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Busy,
        error => StoreError::Unreadable(error.to_string()),
    }
}

fn missing(error: TableError) -> StoreError {
    match error {
        TableError::TableDoesNotExist(_) => StoreError::NoStore,
        error => StoreError::Damaged(error.to_string()),
    }
}

fn damaged(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Damaged(error.into().to_string())
}

/// redb trusts the file and may panic on one that was changed from outside.
fn guarded<T>(run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(StoreError::Damaged("its pages contradict each other".to_owned())))
}

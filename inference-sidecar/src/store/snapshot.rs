//! All rows of a feature store in memory, immutable; what changed lies over them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use super::key::RowHasher;

/// Rows of one store at most.
pub const MAX_ROWS: usize = 4_000_000;
/// Numbers in one store at most: 512 MiB.
pub const MAX_CELLS: usize = 1 << 27;
/// Columns of one store at most.
pub const MAX_COLUMNS: usize = 256;
/// Changed rows that lie over the others, until all are laid out anew.
const MAX_OVERLAY: usize = 16_384;

/// What stands for the key of a row: a keyed hash, so that it is spread evenly already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowKey(pub [u8; 16]);

/// Takes the first bytes of a [`RowKey`] as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken(u64);

type Map<T> = HashMap<RowKey, T, BuildHasherDefault<Taken>>;

/// One row as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// Microseconds since the Unix epoch.
    pub at: i64,
    /// One a column, NaN where it is absent; `None` for a row that was deleted.
    pub cells: Option<Box<[f32]>>,
}

/// One row as it is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
    /// When it was known, in microseconds since the Unix epoch.
    pub at: i64,
    /// One a column, NaN where it is absent.
    pub cells: &'a [f32],
}

/// Where the cells of a row are. Its moment is beside it: a lookup waits for memory once less.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: i64,
    row: u32,
}

/// Rows laid out one behind the other.
#[derive(Debug, Default)]
struct Base {
    places: Map<Place>,
    /// Row-major.
    cells: Vec<f32>,
}

/// Everything that a store holds at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    columns: Arc<[Box<str>]>,
    /// The rows have their numbers by it.
    hasher: RowHasher,
    base: Arc<Base>,
    overlay: Arc<Map<StoredRow>>,
    /// Of all rows.
    newest: i64,
    rows: usize,
}

/// The rows are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("over {MAX_ROWS} rows or {MAX_CELLS} numbers")]
pub struct TooLarge;

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let first = self.0.first_chunk().copied().unwrap_or_default();
        state.write_u64(u64::from_le_bytes(first));
    }
}

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    /// Never asked: a [`RowKey`] writes one number.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

impl Base {
    fn row(&self, key: RowKey, width: usize) -> Option<Row<'_>> {
        let Place { at, row } = *self.places.get(&key)?;
        let row = usize::try_from(row).ok()?;
        let cells = self.cells.get(row * width..(row + 1) * width)?;
        Some(Row { at, cells })
    }

    fn push(&mut self, key: RowKey, at: i64, cells: &[f32]) -> Result<(), TooLarge> {
        if self.places.len() >= MAX_ROWS || self.cells.len() + cells.len() > MAX_CELLS {
            return Err(TooLarge);
        }
        let row = u32::try_from(self.places.len()).map_err(|_| TooLarge)?;
        self.places.insert(key, Place { at, row });
        self.cells.extend_from_slice(cells);
        Ok(())
    }
}

impl Snapshot {
    /// Lays out rows, each key once; those that were deleted are left out.
    pub fn new(
        columns: Arc<[Box<str>]>,
        hasher: RowHasher,
        rows: impl Iterator<Item = (RowKey, StoredRow)>,
    ) -> Result<Self, TooLarge> {
        let mut base = Base::default();
        let mut newest = i64::MIN;
        for (key, row) in rows {
            newest = newest.max(row.at);
            if let Some(cells) = row.cells {
                base.push(key, row.at, &cells)?;
            }
        }
        let rows = base.places.len();
        Ok(Self { columns, hasher, base: Arc::new(base), overlay: Arc::default(), newest, rows })
    }

    pub fn columns(&self) -> &Arc<[Box<str>]> {
        &self.columns
    }

    /// Place of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| **column == *name)
    }

    /// Rows, without those that were deleted.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// When the newest row was known, in microseconds since the Unix epoch; `None` without any.
    pub fn newest(&self) -> Option<i64> {
        (self.newest > i64::MIN).then_some(self.newest)
    }

    /// The row of a key as records have it, where there is one.
    #[inline]
    pub fn find(&self, key: &str) -> Option<Row<'_>> {
        self.row(self.hasher.row(key))
    }

    /// The row with this number, where there is one.
    #[inline]
    pub fn row(&self, key: RowKey) -> Option<Row<'_>> {
        if !self.overlay.is_empty()
            && let Some(changed) = self.overlay.get(&key)
        {
            return changed.cells.as_deref().map(|cells| Row { at: changed.at, cells });
        }
        self.base.row(key, self.columns.len())
    }

    /// The same with changed rows, each newer than the one it replaces. Those that read the old one go on with it.
    pub fn with(&self, changes: Vec<(RowKey, StoredRow)>) -> Result<Self, TooLarge> {
        let mut overlay = Map::clone(&self.overlay);
        let (mut newest, mut rows) = (self.newest, self.rows);
        for (key, row) in changes {
            newest = newest.max(row.at);
            let old = match overlay.get(&key) {
                Some(old) => old.cells.is_some(),
                None => self.base.places.contains_key(&key),
            };
            rows = rows + usize::from(row.cells.is_some()) - usize::from(old);
            overlay.insert(key, row);
        }
        let (columns, base) = (Arc::clone(&self.columns), Arc::clone(&self.base));
        let hasher = self.hasher;
        let new = Self { columns, hasher, base, overlay: Arc::new(overlay), newest, rows };
        if new.overlay.len() <= MAX_OVERLAY { Ok(new) } else { new.laid_out() }
    }

    /// The same rows, all of them laid out.
    fn laid_out(&self) -> Result<Self, TooLarge> {
        let mut base = Base::default();
        let old = self.base.places.keys().filter(|key| !self.overlay.contains_key(key));
        for key in old.chain(self.overlay.keys()) {
            if let Some(row) = self.row(*key) {
                base.push(*key, row.at, row.cells)?;
            }
        }
        let columns = Arc::clone(&self.columns);
        Ok(Self {
            columns,
            hasher: self.hasher,
            base: Arc::new(base),
            overlay: Arc::default(),
            newest: self.newest,
            rows: self.rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_OVERLAY, RowHasher, RowKey, Snapshot, StoredRow};

    fn key(number: usize) -> RowKey {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        RowKey(key)
    }

    fn row(at: i64, cell: f32) -> StoredRow {
        StoredRow { at, cells: Some([cell, 1.0].into()) }
    }

    fn read(snapshot: &Snapshot, number: usize) -> Option<(i64, f32)> {
        snapshot.row(key(number)).map(|row| (row.at, row.cells[0]))
    }

    #[test]
    fn changes_lie_over_the_rows_until_they_are_laid_out_and_nobody_sees_the_difference() {
        let columns = ["a".into(), "b".into()].into();
        let first = (0..10).map(|number| (key(number), row(1, 0.5)));
        let old = Snapshot::new(columns, RowHasher::new(&[7; 16]), first).unwrap();
        assert_eq!(
            (old.rows(), old.newest(), read(&old, 3), read(&old, 10)),
            (10, Some(1), Some((1, 0.5)), None)
        );
        let gone = StoredRow { at: 3, cells: None };
        let new = old.with(vec![(key(3), row(2, 7.0)), (key(10), row(2, 8.0)), (key(4), gone)]).unwrap();
        assert_eq!((new.rows(), new.newest()), (10, Some(3)));
        assert_eq!((read(&new, 3), read(&new, 10), read(&new, 4)), (Some((2, 7.0)), Some((2, 8.0)), None));
        assert_eq!(
            (read(&old, 3), read(&old, 4)),
            (Some((1, 0.5)), Some((1, 0.5))),
            "the old one is as it was"
        );
        let many = (20..20 + MAX_OVERLAY).map(|number| (key(number), row(4, 9.0))).collect();
        let laid = new.with(many).unwrap();
        assert!(laid.overlay.is_empty() && laid.rows() == 10 + MAX_OVERLAY);
        assert_eq!((read(&laid, 3), read(&laid, 10), read(&laid, 4)), (Some((2, 7.0)), Some((2, 8.0)), None));
        assert_eq!((read(&laid, 5), read(&laid, 20)), (Some((1, 0.5)), Some((4, 9.0))));
        assert_eq!((laid.column("b"), laid.column("c")), (Some(1), None));
    }
}

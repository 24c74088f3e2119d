//! Tables of a bundle: rows of numbers by a key, such as embeddings of products.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

/// Rows of one table at most.
const MAX_ROWS: usize = 1_000_000;
/// Numbers in one table at most.
const MAX_CELLS: usize = 1 << 26;

/// Rows in the order of the file. Immutable; shared by all features that look things up in it.
#[derive(Debug, Default)]
pub struct Table {
    pub keys: Vec<Arc<str>>,
    /// For people; as many as there are keys.
    pub labels: Vec<Option<Arc<str>>>,
    places: HashMap<Arc<str>, usize>,
    columns: BTreeMap<String, Column>,
}

/// One column: `width` numbers a row, row-major.
#[derive(Debug, Default)]
pub struct Column {
    pub width: usize,
    pub cells: Vec<f32>,
}

/// The tables of a bundle, by the name that the manifest gives them.
pub type Tables = BTreeMap<String, Arc<Table>>;

/// Why a file is no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("{0}")]
    Syntax(String),
    #[error("over {MAX_ROWS} rows or {MAX_CELLS} numbers")]
    TooLarge,
    #[error("row {0}: the key is empty or used twice")]
    Key(usize),
    #[error("row {row}: `{column}` must hold {width} numbers within the range of float32")]
    Cells { row: usize, column: String, width: usize },
    #[error("row {row}: there is no column `{column}`")]
    Unknown { row: usize, column: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    columns: BTreeMap<String, usize>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    key: Arc<str>,
    label: Option<Arc<str>>,
    #[serde(flatten)]
    cells: HashMap<String, Vec<f64>>,
}

impl Table {
    /// Reads `{"columns": {NAME: WIDTH}, "rows": [{"key": .., "label": .., NAME: [..]}]}`.
    pub fn parse(text: &[u8]) -> Result<Self, TableError> {
        let document: Document =
            serde_json::from_slice(text).map_err(|error| TableError::Syntax(error.to_string()))?;
        let rows = document.rows.len();
        let widths = document.columns.values().fold(0_usize, |sum, width| sum.saturating_add(*width));
        if rows > MAX_ROWS || rows.saturating_mul(widths) > MAX_CELLS {
            return Err(TableError::TooLarge);
        }
        let column = |width: usize| Column { width, cells: Vec::with_capacity(rows * width) };
        let mut table = Self {
            columns: document.columns.into_iter().map(|(name, width)| (name, column(width))).collect(),
            ..Self::default()
        };
        for (place, row) in document.rows.into_iter().enumerate() {
            table.push(place, row)?;
        }
        Ok(table)
    }

    fn push(&mut self, place: usize, mut row: Row) -> Result<(), TableError> {
        if row.key.is_empty() || self.places.insert(Arc::clone(&row.key), place).is_some() {
            return Err(TableError::Key(place));
        }
        for (name, column) in &mut self.columns {
            let cells = row.cells.remove(name).unwrap_or_default();
            if cells.len() != column.width || cells.iter().any(|cell| cell.abs() > f64::from(f32::MAX)) {
                return Err(TableError::Cells { row: place, column: name.clone(), width: column.width });
            }
            #[expect(clippy::cast_possible_truncation, reason = "the range is checked; the tensor is f32")]
            column.cells.extend(cells.into_iter().map(|cell| cell as f32));
        }
        if let Some(column) = row.cells.into_keys().next() {
            return Err(TableError::Unknown { row: place, column });
        }
        self.keys.push(row.key);
        self.labels.push(row.label);
        Ok(())
    }

    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.get(name)
    }

    /// Position of the row with this key, compared byte for byte.
    pub fn place(&self, key: &str) -> Option<usize> {
        self.places.get(key).copied()
    }
}

impl Column {
    /// The numbers of one row.
    pub fn row(&self, place: usize) -> Option<&[f32]> {
        self.cells.get(place * self.width..(place + 1) * self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn a_table_gives_its_rows_and_refuses_what_contradicts_it() {
        let good = r#"{"columns":{"e":2,"p":1},"rows":[{"key":"a","label":"A","e":[1,2],"p":[3]},{"key":"b","e":[4,5.5],"p":[6]}]}"#;
        let table = Table::parse(good.as_bytes()).unwrap();
        let column = table.column("e").unwrap();
        assert_eq!(table.place("b").and_then(|place| column.row(place)), Some(&[4.0, 5.5][..]));
        assert_eq!(
            (table.place("c"), table.labels[0].as_deref(), table.labels[1].as_deref()),
            (None, Some("A"), None)
        );
        for (from, to, part) in [
            (r#""key":"b""#, r#""key":"a""#, "row 1: the key"),
            (r#""key":"b""#, r#""key":"""#, "row 1: the key"),
            ("[4,5.5]", "[4]", "row 1: `e` must hold 2"),
            ("[4,5.5]", "[4,1e39]", "row 1: `e` must hold 2"),
            (r#","p":[6]"#, "", "row 1: `p` must hold 1"),
            (r#""p":[6]"#, r#""p":[6],"q":[1]"#, "no column `q`"),
            ("[6]", r#"["6"]"#, "invalid type"),
            (r#"{"columns""#, r#"{"other":1,"columns""#, "unknown field"),
            (r#""e":2"#, r#""e":99999999"#, "over"),
        ] {
            let error = Table::parse(good.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{to}: {error}");
        }
    }
}

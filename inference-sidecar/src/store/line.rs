//! Updates of a feature store as files bring them: NDJSON and CSV.

use std::collections::BTreeMap;
use std::io::{BufRead, ErrorKind, Read};
use std::path::Path;

use csv_core::{ReadFieldResult, Terminator};
use foregate_filters::timestamp::Timestamp;
use serde::Deserialize;

/// Updates in one file at most.
const MAX_UPDATES: usize = 2_000_000;
/// Numbers in the updates of one file at most, absent ones included: 128 MiB.
const MAX_CELLS: usize = 1 << 25;
/// Bytes of one line at most.
const MAX_LINE: u64 = 64 << 10;
/// Longest key, in bytes.
const MAX_KEY: usize = 256;
/// Clocks may differ by so much, in microseconds; a row from further ahead would keep out all that follow.
const AHEAD: i64 = 3_600_000_000;

/// One row as it is to be from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub key: Box<str>,
    /// Microseconds since the Unix epoch.
    pub at: i64,
    /// One a column, NaN where it is absent; `None` deletes the row.
    pub cells: Option<Box<[f32]>>,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object a line: `{"key": "001..", "features": {"visits": 3}, "at": "2027-01-31T12:00:00Z"}`.
    Ndjson,
    /// RFC 4180 with a header: `key`, perhaps `at`, and columns. An empty cell is absent.
    Csv,
}

/// The first line that is no update, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct LineError {
    pub line: usize,
    pub what: String,
    /// Where it could not be read at all: what it says is not known then.
    pub unread: Option<ErrorKind>,
}

impl LineError {
    fn new(line: usize, what: String) -> Self {
        Self { line, what, unread: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    key: Key,
    #[serde(default)]
    features: BTreeMap<String, Option<f64>>,
    at: Option<Timestamp>,
    #[serde(default)]
    delete: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Key {
    Text(Box<str>),
    Number(i64),
}

/// What the columns of a CSV file are.
enum Cell {
    Key,
    At,
    /// Place in the store.
    Column(usize),
}

impl Form {
    /// By the end of the name; `None` for files of another kind.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// Reads all updates for a store with these columns; those that do not say when are of `now`.
pub fn read(
    file: impl Read,
    form: Form,
    columns: &[Box<str>],
    now: Timestamp,
) -> Result<Vec<Update>, LineError> {
    let mut lines = Lines { file: std::io::BufReader::new(file), line: 0, text: String::new() };
    let mut reader = Reader { columns, now, at: now, header: Vec::new() };
    let (mut updates, mut cells) = (Vec::new(), Cells::new());
    // A short line is as many numbers as a full one.
    let most = MAX_UPDATES.min(MAX_CELLS / columns.len().max(1));
    while lines.next()? {
        let text = lines.text.trim_end_matches(['\n', '\r']);
        let refuse = |what| LineError::new(lines.line, what);
        if text.is_empty() {
            continue;
        }
        let update = match form {
            Form::Ndjson => reader.object(text).map_err(refuse)?,
            Form::Csv if reader.header.is_empty() => {
                reader.header = header(cells.of(text).map_err(refuse)?, columns).map_err(refuse)?;
                continue;
            }
            Form::Csv => cells.of(text).and_then(|cells| reader.record(cells)).map_err(refuse)?,
        };
        if updates.len() == most {
            return Err(refuse(format!("over {most} updates of {} columns in one file", columns.len())));
        }
        updates.push(update);
    }
    Ok(updates)
}

/// Reads one object, as a line of an NDJSON file, which is of `at` where it does not say when.
pub(super) fn object(
    text: &str,
    columns: &[Box<str>],
    now: Timestamp,
    at: Timestamp,
) -> Result<Update, String> {
    if text.len() as u64 > MAX_LINE {
        return Err(format!("over {MAX_LINE} bytes"));
    }
    Reader { columns, now, at, header: Vec::new() }.object(text)
}

/// The columns that a file names: those of its header, or of its first object.
pub fn columns(file: impl Read, form: Form) -> Result<Vec<String>, LineError> {
    let mut lines = Lines { file: std::io::BufReader::new(file), line: 0, text: String::new() };
    lines.next()?;
    let refuse = |what| LineError::new(1, what);
    let text = lines.text.trim_end_matches(['\n', '\r']);
    match form {
        Form::Ndjson => {
            let written: Written = serde_json::from_str(text).map_err(|error| refuse(told(&error)))?;
            Ok(written.features.into_keys().collect())
        }
        Form::Csv => {
            let cells = Cells::new().of(text).map_err(refuse)?;
            Ok(cells.into_iter().filter(|name| name != "key" && name != "at").collect())
        }
    }
}

struct Lines<R> {
    file: R,
    line: usize,
    text: String,
}

impl<R: BufRead> Lines<R> {
    /// True where there is another line.
    fn next(&mut self) -> Result<bool, LineError> {
        self.line += 1;
        self.text.clear();
        let refuse = |what: String| LineError::new(self.line, what);
        let read = (&mut self.file).take(MAX_LINE + 1).read_line(&mut self.text);
        let read = read.map_err(|error| {
            // Bytes that are no UTF-8 are a fault of the file.
            let unread = (error.kind() != ErrorKind::InvalidData).then(|| error.kind());
            LineError { unread, ..refuse(error.to_string()) }
        })?;
        if read as u64 > MAX_LINE {
            return Err(refuse(format!("over {MAX_LINE} bytes")));
        }
        Ok(read > 0)
    }
}

struct Reader<'a> {
    columns: &'a [Box<str>],
    now: Timestamp,
    /// The moment of what does not say when.
    at: Timestamp,
    header: Vec<Cell>,
}

impl Reader<'_> {
    fn object(&self, text: &str) -> Result<Update, String> {
        let written: Written = serde_json::from_str(text).map_err(|error| told(&error))?;
        let key = match written.key {
            Key::Text(key) => key,
            Key::Number(number) => number.to_string().into(),
        };
        if written.delete {
            let none = written.features.is_empty();
            return if none {
                self.update(key, written.at, None)
            } else {
                Err("features of a row to delete".into())
            };
        }
        let mut cells = vec![f32::NAN; self.columns.len()];
        for (name, value) in written.features {
            let place = self.columns.iter().position(|column| **column == *name);
            let place = place.ok_or_else(|| format!("the store has no column `{name}`"))?;
            if let (Some(cell), Some(value)) = (cells.get_mut(place), value) {
                *cell = number(&name, value)?;
            }
        }
        self.update(key, written.at, Some(cells))
    }

    fn record(&self, found: Vec<String>) -> Result<Update, String> {
        if found.len() != self.header.len() {
            return Err(format!("{} cells, the header has {}", found.len(), self.header.len()));
        }
        let (mut key, mut at) = (String::new(), None);
        let mut row = vec![f32::NAN; self.columns.len()];
        for (what, text) in self.header.iter().zip(found) {
            match what {
                Cell::Key => key = text,
                Cell::At | Cell::Column(_) if text.is_empty() => {}
                Cell::At => at = Some(text.parse::<Timestamp>().map_err(|error| error.to_string())?),
                Cell::Column(place) => {
                    let name = self.columns.get(*place).map_or("", |name| name);
                    let value = text.parse().map_err(|_| format!("`{name}` is not a number"))?;
                    if let Some(cell) = row.get_mut(*place) {
                        *cell = number(name, value)?;
                    }
                }
            }
        }
        self.update(key.into(), at, Some(row))
    }

    fn update(
        &self,
        key: Box<str>,
        at: Option<Timestamp>,
        cells: Option<Vec<f32>>,
    ) -> Result<Update, String> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(format!("the key must have 1 to {MAX_KEY} bytes"));
        }
        let at = at.unwrap_or(self.at);
        if at.micros() > self.now.micros().saturating_add(AHEAD) {
            return Err("`at` is over an hour ahead".to_owned());
        }
        Ok(Update { key, at: at.micros(), cells: cells.map(Into::into) })
    }
}

/// What is wrong, without the value that is: it may be anybody's.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match (text.starts_with("invalid type"), text.rsplit_once(", expected ")) {
        (true, Some((_, expected))) => format!("invalid type, expected {expected}"),
        _ => text,
    }
}

fn header(names: Vec<String>, columns: &[Box<str>]) -> Result<Vec<Cell>, String> {
    let twice = (1..names.len()).find(|place| {
        let (earlier, later) = names.split_at(*place);
        later.first().is_some_and(|name| earlier.contains(name))
    });
    if twice.is_some() || !names.iter().any(|name| name == "key") {
        return Err("the header must name `key`, and nothing twice".to_owned());
    }
    let cell = |name: String| match name.as_str() {
        "key" => Ok(Cell::Key),
        "at" => Ok(Cell::At),
        _ => columns
            .iter()
            .position(|column| **column == *name)
            .map(Cell::Column)
            .ok_or_else(|| format!("the store has no column `{name}`")),
    };
    names.into_iter().map(cell).collect()
}

/// Reads the cells of lines (RFC 4180, section 2).
struct Cells {
    reader: csv_core::Reader,
    cell: Vec<u8>,
}

impl Cells {
    fn new() -> Self {
        let reader = csv_core::ReaderBuilder::new().terminator(Terminator::Any(b'\n')).build();
        Self { reader, cell: Vec::new() }
    }

    /// Those of this line, without the spaces around them; a cell cannot go over lines.
    fn of(&mut self, text: &str) -> Result<Vec<String>, String> {
        if text.is_empty() {
            return Err("the line is empty".to_owned());
        }
        check_quotes(text)?;
        self.reader.reset();
        // One byte more than any cell has, so that there is always room.
        self.cell.resize(text.len() + 1, 0);
        let (mut cells, mut rest, mut length) = (Vec::new(), text.as_bytes(), 0);
        // A quote that is still open takes the end of the line for a part of its cell.
        let mut end: &[u8] = b"\n";
        loop {
            if rest.is_empty() {
                rest = std::mem::take(&mut end);
            }
            let room = self.cell.get_mut(length..).unwrap_or_default();
            let (result, taken, written) = self.reader.read_field(rest, room);
            rest = rest.get(taken..).unwrap_or_default();
            length += written;
            match result {
                ReadFieldResult::InputEmpty if !end.is_empty() => {}
                ReadFieldResult::Field { record_end } => {
                    let text = self.cell.get(..std::mem::take(&mut length)).unwrap_or_default();
                    // Of UTF-8, only quotes are left out.
                    cells.push(String::from_utf8_lossy(text).trim().to_owned());
                    if record_end {
                        return Ok(cells);
                    }
                }
                ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull | ReadFieldResult::End => {
                    return Err("a quote that does not end in its line".to_owned());
                }
            }
        }
    }
}

/// Quotes stand around whole cells (RFC 4180, section 2.5 and 2.6). `csv_core` makes some sense of all others, and nobody knows
/// whether it is what was meant.
fn check_quotes(text: &str) -> Result<(), String> {
    let mut rest = text;
    while rest.contains('"') {
        if let Some(mut quoted) = rest.strip_prefix('"') {
            rest = loop {
                let end = quoted.split_once('"').ok_or("a quote that does not end in its line")?;
                match end.1.strip_prefix('"') {
                    Some(more) => quoted = more,
                    None => break end.1,
                }
            };
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err("text behind the quote that ends a cell".to_owned());
            }
        }
        let (cell, more) = rest.split_once(',').unwrap_or((rest, ""));
        if cell.contains('"') {
            return Err("a quote within a cell that does not begin with one".to_owned());
        }
        rest = more;
    }
    Ok(())
}

fn number(name: &str, value: f64) -> Result<f32, String> {
    if !value.is_finite() || value.abs() > f64::from(f32::MAX) {
        return Err(format!("`{name}` is beyond the range of float32"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked; the tensor is f32")]
    Ok(value as f32)
}

#[cfg(test)]
mod tests {
    use super::{Form, Update, columns, read};
    use foregate_filters::timestamp::Timestamp;

    fn now() -> Timestamp {
        "2027-01-31T12:00:00Z".parse().unwrap()
    }

    fn parsed(text: &str, form: Form) -> Result<Vec<Update>, String> {
        let columns = ["visits".into(), "spend".into()];
        read(text.as_bytes(), form, &columns, now()).map_err(|error| error.to_string())
    }

    fn told(updates: &[Update]) -> String {
        let one = |it: &Update| {
            let behind = (now().micros() - it.at) / 1_000_000;
            format!("{} {behind} {:?}", it.key, it.cells.as_deref())
        };
        updates.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn both_forms_say_the_same() {
        let ndjson = "{\"key\":\"a,\\\"b\",\"features\":{\"spend\":1.5,\"visits\":3},\"at\":\"2027-01-31T11:00:00Z\"}\n\n\
                      {\"key\":7,\"features\":{\"visits\":null}}\r\n{\"key\":\"x\",\"delete\":true}";
        let expected = "a,\"b 3600 Some([3.0, 1.5]); 7 0 Some([NaN, NaN])";
        assert_eq!(told(&parsed(ndjson, Form::Ndjson).unwrap()), format!("{expected}; x 0 None"));
        let csv = "spend,key,at,visits\r\n1.5,\"a,\"\"b\",2027-01-31T11:00:00Z,3\r\n,7,,\n";
        assert_eq!(told(&parsed(csv, Form::Csv).unwrap()), expected);
        let spaced = csv.replace("key", " key ").replace("1.5", " 1.5 ").replace("\n,7,", "\n,7 ,");
        assert_eq!(told(&parsed(&spaced, Form::Csv).unwrap()), expected);
        assert_eq!(columns(csv.as_bytes(), Form::Csv).unwrap(), ["spend", "visits"]);
        assert_eq!(columns(ndjson.as_bytes(), Form::Ndjson).unwrap(), ["spend", "visits"]);
    }

    #[test]
    fn a_file_is_bounded_by_its_numbers_whatever_its_bytes() {
        let columns: Vec<Box<str>> = (0..4_096).map(|place| place.to_string().into()).collect();
        let most = super::MAX_CELLS / columns.len();
        let file = |lines: usize| format!("key\n{}", "a\n".repeat(lines));
        let read = |lines| read(file(lines).as_bytes(), Form::Csv, &columns, now());
        assert_eq!(read(8).unwrap().len(), 8);
        let error = read(most + 1).unwrap_err();
        assert_eq!(
            (error.line, error.what),
            (most + 2, format!("over {most} updates of 4096 columns in one file"))
        );
    }

    #[test]
    fn the_first_line_that_is_wrong_is_told() {
        for (form, text, expected) in [
            (Form::Ndjson, "{\"key\":\"a\"}\n{\"key\":\"\"}", "line 2: the key must have 1 to 256 bytes"),
            (Form::Ndjson, "{\"key\":\"a\",\"features\":{\"x\":1}}", "line 1: the store has no column `x`"),
            (
                Form::Ndjson,
                "{\"key\":\"a\",\"features\":{\"spend\":1e39}}",
                "`spend` is beyond the range of float32",
            ),
            (Form::Ndjson, "{\"key\":\"a\",\"features\":{\"spend\":\"1\"}}", "line 1: invalid type"),
            (Form::Ndjson, "{\"key\":\"a\",\"other\":1}", "unknown field"),
            (
                Form::Ndjson,
                "{\"key\":\"a\",\"delete\":true,\"features\":{\"spend\":1}}",
                "features of a row to delete",
            ),
            (Form::Ndjson, "{\"key\":\"a\",\"at\":\"2027-01-31T13:00:01Z\"}", "`at` is over an hour ahead"),
            (Form::Ndjson, &format!("{{\"key\":\"{}\"}}", "a".repeat(70_000)), "line 1: over 65536 bytes"),
            (Form::Csv, "visits\n1", "line 1: the header must name `key`"),
            (Form::Csv, "key,visits,visits\n", "line 1: the header must name `key`, and nothing twice"),
            (Form::Csv, "key,x\n", "line 1: the store has no column `x`"),
            (Form::Csv, "key,visits\na\n", "line 2: 1 cells, the header has 2"),
            (Form::Csv, "key,visits\na,b\n", "line 2: `visits` is not a number"),
            (Form::Csv, "key,visits\na,inf\n", "line 2: `visits` is beyond the range"),
            (Form::Csv, "key,visits\n\"a,1\n", "line 2: a quote that does not end in its line"),
            (Form::Csv, "key,visits\n\"a\"b,1\n", "line 2: text behind the quote"),
            (Form::Csv, "key,visits\n1,\"\"\"\" \n", "line 2: text behind the quote"),
            (Form::Csv, "key,visits\na\"b,1\n", "line 2: a quote within a cell"),
            (Form::Csv, "key,visits\n\"a\",1\"\n", "line 2: a quote within a cell"),
            (Form::Csv, "key,visits\n\"a,\"\",1\n", "line 2: a quote that does not end in its line"),
            (Form::Csv, "key,vis\"its\n", "line 1: a quote within a cell"),
            (Form::Csv, "key,visits\na\r,1\r2\n", "line 2: `visits` is not a number"),
            (Form::Csv, "key,visits\n\"a\n", "line 2: a quote that does not end in its line"),
            (Form::Csv, "key,\"visits\n", "line 1: a quote that does not end in its line"),
        ] {
            let error = parsed(text, form).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

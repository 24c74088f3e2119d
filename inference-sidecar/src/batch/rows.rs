//! Rows of a file, one after the other, each within a bound.

use std::io::{self, BufRead, BufReader, Read};

use csv_core::{ReadRecordResult, Reader};
use sha2::{Digest, Sha256};

/// Bytes of a row at most.
pub const MAX_ROW: usize = 1 << 20;
/// Columns of a row at most.
const MAX_COLUMNS: usize = 4_096;
/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// One row as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Line on which it ends, from 1.
    pub line: u64,
    /// Of JSON, the text; of CSV, its cells without their quotes, one behind the other.
    pub text: Vec<u8>,
    /// Ends of the cells; empty for JSON.
    pub ends: Vec<usize>,
    /// Why it cannot be read.
    pub fault: Option<&'static str>,
}

/// How a file is cut into rows.
enum Cut {
    Lines,
    Csv(Box<Reader>),
}

/// The rows of a file. Empty lines are no rows.
pub struct Rows<R> {
    reader: BufReader<R>,
    cut: Cut,
    /// Bytes of the file that were taken.
    offset: u64,
    /// Lines that were taken.
    line: u64,
    /// Digest of all that was taken.
    digest: Sha256,
}

/// How far a file was read.
#[derive(Clone, Debug)]
pub struct Place {
    pub offset: u64,
    pub line: u64,
    pub digest: Sha256,
}

impl<R: Read> Rows<R> {
    /// Rows of JSON, one a line.
    pub fn lines(input: R, place: Place) -> Self {
        Self::new(input, place, Cut::Lines)
    }

    /// Rows of CSV (RFC 4180).
    pub fn csv(input: R, place: Place) -> Self {
        let mut reader = Reader::new();
        reader.set_line(place.line + 1);
        Self::new(input, place, Cut::Csv(Box::new(reader)))
    }

    fn new(input: R, place: Place, cut: Cut) -> Self {
        let Place { offset, line, digest } = place;
        Self { reader: BufReader::with_capacity(BUFFER, input), cut, offset, line, digest }
    }

    /// How far it was read.
    pub fn place(&self) -> Place {
        Place { offset: self.offset, line: self.line, digest: self.digest.clone() }
    }

    /// The next row; `None` at the end of the file.
    pub fn next_row(&mut self) -> io::Result<Option<Row>> {
        match self.cut {
            Cut::Lines => self.next_line(),
            Cut::Csv(_) => self.next_record(),
        }
    }

    fn take(&mut self, count: usize) {
        self.offset += count as u64;
        self.reader.consume(count);
    }

    fn next_line(&mut self) -> io::Result<Option<Row>> {
        let mut row = Row::default();
        loop {
            let buffer = self.reader.fill_buf()?;
            let at_end = buffer.is_empty();
            let (piece, ended) = match memchr_newline(buffer) {
                Some(end) => (buffer.get(..=end).unwrap_or_default(), true),
                None => (buffer, false),
            };
            let count = piece.len();
            self.digest.update(piece);
            if row.text.len() + count > MAX_ROW {
                row.fault = Some("a row of over 1 MiB");
                row.text.clear();
            } else if row.fault.is_none() {
                row.text.extend_from_slice(piece);
            }
            self.take(count);
            if ended {
                self.line += 1;
            }
            if ended || at_end {
                let empty = row.text.trim_ascii().is_empty() && row.fault.is_none();
                if !empty {
                    row.line = if ended { self.line } else { self.line + 1 };
                    return Ok(Some(row));
                }
                if at_end {
                    return Ok(None);
                }
                row.text.clear();
            }
        }
    }

    fn next_record(&mut self) -> io::Result<Option<Row>> {
        let mut row = Row { text: vec![0; 1 << 10], ends: vec![0; 64], ..Row::default() };
        let (mut filled, mut cells) = (0, 0);
        loop {
            let buffer = self.reader.fill_buf()?;
            let Cut::Csv(reader) = &mut self.cut else { return Ok(None) };
            let (text, ends) = (row.text.get_mut(filled..), row.ends.get_mut(cells..));
            let (result, taken, written, ended) =
                reader.read_record(buffer, text.unwrap_or_default(), ends.unwrap_or_default());
            self.line = reader.line() - 1;
            // The end of a row takes the first byte of CR LF alone.
            let ended_line = taken.checked_sub(1).and_then(|last| buffer.get(last)) == Some(&b'\n');
            self.digest.update(buffer.get(..taken).unwrap_or_default());
            self.take(taken);
            filled += written;
            cells += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                // What does not fit is read over: the row is at fault, and the next one is not.
                ReadRecordResult::OutputFull if row.text.len() >= MAX_ROW => {
                    row.fault = Some("a row of over 1 MiB; is a quote never closed?");
                    filled = 0;
                }
                ReadRecordResult::OutputFull => row.text.resize(row.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if row.ends.len() >= MAX_COLUMNS => {
                    row.fault = Some("over 4096 columns");
                    cells = 0;
                }
                ReadRecordResult::OutputEndsFull => row.ends.resize(row.ends.len() * 2, 0),
                ReadRecordResult::Record => {
                    row.text.truncate(filled);
                    row.ends.truncate(cells);
                    row.line = if ended_line { self.line } else { self.line + 1 };
                    return Ok(Some(row));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }
}

fn memchr_newline(buffer: &[u8]) -> Option<usize> {
    buffer.iter().position(|byte| *byte == b'\n')
}

impl Row {
    /// The cells of a row of CSV.
    pub fn cells(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.text.get(start..*end).unwrap_or_default())
    }
}

impl Place {
    /// The beginning of a file.
    pub fn start() -> Self {
        Self { offset: 0, line: 0, digest: Sha256::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_ROW, Place, Row, Rows};

    fn all(mut rows: Rows<&[u8]>) -> Vec<Row> {
        std::iter::from_fn(|| rows.next_row().unwrap()).collect()
    }

    fn cells(row: &Row) -> Vec<String> {
        row.cells().map(|cell| String::from_utf8(cell.to_vec()).unwrap()).collect()
    }

    #[test]
    fn lines_are_rows_but_empty_ones() {
        let found = all(Rows::lines(b"{}\n\n  \r\n{\"a\":1}\r\n{}", Place::start()));
        let texts: Vec<_> = found.iter().map(|row| (row.line, row.text.trim_ascii())).collect();
        assert_eq!(texts, [(1, &b"{}"[..]), (4, b"{\"a\":1}"), (5, b"{}")]);
        assert!(all(Rows::lines(b"", Place::start())).is_empty());
        assert!(all(Rows::lines(b"\n\n", Place::start())).is_empty());
    }

    #[test]
    fn a_row_that_is_too_long_is_read_over() {
        let long = [vec![b'x'; MAX_ROW + 1], b"\n{}\n".to_vec()].concat();
        let found = all(Rows::lines(&long, Place::start()));
        assert!(found[0].fault.is_some() && found[0].text.is_empty());
        assert_eq!((found[1].fault, found[1].line, &found[1].text[..]), (None, 2, &b"{}\n"[..]));
        let found = all(Rows::csv(&long, Place::start()));
        assert!(found[0].fault.is_some());
        assert_eq!((found[1].fault, cells(&found[1])), (None, vec!["{}".to_owned()]));
    }

    #[test]
    fn cells_of_csv_are_without_their_quotes() {
        let text = b"a,b\r\n\"x, \"\"y\"\"\",2\n\n\"two\nlines\",\n5\" pipe,z";
        let found = all(Rows::csv(text, Place::start()));
        let rows: Vec<_> = found.iter().map(cells).collect();
        assert_eq!(
            rows,
            [vec!["a", "b"], vec!["x, \"y\"", "2"], vec!["two\nlines", ""], vec!["5\" pipe", "z"]]
        );
        assert_eq!(found.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 2, 5, 6]);
        let wide = [vec![b','; 5_000], b"\na\n".to_vec()].concat();
        let found = all(Rows::csv(&wide, Place::start()));
        assert!(found[0].fault.is_some());
        assert_eq!(cells(&found[1]), ["a"]);
    }

    #[test]
    fn reading_goes_on_where_it_ended() {
        let lines: Vec<u8> = (0..50).flat_map(|row| format!("{{\"a\":{row}}}\n\n").into_bytes()).collect();
        let csv: Vec<u8> = (0..50).flat_map(|row| format!("{row},\"x\ny\"\r\n").into_bytes()).collect();
        for (text, make) in
            [(lines, Rows::lines as fn(&'static [u8], Place) -> Rows<&'static [u8]>), (csv, Rows::csv)]
        {
            let text: &'static [u8] = Box::leak(text.into_boxed_slice());
            let whole = all(make(text, Place::start()));
            for taken in [1, 7, 49, 50] {
                let mut first = make(text, Place::start());
                let mut rows: Vec<Row> = (0..taken).map(|_| first.next_row().unwrap().unwrap()).collect();
                let place = first.place();
                let rest = usize::try_from(place.offset).unwrap();
                rows.extend(all(make(&text[rest..], place)));
                assert_eq!(rows, whole, "{taken}");
            }
        }
    }
}

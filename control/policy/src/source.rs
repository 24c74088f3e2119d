//! The text of one policy file, and its lines.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file that was read. Faults point into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As it was found: the folder given, and the way below it.
    pub path: PathBuf,
    pub text: String,
    /// Offsets of the first byte of every line.
    lines: Vec<usize>,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl SourceFile {
    pub fn new(path: PathBuf, text: String) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Self { path, text, lines }
    }

    /// The folder that paths in this file are relative to.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// True for `*.cases.yaml`.
    pub fn is_cases(&self) -> bool {
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.ends_with(".cases.yaml") || name.ends_with(".cases.yml")
    }

    /// The place of this byte; the end of the file for bytes behind it.
    pub fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Position { line, column }
    }

    /// Bytes of this line without its end; `number` counts from 1.
    pub fn line(&self, number: usize) -> Range<usize> {
        let start = number.checked_sub(1).and_then(|index| self.lines.get(index)).copied();
        let Some(start) = start else { return self.text.len()..self.text.len() };
        let end = self.lines.get(number).map_or(self.text.len(), |next| next - 1);
        let end =
            if self.text.get(start..end).is_some_and(|line| line.ends_with('\r')) { end - 1 } else { end };
        start..end
    }
}

#[cfg(test)]
mod tests {
    use super::{Position, SourceFile};

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let file = SourceFile::new("a.yaml".into(), "a: ü1\r\nb: 2\n".to_owned());
        assert_eq!(file.position(0), Position { line: 1, column: 1 });
        assert_eq!(file.position(5), Position { line: 1, column: 5 });
        assert_eq!(file.position(8), Position { line: 2, column: 1 });
        assert_eq!(file.position(999), Position { line: 3, column: 1 });
        assert_eq!(&file.text[file.line(1)], "a: ü1");
        assert_eq!(&file.text[file.line(2)], "b: 2");
        assert_eq!(&file.text[file.line(9)], "");
    }
}

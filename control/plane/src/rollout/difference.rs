//! How two revisions differ, line by line.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

/// Longest text that is compared line by line, in lines.
const MAX_LINES: usize = 2_000;

/// A part that is in one of them only, or differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub name: String,
    /// `added`, `removed` or `changed`.
    pub how: &'static str,
    pub path: Option<String>,
    /// Lines with `-` and `+` before them; empty for files, and documents that are only elsewhere.
    pub lines: Vec<String>,
}

#[derive(Debug)]
struct Part<'a> {
    version: &'a str,
    path: Option<&'a str>,
    text: &'a str,
}

fn parts(revision: &Value) -> BTreeMap<&str, Part<'_>> {
    let list = revision.get("parts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(|part| {
            let field = |key: &str| part.get(key).and_then(Value::as_str);
            let version = field("version").unwrap_or_default();
            let it = Part { version, path: field("path"), text: field("text").unwrap_or_default() };
            Some((field("name")?, it))
        })
        .collect()
}

/// What differs from `old` to `new`, both as the process tells them.
pub fn differences(old: &Value, new: &Value) -> Vec<Difference> {
    let (old, new) = (parts(old), parts(new));
    let mut all = Vec::new();
    for (name, part) in &old {
        if !new.contains_key(name) {
            all.push(difference(name, "removed", part, lines(part.text, "")));
        }
    }
    for (name, part) in &new {
        match old.get(name) {
            None => all.push(difference(name, "added", part, lines("", part.text))),
            Some(before) if before.version != part.version => {
                all.push(difference(name, "changed", part, lines(before.text, part.text)));
            }
            Some(_) => {}
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn difference(name: &str, how: &'static str, part: &Part<'_>, lines: Vec<String>) -> Difference {
    Difference { name: name.to_owned(), how, path: part.path.map(str::to_owned), lines }
}

/// Lines that are only in one of the texts, in order (longest common subsequence).
fn lines(old: &str, new: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    if old.len() > MAX_LINES || new.len() > MAX_LINES {
        return Vec::new();
    }
    let width = new.len() + 1;
    let mut lengths = vec![0_u32; (old.len() + 1) * width];
    let at = |row: usize, column: usize| row * width + column;
    for row in (0..old.len()).rev() {
        for column in (0..new.len()).rev() {
            let read = |index: usize| lengths.get(index).copied().unwrap_or(0);
            let best = if old.get(row) == new.get(column) {
                read(at(row + 1, column + 1)) + 1
            } else {
                read(at(row + 1, column)).max(read(at(row, column + 1)))
            };
            if let Some(length) = lengths.get_mut(at(row, column)) {
                *length = best;
            }
        }
    }
    let read = |row: usize, column: usize| lengths.get(at(row, column)).copied().unwrap_or(0);
    let (mut row, mut column, mut told) = (0, 0, Vec::new());
    loop {
        match (old.get(row), new.get(column)) {
            (None, None) => return told,
            (Some(a), Some(b)) if a == b => (row, column) = (row + 1, column + 1),
            (Some(line), other) if other.is_none() || read(row + 1, column) >= read(row, column + 1) => {
                told.push(format!("-{line}"));
                row += 1;
            }
            (_, Some(line)) => {
                told.push(format!("+{line}"));
                column += 1;
            }
            (Some(_), None) => row += 1,
        }
    }
}

/// For people.
pub fn page(differences: &[Difference]) -> String {
    let mut text = String::new();
    for Difference { name, how, path, lines } in differences {
        let place = path.as_ref().map(|path| format!(" ({path})")).unwrap_or_default();
        let _ = writeln!(text, "{how} {name}{place}");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{differences, page};

    #[test]
    fn what_is_added_removed_and_changed_is_told_by_line() {
        let old = json!({ "parts": [
            { "name": "Upstream:default/a", "version": "1", "path": "a.yaml", "text": "a\nb\nc\n" },
            { "name": "jwks.json", "version": "1" },
            { "name": "gone", "version": "1" },
        ] });
        let new = json!({ "parts": [
            { "name": "Upstream:default/a", "version": "2", "path": "a.yaml", "text": "a\nB\nc\nd\n" },
            { "name": "jwks.json", "version": "2" },
            { "name": "same", "version": "1" },
        ] });
        let want = "changed Upstream:default/a (a.yaml)\n  -b\n  +B\n  +d\nremoved gone\nchanged jwks.json\nadded same\n";
        assert_eq!(page(&differences(&old, &new)), want);
        assert!(differences(&old, &old).is_empty());
    }
}

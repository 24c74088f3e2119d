//! Pages of the book with what they include, taken apart into blocks.

use std::fs;
use std::path::{Path, PathBuf};

/// What stands between two fences.
#[derive(Debug)]
pub struct Block {
    /// The file that the block begins in, from the top of the tree.
    pub file: String,
    pub line: usize,
    /// The words behind the fence.
    words: Vec<String>,
    pub text: String,
}

#[derive(Debug)]
pub struct Page {
    /// From `docs/src`.
    pub name: String,
    pub blocks: Vec<Block>,
}

/// A line, and where it stands.
struct Line {
    file: PathBuf,
    number: usize,
    text: String,
}

impl Block {
    pub fn language(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    pub fn is(&self, word: &str) -> bool {
        self.words.iter().any(|known| known == word)
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// All pages but the summary.
pub fn all(root: &Path) -> Vec<Page> {
    let source = root.join("docs/src");
    let (mut folders, mut pages) = (vec![source.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") && !path.ends_with("SUMMARY.md") {
                let name = path.strip_prefix(&source).unwrap().display().to_string();
                let mut lines = Vec::new();
                expand(&path, None, &mut lines);
                pages.push(Page { name, blocks: blocks(root, &lines) });
            }
        }
    }
    pages
}

/// A page of this text, which includes nothing.
pub fn parse(file: &str, text: &str) -> Page {
    let line =
        |(number, text): (usize, &str)| Line { file: file.into(), number: number + 1, text: text.to_owned() };
    let lines: Vec<_> = text.lines().enumerate().map(line).collect();
    Page { name: file.to_owned(), blocks: blocks(Path::new(""), &lines) }
}

/// The lines of a file, or of one section of it, and of what these take over from other files.
fn expand(file: &Path, section: Option<&str>, into: &mut Vec<Line>) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (before, mut fenced, mut level) = (into.len(), false, None);
    for (index, line) in text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        let heading = if fenced { 0 } else { line.chars().take_while(|c| *c == '#').count() };
        if heading > 0 && level.is_none_or(|level| heading <= level) {
            level = (section == Some(slug(line).as_str())).then_some(heading);
        }
        if section.is_some() && level.is_none() {
            continue;
        }
        match taken(line) {
            Some((path, section)) => expand(&file.parent().unwrap().join(path), section, into),
            None => into.push(Line { file: file.to_owned(), number: index + 1, text: line.to_owned() }),
        }
    }
    assert!(into.len() > before, "{} has no section {section:?}", file.display());
}

/// What a heading is called in links.
fn slug(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The file, or section of it, that `{{#include FILE}}` or `{{#section FILE#NAME}}` takes over.
fn taken(line: &str) -> Option<(&str, Option<&str>)> {
    let words = line.trim().strip_prefix("{{#")?.strip_suffix("}}")?;
    match words.split_once(' ')? {
        ("include", path) => Some((path, None)),
        ("section", path) => {
            Some(path.split_once('#').map_or((path, None), |(path, name)| (path, Some(name))))
        }
        _ => None,
    }
}

fn blocks(root: &Path, lines: &[Line]) -> Vec<Block> {
    let (mut blocks, mut open): (Vec<Block>, Option<usize>) = (Vec::new(), None);
    for line in lines {
        let text = line.text.trim_start();
        let fence = text.strip_prefix("```").map(str::trim);
        match (open, fence) {
            (None, Some(words)) => {
                open = Some(line.text.len() - text.len());
                let file = fs::canonicalize(&line.file).unwrap_or_else(|_| line.file.clone());
                blocks.push(Block {
                    file: file.strip_prefix(root).unwrap_or(&file).display().to_string(),
                    line: line.number,
                    words: words.split_whitespace().map(str::to_owned).collect(),
                    text: String::new(),
                });
            }
            (Some(_), Some("")) => open = None,
            (Some(indent), _) => {
                let text = &mut blocks.last_mut().unwrap().text;
                text.push_str(line.text.get(indent..).unwrap_or(line.text.trim_start()));
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block has no end: {:?}", blocks.last());
    blocks
}

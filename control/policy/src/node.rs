//! A YAML value that knows where it stands in its file.

use std::ops::Range;

use foregate_filters::fault::{Path, PathItem};
use serde_json::{Map, Number, Value};

/// A value and the bytes of the file it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub kind: NodeKind,
    /// Bytes of the file.
    pub span: Range<usize>,
    pub style: Style,
}

/// What a value is, by the core schema of YAML 1.2.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// One entry of a mapping. Keys are text and unique.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub key: String,
    pub key_span: Range<usize>,
    pub value: Node,
}

/// How a scalar is written; other values are plain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    #[default]
    Plain,
    SingleQuoted,
    DoubleQuoted,
    /// Literal or folded over several lines.
    Block,
}

impl Node {
    /// The value of this key, where the node is a mapping that has it.
    pub fn key(&self, key: &str) -> Option<&Self> {
        match &self.kind {
            NodeKind::Map(members) => {
                members.iter().find(|member| member.key == key).map(|member| &member.value)
            }
            _ => None,
        }
    }

    /// The elements, where the node is a list.
    pub fn items(&self) -> &[Self] {
        match &self.kind {
            NodeKind::List(list) => list,
            _ => &[],
        }
    }

    /// The values of all keys, where the node is a mapping.
    pub fn values(&self) -> impl Iterator<Item = &Self> {
        let members: &[Member] = match &self.kind {
            NodeKind::Map(members) => members,
            _ => &[],
        };
        members.iter().map(|member| &member.value)
    }

    /// The text, where the node is a string.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            NodeKind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What the value is, in words.
    pub fn noun(&self) -> &'static str {
        match &self.kind {
            NodeKind::Null => "nothing",
            NodeKind::Bool(_) => "a boolean",
            NodeKind::Number(number) if number.is_f64() => "a number",
            NodeKind::Number(_) => "an integer",
            NodeKind::Text(_) => "a string",
            NodeKind::List(_) => "a list",
            NodeKind::Map(_) => "a mapping",
        }
    }

    /// The value at `path`, or the nearest one above it that exists.
    pub fn nearest(&self, path: &Path) -> &Self {
        let mut node = self;
        for item in &path.0 {
            let next = match (&node.kind, item) {
                (NodeKind::Map(_), PathItem::Key(key)) => node.key(key),
                (NodeKind::List(list), PathItem::Index(index)) => list.get(*index),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => return node,
            }
        }
        node
    }

    /// Bytes to underline for a fault at `path`: the value there, or the key under which it is missing.
    pub fn locate(&self, path: &Path) -> Range<usize> {
        let mut node = self;
        let mut span = self.headline();
        for item in &path.0 {
            match (&node.kind, item) {
                (NodeKind::Map(members), PathItem::Key(key)) => {
                    let Some(member) = members.iter().find(|member| member.key == *key) else { return span };
                    node = &member.value;
                    span = if node.is_scalar() && !node.span.is_empty() {
                        node.span.clone()
                    } else {
                        member.key_span.clone()
                    };
                }
                (NodeKind::List(list), PathItem::Index(index)) => {
                    let Some(next) = list.get(*index) else { return span };
                    node = next;
                    span = node.headline();
                }
                _ => return span,
            }
        }
        span
    }

    /// Bytes that stand for the whole value on one line: its first key, its first element, or itself.
    pub fn headline(&self) -> Range<usize> {
        match &self.kind {
            NodeKind::Map(members) => {
                members.first().map_or_else(|| self.span.clone(), |first| first.key_span.clone())
            }
            NodeKind::List(list) => list.first().map_or_else(|| self.span.clone(), Self::headline),
            _ => self.span.clone(),
        }
    }

    fn is_scalar(&self) -> bool {
        !matches!(self.kind, NodeKind::List(_) | NodeKind::Map(_))
    }

    /// Bytes of the file for bytes `within` the text of this scalar; the whole scalar where the way it
    /// is written leaves no exact answer.
    pub fn narrow(&self, file: &str, within: &Range<usize>) -> Range<usize> {
        self.offsets(file, within).unwrap_or_else(|| self.span.clone())
    }

    fn offsets(&self, file: &str, within: &Range<usize>) -> Option<Range<usize>> {
        let text = self.text()?;
        let raw = file.get(self.span.clone())?;
        if raw.contains('\n') {
            return None;
        }
        let inner = match self.style {
            Style::Plain => raw,
            Style::SingleQuoted | Style::DoubleQuoted => raw.get(1..raw.len().checked_sub(1)?)?,
            Style::Block => return None,
        };
        let base = self.span.start + usize::from(self.style != Style::Plain);
        let start = source_offset(inner, text, within.start, self.style)?;
        let end = source_offset(inner, text, within.end.max(within.start + 1), self.style)
            .unwrap_or(start + 1)
            .min(inner.len().max(start + 1));
        Some(base + start..base + end)
    }

    /// The same value without the members at these ways; the places of the rest stay.
    #[must_use]
    pub fn without(&self, members: &[Path]) -> Self {
        let mut node = self.clone();
        for way in members {
            node.remove(&way.0);
        }
        node
    }

    fn remove(&mut self, way: &[PathItem]) {
        match (&mut self.kind, way) {
            (NodeKind::Map(members), [PathItem::Key(key)]) => members.retain(|member| member.key != *key),
            (NodeKind::Map(members), [PathItem::Key(key), rest @ ..]) => {
                if let Some(member) = members.iter_mut().find(|member| member.key == *key) {
                    member.value.remove(rest);
                }
            }
            (NodeKind::List(list), [PathItem::Index(index), rest @ ..]) => {
                if let Some(node) = list.get_mut(*index) {
                    node.remove(rest);
                }
            }
            _ => {}
        }
    }

    /// The same value without places.
    pub fn to_json(&self) -> Value {
        match &self.kind {
            NodeKind::Null => Value::Null,
            NodeKind::Bool(bool) => Value::Bool(*bool),
            NodeKind::Number(number) => Value::Number(number.clone()),
            NodeKind::Text(text) => Value::String(text.clone()),
            NodeKind::List(list) => Value::Array(list.iter().map(Self::to_json).collect()),
            NodeKind::Map(members) => {
                let members = members.iter().map(|member| (member.key.clone(), member.value.to_json()));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }
}

/// Where byte `offset` of the decoded `text` lies in its source `raw`.
fn source_offset(raw: &str, text: &str, offset: usize, style: Style) -> Option<usize> {
    let mut rest = raw;
    for (at, decoded) in text.char_indices() {
        if at >= offset {
            break;
        }
        let (source, length) = decode(rest, style)?;
        if source != decoded {
            return None;
        }
        rest = rest.get(length..)?;
    }
    Some(raw.len() - rest.len())
}

/// The first character that `raw` stands for, and the bytes it takes there.
fn decode(raw: &str, style: Style) -> Option<(char, usize)> {
    let first = raw.chars().next()?;
    match style {
        Style::SingleQuoted if first == '\'' => Some(('\'', 2)),
        Style::DoubleQuoted if first == '\\' => {
            let escape = raw.chars().nth(1)?;
            let digits = match escape {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                't' => return Some(('\t', 2)),
                'n' => return Some(('\n', 2)),
                'r' => return Some(('\r', 2)),
                '"' | '\\' | '/' | ' ' => return Some((escape, 2)),
                _ => return None,
            };
            let code = u32::from_str_radix(raw.get(2..2 + digits)?, 16).ok()?;
            Some((char::from_u32(code)?, 2 + digits))
        }
        _ => Some((first, first.len_utf8())),
    }
}

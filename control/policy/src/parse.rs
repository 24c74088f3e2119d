//! YAML text to values with places, within budgets, reporting every faulty document.

use std::ops::Range;

use ahash::AHashMap;
use foregate_filters::fault::Code;
use serde_json::Number;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::codes;
use crate::node::{Member, Node, NodeKind, Style};

/// Values in one document, aliases counted as often as they are used. A policy of this size is a mistake.
const MAX_NODES: usize = 20_000;
/// Nesting of lists and mappings.
const MAX_DEPTH: usize = 32;

/// Something wrong in the text itself.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFault {
    pub code: Code,
    /// Bytes of the file.
    pub span: Range<usize>,
    pub message: String,
    pub help: Option<&'static str>,
}

/// The documents of a file.
#[derive(Debug, Default)]
pub struct Parsed {
    pub documents: Vec<Node>,
    pub faults: Vec<TextFault>,
    /// True where a document could not be read to its end and is left out.
    pub incomplete: bool,
}

/// Parses every document of a file. A fault in one leaves the others readable.
pub fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for chunk in split(text) {
        let mut builder = Builder::new(chunk.start);
        let source = text.get(chunk).unwrap_or_default();
        match builder.run(source) {
            Ok(()) => parsed.documents.append(&mut builder.documents),
            Err(fault) => {
                builder.faults.push(fault);
                parsed.incomplete = true;
            }
        }
        parsed.faults.append(&mut builder.faults);
    }
    parsed
}

/// Splits at `---`: at the start of a line it ends a document even inside a block scalar (YAML 1.2.2, 9.1). The
/// pieces, bytes of the text, are all of it.
pub fn split(text: &str) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let (mut start, mut at, mut content) = (0, 0, false);
    for line in text.split_inclusive('\n') {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && content {
            chunks.push(start..at);
            start = at;
        }
        let blank = line.trim().is_empty() || line.starts_with(['#', '%', '\u{feff}']);
        content = content || marker || !blank;
        at += line.len();
    }
    chunks.push(start..text.len());
    chunks
}

/// Reads a document of another kind, such as a contract, in YAML or JSON: one, of any size that its reader allows.
///
/// # Errors
/// The first thing that is wrong with it, with its line.
pub fn foreign(text: &str, max_nodes: usize, max_depth: usize) -> Result<Node, String> {
    let mut builder = Builder::new(0);
    (builder.max_nodes, builder.max_depth) = (max_nodes, max_depth);
    let outcome = builder.run(text);
    let fault = outcome.err().or_else(|| builder.faults.into_iter().next());
    if let Some(fault) = fault {
        let before = text.get(..fault.span.start).unwrap_or(text);
        return Err(format!("line {}: {}", before.matches('\n').count() + 1, fault.message));
    }
    let mut documents = builder.documents.into_iter();
    match (documents.next(), documents.next()) {
        (Some(document), None) => Ok(document),
        _ => Err("exactly one document is wanted".to_owned()),
    }
}

/// A list or mapping that is being read.
#[derive(Debug)]
struct Open {
    kind: NodeKind,
    /// The key whose value comes next.
    key: Option<(String, Range<usize>)>,
    start: usize,
    anchor: usize,
}

#[derive(Debug)]
struct Builder {
    base: usize,
    open: Vec<Open>,
    anchors: AHashMap<usize, (Node, usize)>,
    nodes: usize,
    max_nodes: usize,
    max_depth: usize,
    documents: Vec<Node>,
    faults: Vec<TextFault>,
}

impl Builder {
    fn new(base: usize) -> Self {
        Self {
            base,
            open: Vec::new(),
            anchors: AHashMap::new(),
            nodes: 0,
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
            documents: Vec::new(),
            faults: Vec::new(),
        }
    }

    fn run(&mut self, source: &str) -> Result<(), TextFault> {
        for next in Parser::new_from_str(source) {
            let (event, span) = next.map_err(|error| {
                let at = self.base + error.marker().byte_offset().unwrap_or(0);
                TextFault { code: codes::SYNTAX, span: at..at, message: error.info(), help: None }
            })?;
            let span = self.range(&span);
            self.event(event, span, source)?;
        }
        Ok(())
    }

    fn range(&self, span: &Span) -> Range<usize> {
        let range = span.byte_range().unwrap_or(0..0);
        self.base + range.start..self.base + range.end
    }

    fn event(&mut self, event: Event<'_>, span: Range<usize>, source: &str) -> Result<(), TextFault> {
        let tag = match &event {
            Event::Scalar(.., tag) | Event::SequenceStart(.., tag) | Event::MappingStart(.., tag) => {
                tag.is_some()
            }
            _ => false,
        };
        if tag {
            let message = "tags are not accepted".to_owned();
            let help = Some("remove the tag; quote the value if it must be a string");
            self.faults.push(TextFault { code: codes::YAML_FEATURE, span: span.clone(), message, help });
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                self.count(1, &span)?;
                let node = scalar(text.into_owned(), style, self.trim(span, style, source));
                self.finish(node, anchor, 1);
            }
            Event::SequenceStart(_, anchor, _) => self.begin(NodeKind::List(Vec::new()), span, anchor)?,
            Event::MappingStart(_, anchor, _) => self.begin(NodeKind::Map(Vec::new()), span, anchor)?,
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let node = Node { kind: open.kind, span: open.start..span.end, style: Style::Plain };
                let size = size(&node);
                self.finish(node, open.anchor, size);
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else { return Ok(()) };
                let (mut node, size) = (node.clone(), *size);
                self.count(size, &span)?;
                // A fault in an aliased value is shown where the value is used.
                if !matches!(node.kind, NodeKind::List(_) | NodeKind::Map(_)) {
                    node.span = span;
                }
                self.finish(node, 0, size);
            }
            _ => {}
        }
        Ok(())
    }

    /// Plain scalars end before the blanks that follow them.
    fn trim(&self, span: Range<usize>, style: ScalarStyle, source: &str) -> Range<usize> {
        let raw = source.get(span.start - self.base..span.end - self.base).unwrap_or_default();
        match style {
            ScalarStyle::Plain | ScalarStyle::Literal | ScalarStyle::Folded => {
                span.start..span.start + raw.trim_end().len()
            }
            _ => span,
        }
    }

    fn count(&mut self, nodes: usize, span: &Range<usize>) -> Result<(), TextFault> {
        self.nodes += nodes;
        if self.nodes <= self.max_nodes {
            return Ok(());
        }
        let most = self.max_nodes;
        let message = format!("the document holds more than {most} values, aliases counted as often as used");
        Err(TextFault { code: codes::BUDGET, span: span.clone(), message, help: None })
    }

    fn begin(&mut self, kind: NodeKind, span: Range<usize>, anchor: usize) -> Result<(), TextFault> {
        self.count(1, &span)?;
        if self.open.len() == self.max_depth {
            let message = format!("the document is nested more than {} deep", self.max_depth);
            return Err(TextFault { code: codes::BUDGET, span, message, help: None });
        }
        self.open.push(Open { kind, key: None, start: span.start, anchor });
        Ok(())
    }

    /// Puts a value where it belongs: the document, a list, a key, or the value of a key.
    fn finish(&mut self, node: Node, anchor: usize, size: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return;
        };
        match (&mut open.kind, open.key.take()) {
            (NodeKind::List(list), _) => list.push(node),
            (NodeKind::Map(members), Some((key, key_span))) => {
                if members.iter().any(|member| member.key == key) {
                    let message = format!("the key `{key}` stands here twice");
                    self.faults.push(TextFault {
                        code: codes::DUPLICATE_KEY,
                        span: key_span,
                        message,
                        help: None,
                    });
                } else {
                    members.push(Member { key, key_span, value: node });
                }
            }
            (_, None) => {
                let (key, span) = self.key(node);
                if let Some(open) = self.open.last_mut() {
                    open.key = Some((key, span));
                }
            }
            _ => {}
        }
    }

    fn key(&mut self, node: Node) -> (String, Range<usize>) {
        let span = node.span;
        let key = match node.kind {
            NodeKind::Text(text) => text,
            NodeKind::Bool(bool) => bool.to_string(),
            NodeKind::Number(number) => number.to_string(),
            NodeKind::Null => "null".to_owned(),
            NodeKind::List(_) | NodeKind::Map(_) => {
                let message = "a key must be a single word".to_owned();
                self.faults.push(TextFault {
                    code: codes::YAML_FEATURE,
                    span: span.clone(),
                    message,
                    help: None,
                });
                String::new()
            }
        };
        if key == "<<" {
            let message = "merge keys are not accepted".to_owned();
            let help = Some("write the fields out, or refer to a whole value with an alias");
            self.faults.push(TextFault { code: codes::YAML_FEATURE, span: span.clone(), message, help });
        }
        (key, span)
    }
}

fn size(node: &Node) -> usize {
    match &node.kind {
        NodeKind::List(list) => 1 + list.iter().map(size).sum::<usize>(),
        NodeKind::Map(members) => 1 + members.iter().map(|member| 1 + size(&member.value)).sum::<usize>(),
        _ => 1,
    }
}

fn scalar(text: String, style: ScalarStyle, span: Range<usize>) -> Node {
    let (kind, style) = match style {
        ScalarStyle::Plain => (plain(text), Style::Plain),
        ScalarStyle::SingleQuoted => (NodeKind::Text(text), Style::SingleQuoted),
        ScalarStyle::DoubleQuoted => (NodeKind::Text(text), Style::DoubleQuoted),
        ScalarStyle::Literal | ScalarStyle::Folded => (NodeKind::Text(text), Style::Block),
    };
    Node { kind, span, style }
}

/// Reads a plain scalar by the core schema (YAML 1.2.2, 10.3.2): `no` and `on` are strings.
fn plain(text: String) -> NodeKind {
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => return NodeKind::Null,
        "true" | "True" | "TRUE" => return NodeKind::Bool(true),
        "false" | "False" | "FALSE" => return NodeKind::Bool(false),
        _ => {}
    }
    number(&text).map_or(NodeKind::Text(text), NodeKind::Number)
}

fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().map(Number::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return u64::from_str_radix(digits, 8).ok().map(Number::from);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if !unsigned.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '-' | '+')) {
        return None;
    }
    let positive = text.strip_prefix('+').unwrap_or(text);
    if let Ok(number) = positive.parse::<i64>() {
        return Some(number.into());
    }
    if let Ok(number) = positive.parse::<u64>() {
        return Some(number.into());
    }
    positive.parse::<f64>().ok().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use super::{parse, split};
    use crate::node::Node;
    use foregate_filters::fault::Path;
    use serde_json::json;

    fn one(text: &str) -> Node {
        let mut parsed = parse(text);
        assert_eq!(parsed.faults, []);
        assert_eq!(parsed.documents.len(), 1);
        parsed.documents.remove(0)
    }

    #[test]
    fn plain_scalars_follow_the_core_schema_and_quoted_ones_are_text() {
        let node = one(
            "[1, -2, 1.5, 0x10, 0o17, true, no, ~, 'true', \"1\", 1.2.3, 10.0.0.0/8, 00DB, 1e3, -x, 18446744073709551615]",
        );
        let want = json!([
            1,
            -2,
            1.5,
            16,
            15,
            true,
            "no",
            null,
            "true",
            "1",
            "1.2.3",
            "10.0.0.0/8",
            "00DB",
            1000.0,
            "-x",
            18_446_744_073_709_551_615_u64
        ]);
        assert_eq!(node.to_json(), want);
    }

    #[test]
    fn documents_are_split_where_yaml_splits_them() {
        let count = |text: &str| split(text).len();
        assert_eq!(count("a: 1\n---\nb: 2\n"), 2);
        assert_eq!(count("# c\n%YAML 1.2\n---\nb: 2\n"), 1);
        assert_eq!(count("a: |\n  x\n---x: 1\n"), 1);
        assert_eq!(count("---\na: 1\n---\n---\nb: 1\n"), 3);
    }

    #[test]
    fn a_faulty_document_leaves_the_next_one_readable_and_keeps_its_place() {
        let text = "a: [1\n---\nb: 1\nb: 2\n---\nc: x\n";
        let parsed = parse(text);
        assert_eq!((parsed.documents.len(), parsed.incomplete), (2, true));
        let at = parsed.documents[1].locate(&Path::default().key("c"));
        assert_eq!(&text[at], "x");
        assert_eq!(parsed.faults.len(), 2);
        assert_eq!(&text[parsed.faults[1].span.clone()], "b");
        assert_eq!(parsed.faults[1].span.start, 15);
    }

    #[test]
    fn faults_narrow_into_scalars_however_they_are_quoted() {
        for text in ["e: abc def", "e: 'abc def'", "e: \"abc def\"", "e: \"\\u0061\\x62c def\""] {
            let node = one(text);
            let value = node.key("e").unwrap();
            assert_eq!(&text[value.narrow(text, &(4..7))], "def", "{text}");
        }
        let text = r#"e: "a == \"b\" && cde""#;
        assert_eq!(&text[one(text).key("e").unwrap().narrow(text, &(12..15))], "cde");
        let text = "e: 'it''s xyz'";
        assert_eq!(&text[one(text).key("e").unwrap().narrow(text, &(5..8))], "xyz");
        let text = "e: |\n  abc\n  def\n";
        let node = one(text);
        let value = node.key("e").unwrap();
        assert_eq!(value.narrow(text, &(1..2)), value.span);
    }

    #[test]
    fn bombs_tags_merge_keys_and_deep_nesting_are_refused() {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let grown = names.windows(2).map(|pair| {
            let list = vec![format!("*{}", pair[0]); 9].join(",");
            format!("{0}: &{0} [{list}]\n", pair[1])
        });
        let bomb = std::iter::once("a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned())
            .chain(grown)
            .collect::<Vec<_>>()
            .concat();
        let deep = format!("a: {}{}", "[".repeat(40), "]".repeat(40));
        for (text, code) in [
            (&*bomb, "FG0109"),
            (&*deep, "FG0109"),
            ("a: !!str 1", "FG0114"),
            ("<<: {a: 1}", "FG0114"),
            ("[a]: 1", "FG0114"),
            ("a: *nothing", "FG0101"),
            ("a:\n\t- b", "FG0101"),
        ] {
            let parsed = parse(text);
            assert_eq!(
                parsed.faults.first().map(|fault| fault.code.to_string()).as_deref(),
                Some(code),
                "{text}"
            );
        }
    }
}

//! Checks the structure of a document against its schema; reports every fault.

use std::net::IpAddr;
use std::ops::Range;

use ahash::AHashMap;
use foregate_filters::fault::{Code, Path, PathItem, closest};
use regex::Regex;
use serde_json::Value;

use crate::codes;
use crate::document::Kind;
use crate::node::{Member, Node, NodeKind, Style};
use crate::unsupported;

/// Something wrong with the structure of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeFault {
    pub code: Code,
    /// Bytes of the file.
    pub span: Range<usize>,
    pub message: String,
    pub help: Option<String>,
    /// The way to the field that nobody knows or supports, where that is the fault.
    pub stray: Option<Path>,
}

/// Checks documents of one kind.
#[derive(Debug)]
pub struct Checker {
    kind: Kind,
    schema: Value,
    patterns: AHashMap<String, Regex>,
}

impl Checker {
    pub fn new(kind: Kind) -> Self {
        let schema = crate::schema::of(kind);
        let mut patterns = AHashMap::new();
        gather(&schema, &mut patterns);
        Self { kind, schema, patterns }
    }

    /// Everything that is wrong, in the order of the document.
    pub fn check(&self, root: &Node) -> Vec<ShapeFault> {
        let mut walk = Walk { checker: self, way: Vec::new(), faults: Vec::new() };
        walk.value(root, &self.schema, &root.headline());
        walk.faults
    }
}

fn known_fields(properties: &serde_json::Map<String, Value>) -> String {
    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
    format!("known fields here: {}", known.join(", "))
}

/// Compiles every pattern of the schema once.
fn gather(schema: &Value, patterns: &mut AHashMap<String, Regex>) {
    match schema {
        Value::Object(members) => {
            if let Some(pattern) = members.get("pattern").and_then(Value::as_str)
                && let Ok(regex) = Regex::new(pattern)
            {
                patterns.insert(pattern.to_owned(), regex);
            }
            members.values().for_each(|value| gather(value, patterns));
        }
        Value::Array(values) => values.iter().for_each(|value| gather(value, patterns)),
        _ => {}
    }
}

struct Walk<'a> {
    checker: &'a Checker,
    /// From the top: `spec`, `listeners`, 0, `tls`.
    way: Vec<PathItem>,
    faults: Vec<ShapeFault>,
}

impl Walk<'_> {
    fn fault(&mut self, code: Code, span: &Range<usize>, message: String, help: Option<String>) {
        self.faults.push(ShapeFault { code, span: span.clone(), message, help, stray: None });
    }

    /// `place` stands for the value where the value itself is too large to underline.
    fn value(&mut self, node: &Node, schema: &Value, place: &Range<usize>) {
        if let Some(words) = words(schema) {
            return self.word(node, &words, place);
        }
        if let Some(alternatives) = alternatives(schema, node) {
            return self.alternatives(node, &alternatives, place);
        }
        if !self.typed(node, schema, place) {
            return;
        }
        match &node.kind {
            NodeKind::Map(members) => self.mapping(members, schema, place),
            NodeKind::List(list) => self.list(list, schema, place),
            NodeKind::Text(text) => self.text(node, text, schema),
            NodeKind::Number(number) => self.number(node, number.as_f64().unwrap_or(0.0), schema),
            NodeKind::Null | NodeKind::Bool(_) => {}
        }
    }

    fn alternatives(&mut self, node: &Node, alternatives: &[&Value], place: &Range<usize>) {
        if let [only] = alternatives {
            return self.value(node, only, place);
        }
        // The one of the right type is meant, however much is wrong in it.
        let mut best: Option<(bool, Vec<ShapeFault>)> = None;
        for schema in alternatives {
            let mut trial = Walk { checker: self.checker, way: self.way.clone(), faults: Vec::new() };
            let other = !trial.typed(node, schema, place);
            trial.faults.clear();
            trial.value(node, schema, place);
            let rank = (other, trial.faults.len());
            if best.as_ref().is_none_or(|(other, faults)| rank < (*other, faults.len())) {
                best = Some((other, trial.faults));
            }
        }
        self.faults.append(&mut best.unwrap_or_default().1);
    }

    fn typed(&mut self, node: &Node, schema: &Value, place: &Range<usize>) -> bool {
        let wanted: Vec<&str> = match schema.get("type") {
            Some(Value::String(wanted)) => vec![wanted],
            Some(Value::Array(wanted)) => wanted.iter().filter_map(Value::as_str).collect(),
            _ => return true,
        };
        let fits = |wanted: &&str| match (&node.kind, *wanted) {
            (NodeKind::Null, "null")
            | (NodeKind::Bool(_), "boolean")
            | (NodeKind::Text(_), "string")
            | (NodeKind::List(_), "array")
            | (NodeKind::Map(_), "object")
            | (NodeKind::Number(_), "number") => true,
            (NodeKind::Number(number), "integer") => !number.is_f64(),
            _ => false,
        };
        if wanted.iter().any(fits) {
            return true;
        }
        let noun = wanted.iter().find(|noun| **noun != "null").map_or("nothing", |noun| type_noun(noun));
        let message = format!("{noun} is wanted here, not {}", node.noun());
        let scalar = matches!(node.kind, NodeKind::Number(_) | NodeKind::Bool(_));
        let help = match noun {
            "a string" if scalar => Some("put the value in quotes".to_owned()),
            "a list" if !matches!(node.kind, NodeKind::Null) => {
                Some("write it as a list: [..] or lines that start with `- `".to_owned())
            }
            "an integer" | "a number" | "a boolean" if node.style != Style::Plain => {
                Some("take the quotes away".to_owned())
            }
            "a mapping" => schema.get("properties").and_then(Value::as_object).map(known_fields),
            _ => None,
        };
        let span = if scalar || node.text().is_some() { &node.span } else { place };
        self.fault(codes::TYPE, span, message, help);
        false
    }

    fn mapping(&mut self, members: &[Member], schema: &Value, place: &Range<usize>) {
        let none = serde_json::Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        for member in members {
            self.way.push(PathItem::Key(member.key.clone()));
            match (properties.get(&member.key), schema.get("additionalProperties")) {
                (None, Some(Value::Bool(false))) => self.unknown(member, properties),
                (Some(schema), _) | (None, Some(schema)) => {
                    self.value(&member.value, schema, &member.key_span);
                }
                (None, None) => {}
            }
            if let Some(names) = schema.get("propertyNames") {
                let key = Node {
                    kind: NodeKind::Text(member.key.clone()),
                    span: member.key_span.clone(),
                    style: Style::Plain,
                };
                self.text(&key, &member.key, names);
            }
            self.way.pop();
        }
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !members.iter().any(|member| member.key == name) {
                let message = format!("the field `{name}` is missing");
                self.fault(codes::MISSING_FIELD, place, message, None);
            }
        }
    }

    fn unknown(&mut self, member: &Member, properties: &serde_json::Map<String, Value>) {
        if let Some(help) = unsupported::field(self.checker.kind, &self.way) {
            let message = format!("the field `{}` is not supported by this version", member.key);
            return self.stray(codes::UNSUPPORTED, member, message, help.to_owned());
        }
        let message = format!("unknown field `{}`", member.key);
        let help = closest(&member.key, properties.keys().map(String::as_str))
            .map_or_else(|| known_fields(properties), |near| format!("did you mean `{near}`?"));
        self.stray(codes::UNKNOWN_FIELD, member, message, help);
    }

    fn stray(&mut self, code: Code, member: &Member, message: String, help: String) {
        let stray = Some(Path(self.way.clone()));
        let span = member.key_span.clone();
        self.faults.push(ShapeFault { code, span, message, help: Some(help), stray });
    }

    fn list(&mut self, list: &[Node], schema: &Value, place: &Range<usize>) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
        let count = list.len() as u64;
        if let Some(min) = bound("minItems").filter(|min| count < *min) {
            self.fault(codes::BOUNDS, place, format!("at least {min} element(s) must stand here"), None);
        }
        if let Some(max) = bound("maxItems").filter(|max| count > *max) {
            self.fault(
                codes::BOUNDS,
                place,
                format!("at most {max} elements may stand here, not {count}"),
                None,
            );
        }
        if let Some(schema) = schema.get("items") {
            for (index, node) in list.iter().enumerate() {
                self.way.push(PathItem::Index(index));
                self.value(node, schema, &node.headline());
                self.way.pop();
            }
        }
    }

    fn text(&mut self, node: &Node, text: &str, schema: &Value) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
        let length = text.chars().count() as u64;
        if bound("minLength").is_some_and(|min| length < min) {
            return self.fault(codes::BOUNDS, &node.span, "the text is empty".to_owned(), None);
        }
        if let Some(max) = bound("maxLength").filter(|max| length > *max) {
            return self.fault(
                codes::BOUNDS,
                &node.span,
                format!("the text is longer than {max} characters"),
                None,
            );
        }
        let pattern = schema.get("pattern").and_then(Value::as_str);
        if let Some(pattern) = pattern
            && self.checker.patterns.get(pattern).is_none_or(|regex| !regex.is_match(text))
        {
            let (message, help) = unsupported::pattern(pattern, text);
            return self.fault(codes::PATTERN, &node.span, message, help);
        }
        let wrong = match schema.get("format").and_then(Value::as_str) {
            Some("ip") => text.parse::<IpAddr>().is_err().then_some("an IPv4 or IPv6 address"),
            Some("cidr") => (!is_network(text)).then_some("a network such as 10.0.0.0/8 or 2001:db8::/32"),
            _ => None,
        };
        if let Some(wanted) = wrong {
            let help = text.parse::<IpAddr>().is_ok().then(|| {
                format!("write {text}/{} for the one address", if text.contains(':') { 128 } else { 32 })
            });
            self.fault(codes::PATTERN, &node.span, format!("`{text}` is not {wanted}"), help);
        }
    }

    fn number(&mut self, node: &Node, number: f64, schema: &Value) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        if let Some(min) = bound("minimum").filter(|min| number < *min) {
            self.fault(codes::BOUNDS, &node.span, format!("the number must be at least {min}"), None);
        }
        if let Some(max) = bound("maximum").filter(|max| number > *max) {
            self.fault(codes::BOUNDS, &node.span, format!("the number must be at most {max}"), None);
        }
    }

    fn word(&mut self, node: &Node, words: &[&Value], place: &Range<usize>) {
        if words.iter().any(|word| **word == node.to_json()) {
            return;
        }
        let known: Vec<String> = words.iter().filter(|word| !word.is_null()).map(|word| show(word)).collect();
        let list = known.join(", ");
        let span = if matches!(node.kind, NodeKind::Map(_) | NodeKind::List(_) | NodeKind::Null) {
            place
        } else {
            &node.span
        };
        let NodeKind::Text(text) = &node.kind else {
            let message = format!("one of {list} is wanted here, not {}", node.noun());
            return self.fault(codes::VALUE_UNKNOWN, span, message, None);
        };
        if unsupported::value(self.checker.kind, &self.way, text) {
            let message = format!("`{text}` is not supported by this version");
            return self.fault(codes::UNSUPPORTED, span, message, Some(format!("supported here: {list}")));
        }
        let help = match closest(text, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known values: {list}"),
        };
        self.fault(codes::VALUE_UNKNOWN, span, format!("`{text}` is not a value of this field"), Some(help));
    }
}

fn is_network(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let plain = !length.is_empty() && length.len() <= 3 && length.bytes().all(|byte| byte.is_ascii_digit());
    match (address.parse::<IpAddr>(), length.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(length)) => plain && length <= 32,
        (Ok(IpAddr::V6(_)), Ok(length)) => plain && length <= 128,
        _ => false,
    }
}

fn type_noun(name: &str) -> &'static str {
    match name {
        "string" => "a string",
        "integer" => "an integer",
        "number" => "a number",
        "boolean" => "a boolean",
        "array" => "a list",
        "object" => "a mapping",
        _ => "nothing",
    }
}

fn show(word: &Value) -> String {
    word.as_str().map_or_else(|| word.to_string(), str::to_owned)
}

/// The closed list of values a schema allows, however it is written.
fn words(schema: &Value) -> Option<Vec<&Value>> {
    if let Some(word) = schema.get("const") {
        return Some(vec![word]);
    }
    if let Some(list) = schema.get("enum").and_then(Value::as_array) {
        return Some(list.iter().collect());
    }
    let list = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array)?;
    let mut all = Vec::new();
    for schema in list {
        if schema.get("type").and_then(Value::as_str) == Some("null") {
            all.push(&Value::Null);
        } else {
            all.append(&mut words(schema)?);
        }
    }
    Some(all)
}

/// The branches of `oneOf` or `anyOf` that could be meant: not "null" where there is a value.
fn alternatives<'a>(schema: &'a Value, node: &Node) -> Option<Vec<&'a Value>> {
    let list = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array)?;
    let null = node.kind == NodeKind::Null;
    let is_null = |schema: &&Value| schema.get("type").and_then(Value::as_str) == Some("null");
    if null && list.iter().any(|schema| is_null(&schema)) {
        return Some(list.iter().filter(is_null).collect());
    }
    Some(list.iter().filter(|schema| !is_null(schema)).collect())
}

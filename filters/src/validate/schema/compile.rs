//! From a document to its compiled schemas; every fault at once.

use std::sync::Arc;

use ahash::AHashMap;
use regex::Regex;
use serde_json::Value;

use crate::fault::Code;
use crate::validate::schema::references::References;
use crate::validate::schema::{Schema, SchemaId, Set, pattern};

/// Schemas of one document. A contract of this size is a mistake.
pub const MAX_SCHEMAS: usize = 50_000;
/// Different patterns of one document.
const MAX_PATTERNS: usize = 1_000;
/// Schemas that apply to the same instance through one another.
const MAX_CHAIN: usize = 32;

/// Whose words a schema is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// JSON Schema 2020-12, which `OpenAPI` 3.1 speaks too.
    Json2020,
    /// The Schema Object of `OpenAPI` 3.0.
    OpenApi30,
}

/// Which way the instances go: what is `readOnly` need not be in requests, nor what is `writeOnly` in responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both keywords say nothing.
    Either,
    Request,
    Response,
}

/// How schemas are to be read.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub dialect: Dialect,
    pub direction: Direction,
    /// `format` is checked, not only noted.
    pub formats: bool,
}

/// What is wrong, and where in the document of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaFault {
    /// A JSON Pointer.
    pub at: String,
    pub code: Code,
    pub message: String,
}

/// Compiles schemas of one document as they are asked for.
#[derive(Debug)]
pub struct Compiler<'d> {
    pub(super) options: Options,
    pub(super) references: References<'d>,
    schemas: Vec<Schema>,
    /// By address: equal places of the document.
    known: AHashMap<*const Value, SchemaId>,
    pending: Vec<(SchemaId, &'d Value, String)>,
    patterns: AHashMap<String, Option<Arc<Regex>>>,
    pub(super) faults: Vec<SchemaFault>,
}

impl<'d> Compiler<'d> {
    /// Reads schemas that lie anywhere in `root`.
    pub fn new(root: &'d Value, options: Options) -> Self {
        Self {
            options,
            references: References::new(root),
            schemas: Vec::new(),
            known: AHashMap::new(),
            pending: Vec::new(),
            patterns: AHashMap::new(),
            faults: Vec::new(),
        }
    }

    /// The place that the schema at this pointer will have.
    pub fn schema(&mut self, value: &'d Value, at: &str) -> SchemaId {
        let next = self.schemas.len();
        let id = *self.known.entry(std::ptr::from_ref(value)).or_insert(next);
        if id == next {
            self.schemas.push(Schema::Nothing);
            self.pending.push((id, value, at.to_owned()));
        }
        id
    }

    /// Compiles everything that was asked for, and all that it leads to.
    pub fn finish(mut self) -> Result<Set, Vec<SchemaFault>> {
        while let Some((id, value, at)) = self.pending.pop() {
            if self.schemas.len() > MAX_SCHEMAS {
                self.fault(
                    &at,
                    Code::SCHEMA_SIZE,
                    format!("more than {MAX_SCHEMAS} schemas in one document"),
                );
                break;
            }
            let schema = self.read(value, &at);
            if let Some(place) = self.schemas.get_mut(id) {
                *place = schema;
            }
        }
        if self.faults.is_empty()
            && let Some(message) = endless(&self.schemas)
        {
            self.fault("", Code::SCHEMA_REFERENCE, message.to_owned());
        }
        if self.faults.is_empty() { Ok(Set { schemas: self.schemas }) } else { Err(self.faults) }
    }

    pub(super) fn fault(&mut self, at: &str, code: Code, message: impl Into<String>) {
        self.faults.push(SchemaFault { at: at.to_owned(), code, message: message.into() });
    }

    /// The pattern, compiled once however often it stands in the document.
    pub(super) fn pattern(&mut self, pattern: &str, at: &str) -> Option<Arc<Regex>> {
        if let Some(known) = self.patterns.get(pattern) {
            return known.clone();
        }
        if self.patterns.len() == MAX_PATTERNS {
            self.fault(at, Code::SCHEMA_SIZE, format!("more than {MAX_PATTERNS} patterns in one document"));
        }
        if self.patterns.len() >= MAX_PATTERNS {
            return None;
        }
        let compiled = match pattern::compile(pattern) {
            Ok(regex) => Some(Arc::new(regex)),
            Err(why) => {
                self.fault(at, Code::SCHEMA_PATTERN, why);
                None
            }
        };
        self.patterns.insert(pattern.to_owned(), compiled.clone());
        compiled
    }
}

/// Schemas that apply one another to the same instance must come to an end soon, whatever the instance.
fn endless(schemas: &[Schema]) -> Option<&'static str> {
    let next = |id: SchemaId| match schemas.get(id) {
        Some(Schema::Rules(rules)) => rules.in_place(),
        _ => Vec::new(),
    };
    // Length of the longest chain that begins at each; a chain that is being walked has none yet.
    let mut lengths: Vec<Option<usize>> = vec![None; schemas.len()];
    for start in 0..schemas.len() {
        let mut walked: Vec<(SchemaId, Vec<SchemaId>, usize)> = Vec::new();
        let mut on_way = ahash::AHashSet::new();
        if lengths.get(start).is_some_and(Option::is_none) {
            walked.push((start, next(start), 0));
            on_way.insert(start);
        }
        while let Some((id, left, longest)) = walked.last_mut() {
            let Some(child) = left.pop() else {
                let (id, length) = (*id, *longest + 1);
                walked.pop();
                on_way.remove(&id);
                if let Some(place) = lengths.get_mut(id) {
                    *place = Some(length);
                }
                if let Some((_, _, longest)) = walked.last_mut() {
                    *longest = (*longest).max(length);
                }
                continue;
            };
            match lengths.get(child).copied().flatten() {
                Some(length) => *longest = (*longest).max(length),
                None if !on_way.insert(child) => {
                    return Some("a schema that refers to itself for the same value, without end");
                }
                None => walked.push((child, next(child), 0)),
            }
        }
    }
    let too_long = lengths.iter().flatten().any(|length| *length > MAX_CHAIN);
    too_long.then_some("more than 32 schemas apply to the same value through one another")
}

//! Collects what does not hold of one text, in words for its sender.

use crate::validate::limits::Limits;
use crate::validate::schema::check::{Exhausted, Quick, Sink, holds};
use crate::validate::schema::{SchemaId, Set};
use crate::validate::tape::{self, Tape, Unacceptable, push_token};
use crate::violation::{MAX_VIOLATIONS, Violation};

/// What is wrong with a JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Findings {
    /// It is no JSON, or breaks a bound.
    Structure(Unacceptable),
    /// It is not what the schema asks for. Never empty.
    Schema(Vec<Violation>),
}

/// Reads a text within the bounds, and asks the schema about it.
pub fn json(
    body: &[u8],
    limits: &Limits,
    schema: Option<(&Set, SchemaId)>,
    within: &'static str,
) -> Result<(), Findings> {
    let (text, nodes) = tape::read(body, limits).map_err(Findings::Structure)?;
    match schema {
        None => Ok(()),
        Some((set, schema)) => {
            value(set, schema, Tape { text, nodes: &nodes }, within).map_err(Findings::Schema)
        }
    }
}

/// Asks a schema about a whole tape.
pub fn value(
    set: &Set,
    schema: SchemaId,
    tape: Tape<'_>,
    within: &'static str,
) -> Result<(), Vec<Violation>> {
    match holds(set, schema, tape, 0, &mut Quick) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(Exhausted) => return Err(vec![exhausted(within)]),
    }
    // Once more, to tell why: only what is refused pays for it.
    let mut collected = Collected(Vec::new());
    if holds(set, schema, tape, 0, &mut collected).is_err() && collected.0.is_empty() {
        return Err(vec![exhausted(within)]);
    }
    let told = collected.0.into_iter().map(|(keyword, node, member)| {
        let mut pointer = tape.pointer(node);
        if let Some(member) = member {
            pointer.push('/');
            push_token(&mut pointer, &member);
        }
        Violation::new(within, keyword, message(keyword)).pointer(&pointer)
    });
    let told: Vec<Violation> = told.collect();
    Err(if told.is_empty() { vec![exhausted(within)] } else { told })
}

fn exhausted(within: &'static str) -> Violation {
    Violation::new(within, "work", "takes more work to check than any may")
}

impl Findings {
    /// Whatever is wrong, as a list.
    pub fn violations(self, within: &'static str) -> Vec<Violation> {
        match self {
            Self::Structure(Unacceptable { keyword, what, .. }) => {
                vec![Violation::new(within, keyword, what)]
            }
            Self::Schema(violations) => violations,
        }
    }
}

struct Collected(Vec<(&'static str, usize, Option<Box<str>>)>);

impl Sink for Collected {
    fn fails(&mut self, keyword: &'static str, node: usize, member: Option<&str>) -> bool {
        if self.wants_more() {
            self.0.push((keyword, node, member.map(Into::into)));
        }
        self.wants_more()
    }

    fn wants_more(&self) -> bool {
        self.0.len() < MAX_VIOLATIONS
    }
}

/// A sentence for each keyword of schemas.
pub fn message(keyword: &str) -> &'static str {
    match keyword {
        "type" => "is not of the type that is asked for",
        "enum" => "is none of the values that are allowed",
        "const" => "is not the value that is asked for",
        "multipleOf" => "is not a multiple of the number that is asked for",
        "maximum" | "exclusiveMaximum" => "is greater than allowed",
        "minimum" | "exclusiveMinimum" => "is less than allowed",
        "maxLength" => "is longer than allowed",
        "minLength" => "is shorter than allowed",
        "pattern" => "does not match the pattern that is asked for",
        "format" => "is not of the format that is asked for",
        "maxItems" => "has more elements than allowed",
        "minItems" => "has fewer elements than allowed",
        "uniqueItems" => "equals an earlier element",
        "contains" | "maxContains" => "has too few or too many elements of a kind",
        "maxProperties" => "has more members than allowed",
        "minProperties" => "has fewer members than allowed",
        "required" => "is missing",
        "dependentRequired" => "is missing beside another member",
        "additionalProperties" | "unevaluatedProperties" => "is a member that is not allowed",
        "unevaluatedItems" => "is an element that is not allowed",
        "propertyNames" => "has a name that is not allowed",
        "anyOf" => "is none of the alternatives",
        "oneOf" => "is not exactly one of the alternatives",
        "not" => "is what must not be",
        _ => "is not allowed here",
    }
}

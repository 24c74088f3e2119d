//! JSON Schema 2020-12, compiled once and asked about flat texts.

use regex::Regex;
use std::sync::Arc;

use crate::validate::schema::equal::Literal;
use crate::validate::schema::format::Format;
use crate::validate::schema::names::Names;
use crate::validate::schema::number::{Decimal, Divisor};

pub mod check;
pub mod compile;
pub mod equal;
pub mod format;
#[cfg(test)]
pub mod generated;
mod keywords;
mod names;
pub mod number;
pub mod pattern;
pub mod references;
#[cfg(test)]
mod tests;
mod unevaluated;

/// The place of a schema in its [`Set`].
pub type SchemaId = usize;

/// The schemas of one document. Immutable, without anything remote.
#[derive(Debug, Default)]
pub struct Set {
    pub(crate) schemas: Vec<Schema>,
}

#[derive(Debug)]
pub(crate) enum Schema {
    /// `true` or `{}`.
    Anything,
    /// `false`.
    Nothing,
    Rules(Box<Rules>),
}

/// Kinds of instances, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Types(pub(crate) u8);

impl Types {
    pub(crate) const NULL: Self = Self(1);
    pub(crate) const BOOLEAN: Self = Self(2);
    pub(crate) const NUMBER: Self = Self(4);
    pub(crate) const INTEGER: Self = Self(8);
    pub(crate) const STRING: Self = Self(16);
    pub(crate) const ARRAY: Self = Self(32);
    pub(crate) const OBJECT: Self = Self(64);
    pub(crate) const ANY: Self = Self(127);

    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Self::NULL,
            "boolean" => Self::BOOLEAN,
            "number" => Self::NUMBER,
            "integer" => Self::INTEGER,
            "string" => Self::STRING,
            "array" => Self::ARRAY,
            "object" => Self::OBJECT,
            _ => return None,
        })
    }

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What one schema asks; what it does not ask is left out.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) types: Types,
    /// `enum` and `const`: the instance is one of each list.
    pub(crate) literals: Vec<(&'static str, Literals)>,
    pub(crate) number: Option<Box<NumberRules>>,
    pub(crate) string: Option<Box<StringRules>>,
    pub(crate) array: Option<Box<ArrayRules>>,
    pub(crate) object: Option<Box<ObjectRules>>,
    /// Applied to the same instance.
    pub(crate) combined: Vec<Combined>,
    pub(crate) unevaluated_items: Option<SchemaId>,
    pub(crate) unevaluated_properties: Option<SchemaId>,
}

/// Values of which the instance must be one.
#[derive(Debug, Default)]
pub(crate) struct Literals {
    /// Sorted.
    pub(crate) strings: Vec<Box<str>>,
    pub(crate) others: Vec<Literal>,
}

/// A bound of numbers; a whole one is compared without any copy.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) keyword: &'static str,
    pub(crate) exact: Decimal,
    pub(crate) whole: Option<i64>,
}

#[derive(Debug, Default)]
pub(crate) struct NumberRules {
    pub(crate) bounds: Vec<Bound>,
    pub(crate) multiple_of: Option<Divisor>,
}

#[derive(Debug, Default)]
pub(crate) struct StringRules {
    /// Characters, not bytes.
    pub(crate) min: u64,
    pub(crate) max: Option<u64>,
    pub(crate) pattern: Option<Arc<Regex>>,
    pub(crate) format: Option<Format>,
}

#[derive(Debug, Default)]
pub(crate) struct ArrayRules {
    pub(crate) min: u64,
    pub(crate) max: Option<u64>,
    pub(crate) unique: bool,
    pub(crate) prefix: Vec<SchemaId>,
    pub(crate) items: Option<SchemaId>,
    pub(crate) contains: Option<Contains>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Contains {
    pub(crate) schema: SchemaId,
    pub(crate) min: u64,
    pub(crate) max: Option<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct ObjectRules {
    pub(crate) min: u64,
    pub(crate) max: Option<u64>,
    /// Every name that a rule speaks of; the places are those below.
    pub(crate) names: Names,
    /// The schema of the value under each name.
    pub(crate) properties: Vec<Option<SchemaId>>,
    pub(crate) required: Vec<usize>,
    pub(crate) patterns: Vec<(Arc<Regex>, SchemaId)>,
    pub(crate) additional: Option<SchemaId>,
    pub(crate) property_names: Option<SchemaId>,
    /// Where the first is there, all of the second must be.
    pub(crate) dependent_required: Vec<(usize, Vec<usize>)>,
    /// Where the name is there, the schema applies to the object.
    pub(crate) dependent_schemas: Vec<(usize, SchemaId)>,
}

/// Schemas for the same instance.
#[derive(Debug)]
pub(crate) enum Combined {
    Reference(SchemaId),
    All(Vec<SchemaId>),
    Any(Vec<SchemaId>),
    One(Vec<SchemaId>),
    Not(SchemaId),
    If { condition: SchemaId, then: Option<SchemaId>, otherwise: Option<SchemaId> },
}

impl Rules {
    pub(crate) const fn new() -> Self {
        Self {
            types: Types::ANY,
            literals: Vec::new(),
            number: None,
            string: None,
            array: None,
            object: None,
            combined: Vec::new(),
            unevaluated_items: None,
            unevaluated_properties: None,
        }
    }

    /// Every schema that it applies to the very instance that it is asked about.
    pub(crate) fn in_place(&self) -> Vec<SchemaId> {
        let mut found = Vec::new();
        for combined in &self.combined {
            match combined {
                Combined::Reference(schema) | Combined::Not(schema) => found.push(*schema),
                Combined::All(schemas) | Combined::Any(schemas) | Combined::One(schemas) => {
                    found.extend(schemas);
                }
                Combined::If { condition, then, otherwise } => {
                    found.push(*condition);
                    found.extend(then.iter().chain(otherwise));
                }
            }
        }
        let dependent = self.object.iter().flat_map(|object| &object.dependent_schemas);
        found.extend(dependent.map(|(_, schema)| *schema));
        found
    }
}

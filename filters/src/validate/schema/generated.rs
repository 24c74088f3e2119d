//! Schemas and instances made up from a seed, for comparisons with other validators.

use serde_json::{Map, Number, Value, json};

/// Numbers that look random and are the same every time (xorshift, Marsaglia 2003).
#[derive(Debug)]
pub struct Seeded(u64);

const NAMES: [&str; 5] = ["a", "b", "c", "ab", "x-1"];
const PATTERNS: [&str; 4] = ["^a", "b$", "^[0-9]+$", "^(a|bc)*$"];

impl Seeded {
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn one_of<T: Clone>(&mut self, values: &[T]) -> T {
        let place = usize::try_from(self.below(values.len() as u64)).unwrap_or(0);
        values[place].clone()
    }

    /// Any value, nested within `depth`.
    pub fn instance(&mut self, depth: u32) -> Value {
        match self.below(if depth == 0 { 5 } else { 8 }) {
            0 => self.one_of(&[Value::Null, json!(true), json!(false)]),
            1 | 2 => self.number(),
            3 | 4 => json!(self.one_of(&["", "a", "b", "abc", "bcbc", "12", "\u{e9}\u{1f980}", "aa"])),
            5 => (0..self.below(4)).map(|_| self.instance(depth - 1)).collect(),
            _ => {
                let members =
                    (0..self.below(4)).map(|_| (self.one_of(&NAMES).to_owned(), self.instance(depth - 1)));
                Value::Object(members.collect())
            }
        }
    }

    fn number(&mut self) -> Value {
        let whole = |number: i64| Value::from(number);
        match self.below(6) {
            0 => json!(1.5),
            1 => Number::from_f64(f64::from(u32::try_from(self.below(5)).unwrap_or(0)))
                .map_or(Value::Null, Value::from),
            2 => json!(-0.5),
            _ => whole(i64::try_from(self.below(8)).unwrap_or(0) - 2),
        }
    }

    fn schemas(&mut self, depth: u32) -> Value {
        (0..=self.below(2)).map(|_| self.schema(depth)).collect()
    }

    fn names(&mut self) -> Value {
        let mut names: Vec<&str> = (0..self.below(3)).map(|_| self.one_of(&NAMES)).collect();
        names.sort_unstable();
        names.dedup();
        json!(names)
    }

    fn by_name(&mut self, depth: u32) -> Value {
        let members = (0..=self.below(2)).map(|_| (self.one_of(&NAMES).to_owned(), self.schema(depth)));
        Value::Object(members.collect())
    }

    /// A schema of a few keywords, nested within `depth`; references lead to `#/$defs/a` and `#/$defs/b`.
    pub fn schema(&mut self, depth: u32) -> Value {
        if depth == 0 && self.below(4) == 0 {
            return json!(self.below(3) > 0);
        }
        let mut schema = Map::new();
        for _ in 0..=self.below(3) {
            let (keyword, value) = self.keyword(depth);
            schema.insert(keyword.to_owned(), value);
        }
        Value::Object(schema)
    }

    fn keyword(&mut self, depth: u32) -> (&'static str, Value) {
        let kinds = ["null", "boolean", "number", "integer", "string", "array", "object"];
        if depth == 0 || self.below(3) == 0 {
            let size = json!(self.below(4));
            return match self.below(17) {
                0..=2 => ("type", json!(self.one_of(&kinds))),
                3 => (
                    "type",
                    json!([self.one_of(&["null", "string"]), self.one_of(&["integer", "object", "array"])]),
                ),
                4 => ("enum", (0..=self.below(3)).map(|_| self.instance(1)).collect()),
                5 => ("const", self.instance(1)),
                6 => ("minimum", self.number()),
                7 => ("exclusiveMaximum", self.number()),
                8 => ("multipleOf", self.one_of(&[json!(2), json!(0.5), json!(3)])),
                9 => ("minLength", size),
                10 => ("maxLength", size),
                11 => ("pattern", json!(self.one_of(&PATTERNS))),
                12 => (self.one_of(&["minItems", "minProperties"]), size),
                13 => (self.one_of(&["maxItems", "maxProperties"]), size),
                14 => ("uniqueItems", json!(true)),
                15 => ("dependentRequired", json!({ "a": self.names(), "b": self.names() })),
                _ => ("required", self.names()),
            };
        }
        let below = depth - 1;
        match self.below(19) {
            0..=2 => ("properties", self.by_name(below)),
            3 => ("additionalProperties", self.schema(below)),
            4 => ("patternProperties", json!({ self.one_of(&PATTERNS): self.schema(below) })),
            5 => ("propertyNames", self.schema(0)),
            6 => ("items", self.schema(below)),
            7 => ("prefixItems", self.schemas(below)),
            8 => ("contains", self.schema(below)),
            9 => ("allOf", self.schemas(below)),
            10 => ("anyOf", self.schemas(below)),
            11 => ("oneOf", self.schemas(below)),
            12 => ("not", self.schema(below)),
            13 => ("if", self.schema(below)),
            14 => (self.one_of(&["then", "else"]), self.schema(below)),
            15 => ("dependentSchemas", self.by_name(below)),
            16 => ("unevaluatedProperties", self.schema(0)),
            17 => ("unevaluatedItems", self.schema(0)),
            // By way of a member, so that it comes to an end.
            _ => ("properties", json!({ "a": { "$ref": self.one_of(&["#/$defs/a", "#/$defs/b", "#"]) } })),
        }
    }

    /// A whole document.
    pub fn document(&mut self) -> Value {
        let mut schema = match self.schema(3) {
            Value::Object(schema) => schema,
            schema => Map::from_iter([("allOf".to_owned(), json!([schema]))]),
        };
        schema.insert("$defs".to_owned(), json!({ "a": self.schema(2), "b": self.schema(1) }));
        Value::Object(schema)
    }
}

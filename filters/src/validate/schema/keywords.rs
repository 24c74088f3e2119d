//! What every keyword of a schema says.

use serde_json::{Map, Value};

use crate::fault::{Code, closest};
use crate::validate::schema::compile::{Compiler, Dialect, Direction};
use crate::validate::schema::equal::Literal;
use crate::validate::schema::format::Format;
use crate::validate::schema::number::{Decimal, whole};
use crate::validate::schema::references::below;
use crate::validate::schema::{
    ArrayRules, Bound, Combined, Contains, Literals, NumberRules, ObjectRules, Rules, Schema, SchemaId,
    StringRules, Types,
};

/// The dialects that are read, as `$schema` names them.
const DIALECTS: [&str; 2] =
    ["https://json-schema.org/draft/2020-12/schema", "https://spec.openapis.org/oas/3.1/dialect/base"];

/// Every keyword that says something of an instance.
const KEYWORDS: [&str; 43] = [
    "$ref",
    "$dynamicRef",
    "$defs",
    "type",
    "enum",
    "const",
    "multipleOf",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "format",
    "maxItems",
    "minItems",
    "uniqueItems",
    "maxContains",
    "minContains",
    "contains",
    "prefixItems",
    "items",
    "maxProperties",
    "minProperties",
    "required",
    "dependentRequired",
    "dependentSchemas",
    "properties",
    "patternProperties",
    "additionalProperties",
    "propertyNames",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
    "nullable",
    "description",
];

type Members = Map<String, Value>;

impl<'d> Compiler<'d> {
    /// Reads one schema; those within it are only noted.
    pub(super) fn read(&mut self, value: &'d Value, at: &str) -> Schema {
        let members = match value {
            Value::Bool(true) => return Schema::Anything,
            Value::Bool(false) => return Schema::Nothing,
            Value::Object(members) => members,
            _ => {
                self.fault(at, Code::SCHEMA, "a schema is an object, true or false");
                return Schema::Nothing;
            }
        };
        self.identity(members, at);
        let mut rules = Rules::new();
        let alone = self.options.dialect == Dialect::OpenApi30 && members.contains_key("$ref");
        self.references(members, at, &mut rules);
        if !alone {
            rules.types = self.types(members, at);
            self.literals(members, at, &mut rules);
            rules.number = self.numbers(members, at).map(Box::new);
            rules.string = self.strings(members, at).map(Box::new);
            rules.array = self.arrays(members, at).map(Box::new);
            rules.object = self.objects(members, at).map(Box::new);
            self.combined(members, at, &mut rules);
            // Told even where nothing refers to them.
            for (name, value) in self.members(members, "$defs", at).into_iter().flatten() {
                self.schema(value, &below(&below(at, "$defs"), name));
            }
            rules.unevaluated_items = self.child(members, "unevaluatedItems", at);
            rules.unevaluated_properties = self.child(members, "unevaluatedProperties", at);
        }
        let asks = rules.types != Types::ANY
            || !rules.literals.is_empty()
            || rules.number.is_some()
            || rules.string.is_some()
            || rules.array.is_some()
            || rules.object.is_some()
            || !rules.combined.is_empty()
            || rules.unevaluated_items.is_some()
            || rules.unevaluated_properties.is_some();
        if asks { Schema::Rules(Box::new(rules)) } else { Schema::Anything }
    }

    /// What a schema says of itself, and slips of the pen.
    fn identity(&mut self, members: &'d Members, at: &str) {
        if let Some(dialect) = members.get("$schema") {
            let known =
                dialect.as_str().is_some_and(|dialect| DIALECTS.contains(&dialect.trim_end_matches('#')));
            if !known {
                let message = "$schema names another dialect; JSON Schema 2020-12 is read";
                self.fault(&below(at, "$schema"), Code::SCHEMA_DIALECT, message);
            }
        }
        if members.contains_key("$id") && !at.is_empty() {
            let message = "a schema within a document cannot have an $id of its own";
            self.fault(&below(at, "$id"), Code::SCHEMA_DIALECT, message);
        }
        for name in members.keys().filter(|name| !KEYWORDS.contains(&name.as_str())) {
            let like = closest(name, KEYWORDS).filter(|like| {
                strsim::damerau_levenshtein(&like.to_lowercase(), &name.to_lowercase()) <= 2 && name.len() > 4
            });
            if let Some(like) = like {
                let message = format!("unknown keyword `{name}`: did you mean `{like}`?");
                self.fault(&below(at, name), Code::SCHEMA, message);
            }
        }
    }

    fn references(&mut self, members: &'d Members, at: &str, rules: &mut Rules) {
        for keyword in ["$ref", "$dynamicRef"] {
            let Some(reference) = members.get(keyword) else { continue };
            let at = below(at, keyword);
            match reference.as_str().map(|reference| self.references.resolve(reference)) {
                Some(Ok((value, pointer))) => {
                    let schema = self.schema(value, &pointer);
                    rules.combined.push(Combined::Reference(schema));
                }
                Some(Err(why)) => self.fault(&at, Code::SCHEMA_REFERENCE, why),
                None => self.fault(&at, Code::SCHEMA, "a reference is a string"),
            }
        }
        if members.contains_key("$recursiveRef") {
            let message = "$recursiveRef is of an older dialect; $ref does the same here";
            self.fault(&below(at, "$recursiveRef"), Code::SCHEMA_DIALECT, message);
        }
    }

    fn types(&mut self, members: &Members, at: &str) -> Types {
        let one = |value: &Value| value.as_str().and_then(Types::named);
        let all = match members.get("type") {
            None => return Types::ANY,
            Some(Value::Array(names)) if !names.is_empty() => {
                let all: Option<Vec<Types>> = names.iter().map(one).collect();
                all.map(|all| all.into_iter().fold(Types(0), Types::and))
            }
            Some(name) => one(name),
        };
        let Some(all) = all else {
            let message =
                "a type is null, boolean, number, integer, string, array or object, or a list of these";
            self.fault(&below(at, "type"), Code::SCHEMA, message);
            return Types::ANY;
        };
        let old = self.options.dialect == Dialect::OpenApi30;
        let nullable = old && members.get("nullable") == Some(&Value::Bool(true));
        if nullable { all.and(Types::NULL) } else { all }
    }

    fn literals(&mut self, members: &'d Members, at: &str, rules: &mut Rules) {
        if let Some(value) = members.get("enum") {
            match value.as_array() {
                Some(values) => {
                    let literals = self.listed(values, at);
                    rules.literals.push(("enum", literals));
                }
                None => self.fault(&below(at, "enum"), Code::SCHEMA, "an enum is a list"),
            }
        }
        if let Some(value) = members.get("const") {
            let literals = self.listed(std::slice::from_ref(value), at);
            rules.literals.push(("const", literals));
        }
    }

    fn listed(&mut self, values: &[Value], at: &str) -> Literals {
        let mut literals = Literals::default();
        for value in values {
            match value {
                Value::String(text) => literals.strings.push(text.as_str().into()),
                value => match Literal::new(value) {
                    Some(literal) => literals.others.push(literal),
                    None => self.fault(at, Code::SCHEMA_SIZE, "a value that is larger than a body may be"),
                },
            }
        }
        literals.strings.sort_unstable();
        literals
    }

    /// A number, exactly as the document has it.
    fn decimal(&mut self, members: &Members, keyword: &str, at: &str) -> Option<(Decimal, Option<i64>)> {
        let Value::Number(number) = members.get(keyword)? else {
            self.fault(&below(at, keyword), Code::SCHEMA, format!("{keyword} is a number"));
            return None;
        };
        let text = number.to_string();
        Some((Decimal::parse(&text), whole(&text)))
    }

    fn count(&mut self, members: &Members, keyword: &str, at: &str) -> Option<u64> {
        let (number, _) = self.decimal(members, keyword, at)?;
        let count = number.count();
        if count.is_none() {
            let message = format!("{keyword} is a whole number from 0 up");
            self.fault(&below(at, keyword), Code::SCHEMA, message);
        }
        count
    }

    /// The schema under a keyword.
    pub(super) fn child(&mut self, members: &'d Members, keyword: &str, at: &str) -> Option<SchemaId> {
        let value = members.get(keyword)?;
        Some(self.schema(value, &below(at, keyword)))
    }

    fn list(&mut self, members: &'d Members, keyword: &str, at: &str) -> Vec<SchemaId> {
        let at = below(at, keyword);
        match members.get(keyword) {
            None => Vec::new(),
            Some(Value::Array(schemas)) if !schemas.is_empty() => {
                let all = schemas.iter().enumerate();
                all.map(|(place, schema)| self.schema(schema, &below(&at, &place.to_string()))).collect()
            }
            Some(_) => {
                self.fault(&at, Code::SCHEMA, format!("{keyword} is a list of one schema or more"));
                Vec::new()
            }
        }
    }

    fn members(&mut self, members: &'d Members, keyword: &str, at: &str) -> Option<&'d Members> {
        let value = members.get(keyword)?;
        if value.as_object().is_none() {
            self.fault(&below(at, keyword), Code::SCHEMA, format!("{keyword} is an object"));
        }
        value.as_object()
    }

    fn flag(&mut self, members: &Members, keyword: &str, at: &str) -> bool {
        match members.get(keyword) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.fault(&below(at, keyword), Code::SCHEMA, format!("{keyword} is true or false"));
                false
            }
        }
    }

    fn numbers(&mut self, members: &Members, at: &str) -> Option<NumberRules> {
        let mut rules = NumberRules::default();
        let old = self.options.dialect == Dialect::OpenApi30;
        for (keyword, strict) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
            let exclusive = old && self.flag(members, strict, at);
            if let Some((exact, whole)) = self.decimal(members, keyword, at) {
                rules.bounds.push(Bound { keyword: if exclusive { strict } else { keyword }, exact, whole });
            }
            if !old && let Some((exact, whole)) = self.decimal(members, strict, at) {
                rules.bounds.push(Bound { keyword: strict, exact, whole });
            }
        }
        if let Some((number, _)) = self.decimal(members, "multipleOf", at) {
            rules.multiple_of = number.divisor();
            if rules.multiple_of.is_none() {
                let message = "multipleOf is a number above 0, of 18 digits at most";
                self.fault(&below(at, "multipleOf"), Code::SCHEMA, message);
            }
        }
        if let Some((least, most)) = self.format(members, at).and_then(Format::range) {
            for (keyword, bound) in [("minimum", least), ("maximum", most)] {
                let exact = Decimal::parse(&bound.to_string());
                rules.bounds.push(Bound { keyword, exact, whole: Some(bound) });
            }
        }
        (!rules.bounds.is_empty() || rules.multiple_of.is_some()).then_some(rules)
    }

    fn format(&mut self, members: &Members, at: &str) -> Option<Format> {
        let name = members.get("format").filter(|_| self.options.formats)?;
        let known = name.as_str().and_then(Format::named);
        if known.is_none() && self.options.direction == Direction::Either {
            let names: Vec<&str> = Format::ALL.iter().map(|(name, _)| *name).collect();
            let message = format!("a format that is not checked; those that are: {}", names.join(", "));
            self.fault(&below(at, "format"), Code::SCHEMA_DIALECT, message);
        }
        known
    }

    fn strings(&mut self, members: &Members, at: &str) -> Option<StringRules> {
        let pattern = match members.get("pattern") {
            None => None,
            Some(Value::String(pattern)) => self.pattern(pattern, &below(at, "pattern")),
            Some(_) => {
                self.fault(&below(at, "pattern"), Code::SCHEMA, "a pattern is a string");
                None
            }
        };
        let (min, max) = (self.count(members, "minLength", at), self.count(members, "maxLength", at));
        let known = members.get("format").and_then(Value::as_str).and_then(Format::named);
        let format = known.filter(|format| self.options.formats && format.range().is_none());
        let asks = min.is_some() || max.is_some() || pattern.is_some() || format.is_some();
        asks.then_some(StringRules { min: min.unwrap_or_default(), max, pattern, format })
    }

    fn arrays(&mut self, members: &'d Members, at: &str) -> Option<ArrayRules> {
        let (min, max) = (self.count(members, "minItems", at), self.count(members, "maxItems", at));
        let unique = self.flag(members, "uniqueItems", at);
        let prefix = self.list(members, "prefixItems", at);
        let items = self.child(members, "items", at);
        let least = self.count(members, "minContains", at);
        let most = self.count(members, "maxContains", at);
        let contains = self.child(members, "contains", at);
        let contains = contains.map(|schema| Contains { schema, min: least.unwrap_or(1), max: most });
        let asks = min.is_some()
            || max.is_some()
            || unique
            || !prefix.is_empty()
            || items.is_some()
            || contains.is_some();
        asks.then_some(ArrayRules { min: min.unwrap_or_default(), max, unique, prefix, items, contains })
    }

    fn objects(&mut self, members: &'d Members, at: &str) -> Option<ObjectRules> {
        let mut rules = ObjectRules {
            min: self.count(members, "minProperties", at).unwrap_or_default(),
            max: self.count(members, "maxProperties", at),
            additional: self.child(members, "additionalProperties", at),
            property_names: self.child(members, "propertyNames", at),
            ..ObjectRules::default()
        };
        let properties = self.members(members, "properties", at);
        let within = below(at, "properties");
        for (name, value) in properties.into_iter().flatten() {
            let schema = self.schema(value, &below(&within, name));
            rules.property(name, schema);
        }
        let within = below(at, "patternProperties");
        for (pattern, value) in self.members(members, "patternProperties", at).into_iter().flatten() {
            let at = below(&within, pattern);
            let schema = self.schema(value, &at);
            rules.patterns.extend(self.pattern(pattern, &at).map(|regex| (regex, schema)));
        }
        let names = self.names(members.get("required"), &below(at, "required"));
        for name in names {
            if !self.optional_here(properties.and_then(|all| all.get(name))) {
                let place = rules.names.place(name);
                rules.required.push(place);
            }
        }
        let within = below(at, "dependentRequired");
        for (name, needed) in self.members(members, "dependentRequired", at).into_iter().flatten() {
            let needed = self.names(Some(needed), &below(&within, name));
            let needed = needed.into_iter().map(|name| rules.names.place(name)).collect();
            let place = rules.names.place(name);
            rules.dependent_required.push((place, needed));
        }
        let within = below(at, "dependentSchemas");
        for (name, value) in self.members(members, "dependentSchemas", at).into_iter().flatten() {
            let schema = self.schema(value, &below(&within, name));
            let place = rules.names.place(name);
            rules.dependent_schemas.push((place, schema));
        }
        let asks = rules.min > 0
            || rules.max.is_some()
            || rules.names.len() > 0
            || !rules.patterns.is_empty()
            || rules.additional.is_some()
            || rules.property_names.is_some();
        asks.then_some(rules)
    }

    /// A list of names.
    fn names(&mut self, value: Option<&'d Value>, at: &str) -> Vec<&'d str> {
        let Some(value) = value else { return Vec::new() };
        let names: Option<Vec<&str>> =
            value.as_array().and_then(|names| names.iter().map(Value::as_str).collect());
        names.unwrap_or_else(|| {
            self.fault(at, Code::SCHEMA, "a list of names");
            Vec::new()
        })
    }

    /// True for a property that only the other direction requires.
    fn optional_here(&self, property: Option<&'d Value>) -> bool {
        let keyword = match self.options.direction {
            Direction::Either => return false,
            Direction::Request => "readOnly",
            Direction::Response => "writeOnly",
        };
        let Some(property) = property else { return false };
        let referred = property.get("$ref").and_then(Value::as_str);
        let referred = referred.and_then(|reference| self.references.resolve(reference).ok());
        let says = |value: &Value| value.get(keyword) == Some(&Value::Bool(true));
        says(property) || referred.is_some_and(|(value, _)| says(value))
    }

    fn combined(&mut self, members: &'d Members, at: &str, rules: &mut Rules) {
        for (keyword, combine) in [
            ("allOf", Combined::All as fn(Vec<SchemaId>) -> Combined),
            ("anyOf", Combined::Any),
            ("oneOf", Combined::One),
        ] {
            let schemas = self.list(members, keyword, at);
            if !schemas.is_empty() {
                rules.combined.push(combine(schemas));
            }
        }
        if let Some(schema) = self.child(members, "not", at) {
            rules.combined.push(Combined::Not(schema));
        }
        if let Some(condition) = self.child(members, "if", at) {
            let (then, otherwise) = (self.child(members, "then", at), self.child(members, "else", at));
            rules.combined.push(Combined::If { condition, then, otherwise });
        }
    }
}

impl ObjectRules {
    fn property(&mut self, name: &str, schema: SchemaId) {
        let place = self.names.place(name);
        if self.properties.len() <= place {
            self.properties.resize(place + 1, None);
        }
        if let Some(property) = self.properties.get_mut(place) {
            *property = Some(schema);
        }
    }
}

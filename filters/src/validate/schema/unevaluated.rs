//! Members and elements that no other keyword has looked at (2020-12, core, section 11).

use smallvec::SmallVec;

use crate::validate::schema::check::{Check, Sink};
use crate::validate::schema::{Combined, Rules, Schema, SchemaId};
use crate::validate::tape::Kind;

/// One mark for each member or element.
type Marks = SmallVec<[bool; 32]>;

impl<'c> Check<'c> {
    pub(super) fn unevaluated_properties<S: Sink>(
        &mut self,
        rules: &'c Rules,
        schema: SchemaId,
        at: usize,
        sink: &mut S,
    ) -> bool {
        if self.tape.node(at).kind != Kind::Object {
            return true;
        }
        let members = self.tape.members(at).map(|name| (name + 1, name));
        self.all_left_over(members, (rules, at), (schema, "unevaluatedProperties"), sink)
    }

    pub(super) fn unevaluated_items<S: Sink>(
        &mut self,
        rules: &'c Rules,
        schema: SchemaId,
        at: usize,
        sink: &mut S,
    ) -> bool {
        if self.tape.node(at).kind != Kind::Array {
            return true;
        }
        let elements = self.tape.elements(at).map(|element| (element, element));
        self.all_left_over(elements, (rules, at), (schema, "unevaluatedItems"), sink)
    }

    /// Checks every value that no other keyword of `of` has looked at; values come with where a fault is told.
    fn all_left_over<S: Sink>(
        &mut self,
        values: impl Iterator<Item = (usize, usize)>,
        of: (&'c Rules, usize),
        (schema, keyword): (SchemaId, &'static str),
        sink: &mut S,
    ) -> bool {
        let marks = self.marks(of.0, of.1);
        let mut all = true;
        for ((value, place), marked) in values.zip(marks) {
            if !marked && !self.left_over(schema, value, place, keyword, sink) {
                all = false;
            }
        }
        all
    }

    fn left_over<S: Sink>(
        &mut self,
        schema: SchemaId,
        value: usize,
        place: usize,
        keyword: &'static str,
        sink: &mut S,
    ) -> bool {
        match self.set.schemas.get(schema) {
            Some(Schema::Nothing) => {
                sink.fails(keyword, place, None);
                false
            }
            _ => self.schema(schema, value, sink),
        }
    }

    /// What the other keywords of a schema that holds have looked at.
    fn marks(&mut self, rules: &'c Rules, at: usize) -> Marks {
        let count = self.tape.node(at).count() as usize;
        let mut marks: Marks = SmallVec::from_elem(false, count);
        self.mark(rules, at, &mut marks);
        marks
    }

    fn mark_schema(&mut self, schema: SchemaId, at: usize, marks: &mut Marks) {
        if let Some(Schema::Rules(rules)) = self.set.schemas.get(schema)
            && self.deeper(at)
        {
            self.mark(rules, at, marks);
            if rules.unevaluated_properties.is_some() && self.tape.node(at).kind == Kind::Object
                || rules.unevaluated_items.is_some() && self.tape.node(at).kind == Kind::Array
            {
                marks.iter_mut().for_each(|mark| *mark = true);
            }
            self.back();
        }
    }

    fn mark(&mut self, rules: &'c Rules, at: usize, marks: &mut Marks) {
        match self.tape.node(at).kind {
            Kind::Object => self.mark_members(rules, at, marks),
            Kind::Array => self.mark_elements(rules, at, marks),
            _ => {}
        }
        for combined in &rules.combined {
            match combined {
                Combined::Reference(schema) => self.mark_schema(*schema, at, marks),
                Combined::All(schemas) => {
                    for schema in schemas {
                        self.mark_schema(*schema, at, marks);
                    }
                }
                Combined::Any(schemas) | Combined::One(schemas) => {
                    for schema in schemas {
                        if self.quick(*schema, at) {
                            self.mark_schema(*schema, at, marks);
                        }
                    }
                }
                Combined::Not(_) => {}
                Combined::If { condition, then, otherwise } => {
                    let holds = self.quick(*condition, at);
                    if holds {
                        self.mark_schema(*condition, at, marks);
                    }
                    if let Some(branch) = if holds { then } else { otherwise } {
                        self.mark_schema(*branch, at, marks);
                    }
                }
            }
        }
    }

    fn mark_members(&mut self, rules: &'c Rules, at: usize, marks: &mut Marks) {
        let Some(object) = &rules.object else { return };
        let mut dependent = Vec::new();
        for (name, mark) in self.tape.members(at).zip(marks.iter_mut()) {
            let node = self.tape.node(name);
            let text = self.tape.string(node);
            let place = object.names.find(node.hash(), &text);
            let property = place.and_then(|place| object.properties.get(place).copied().flatten());
            *mark |= property.is_some()
                || object.additional.is_some()
                || object.patterns.iter().any(|(pattern, _)| pattern.is_match(&text));
            let there = object.dependent_schemas.iter().filter(|(needs, _)| Some(*needs) == place);
            dependent.extend(there.map(|(_, schema)| *schema));
        }
        for schema in dependent {
            self.mark_schema(schema, at, marks);
        }
    }

    fn mark_elements(&mut self, rules: &'c Rules, at: usize, marks: &mut Marks) {
        let Some(array) = &rules.array else { return };
        for ((place, element), mark) in self.tape.elements(at).enumerate().zip(marks.iter_mut()) {
            *mark |= place < array.prefix.len()
                || array.items.is_some()
                || array.contains.is_some_and(|contains| self.quick(contains.schema, element));
        }
    }
}

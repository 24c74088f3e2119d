//! Asks compiled schemas about a flat text, within a bound of work.

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::validate::schema::equal::{equal, repeated};
use crate::validate::schema::number::{Decimal, whole};
use crate::validate::schema::{
    ArrayRules, Bound, Combined, Literals, NumberRules, ObjectRules, Rules, Schema, SchemaId, Set,
    StringRules, Types,
};
use crate::validate::tape::{Kind, Node, Tape};

/// Work for any text, in schemas asked about values, their members and elements, and 32 bytes of strings.
const WORK: u64 = 50_000;
/// The same for each value of the text: whoever sends a body makes no more work than in proportion to it.
const WORK_FOR_VALUE: u64 = 64;
/// Schemas within schemas while one text is checked: the call stack is as deep.
const MAX_DEPTH: u32 = 256;

/// Hears what does not hold.
pub trait Sink {
    /// False: hear no more.
    fn fails(&mut self, keyword: &'static str, node: usize, member: Option<&str>) -> bool;

    /// True where it would hear more.
    fn wants_more(&self) -> bool;
}

/// Wants to know only whether everything holds.
#[derive(Debug)]
pub struct Quick;

impl Sink for Quick {
    fn fails(&mut self, _: &'static str, _: usize, _: Option<&str>) -> bool {
        false
    }

    fn wants_more(&self) -> bool {
        false
    }
}

/// One text that is being checked.
#[derive(Debug)]
pub struct Check<'c> {
    pub(super) set: &'c Set,
    pub(super) tape: Tape<'c>,
    /// Work that is left.
    work: u64,
    depth: u32,
    /// The bound of work is reached: nothing is decided.
    exhausted: bool,
}

/// True where the value at `node` is what the schema asks for.
///
/// # Errors
/// Where the bound of work is reached before that is known.
pub fn holds<S: Sink>(
    set: &Set,
    schema: SchemaId,
    tape: Tape<'_>,
    node: usize,
    sink: &mut S,
) -> Result<bool, Exhausted> {
    let work = WORK + WORK_FOR_VALUE * tape.nodes.len() as u64;
    let mut check = Check { set, tape, work, depth: 0, exhausted: false };
    let holds = check.schema(schema, node, sink);
    if check.exhausted { Err(Exhausted) } else { Ok(holds) }
}

/// The schema takes more work for this text than any may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

/// Tells the sink, and leaves the function where it wants to hear no more.
macro_rules! must {
    ($holds:expr, $all:ident, $sink:expr, $keyword:expr, $node:expr) => {
        if !$holds {
            $all = false;
            if !$sink.fails($keyword, $node, None) {
                return false;
            }
        }
    };
}

impl<'c> Check<'c> {
    pub(super) fn schema<S: Sink>(&mut self, schema: SchemaId, at: usize, sink: &mut S) -> bool {
        match self.set.schemas.get(schema) {
            Some(Schema::Anything) => true,
            Some(Schema::Rules(rules)) => {
                if !self.deeper(at) {
                    return false;
                }
                let holds = self.rules(rules, at, sink);
                self.back();
                holds
            }
            Some(Schema::Nothing) | None => {
                sink.fails("false", at, None);
                false
            }
        }
    }

    /// One more schema is asked; false where the bound of work is reached.
    pub(super) fn deeper(&mut self, at: usize) -> bool {
        let node = self.tape.node(at);
        let weight = match node.kind {
            Kind::Array | Kind::Object => node.count(),
            _ => (node.end - node.start) / 32,
        };
        if self.depth >= MAX_DEPTH {
            self.exhausted = true;
            return false;
        }
        let within = self.spend(1 + u64::from(weight));
        self.depth += u32::from(within);
        within
    }

    /// Takes work; false where the bound of it is reached.
    const fn spend(&mut self, work: u64) -> bool {
        match self.work.checked_sub(work) {
            Some(left) => self.work = left,
            None => self.exhausted = true,
        }
        !self.exhausted
    }

    /// It has answered.
    pub(super) const fn back(&mut self) {
        self.depth -= 1;
    }

    /// The same, when only the outcome matters.
    pub(super) fn quick(&mut self, schema: SchemaId, at: usize) -> bool {
        self.schema(schema, at, &mut Quick) && !self.exhausted
    }

    fn rules<S: Sink>(&mut self, rules: &'c Rules, at: usize, sink: &mut S) -> bool {
        let node = self.tape.node(at);
        let mut all = true;
        must!(self.is_of(node, rules.types), all, sink, "type", at);
        for (keyword, literals) in &rules.literals {
            must!(self.is_one_of(literals, at), all, sink, *keyword, at);
        }
        let within = match node.kind {
            Kind::Number => rules.number.as_ref().is_none_or(|rules| self.number(rules, at, sink)),
            Kind::String | Kind::Name => {
                rules.string.as_ref().is_none_or(|rules| self.string(rules, at, sink))
            }
            Kind::Array => rules.array.as_ref().is_none_or(|rules| self.array(rules, at, sink)),
            Kind::Object => rules.object.as_ref().is_none_or(|rules| self.object(rules, at, sink)),
            Kind::Null | Kind::True | Kind::False => true,
        };
        all &= within;
        for combined in &rules.combined {
            if (all || sink.wants_more()) && !self.combined(combined, at, sink) {
                all = false;
            }
        }
        if all && let Some(schema) = rules.unevaluated_properties {
            all &= self.unevaluated_properties(rules, schema, at, sink);
        }
        if all && let Some(schema) = rules.unevaluated_items {
            all &= self.unevaluated_items(rules, schema, at, sink);
        }
        all
    }

    fn is_of(&self, node: &Node, types: Types) -> bool {
        types == Types::ANY
            || match node.kind {
                Kind::Null => types.has(Types::NULL),
                Kind::True | Kind::False => types.has(Types::BOOLEAN),
                Kind::String | Kind::Name => types.has(Types::STRING),
                Kind::Array => types.has(Types::ARRAY),
                Kind::Object => types.has(Types::OBJECT),
                Kind::Number => {
                    types.has(Types::NUMBER) || (types.has(Types::INTEGER) && is_integer(self.tape.raw(node)))
                }
            }
    }

    fn is_one_of(&self, literals: &Literals, at: usize) -> bool {
        let node = self.tape.node(at);
        if matches!(node.kind, Kind::String | Kind::Name) {
            let text = self.tape.string(node);
            return literals.strings.binary_search_by(|known| (**known).cmp(&*text)).is_ok();
        }
        literals.others.iter().any(|literal| equal(self.tape, at, literal.tape(), 0))
    }

    fn number<S: Sink>(&self, rules: &NumberRules, at: usize, sink: &mut S) -> bool {
        let raw = self.tape.raw(self.tape.node(at));
        let small = whole(raw);
        let mut exact = None;
        let mut all = true;
        for bound in &rules.bounds {
            let order = match (small, bound.whole) {
                (Some(number), Some(bound)) => number.cmp(&bound),
                _ => Decimal::cmp(exact.get_or_insert_with(|| Decimal::parse(raw)), &bound.exact),
            };
            must!(bound.admits(order), all, sink, bound.keyword, at);
        }
        if let Some(divisor) = rules.multiple_of {
            let multiple = exact.get_or_insert_with(|| Decimal::parse(raw)).is_multiple_of(divisor);
            must!(multiple, all, sink, "multipleOf", at);
        }
        all
    }

    fn string<S: Sink>(&mut self, rules: &StringRules, at: usize, sink: &mut S) -> bool {
        let tape = self.tape;
        let text = tape.string(tape.node(at));
        let mut all = true;
        // A text has no more characters than bytes, and at least a quarter of them.
        let bytes = text.len() as u64;
        let characters = || text.chars().count() as u64;
        let long_enough =
            rules.min == 0 || (bytes >= rules.min && (bytes / 4 >= rules.min || characters() >= rules.min));
        must!(long_enough, all, sink, "minLength", at);
        let short_enough = rules.max.is_none_or(|max| bytes <= max || characters() <= max);
        must!(short_enough, all, sink, "maxLength", at);
        let matches = rules.pattern.as_ref().is_none_or(|pattern| pattern.is_match(&text));
        must!(matches, all, sink, "pattern", at);
        if let Some(format) = rules.format {
            if !self.spend(format.work(&text)) {
                return false;
            }
            must!(format.holds(&text), all, sink, "format", at);
        }
        all
    }

    fn array<S: Sink>(&mut self, rules: &'c ArrayRules, at: usize, sink: &mut S) -> bool {
        let count = u64::from(self.tape.node(at).count());
        let mut all = true;
        must!(count >= rules.min, all, sink, "minItems", at);
        must!(rules.max.is_none_or(|max| count <= max), all, sink, "maxItems", at);
        if rules.unique && count > 1 {
            let repeated = repeated(self.tape, at);
            must!(repeated.is_none(), all, sink, "uniqueItems", repeated.unwrap_or(at));
        }
        let mut found = 0;
        for (place, element) in self.tape.elements(at).enumerate() {
            let schema = rules.prefix.get(place).copied().or(rules.items);
            if let Some(schema) = schema
                && !self.schema(schema, element, sink)
            {
                all = false;
                if self.exhausted || !sink.wants_more() {
                    return false;
                }
            }
            if let Some(contains) = rules.contains {
                found += u64::from(self.quick(contains.schema, element));
            }
        }
        if let Some(contains) = rules.contains {
            must!(found >= contains.min, all, sink, "contains", at);
            must!(contains.max.is_none_or(|max| found <= max), all, sink, "maxContains", at);
        }
        all
    }

    fn object<S: Sink>(&mut self, rules: &'c ObjectRules, at: usize, sink: &mut S) -> bool {
        let count = u64::from(self.tape.node(at).count());
        let mut all = true;
        must!(count >= rules.min, all, sink, "minProperties", at);
        must!(rules.max.is_none_or(|max| count <= max), all, sink, "maxProperties", at);
        let mut seen: SmallVec<[u64; 4]> = SmallVec::from_elem(0, rules.names.len().div_ceil(64));
        for name in self.tape.members(at) {
            let node = self.tape.node(name);
            let text = self.tape.string(node);
            let place = rules.names.find(node.hash(), &text);
            if let Some(place) = place
                && let Some(word) = seen.get_mut(place / 64)
            {
                *word |= 1 << (place % 64);
            }
            let property = place.and_then(|place| rules.properties.get(place).copied().flatten());
            let mut known = property.is_some();
            let mut holds = property.is_none_or(|schema| self.schema(schema, name + 1, sink));
            for (pattern, schema) in &rules.patterns {
                if pattern.is_match(&text) {
                    known = true;
                    holds &= self.schema(*schema, name + 1, sink);
                }
            }
            if let (false, Some(schema)) = (known, rules.additional) {
                holds &= match self.set.schemas.get(schema) {
                    Some(Schema::Nothing) => {
                        sink.fails("additionalProperties", name, None);
                        false
                    }
                    _ => self.schema(schema, name + 1, sink),
                };
            }
            if let Some(schema) = rules.property_names
                && !self.quick(schema, name)
            {
                holds = false;
                sink.fails("propertyNames", name, None);
            }
            if !holds {
                all = false;
                if self.exhausted || !sink.wants_more() {
                    return false;
                }
            }
        }
        all & self.needed(rules, &seen, at, sink)
    }

    /// What must be there, and what must be there beside something else.
    fn needed<S: Sink>(&mut self, rules: &'c ObjectRules, seen: &[u64], at: usize, sink: &mut S) -> bool {
        let there = |place: usize| seen.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1);
        let mut all = true;
        for place in &rules.required {
            if !there(*place) {
                all = false;
                if !sink.fails("required", at, Some(rules.names.name(*place))) {
                    return false;
                }
            }
        }
        for (_, needed) in rules.dependent_required.iter().filter(|(place, _)| there(*place)) {
            for missing in needed.iter().filter(|place| !there(**place)) {
                all = false;
                if !sink.fails("dependentRequired", at, Some(rules.names.name(*missing))) {
                    return false;
                }
            }
        }
        for (place, schema) in &rules.dependent_schemas {
            if there(*place) && !self.schema(*schema, at, sink) {
                all = false;
                if !sink.wants_more() {
                    return false;
                }
            }
        }
        all
    }

    fn combined<S: Sink>(&mut self, combined: &'c Combined, at: usize, sink: &mut S) -> bool {
        let mut all = true;
        match combined {
            Combined::Reference(schema) => all = self.schema(*schema, at, sink),
            Combined::All(schemas) => {
                for schema in schemas {
                    if !self.schema(*schema, at, sink) {
                        all = false;
                        if self.exhausted || !sink.wants_more() {
                            return false;
                        }
                    }
                }
            }
            Combined::Any(schemas) => {
                let any = schemas.iter().any(|schema| self.quick(*schema, at));
                must!(any, all, sink, "anyOf", at);
            }
            Combined::One(schemas) => {
                let found = schemas.iter().filter(|schema| self.quick(**schema, at)).take(2).count();
                must!(found == 1, all, sink, "oneOf", at);
            }
            Combined::Not(schema) => must!(!self.quick(*schema, at), all, sink, "not", at),
            Combined::If { condition, then, otherwise } => {
                let branch = if self.quick(*condition, at) { then } else { otherwise };
                all = branch.is_none_or(|schema| self.schema(schema, at, sink));
            }
        }
        all
    }
}

impl Bound {
    fn admits(&self, order: Ordering) -> bool {
        match self.keyword {
            "minimum" => order.is_ge(),
            "maximum" => order.is_le(),
            "exclusiveMinimum" => order.is_gt(),
            _ => order.is_lt(),
        }
    }
}

fn is_integer(raw: &str) -> bool {
    !raw.contains(['.', 'e', 'E']) || Decimal::parse(raw).is_integer()
}

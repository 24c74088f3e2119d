//! Equality of JSON values, whatever their spelling (JSON Schema 2020-12, core, section 4.2.2).

use serde_json::Value;

use crate::validate::limits::Limits;
use crate::validate::schema::number::{Decimal, whole};
use crate::validate::tape::{self, Kind, NAMES, Node, Tape};

/// A value that a schema names.
#[derive(Debug)]
pub struct Literal {
    text: String,
    nodes: Vec<Node>,
}

impl Literal {
    /// `None` where the value is larger than any body may be.
    pub fn new(value: &Value) -> Option<Self> {
        let text = value.to_string();
        let (_, nodes) = tape::read(text.as_bytes(), &Limits::LARGEST).ok()?;
        Some(Self { text, nodes })
    }

    pub fn tape(&self) -> Tape<'_> {
        Tape { text: &self.text, nodes: &self.nodes }
    }
}

/// True where both places hold the same value. Members are unordered, numbers are compared by what they mean.
pub fn equal(one: Tape<'_>, at: usize, other: Tape<'_>, there: usize) -> bool {
    let (node, with) = (one.node(at), other.node(there));
    match (node.kind, with.kind) {
        (Kind::Null, Kind::Null) | (Kind::True, Kind::True) | (Kind::False, Kind::False) => true,
        (Kind::String | Kind::Name, Kind::String | Kind::Name) => one.string(node) == other.string(with),
        (Kind::Number, Kind::Number) => {
            let (raw, with) = (one.raw(node), other.raw(with));
            match (whole(raw), whole(with)) {
                (Some(number), Some(with)) => number == with,
                _ => Decimal::parse(raw) == Decimal::parse(with),
            }
        }
        (Kind::Array, Kind::Array) => {
            node.count() == with.count()
                && one.elements(at).zip(other.elements(there)).all(|(at, there)| equal(one, at, other, there))
        }
        (Kind::Object, Kind::Object) => {
            let sorted = |tape: Tape<'_>, at: usize| {
                let mut names: Vec<(u64, usize)> =
                    tape.members(at).map(|name| (tape.node(name).hash(), name)).collect();
                names.sort_unstable();
                names
            };
            node.count() == with.count()
                && sorted(one, at).into_iter().zip(sorted(other, there)).all(
                    |((hash, name), (known, there))| {
                        hash == known
                            && one.string(one.node(name)) == other.string(other.node(there))
                            && equal(one, name + 1, other, there + 1)
                    },
                )
        }
        _ => false,
    }
}

/// A number that is the same for equal values.
fn digest(tape: Tape<'_>, at: usize) -> u64 {
    let node = tape.node(at);
    match node.kind {
        Kind::Null | Kind::True | Kind::False => NAMES.hash_one(node.kind as u8),
        Kind::String | Kind::Name => NAMES.hash_one(&*tape.string(node)),
        Kind::Number => NAMES.hash_one(Decimal::parse(tape.raw(node))),
        Kind::Array => tape
            .elements(at)
            .fold(NAMES.hash_one("["), |so_far, at| NAMES.hash_one((so_far, digest(tape, at)))),
        // Whatever their order: a sum.
        Kind::Object => tape.members(at).fold(NAMES.hash_one("{"), |so_far, name| {
            so_far.wrapping_add(NAMES.hash_one((tape.node(name).hash(), digest(tape, name + 1))))
        }),
    }
}

/// The place of an element that equals an earlier one. Takes time in the size of the array.
pub fn repeated(tape: Tape<'_>, array: usize) -> Option<usize> {
    let mut all: Vec<(u64, usize)> = tape.elements(array).map(|at| (digest(tape, at), at)).collect();
    all.sort_unstable();
    all.windows(2).find_map(|pair| match pair {
        [(one, at), (other, there)] if one == other && equal(tape, *at, tape, *there) => Some(*there),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Literal, equal, repeated};
    use crate::validate::limits::Limits;

    #[test]
    fn values_are_equal_whatever_their_spelling() {
        for (one, other, same) in [
            (r#"{"a":1,"b":[1.0,"x"]}"#, r#"{"b":[1,"\u0078"],"\u0061":10e-1}"#, true),
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#, false),
            ("[1,2]", "[2,1]", false),
            ("0", "false", false),
            ("\"\"", "null", false),
            ("12345678901234567890", "12345678901234567891", false),
        ] {
            let read = |text: &str| {
                let nodes = crate::validate::tape::read(text.as_bytes(), &Limits::default()).unwrap().1;
                Literal { text: text.to_owned(), nodes }
            };
            let (one, other) = (read(one), read(other));
            assert_eq!(equal(one.tape(), 0, other.tape(), 0), same, "{one:?} {other:?}");
            let both = read(&format!("[{},{}]", one.text, other.text));
            assert_eq!(repeated(both.tape(), 0).is_some(), same, "{both:?}");
        }
    }
}

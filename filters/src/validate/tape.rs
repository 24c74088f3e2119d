//! JSON text as a flat list of values, made in one bounded pass.

use std::borrow::Cow;
use std::sync::LazyLock;

use ahash::RandomState;
use smallvec::SmallVec;

use crate::json::{self, Container, Malformed, Scalar, Text, Visitor};
use crate::validate::limits::Limits;

/// Hashes member names; its keys are random, so that nobody can choose names that collide.
pub static NAMES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Objects of up to so many members are looked through, larger ones sorted.
const FEW: usize = 12;

/// What a value is. A member name is a string that stands before its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    False,
    True,
    Number,
    String,
    Name,
    Array,
    Object,
}

/// One value, or one member name.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub kind: Kind,
    /// True where the string as written holds escapes.
    pub escaped: bool,
    /// Bytes of the text: the literal, or what stands between the quotes.
    pub start: u32,
    pub end: u32,
    /// Index just behind the last node of the value; of a name, the lower half of its hash.
    link: u32,
    /// Members or elements; of a name, the upper half of its hash.
    count: u32,
}

/// Why a text is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unacceptable {
    /// Offset in bytes.
    pub offset: usize,
    /// The bound that it breaks, `duplicate`, or `json`.
    pub keyword: &'static str,
    pub what: &'static str,
}

/// The values of one text, in the order in which they begin.
#[derive(Clone, Copy, Debug)]
pub struct Tape<'a> {
    pub text: &'a str,
    pub nodes: &'a [Node],
}

impl From<Malformed> for Unacceptable {
    fn from(malformed: Malformed) -> Self {
        Self { offset: malformed.offset, keyword: "json", what: malformed.what }
    }
}

/// Reads a text within `limits`: no duplicate name however it is spelled, nothing behind the value.
///
/// Memory: 20 bytes for each value and name, of which there are `limits.values` at most, and 48 bytes for each name
/// of the objects that are open.
pub fn read<'a>(text: &'a [u8], limits: &Limits) -> Result<(&'a str, Vec<Node>), Unacceptable> {
    let text = json::utf8(text)?;
    let mut builder = Builder {
        limits,
        names: &NAMES,
        nodes: Vec::with_capacity((text.len() / 12).min(limits.values) + 2),
        open: SmallVec::new(),
        keys: SmallVec::new(),
    };
    json::walk_text(text, &mut builder)?;
    Ok((text, builder.nodes))
}

struct Open {
    node: usize,
    count: u32,
    /// Where its names begin among those that are kept.
    keys: usize,
    array: bool,
}

struct Builder<'a, 'l> {
    limits: &'l Limits,
    names: &'l RandomState,
    nodes: Vec<Node>,
    open: SmallVec<[Open; 8]>,
    /// The names of all open objects, each with its hash.
    keys: SmallVec<[(u64, Text<'a>); 16]>,
}

fn broken<T>(offset: usize, keyword: &'static str, what: &'static str) -> Result<T, Unacceptable> {
    Err(Unacceptable { offset, keyword, what })
}

#[expect(clippy::cast_possible_truncation, reason = "bodies are bounded far below 4 GiB")]
const fn short(number: usize) -> u32 {
    number as u32
}

impl Builder<'_, '_> {
    fn push(&mut self, at: usize, mut node: Node) -> Result<(), Unacceptable> {
        if self.nodes.len() >= self.limits.values {
            return broken(at, "values", "more values than the policy allows");
        }
        if node.kind != Kind::Name {
            node.link = short(self.nodes.len() + 1);
        }
        self.nodes.push(node);
        Ok(())
    }

    /// One more value: an element where it stands in an array.
    fn element(&mut self, at: usize) -> Result<(), Unacceptable> {
        let Some(open) = self.open.last_mut().filter(|open| open.array) else { return Ok(()) };
        open.count += 1;
        if open.count > self.limits.items {
            return broken(at, "items", "an array with more elements than the policy allows");
        }
        Ok(())
    }
}

/// The offset of a name that stands a second time.
fn twice(keys: &mut [(u64, Text<'_>)]) -> Option<usize> {
    if keys.len() > FEW {
        keys.sort_unstable_by_key(|(hash, text)| (*hash, text.at));
    }
    let same = |one: &Text<'_>, other: &Text<'_>| one.unescape() == other.unescape();
    for (place, (hash, text)) in keys.iter().enumerate() {
        let sorted = keys.len() > FEW;
        for (other_hash, other) in keys.get(place + 1..).unwrap_or_default() {
            if hash == other_hash && same(text, other) {
                return Some(text.at.max(other.at));
            }
            if sorted && hash != other_hash {
                break;
            }
        }
    }
    None
}

impl<'a> Visitor<'a> for Builder<'a, '_> {
    type Error = Unacceptable;

    fn begin(&mut self, container: Container, at: usize, depth: u32) -> Result<(), Unacceptable> {
        if depth >= self.limits.depth {
            return broken(at, "depth", "nested deeper than the policy allows");
        }
        self.element(at)?;
        let array = container == Container::Array;
        self.open.push(Open { node: self.nodes.len(), count: 0, keys: self.keys.len(), array });
        let kind = if array { Kind::Array } else { Kind::Object };
        self.push(at, Node { kind, escaped: false, start: short(at), end: 0, link: 0, count: 0 })
    }

    fn end(&mut self, _: Container, end: usize, _: u32) -> Result<(), Unacceptable> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        if let Some(offset) = self.keys.get_mut(open.keys..).and_then(twice) {
            return broken(offset, "duplicate", "a member name that stands twice");
        }
        self.keys.truncate(open.keys);
        let link = short(self.nodes.len());
        if let Some(node) = self.nodes.get_mut(open.node) {
            (node.end, node.link, node.count) = (short(end), link, open.count);
        }
        Ok(())
    }

    fn key(&mut self, key: Text<'a>) -> Result<(), Unacceptable> {
        if key.raw.len() > self.limits.string {
            return broken(key.at, "string", "a member name longer than the policy allows");
        }
        if let Some(open) = self.open.last_mut() {
            open.count += 1;
            if open.count > self.limits.keys {
                return broken(key.at, "keys", "an object with more members than the policy allows");
            }
        }
        let hash =
            if key.escaped { self.names.hash_one(&*key.unescape()) } else { self.names.hash_one(key.raw) };
        self.keys.push((hash, key));
        let start = key.at + 1;
        self.push(
            key.at,
            Node {
                kind: Kind::Name,
                escaped: key.escaped,
                start: short(start),
                end: short(start + key.raw.len()),
                link: (hash & 0xffff_ffff) as u32,
                count: (hash >> 32) as u32,
            },
        )
    }

    fn scalar(&mut self, scalar: Scalar<'a>) -> Result<(), Unacceptable> {
        self.element(scalar.at)?;
        let (kind, quote) = match scalar.kind {
            json::Kind::String if scalar.raw.len() > self.limits.string => {
                return broken(scalar.at, "string", "a string longer than the policy allows");
            }
            json::Kind::Number if scalar.raw.len() > self.limits.number => {
                return broken(scalar.at, "number", "a number longer than the policy allows");
            }
            json::Kind::String => (Kind::String, 1),
            json::Kind::Number => (Kind::Number, 0),
            json::Kind::True => (Kind::True, 0),
            json::Kind::False => (Kind::False, 0),
            json::Kind::Null => (Kind::Null, 0),
        };
        let start = scalar.at + quote;
        let end = start + scalar.raw.len();
        let (start, end, escaped) = (short(start), short(end), scalar.escaped);
        self.push(scalar.at, Node { kind, escaped, start, end, link: 0, count: 0 })
    }
}

impl Node {
    /// A scalar that stands at these bytes of a text, unescaped; `index` is its own place.
    pub fn scalar(kind: Kind, bytes: std::ops::Range<usize>, index: usize) -> Self {
        let (start, end) = (short(bytes.start), short(bytes.end));
        Self { kind, escaped: false, start, end, link: short(index + 1), count: 0 }
    }

    /// An array of so many scalars, which follow it at once.
    pub fn array(count: usize, index: usize) -> Self {
        let link = short(index + 1 + count);
        Self { kind: Kind::Array, escaped: false, start: 0, end: 0, link, count: short(count) }
    }

    /// Members of an object, or elements of an array.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Index just behind the last node of the value.
    pub const fn next(&self) -> usize {
        self.link as usize
    }

    /// Of a name: its hash by [`NAMES`].
    pub const fn hash(&self) -> u64 {
        self.link as u64 | (self.count as u64) << 32
    }
}

/// What stands where nothing should ever be looked for.
const NOTHING: Node = Node { kind: Kind::Null, escaped: false, start: 0, end: 0, link: u32::MAX, count: 0 };

impl<'a> Tape<'a> {
    pub fn node(&self, index: usize) -> &'a Node {
        self.nodes.get(index).unwrap_or(&NOTHING)
    }

    /// The bytes of a scalar or name as written.
    pub fn raw(&self, node: &Node) -> &'a str {
        self.text.get(node.start as usize..node.end as usize).unwrap_or_default()
    }

    /// A string or name, escapes resolved.
    pub fn string(&self, node: &Node) -> Cow<'a, str> {
        let raw = self.raw(node);
        if node.escaped {
            Cow::Owned(Text { at: 0, raw, escaped: true }.unescape().into_owned())
        } else {
            Cow::Borrowed(raw)
        }
    }

    /// The places of the members of an object: of each the name, its value comes next.
    pub fn members(&self, index: usize) -> impl Iterator<Item = usize> + use<'a> {
        let (tape, end) = (*self, self.node(index).next());
        let mut at = index + 1;
        std::iter::from_fn(move || {
            let name = at;
            (name < end && name < tape.nodes.len()).then(|| {
                at = tape.node(name + 1).next();
                name
            })
        })
    }

    /// The places of the elements of an array.
    pub fn elements(&self, index: usize) -> impl Iterator<Item = usize> + use<'a> {
        let (tape, end) = (*self, self.node(index).next());
        let mut at = index + 1;
        std::iter::from_fn(move || {
            let element = at;
            (element < end && element < tape.nodes.len()).then(|| {
                at = tape.node(element).next();
                element
            })
        })
    }

    /// The JSON Pointer (RFC 6901) of the value or name at this place.
    pub fn pointer(&self, target: usize) -> String {
        let mut pointer = String::new();
        let mut at = 0;
        'down: while at != target {
            match self.node(at).kind {
                Kind::Object => {
                    for name in self.members(at) {
                        if target == name || (name + 1..self.node(name + 1).next()).contains(&target) {
                            pointer.push('/');
                            push_token(&mut pointer, &self.string(self.node(name)));
                            if target == name {
                                return pointer;
                            }
                            at = name + 1;
                            continue 'down;
                        }
                    }
                    return pointer;
                }
                Kind::Array => {
                    for (place, element) in self.elements(at).enumerate() {
                        if (element..self.node(element).next()).contains(&target) {
                            pointer.push('/');
                            pointer.push_str(&place.to_string());
                            at = element;
                            continue 'down;
                        }
                    }
                    return pointer;
                }
                _ => return pointer,
            }
        }
        pointer
    }
}

/// One reference token, escaped (RFC 6901, section 3).
pub fn push_token(pointer: &mut String, token: &str) {
    for char in token.chars() {
        match char {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            _ => pointer.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Tape, read};
    use crate::validate::limits::Limits;

    fn told(text: &[u8]) -> String {
        match read(text, &Limits::default()) {
            Ok((_, nodes)) => format!("{} nodes", nodes.len()),
            Err(fault) => format!("{} {}", fault.keyword, fault.offset),
        }
    }

    #[test]
    fn everything_that_is_read_in_two_ways_is_refused() {
        for (text, expected) in [
            (&br#"{"a":1,"b":[true,null,"x"]}"#[..], "8 nodes"),
            (br#"{"a":1,"a":2}"#, "duplicate 7"),
            (br#"{"a":1,"\u0061":2}"#, "duplicate 7"),
            (br#"{"\u0061":1,"b":{"a":1},"a":2}"#, "duplicate 24"),
            (br#"[{"a":1},{"a":1}]"#, "7 nodes"),
            (b"\xef\xbb\xbf{}", "json 0"),
            (b"{} {}", "json 3"),
            (b"{}\x00", "json 2"),
            (b"{\"a\":\"\xff\"}", "json 6"),
            (b"{\"a\":\"\xed\xa0\x80\"}", "json 6"),
            (br#"{"a":"\ud800"}"#, "json 6"),
            (br#"{"a":01}"#, "json 6"),
            (br#"{"a":NaN}"#, "json 5"),
            (b"{'a':1}", "json 1"),
            (b"{\"a\":1,}", "json 7"),
            (b"", "json 0"),
            (b"{\"a\":\"b\nc\"}", "json 7"),
        ] {
            assert_eq!(told(text), expected, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn every_bound_holds_and_is_inclusive() {
        let limits = Limits { depth: 3, keys: 14, items: 4, string: 5, number: 6, values: 60 };
        let object = |count: usize| {
            let members: Vec<String> = (0..count).map(|place| format!("\"{place}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        let array = |count: usize| format!("[{}]", vec!["0"; count].join(","));
        for (good, bad, keyword) in [
            ("[[[]]]".to_owned(), "[[[[]]]]".to_owned(), "depth"),
            (object(14), object(15), "keys"),
            (array(4), array(5), "items"),
            ("\"12345\"".to_owned(), "\"123456\"".to_owned(), "string"),
            ("{\"12345\":0}".to_owned(), "{\"123456\":0}".to_owned(), "string"),
            ("-1.5e9".to_owned(), "-1.5e99".to_owned(), "number"),
            (format!("[{0},{0}]", object(14)), format!("[{0},{0},{0}]", object(14)), "values"),
        ] {
            assert!(read(good.as_bytes(), &limits).is_ok(), "{good}");
            let refused = read(bad.as_bytes(), &limits).map(drop).unwrap_err();
            assert_eq!(refused.keyword, keyword, "{bad}");
        }
    }

    #[test]
    fn many_names_are_compared_as_few_are() {
        let names: Vec<String> = (0..200).map(|place| format!("\"n{place}\":0")).collect();
        let text = format!("{{{}}}", names.join(","));
        assert!(read(text.as_bytes(), &Limits::default()).is_ok());
        let text = format!("{{{},\"n\\u0037\":1}}", names.join(","));
        let refused = read(text.as_bytes(), &Limits::default()).map(drop).unwrap_err();
        assert_eq!((refused.keyword, refused.offset), ("duplicate", text.rfind("\"n\\u").unwrap()));
    }

    #[test]
    fn every_place_has_its_pointer() {
        let text = br#"{"a/b":[1,{"~":[]}],"c":{}}"#;
        let (text, nodes) = read(text, &Limits::default()).unwrap();
        let tape = Tape { text, nodes: &nodes };
        let all: Vec<String> = (0..nodes.len()).map(|place| tape.pointer(place)).collect();
        assert_eq!(all, ["", "/a~1b", "/a~1b", "/a~1b/0", "/a~1b/1", "/a~1b/1/~0", "/a~1b/1/~0", "/c", "/c"]);
    }
}

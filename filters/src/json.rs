//! One strict pass over JSON text (RFC 8259): no tree, byte offsets, bounded depth.

use std::borrow::Cow;
use std::ops::Range;

/// Containers may nest this deep; a body beyond it is refused. Also the number of bits in the walker's stack.
pub const MAX_DEPTH: u32 = 64;

/// Why a text is not JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {what}")]
pub struct Malformed {
    /// Offset of the first byte that does not belong, or the length of the text where it ends too soon.
    pub offset: usize,
    pub what: &'static str,
}

/// What a scalar value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    String,
    Number,
    True,
    False,
    Null,
}

/// The two kinds of container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    Object,
    Array,
}

/// A string as written, between its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    /// Offset of the opening quote.
    pub at: usize,
    pub raw: &'a str,
    /// True where `raw` holds at least one escape sequence.
    pub escaped: bool,
}

/// A scalar value as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scalar<'a> {
    pub kind: Kind,
    /// Offset of the first byte, the quote of a string included.
    pub at: usize,
    /// Offset just behind the last byte.
    pub end: usize,
    /// The literal or number; of a string, what stands between the quotes.
    pub raw: &'a str,
    /// True where `raw` holds at least one escape sequence.
    pub escaped: bool,
}

/// Hears of every token in order. An error ends the walk.
pub trait Visitor<'a> {
    type Error: From<Malformed>;

    /// A container opens at `at`, inside `depth` others.
    fn begin(&mut self, container: Container, at: usize, depth: u32) -> Result<(), Self::Error> {
        let _ = (container, at, depth);
        Ok(())
    }

    /// The container inside `depth` others closes; `end` lies just behind its last byte.
    fn end(&mut self, container: Container, end: usize, depth: u32) -> Result<(), Self::Error> {
        let _ = (container, end, depth);
        Ok(())
    }

    /// The name of a member; its value comes next.
    fn key(&mut self, key: Text<'a>) -> Result<(), Self::Error> {
        let _ = key;
        Ok(())
    }

    /// A string, number, boolean or null.
    fn scalar(&mut self, scalar: Scalar<'a>) -> Result<(), Self::Error> {
        let _ = scalar;
        Ok(())
    }
}

/// Walks over `text`, which must be exactly one JSON value in UTF-8 without a byte order mark.
///
/// Allocates nothing and does not recurse. Numbers are checked for their grammar, not for their range.
pub fn walk<'a, V: Visitor<'a>>(text: &'a [u8], visitor: &mut V) -> Result<(), V::Error> {
    walk_text(utf8(text)?, visitor)
}

/// The text, where it is UTF-8.
pub fn utf8(text: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(text).map_err(|error| Malformed { offset: error.valid_up_to(), what: "not UTF-8" })
}

/// The same as [`walk`] for what is known to be UTF-8.
pub fn walk_text<'a, V: Visitor<'a>>(text: &'a str, visitor: &mut V) -> Result<(), V::Error> {
    if text.starts_with('\u{feff}') {
        return Err(Malformed { offset: 0, what: "a byte order mark" }.into());
    }
    Walker { text, bytes: text.as_bytes(), at: 0, depth: 0, objects: 0 }.run(visitor)
}

impl<'a> Text<'a> {
    /// The string meant, escapes resolved. Copies only where there are escapes.
    pub fn unescape(&self) -> Cow<'a, str> {
        if self.escaped { Cow::Owned(unescape(self.raw)) } else { Cow::Borrowed(self.raw) }
    }
}

impl<'a> Scalar<'a> {
    /// Of a string: what it means, escapes resolved. Copies only where there are escapes.
    pub fn unescape(&self) -> Cow<'a, str> {
        Text { at: self.at, raw: self.raw, escaped: self.escaped }.unescape()
    }
}

/// Resolves the escapes of a string that the walker has accepted.
fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, tail)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = tail.chars();
        match chars.next() {
            Some('u') => {
                let (unit, tail) = hex_unit(chars.as_str());
                let low = tail.strip_prefix("\\u").filter(|_| (0xd800..0xdc00).contains(&unit)).map(hex_unit);
                let (point, tail) = match low {
                    Some((low, tail)) => (0x10000 + ((unit & 0x3ff) << 10) + (low & 0x3ff), tail),
                    None => (unit, tail),
                };
                out.push(char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER));
                rest = tail;
                continue;
            }
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some(other) => out.push(other),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out
}

fn hex_unit(digits: &str) -> (u32, &str) {
    let (unit, tail) = digits.split_at_checked(4).unwrap_or((digits, ""));
    (u32::from_str_radix(unit, 16).unwrap_or(0xfffd), tail)
}

struct Walker<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: u32,
    /// One bit a container, the innermost lowest: 1 for an object.
    objects: u64,
}

/// Which token must come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// A value, or the end of an array just opened.
    FirstValue,
    Key,
    /// A key, or the end of an object just opened.
    FirstKey,
    /// A comma, or the end of the container; at depth 0 the end of the text.
    Next,
}

impl<'a> Walker<'a> {
    fn run<V: Visitor<'a>>(mut self, visitor: &mut V) -> Result<(), V::Error> {
        let mut expect = Expect::Value;
        loop {
            self.skip_space();
            let Some(&byte) = self.bytes.get(self.at) else {
                if expect == Expect::Next && self.depth == 0 {
                    return Ok(());
                }
                return Err(self.fault("the text ends too soon").into());
            };
            expect = match (expect, byte) {
                (Expect::FirstKey, b'}') | (Expect::FirstValue, b']') => self.close(byte, visitor)?,
                (Expect::FirstKey | Expect::Key, b'"') => {
                    self.key(visitor)?;
                    Expect::Value
                }
                (Expect::FirstKey | Expect::Key, _) => {
                    return Err(self.fault("a member name expected").into());
                }
                (Expect::FirstValue | Expect::Value, _) => self.value(byte, visitor)?,
                (Expect::Next, _) if self.depth == 0 => {
                    return Err(self.fault("more than one value").into());
                }
                (Expect::Next, b',') => {
                    self.at += 1;
                    if self.in_object() { Expect::Key } else { Expect::Value }
                }
                (Expect::Next, b'}' | b']') => self.close(byte, visitor)?,
                (Expect::Next, _) => return Err(self.fault("a comma or the end expected").into()),
            };
        }
    }

    fn fault(&self, what: &'static str) -> Malformed {
        Malformed { offset: self.at.min(self.bytes.len()), what }
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn open<V: Visitor<'a>>(&mut self, container: Container, visitor: &mut V) -> Result<Expect, V::Error> {
        if self.depth == MAX_DEPTH {
            return Err(self.fault("nested too deep").into());
        }
        visitor.begin(container, self.at, self.depth)?;
        self.depth += 1;
        self.at += 1;
        let object = container == Container::Object;
        self.objects = self.objects << 1 | u64::from(object);
        Ok(if object { Expect::FirstKey } else { Expect::FirstValue })
    }

    fn close<V: Visitor<'a>>(&mut self, byte: u8, visitor: &mut V) -> Result<Expect, V::Error> {
        let container = if self.in_object() { Container::Object } else { Container::Array };
        if (byte == b'}') != (container == Container::Object) {
            return Err(self.fault("the wrong bracket").into());
        }
        self.at += 1;
        self.depth -= 1;
        self.objects >>= 1;
        visitor.end(container, self.at, self.depth)?;
        Ok(Expect::Next)
    }

    fn key<V: Visitor<'a>>(&mut self, visitor: &mut V) -> Result<(), V::Error> {
        let at = self.at;
        let (raw, escaped) = self.string()?;
        visitor.key(Text { at, raw, escaped })?;
        self.skip_space();
        if self.bytes.get(self.at) != Some(&b':') {
            return Err(self.fault("a colon expected").into());
        }
        self.at += 1;
        Ok(())
    }

    fn value<V: Visitor<'a>>(&mut self, byte: u8, visitor: &mut V) -> Result<Expect, V::Error> {
        let at = self.at;
        let (kind, raw, escaped) = match byte {
            b'{' => return self.open(Container::Object, visitor),
            b'[' => return self.open(Container::Array, visitor),
            b'"' => {
                let (raw, escaped) = self.string()?;
                (Kind::String, raw, escaped)
            }
            b't' => (Kind::True, self.literal("true")?, false),
            b'f' => (Kind::False, self.literal("false")?, false),
            b'n' => (Kind::Null, self.literal("null")?, false),
            b'-' | b'0'..=b'9' => (Kind::Number, self.number()?, false),
            _ => return Err(self.fault("a value expected").into()),
        };
        visitor.scalar(Scalar { kind, at, end: self.at, raw, escaped })?;
        Ok(Expect::Next)
    }

    fn literal(&mut self, literal: &'static str) -> Result<&'a str, Malformed> {
        let end = self.at + literal.len();
        match self.text.get(self.at..end) {
            Some(raw) if raw == literal => {
                self.at = end;
                Ok(raw)
            }
            _ => Err(self.fault("a value expected")),
        }
    }

    fn slice(&self, range: Range<usize>) -> Result<&'a str, Malformed> {
        self.text.get(range).ok_or_else(|| self.fault("not UTF-8"))
    }

    /// Reads a string from its opening quote; gives what is between the quotes, and whether it has escapes.
    fn string(&mut self) -> Result<(&'a str, bool), Malformed> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_length(self.bytes.get(self.at..).unwrap_or_default());
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    let raw = self.slice(start..self.at)?;
                    self.at += 1;
                    return Ok((raw, escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.fault("a control character in a string")),
                None => return Err(self.fault("a string without an end")),
            }
        }
    }

    /// Reads one escape from its backslash; both halves of a surrogate pair at once.
    fn escape(&mut self) -> Result<(), Malformed> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match self.unit(self.at + 2)? {
                0xd800..0xdc00 => {
                    let paired = self.bytes.get(self.at + 6..self.at + 8) == Some(b"\\u".as_slice())
                        && (0xdc00..0xe000).contains(&self.unit(self.at + 8)?);
                    if !paired {
                        return Err(self.fault("half of a surrogate pair"));
                    }
                    self.at += 12;
                    Ok(())
                }
                0xdc00..0xe000 => Err(self.fault("half of a surrogate pair")),
                _ => {
                    self.at += 6;
                    Ok(())
                }
            },
            _ => Err(self.fault("an unknown escape")),
        }
    }

    fn unit(&self, at: usize) -> Result<u32, Malformed> {
        let digits = self.bytes.get(at..at + 4).ok_or_else(|| self.fault("an unknown escape"))?;
        digits.iter().try_fold(0, |unit, digit| {
            char::from(*digit)
                .to_digit(16)
                .map(|value| unit << 4 | value)
                .ok_or_else(|| self.fault("an unknown escape"))
        })
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.bytes.get(self.at) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("a digit expected")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<&'a str, Malformed> {
        let start = self.at;
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
            if let Some(b'0'..=b'9') = self.bytes.get(self.at) {
                return Err(self.fault("a leading zero"));
            }
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        self.slice(start..self.at)
    }
}

/// How many bytes from the start need no attention in a string: no quote, backslash or control character.
///
/// Eight bytes at a time; the lowest flagged byte of a word is exact, as borrows only run upwards.
#[inline]
fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let mut length = 0;
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * 0x22);
        let backslash = word ^ (ONES * 0x5c);
        let flags = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        let flags = flags & TOPS;
        if flags != 0 {
            return length + flags.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    length + tail.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(tail.len())
}

#[cfg(test)]
mod tests;

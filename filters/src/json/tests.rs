//! The walker against a table, and against `serde_json` on generated and damaged texts.

use std::fmt::Write;

use super::{Container, Kind, Malformed, Scalar, Text, Visitor, walk};

#[derive(Default)]
struct Trace(String);

impl<'a> Visitor<'a> for Trace {
    type Error = Malformed;

    fn begin(&mut self, container: Container, at: usize, depth: u32) -> Result<(), Malformed> {
        write!(self.0, "{}{at}/{depth} ", if container == Container::Object { '{' } else { '[' }).unwrap();
        Ok(())
    }

    fn end(&mut self, container: Container, end: usize, depth: u32) -> Result<(), Malformed> {
        write!(self.0, "{}{end}/{depth} ", if container == Container::Object { '}' } else { ']' }).unwrap();
        Ok(())
    }

    fn key(&mut self, key: Text<'a>) -> Result<(), Malformed> {
        write!(self.0, "{}@{}: ", key.unescape(), key.at).unwrap();
        Ok(())
    }

    fn scalar(&mut self, scalar: Scalar<'a>) -> Result<(), Malformed> {
        write!(self.0, "{:?}({})@{}..{} ", scalar.kind, scalar.unescape(), scalar.at, scalar.end).unwrap();
        Ok(())
    }
}

fn trace(text: &[u8]) -> Result<String, Malformed> {
    let mut trace = Trace::default();
    walk(text, &mut trace)?;
    Ok(trace.0.trim_end().to_owned())
}

#[test]
fn tokens_come_in_order_with_their_offsets() {
    let cases: &[(&str, &str)] = &[
        ("1.10", "Number(1.10)@0..4"),
        (" null ", "Null(null)@1..5"),
        ("[]", "[0/0 ]2/0"),
        (r#"{"a":[true,-0.5e+3]}"#, "{0/0 a@1: [5/1 True(true)@6..10 Number(-0.5e+3)@11..18 ]19/1 }20/0"),
        (r#"{ "\u0041\n" : "\ud83d\ude00\/" }"#, "{0/0 A\n@2: String(😀/)@15..31 }33/0"),
        (r#"{"a":{},"b":false}"#, "{0/0 a@1: {5/1 }7/1 b@8: False(false)@12..17 }18/0"),
    ];
    for (text, expected) in cases {
        assert_eq!(trace(text.as_bytes()).as_deref(), Ok(*expected), "{text}");
    }
}

#[test]
fn what_is_not_json_is_refused_where_it_ceases_to_be() {
    let deep = "[".repeat(65);
    let cases: &[(&[u8], usize)] = &[
        (b"", 0),
        (b"  ", 2),
        (b"\xef\xbb\xbf{}", 0),
        (b"\"\xff\"", 1),
        (b"{} {}", 3),
        (b"01", 1),
        (b"-", 1),
        (b"1.", 2),
        (b"1e", 2),
        (b".5", 0),
        (b"+1", 0),
        (b"NaN", 0),
        (b"-Infinity", 1),
        (b"tru", 0),
        (b"\"\\x\"", 1),
        (b"\"\\u12g4\"", 1),
        (b"\"\\ud800\"", 1),
        (b"\"\\udc00\"", 1),
        (b"\"\\ud800\\u0041\"", 1),
        (b"\"\x01\"", 1),
        (b"\"ab", 3),
        (b"[1,]", 3),
        (b"[1 2]", 3),
        (b"[1}", 2),
        (b"{\"a\"}", 4),
        (b"{\"a\":}", 5),
        (b"{\"a\":1,}", 7),
        (b"{a:1}", 1),
        (b"{\"a\" 1}", 5),
        (b"]", 0),
        (b"1,", 1),
        (deep.as_bytes(), 64),
    ];
    for (text, offset) in cases {
        let error = trace(text).unwrap_err();
        assert_eq!(error.offset, *offset, "{}: {error}", String::from_utf8_lossy(text));
    }
    assert!(trace(format!("{}{}", "[".repeat(64), "]".repeat(64)).as_bytes()).is_ok());
}

/// A small deterministic generator (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn value(&mut self, depth: u32, out: &mut String) {
        const TEXTS: [&str; 8] = [
            "",
            "a",
            "Lead_Score__c",
            "sixteen bytes ok",
            "\\u00e9\\n",
            "\\ud83d\\ude00",
            "größe \u{1f600}",
            "long text over eight \\\" bytes",
        ];
        const NUMBERS: [&str; 7] = ["0", "-0", "12", "1.10", "-3.5e-7", "18500000", "1E+2"];
        match self.roll(if depth == 0 { 5 } else { 8 }) {
            0 => *out += ["true", "false", "null"][usize::try_from(self.roll(3)).unwrap()],
            1 | 2 => *out += NUMBERS[usize::try_from(self.roll(7)).unwrap()],
            3 | 4 => write!(out, "\"{}\"", TEXTS[usize::try_from(self.roll(8)).unwrap()]).unwrap(),
            5 | 6 => {
                *out += "{ ";
                for member in 0..self.roll(4) {
                    *out += if member > 0 { " ,\n" } else { "" };
                    write!(out, "\"k{member}{}\" :", TEXTS[usize::try_from(self.roll(8)).unwrap()]).unwrap();
                    self.value(depth - 1, out);
                }
                out.push('}');
            }
            _ => {
                out.push('[');
                for element in 0..self.roll(4) {
                    *out += if element > 0 { "," } else { "\t" };
                    self.value(depth - 1, out);
                }
                out.push(']');
            }
        }
    }
}

/// The judgement of `serde_json`; none where it gives up at a number beyond f64, which is JSON all the same.
fn oracle(text: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<serde_json::Value>(text) {
        Ok(_) => Some(true),
        Err(error) => (!error.to_string().starts_with("number out of range")).then_some(false),
    }
}

#[test]
fn generated_and_damaged_texts_are_judged_as_serde_json_does() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..4_000 {
        let mut text = String::new();
        dice.value(5, &mut text);
        assert!(trace(text.as_bytes()).is_ok(), "{text}");
        let mut bytes = text.into_bytes();
        for _ in 0..=dice.roll(2) {
            let at = usize::try_from(dice.roll(bytes.len() as u64)).unwrap();
            let byte = b"\"\\{}[],:0123eE+-.tu \x00\xc3\xa9n"[usize::try_from(dice.roll(24)).unwrap()];
            match dice.roll(3) {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => {}
            }
        }
        let ours = trace(&bytes).is_ok();
        assert_eq!(ours, oracle(&bytes).unwrap_or(ours), "{}", String::from_utf8_lossy(&bytes));
        *(if ours { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > 100 && bad > 1000, "{good} good, {bad} bad");
}

#[test]
fn scalars_tell_their_kind_and_raw_text() {
    struct Kinds(Vec<(Kind, String)>);
    impl<'a> Visitor<'a> for Kinds {
        type Error = Malformed;
        fn scalar(&mut self, scalar: Scalar<'a>) -> Result<(), Malformed> {
            self.0.push((scalar.kind, scalar.raw.to_owned()));
            Ok(())
        }
    }
    let mut kinds = Kinds(Vec::new());
    walk(br#"["a\n", 007e1]"#, &mut kinds).unwrap_err();
    assert_eq!(kinds.0, [(Kind::String, "a\\n".to_owned())], "nothing is heard of behind a fault");
}

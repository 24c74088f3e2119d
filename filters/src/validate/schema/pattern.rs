//! Patterns of schemas (ECMA-262) on an engine that takes linear time.

use regex::{Regex, RegexBuilder};

/// Longest pattern in bytes.
pub const LONGEST: usize = 4 << 10;
/// Most that one compiled pattern may take, in bytes.
const COMPILED: usize = 256 << 10;
/// Most that one thread keeps of states found while matching one pattern, in bytes.
const STATES: usize = 1 << 20;
/// Groups within groups.
const NESTED: u32 = 50;

/// Compiles a pattern; why it is refused otherwise. It matches anywhere in a text, as JSON Schema has it.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > LONGEST {
        return Err(format!("a pattern has at most {LONGEST} bytes"));
    }
    let regex = RegexBuilder::new(&translate(pattern))
        .size_limit(COMPILED)
        .dfa_size_limit(STATES)
        .nest_limit(NESTED)
        .build();
    regex.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the pattern needs more memory than a pattern may take".to_owned(),
        regex::Error::Syntax(text) => {
            let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            format!("the pattern cannot be read: {why}")
        }
        error => error.to_string(),
    })
}

/// Says in the words of the engine what ECMA-262 means: there `\d`, `\w` and `\b` are of ASCII, and a bracket within
/// a class is a character.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    let (mut class, mut before) = (false, ' ');
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('d') => out.push_str(if class { "0-9" } else { "[0-9]" }),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str(if class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str(if class { r"\s\u{feff}" } else { r"[\s\u{feff}]" }),
                Some('S') => out.push_str(r"[^\s\u{feff}]"),
                Some('b') if class => out.push_str(r"\x08"),
                Some('b') => out.push_str(r"(?-u:\b)"),
                Some('B') => out.push_str(r"(?-u:\B)"),
                Some('/') => out.push('/'),
                Some('c') => {
                    let letter = chars.next_if(char::is_ascii_alphabetic);
                    // A control character, by the letter that it lies 64 below.
                    match letter.and_then(|letter| char::from_u32(letter as u32 & 0x1f)) {
                        Some(control) => out.push(control),
                        None => out.push_str(r"\c"),
                    }
                }
                Some(escaped) => {
                    out.push('\\');
                    out.push(escaped);
                }
                None => out.push('\\'),
            },
            '[' if class => out.push_str(r"\["),
            '[' => {
                class = true;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            ']' if class => {
                class = false;
                out.push(']');
            }
            '&' | '~' if class => {
                out.push('\\');
                out.push(char);
            }
            '-' if class && before == '-' => out.push_str(r"\-"),
            _ => out.push(char),
        }
        before = if char == '\\' { ' ' } else { char };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::compile;

    #[test]
    fn patterns_mean_what_they_mean_in_ecma_262() {
        for (pattern, text, matches) in [
            (r"^\d+$", "123", true),
            (r"^\d+$", "\u{0663}", false),
            (r"^[\d_]+$", "1_2", true),
            (r"^\w+$", "\u{e9}", false),
            (r"^[^\d]$", "a", true),
            (r"^[^\d]$", "1", false),
            (r"^[[]$", "[", true),
            (r"^[a&&b]$", "&", true),
            (r"^\S$", "\u{feff}", false),
            (r"^a\/b$", "a/b", true),
            (r"^\cJ$", "\n", true),
            (r"^a$", "a\n", false),
            ("b", "abc", true),
            (r"^(?<year>\d{4})$", "2027", true),
            (r"^[+--]$", ",", true),
            (r"\u0041", "A", true),
        ] {
            assert_eq!(compile(pattern).map(|regex| regex.is_match(text)), Ok(matches), "{pattern} {text:?}");
        }
    }

    #[test]
    fn what_cannot_be_matched_in_linear_time_or_bounded_memory_is_refused() {
        for (pattern, why) in [
            (r"(?=a)b", "the pattern cannot be read"),
            (r"(a)\1", "the pattern cannot be read"),
            (r"((a{1,100}){1,100}){1,100}", "the pattern needs more memory"),
            (&"a".repeat(5_000), "a pattern has at most 4096 bytes"),
        ] {
            let told = compile(pattern).unwrap_err();
            assert!(told.starts_with(why), "{pattern}: {told}");
        }
    }
}

//! What is wrong with a message, told without its values.

/// Violations that are told of one message, at most.
pub const MAX_VIOLATIONS: usize = 16;
/// Longest name or pointer that is told, in bytes.
const MAX_TEXT: usize = 256;

/// One thing that is wrong. It names places and rules, and never repeats a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `body`, `path`, `query`, `header`, `cookie` or `response`.
    pub within: &'static str,
    /// Name of the parameter; empty for bodies.
    pub name: Box<str>,
    /// JSON Pointer (RFC 6901) into the body, or into the value of the parameter.
    pub pointer: Box<str>,
    /// The keyword of the schema, or the bound, that does not hold.
    pub keyword: &'static str,
    /// One sentence without a full stop.
    pub message: &'static str,
}

impl Violation {
    pub fn new(within: &'static str, keyword: &'static str, message: &'static str) -> Self {
        Self { within, name: Box::default(), pointer: Box::default(), keyword, message }
    }

    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = short(name).into();
        self
    }

    #[must_use]
    pub fn pointer(mut self, pointer: &str) -> Self {
        self.pointer = short(pointer).into();
        self
    }
}

/// All of them in one line, for the operator.
pub fn listed(violations: &[Violation]) -> String {
    let mut line = String::new();
    for violation in violations {
        if line.len() > 1_024 {
            line.push_str("; ..");
            break;
        }
        let Violation { within, name, pointer, keyword, .. } = violation;
        for (index, part) in
            [within, &**name, &**pointer, keyword].into_iter().filter(|it| !it.is_empty()).enumerate()
        {
            line.push_str(match index {
                0 if line.is_empty() => "",
                0 => "; ",
                _ => " ",
            });
            line.push_str(part);
        }
    }
    line
}

fn short(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}..", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{Violation, listed};

    #[test]
    fn a_list_names_places_and_rules_within_a_bound() {
        let one = Violation::new("body", "minLength", "too short").pointer("/Email");
        let other = Violation::new("query", "required", "missing").name("limit");
        assert_eq!(listed(&[one.clone(), other]), "body /Email minLength; query limit required");
        let long = one.pointer(&"\u{e9}".repeat(1_000));
        assert_eq!(long.pointer.len(), 258);
        assert!(listed(&vec![long; 16]).len() < 1_400);
    }
}

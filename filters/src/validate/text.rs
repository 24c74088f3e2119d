//! Text of URIs.

use crate::percent;

/// Resolves percent-escapes; with `plus`, a plus is a space, as forms write it. `None` where an escape is not whole,
/// or the result is not UTF-8.
pub fn percent_decode(text: &str, plus: bool) -> Option<String> {
    String::from_utf8(percent::decode(text, plus)?.into_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::percent_decode;

    #[test]
    fn escapes_are_resolved_once_and_must_be_whole() {
        for (text, plus, expected) in [
            ("a%20b+c", true, Some("a b c")),
            ("a+b", false, Some("a+b")),
            ("%2541", false, Some("%41")),
            ("%4", false, None),
            ("%zz", false, None),
            ("%ff", false, None),
        ] {
            assert_eq!(percent_decode(text, plus).as_deref(), expected, "{text}");
        }
    }
}

//! Text of URIs.

/// Resolves percent-escapes; with `plus`, a plus is a space, as forms write it. `None` where an escape is not whole,
/// or the result is not UTF-8.
pub fn percent_decode(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                out.push(u8::try_from(high << 4 | low).ok()?);
            }
            b'+' if plus => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
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

//! Percent-encoding (RFC 3986, section 2.1) of what cannot stand where it is written.

use std::borrow::Cow;

/// Resolves escapes; with `plus`, a plus is a space, as forms write it. `None` where an escape is not whole.
pub fn decode(text: &str, plus: bool) -> Option<Cow<'_, [u8]>> {
    resolve(text, plus, |_| None)
}

/// As [`decode`]; a percent sign that starts no escape stands for itself.
pub fn decode_leniently(text: &str, plus: bool) -> Cow<'_, [u8]> {
    resolve(text, plus, Some).unwrap_or_default()
}

/// `stray` says what a percent sign that starts no escape stands for.
fn resolve(text: &str, plus: bool, stray: impl Fn(u8) -> Option<u8>) -> Option<Cow<'_, [u8]>> {
    if !(text.contains('%') || plus && text.contains('+')) {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    // Digits alone: a number may have a sign besides.
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        decoded.push(match (first, tail) {
            (b'+', _) if plus => b' ',
            (b'%', _) => match tail
                .split_first_chunk::<2>()
                .map(|([high, low], tail)| (digit(*high), digit(*low), tail))
            {
                Some((Some(high), Some(low), tail)) => {
                    rest = tail;
                    high << 4 | low
                }
                _ => stray(b'%')?,
            },
            (byte, _) => *byte,
        });
    }
    Some(Cow::Owned(decoded))
}

/// Appends bytes: those that are plain, which must be ASCII, as they are, and all others as `%XX`.
pub fn push(text: &mut String, bytes: impl IntoIterator<Item = u8>, plain: impl Fn(u8) -> bool) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |number: u8| DIGITS.get(usize::from(number)).copied().unwrap_or('0');
    for byte in bytes {
        if byte.is_ascii() && plain(byte) {
            text.push(char::from(byte));
        } else {
            text.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// A status message of gRPC as headers have it: printable ASCII, all else as `%XX`; the first `most` bytes of it.
pub fn grpc_message(message: &str, most: usize) -> String {
    let mut text = String::with_capacity(message.len().min(most));
    push(&mut text, message.bytes().take(most), |byte| matches!(byte, b' '..=b'~') && byte != b'%');
    text
}

#[cfg(test)]
mod tests {
    use super::{decode, decode_leniently, grpc_message, push};

    #[test]
    fn escapes_are_resolved_once_and_must_be_whole_or_stand_for_themselves() {
        for (text, plus, whole, lenient) in [
            ("a%20b+c", true, Some("a b c"), "a b c"),
            ("a+b", false, Some("a+b"), "a+b"),
            ("plain", true, Some("plain"), "plain"),
            ("%2541%2fx%2F", false, Some("%41/x/"), "%41/x/"),
            ("%", false, None, "%"),
            ("%4", false, None, "%4"),
            ("100%", false, None, "100%"),
            ("%zz%41", false, None, "%zzA"),
            ("%+4%-4", false, None, "%+4%-4"),
            ("%%41", false, None, "%A"),
            ("", true, Some(""), ""),
        ] {
            assert_eq!(decode(text, plus).as_deref(), whole.map(str::as_bytes), "{text}");
            assert_eq!(*decode_leniently(text, plus), *lenient.as_bytes(), "{text}");
        }
        assert_eq!(decode("%ff", false).as_deref(), Some(&b"\xff"[..]));
    }

    #[test]
    fn what_is_not_plain_is_written_by_its_number() {
        let mut text = "a=".to_owned();
        push(&mut text, "b c\u{fc}\0~".bytes(), |byte| byte.is_ascii_alphanumeric());
        assert_eq!(text, "a=b%20c%C3%BC%00%7E");
        text.clear();
        push(&mut text, 0..=255, |_| true);
        assert_eq!(text.len(), 128 + 3 * 128);
    }

    #[test]
    fn status_messages_are_printable() {
        assert_eq!(grpc_message("50 % of \u{fc}\n", 1_024), "50 %25 of %C3%BC%0A");
        assert_eq!(grpc_message("abcdef", 3), "abc");
    }
}

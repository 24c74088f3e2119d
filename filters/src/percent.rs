//! Percent-encoding (RFC 3986, section 2.1) of what cannot stand where it is written.

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
    use super::{grpc_message, push};

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

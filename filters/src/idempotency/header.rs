//! `Idempotency-Key`: a structured string, or the bare key that most clients send.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Longest key, in bytes.
const MAX_KEY: usize = 255;

/// A key that cannot be read as one; for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The key that a header names; `None` where the header is absent. Quoted or not, the same characters are the
/// same key.
///
/// # Errors
/// Several fields, no key in it, more than 255 characters, or characters that are not visible ASCII.
pub fn key(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Malformed> {
    let mut fields = headers.get_all(name).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(Malformed("several keys"));
    }
    let key = read(field)?;
    match key.len() {
        0 => Err(Malformed("the key is empty")),
        1..=MAX_KEY => Ok(Some(key)),
        _ => Err(Malformed("the key is longer than 255 characters")),
    }
}

fn read(field: &HeaderValue) -> Result<String, Malformed> {
    let text = field.to_str().map_err(|_| Malformed("the key is not ASCII"))?.trim_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        let bare = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';');
        return if text.bytes().all(bare) {
            Ok(text.to_owned())
        } else {
            Err(Malformed("the key is neither a string in quotes nor visible characters alone"))
        };
    };
    let (mut key, mut chars) = (String::new(), quoted.chars());
    loop {
        match chars.next() {
            Some('"') => break,
            Some('\\') => match chars.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(Malformed("an escape that is none")),
            },
            Some(char) if matches!(char, ' '..='~') => key.push(char),
            _ => return Err(Malformed("the quotes do not end")),
        }
    }
    let rest = chars.as_str();
    // Parameters mean nothing here, and are ignored as structured fields have it.
    if rest.is_empty() || rest.starts_with(';') { Ok(key) } else { Err(Malformed("more than one string")) }
}

#[cfg(test)]
mod tests {
    use super::{Malformed, key};
    use http::{HeaderMap, HeaderName, HeaderValue};

    const NAME: HeaderName = HeaderName::from_static("idempotency-key");

    fn read(fields: &[&[u8]]) -> Result<Option<String>, Malformed> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(NAME, HeaderValue::from_bytes(field).unwrap());
        }
        key(&headers, &NAME)
    }

    #[test]
    fn keys_are_read_with_and_without_quotes() {
        assert_eq!(read(&[]), Ok(None));
        for (field, expected) in [
            (&br#""8e03978e-40d5-43dd-bc93-6894a57f9324""#[..], "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            (b"8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            (br#" "a b" "#, "a b"),
            (br#""a\"b\\c""#, "a\"b\\c"),
            (br#""a";v=1"#, "a"),
            (b"order:17/a=b", "order:17/a=b"),
        ] {
            assert_eq!(read(&[field]), Ok(Some(expected.to_owned())), "{field:?}");
        }
        assert_eq!(read(&["k".repeat(255).as_bytes()]), Ok(Some("k".repeat(255))));
    }

    #[test]
    fn what_is_no_key_is_told() {
        let long = "k".repeat(256);
        for fields in [
            &[&b"a"[..], b"b"][..],
            &[b""],
            &[b"\"\""],
            &[b"\"a"],
            &[b"\"a\\n\""],
            &[b"\"a\" \"b\""],
            &[b"a, b"],
            &[b"a b"],
            &[b"a\"b"],
            &[b"\xff\xfe"],
            &[long.as_bytes()],
        ] {
            assert!(read(fields).is_err(), "{fields:?}");
        }
    }
}

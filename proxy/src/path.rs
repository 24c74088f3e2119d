//! The canonical path: made once, then routed, judged and forwarded alike.

use std::borrow::Cow;

/// Why a path cannot be made canonical without guessing what the backend would make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path does not start with a slash")]
    Relative,
    #[error("the path holds an invalid percent-encoding")]
    Escape,
    #[error("the path holds an encoded slash, backslash or NUL")]
    Hidden,
    #[error("the path holds a backslash")]
    Backslash,
    #[error("a path segment carries a parameter, which some services cut off and some do not")]
    Parameter,
    #[error("the path climbs above its root")]
    Root,
    #[error("the path holds a character that must be encoded")]
    Character,
}

/// Makes a path canonical (RFC 3986, section 6.2.2): unreserved characters decoded, escapes in upper
/// case, dot segments and empty segments removed. What could be read in two ways is refused.
///
/// A path that is canonical already is borrowed, not copied.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    let clean = remove_dots(&decoded)?;
    Ok(Cow::Owned(clean))
}

/// True where nothing needs a second look: no escapes, dots after a slash, double slashes or odd bytes.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0u8;
    for &byte in path {
        match byte {
            b'/' | b'.' if previous == b'/' => return false,
            b'%'
            | b'\\'
            | b';'
            | 0..=0x20
            | 0x7f..=0xff
            | b'"'
            | b'<'
            | b'>'
            | b'^'
            | b'`'
            | b'{'
            | b'|'
            | b'}' => return false,
            _ => {}
        }
        previous = byte;
    }
    true
}

/// Decodes unreserved characters (RFC 3986, section 2.3) and writes all other escapes in upper case.
fn decode(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let value = hex(bytes.next())? << 4 | hex(bytes.next())?;
                match value {
                    b'/' | b'\\' | 0 => return Err(PathError::Hidden),
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        out.push(value.into());
                    }
                    _ => {
                        const DIGITS: [char; 16] =
                            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
                        out.push('%');
                        out.extend(DIGITS.get(usize::from(value >> 4)));
                        out.extend(DIGITS.get(usize::from(value & 15)));
                    }
                }
            }
            b'\\' => return Err(PathError::Backslash),
            0..=0x20 | 0x7f..=0xff => return Err(PathError::Character),
            _ => out.push(byte.into()),
        }
    }
    Ok(out)
}

fn hex(byte: Option<u8>) -> Result<u8, PathError> {
    match byte {
        Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
        Some(digit @ b'a'..=b'f') => Ok(digit - b'a' + 10),
        Some(digit @ b'A'..=b'F') => Ok(digit - b'A' + 10),
        _ => Err(PathError::Escape),
    }
}

/// Removes `.` and `..` segments (RFC 3986, section 5.2.4) and empty segments but the last.
fn remove_dots(path: &str) -> Result<String, PathError> {
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = false;
        match segment {
            "" | "." => directory = true,
            ".." => {
                segments.pop().ok_or(PathError::Root)?;
                directory = true;
            }
            _ if segment.contains(';') => return Err(PathError::Parameter),
            _ => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if directory || segments.is_empty() {
        out.push('/');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::{PathError, canonical};
    use std::borrow::Cow;

    #[test]
    fn plain_paths_are_borrowed() {
        for path in
            ["/", "/services/data/v62.0/sobjects/Lead", "/a/b/", "/a.b/c..d/e~f", "/a=1&b,c@d:e!$'()*+"]
        {
            assert!(matches!(canonical(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn one_path_has_one_spelling() {
        for (given, want) in [
            ("/%61dmin", "/admin"),
            ("/%41/%7e", "/A/~"),
            ("/a%c3%a9", "/a%C3%A9"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/a//", "/a/"),
            ("/a/..", "/"),
            ("/.", "/"),
            ("/a/.hidden", "/a/.hidden"),
            ("/a%20b", "/a%20b"),
        ] {
            assert_eq!(canonical(given).as_deref(), Ok(want), "{given}");
        }
    }

    #[test]
    fn canonical_paths_stay_as_they_are() {
        for given in ["/%61//b/../%c3%a9", "/a/%2e/b", "/x//y/"] {
            let once = canonical(given).unwrap().into_owned();
            assert_eq!(canonical(&once).as_deref(), Ok(once.as_str()));
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (given, why) in [
            ("a", PathError::Relative),
            ("", PathError::Relative),
            ("*", PathError::Relative),
            ("/a%2fb", PathError::Hidden),
            ("/a%2Fb", PathError::Hidden),
            ("/a%5cb", PathError::Hidden),
            ("/a%00", PathError::Hidden),
            ("/a\\b", PathError::Backslash),
            ("/a/..;/b", PathError::Parameter),
            ("/a/.;x=1/b", PathError::Parameter),
            ("/admin;x=1/users", PathError::Parameter),
            ("/a/%2e%2e;/b", PathError::Parameter),
            ("/../a", PathError::Root),
            ("/a/../../b", PathError::Root),
            ("/a%", PathError::Escape),
            ("/a%2", PathError::Escape),
            ("/a%zz", PathError::Escape),
            ("/a\u{e9}", PathError::Character),
        ] {
            assert_eq!(canonical(given), Err(why), "{given}");
        }
    }
}

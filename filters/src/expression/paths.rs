//! Patterns of paths: `/accounts/{id}/orders`, matched segment by segment.

use std::borrow::Cow;

use crate::percent;

/// A pattern, compiled when the expression is read.
///
/// Segments are compared with their percent-encoding undone on both sides, so that no spelling of a segment
/// escapes a rule that names it. Case matters, and so does a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    segments: Vec<Segment>,
    /// True where `**` takes any segments that are left, or none.
    rest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// With its encoding undone.
    Literal(Box<[u8]>),
    /// Any one segment that is not empty; `*` has no name.
    Any(Option<Box<str>>),
}

impl Pattern {
    /// Reads a pattern, or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.strip_prefix('/').ok_or("a pattern starts with /")?;
        let (text, rest) = match text.strip_suffix("**") {
            Some("") => return Ok(Self { segments: Vec::new(), rest: true }),
            Some(before) => (before.strip_suffix('/').ok_or("** stands for whole segments")?, true),
            None => (text, false),
        };
        let count = text.split('/').count();
        let mut segments = Vec::with_capacity(count);
        for (index, part) in text.split('/').enumerate() {
            let last = index + 1 == count;
            let segment = segment(part, last && !rest)?;
            if let Segment::Any(Some(name)) = &segment
                && segments.iter().any(|other| matches!(other, Segment::Any(Some(known)) if known == name))
            {
                return Err("a name stands twice");
            }
            segments.push(segment);
        }
        Ok(Self { segments, rest })
    }

    /// True where the path has the form of the pattern.
    pub(super) fn matches(&self, path: &str) -> bool {
        self.walk(path, |_, _| {})
    }

    /// The place of a name in the pattern.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.segments.iter().position(|one| matches!(one, Segment::Any(Some(known)) if **known == *name))
    }

    /// What stands in the path at a place, its encoding undone; `None` where the path has another form.
    pub(super) fn segment<'a>(&self, path: &'a str, place: usize) -> Option<Cow<'a, str>> {
        let mut found = None;
        let matches = self.walk(path, |at, part| {
            if at == place {
                found = Some(part);
            }
        });
        match found.filter(|_| matches)? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
        }
    }

    /// The path with which every path of this form begins; it may be read as it stands.
    pub(super) fn prefix(&self) -> (String, bool) {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        let mut prefix = String::from("/");
        for (index, segment) in self.segments.iter().enumerate() {
            match segment {
                Segment::Literal(text) if text.iter().all(plain) => {
                    prefix.push_str(&String::from_utf8_lossy(text));
                }
                _ => return (prefix, false),
            }
            if index + 1 < self.segments.len() {
                prefix.push('/');
            }
        }
        // Where anything may follow, the slash before it need not be there.
        (prefix, !self.rest)
    }

    /// Shows every segment of the pattern what stands in its place; false where the path has another form.
    fn walk<'a>(&self, path: &'a str, mut show: impl FnMut(usize, Cow<'a, [u8]>)) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut parts = path.split('/');
        for (index, segment) in self.segments.iter().enumerate() {
            let Some(part) = parts.next().and_then(|part| percent::decode(part, false)) else { return false };
            match segment {
                Segment::Literal(text) if **text == *part => {}
                Segment::Any(_) if !part.is_empty() => {}
                _ => return false,
            }
            show(index, part);
        }
        self.rest || parts.next().is_none()
    }
}

fn segment(part: &str, may_be_empty: bool) -> Result<Segment, &'static str> {
    if part == "*" {
        return Ok(Segment::Any(None));
    }
    if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        return if !name.is_empty() && name.bytes().all(word) {
            Ok(Segment::Any(Some(name.into())))
        } else {
            Err("a name between { } has letters, digits and _")
        };
    }
    if part.contains(['{', '}', '*', '?', '#']) {
        return Err("{name}, * and ** stand for whole segments, and nothing follows the path");
    }
    if part.is_empty() && !may_be_empty {
        return Err("a path has no empty segment");
    }
    if part == "." || part == ".." {
        return Err("no path holds . or ..");
    }
    let bytes = percent::decode(part, false).ok_or("the percent-encoding is not valid")?;
    Ok(Segment::Literal(bytes.into_owned().into()))
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn patterns_match_segment_by_segment() {
        for (pattern, path, matches) in [
            ("/accounts/{id}/orders", "/accounts/7/orders", true),
            ("/accounts/{id}/orders", "/accounts//orders", false),
            ("/accounts/{id}/orders", "/accounts/7/orders/", false),
            ("/accounts/{id}/orders", "/accounts/7/orders/1", false),
            ("/accounts/{id}/orders", "/accounts/7/Orders", false),
            ("/a/*/c", "/a/b/c", true),
            ("/a/**", "/a", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/ab", false),
            ("/**", "/anything/at/all", true),
            ("/", "/", true),
            ("/", "/a", false),
            ("/a/", "/a/", true),
            ("/a/", "/a", false),
            ("/a@b", "/a%40b", true),
            ("/a%40b", "/a@b", true),
            ("/%61", "/a", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(path), matches, "{pattern} {path}");
        }
    }

    #[test]
    fn names_give_what_stands_in_their_place() {
        let pattern = Pattern::parse("/accounts/{id}/orders/{order}").unwrap();
        let read = |path: &str, name: &str| {
            pattern.segment(path, pattern.place(name).unwrap()).map(std::borrow::Cow::into_owned)
        };
        assert_eq!(read("/accounts/7/orders/8", "id").as_deref(), Some("7"));
        assert_eq!(read("/accounts/7/orders/a%20b", "order").as_deref(), Some("a b"));
        assert_eq!(read("/accounts/7/orders/%FF", "order"), None);
        assert_eq!(read("/accounts/7/bills/8", "id"), None);
        assert_eq!(pattern.place("orders"), None);
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for bad in [
            "", "a", "/a//b", "//", "/a/{}", "/a/{b", "/a/{b-c}", "/a/b*", "/**/a", "/a**", "/{a}/{a}",
            "/a?b", "/..", "/%4", "/%zz", "/a//**",
        ] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_prefix_is_what_every_match_begins_with() {
        for (pattern, prefix, whole) in [
            ("/a/b", "/a/b", true),
            ("/a/{id}/c", "/a/", false),
            ("/a/**", "/a", false),
            ("/a@b/c", "/", false),
            ("/**", "/", false),
            ("/a/", "/a/", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().prefix(), (prefix.to_owned(), whole), "{pattern}");
        }
    }
}

//! A small strict reader of XML as SOAP allows it: no document type.

use std::ops::Range;

/// Elements may nest this deep.
const MAX_DEPTH: usize = 64;

/// Why a text is not read; for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// An element that has been read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// Without its prefix.
    pub name: &'a str,
    /// Elements around it, the outermost first, without their prefixes.
    pub parents: &'a [&'a str],
    /// Where it stands, its tags included.
    pub range: Range<usize>,
    /// What stands in it where that is text alone, untrimmed, with entities as written.
    pub text: Option<&'a str>,
}

struct Open<'a> {
    full: &'a str,
    start: usize,
    /// Just behind its first tag.
    content: usize,
    /// Nothing but text so far.
    plain: bool,
}

/// Hands every element to `visit` once it ends, inner ones first. SOAP messages have no document type (SOAP 1.1,
/// section 3); one that has is refused.
///
/// # Errors
/// What is not well-formed, as far as tags go, or nests deeper than 64; then `visit` may have been called.
pub fn elements<'a>(body: &'a [u8], mut visit: impl FnMut(&Element<'_>)) -> Result<(), Malformed> {
    let text = std::str::from_utf8(body).map_err(|_| Malformed("not UTF-8"))?;
    let (mut open, mut names): (Vec<Open<'a>>, Vec<&'a str>) = (Vec::new(), Vec::new());
    let (mut at, mut roots) = (0, 0);
    while let Some(start) = text.get(at..).and_then(|rest| rest.find('<')).map(|offset| at + offset) {
        if open.is_empty() && !blank(text.get(at..start).unwrap_or_default()) {
            return Err(Malformed("text outside of the message"));
        }
        let rest = text.get(start..).unwrap_or_default();
        if let Some(length) = passed(rest)? {
            if let Some(open) = open.last_mut() {
                open.plain = false;
            }
            at = start + length;
            continue;
        }
        let end = start + tag(rest)?;
        let inner = text.get(start + 1..end - 1).unwrap_or_default();
        at = end;
        if let Some(full) = inner.strip_prefix('/') {
            let Some(ended) = open.pop().filter(|open| open.full == full.trim_end()) else {
                return Err(Malformed("a tag ends what has not begun"));
            };
            let name = names.pop().unwrap_or_default();
            let content = text.get(ended.content..start).filter(|_| ended.plain);
            visit(&Element { name, parents: &names, range: ended.start..end, text: content });
            continue;
        }
        let (inner, empty) = inner.strip_suffix('/').map_or((inner, false), |inner| (inner, true));
        let full = inner.split([' ', '\t', '\r', '\n']).next().unwrap_or_default();
        let name = full.rsplit(':').next().unwrap_or_default();
        if name.is_empty() || open.len() >= MAX_DEPTH {
            return Err(Malformed("an element without a name, or too deep"));
        }
        roots += usize::from(open.is_empty());
        if roots > 1 {
            return Err(Malformed("more than one message"));
        }
        if let Some(open) = open.last_mut() {
            open.plain = false;
        }
        if empty {
            visit(&Element { name, parents: &names, range: start..end, text: Some("") });
        } else {
            open.push(Open { full, start, content: end, plain: true });
            names.push(name);
        }
    }
    if !open.is_empty() || roots == 0 || !blank(text.get(at..).unwrap_or_default()) {
        return Err(Malformed("the message does not end"));
    }
    Ok(())
}

fn blank(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').bytes().all(|byte| byte.is_ascii_whitespace())
}

/// The length of a comment, an instruction or a section of character data; `None` for a tag.
fn passed(rest: &str) -> Result<Option<usize>, Malformed> {
    for (begin, end) in [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")] {
        if let Some(inner) = rest.strip_prefix(begin) {
            let length = inner.find(end).ok_or(Malformed("the message does not end"))?;
            return Ok(Some(begin.len() + length + end.len()));
        }
    }
    if rest.starts_with("<!") { Err(Malformed("a document type")) } else { Ok(None) }
}

/// The length of a tag; `>` may stand in the values of its attributes.
fn tag(rest: &str) -> Result<usize, Malformed> {
    let mut quote = None;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match (quote, byte) {
            (None, b'>') => return Ok(at + 1),
            (None, b'<') => break,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    Err(Malformed("a tag does not end"))
}

#[cfg(test)]
mod tests {
    use super::elements;

    fn told(text: &str) -> Result<Vec<String>, &'static str> {
        let mut told = Vec::new();
        let outcome = elements(text.as_bytes(), |element| {
            told.push(format!("{}/{}={:?}", element.parents.join("/"), element.name, element.text));
        });
        outcome.map(|()| told).map_err(|malformed| malformed.0)
    }

    #[test]
    fn elements_are_told_with_what_is_around_them() {
        let text = "<?xml version=\"1.0\"?>\n<s:a x='>'><!-- <z> --><b> 1 </b><c/><d y=\"/\" ><![CDATA[<e>]]></d ></s:a>\n";
        assert_eq!(told(text).unwrap(), ["a/b=Some(\" 1 \")", "a/c=Some(\"\")", "a/d=None", "/a=None"]);
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        for text in [
            "",
            "a",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>b",
            "<a x=\">",
            "<a><b></a></b>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a/>",
            "<a><!-- </a>",
            "</a>",
            "< a/>",
            "<a <b/></a>",
        ] {
            assert!(told(text).is_err(), "{text}");
        }
        let deep = "<a>".repeat(65) + &"</a>".repeat(65);
        assert!(told(&deep).is_err());
        assert!(elements(b"<a>\xff</a>", |_| {}).is_err());
    }
}

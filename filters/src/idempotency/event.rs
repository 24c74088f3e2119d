//! `EventUuid` of platform events and change events in JSON.

use crate::json::{Container, Malformed, Scalar, Text, Visitor, walk};

/// Where the member may stand: in the event itself, as subscribers of either interface get it.
const PLACES: [&[&str]; 6] =
    [&[], &["event"], &["payload"], &["data", "event"], &["data", "payload"], &["data"]];

const MEMBER: &str = "EventUuid";

/// Hyphens of a UUID as text (RFC 9562, section 4).
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// Why an event has no name that can be relied on; for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventError {
    Json(Malformed),
    Twice,
    NotUuid,
}

impl From<Malformed> for EventError {
    fn from(malformed: Malformed) -> Self {
        Self::Json(malformed)
    }
}

/// Keeps the names on the way to where the walk is, no deeper than the places reach.
struct Finder<'a> {
    /// The member that each open container belongs to; `None` in lists and deeper than the places reach.
    way: Vec<Option<String>>,
    member: Option<String>,
    found: Option<&'a str>,
}

impl Finder<'_> {
    /// True where the walk is directly in an object that may hold the name.
    fn here(&self) -> bool {
        let mut way = Vec::with_capacity(2);
        for step in self.way.iter().skip(1) {
            match step {
                Some(step) if way.len() < 2 => way.push(step.as_str()),
                _ => return false,
            }
        }
        PLACES.contains(&way.as_slice())
    }
}

impl<'a> Visitor<'a> for Finder<'a> {
    type Error = EventError;

    fn begin(&mut self, _: Container, _: usize, _: u32) -> Result<(), EventError> {
        let member = self.member.take();
        self.way.push(member);
        Ok(())
    }

    fn end(&mut self, _: Container, _: usize, _: u32) -> Result<(), EventError> {
        self.way.pop();
        self.member = None;
        Ok(())
    }

    fn key(&mut self, key: Text<'a>) -> Result<(), EventError> {
        self.member = Some(key.unescape().into_owned());
        Ok(())
    }

    fn scalar(&mut self, scalar: Scalar<'a>) -> Result<(), EventError> {
        let member = self.member.take();
        if member.as_deref() != Some(MEMBER) || !self.here() {
            return Ok(());
        }
        if scalar.kind != crate::json::Kind::String || !is_uuid(scalar.raw) {
            return Err(EventError::NotUuid);
        }
        if self.found.replace(scalar.raw).is_some_and(|before| !before.eq_ignore_ascii_case(scalar.raw)) {
            return Err(EventError::Twice);
        }
        Ok(())
    }
}

/// The name of an event, in lower case; `None` where it has none.
///
/// # Errors
/// What is no JSON, a name that is no UUID, or two that differ.
pub fn uuid(body: &[u8]) -> Result<Option<String>, EventError> {
    let mut finder = Finder { way: Vec::new(), member: None, found: None };
    walk(body, &mut finder)?;
    Ok(finder.found.map(str::to_ascii_lowercase))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(at, byte)| if HYPHENS.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}

#[cfg(test)]
mod tests {
    use super::{EventError, uuid};

    const ID: &str = "a2bca1a6-3d3a-4c1a-9d0e-1f2a3b4c5d6e";

    #[test]
    fn the_name_is_found_wherever_subscribers_get_it() {
        for event in [
            format!(r#"{{"EventUuid":"{ID}"}}"#),
            format!(
                r#"{{"event":{{"replayId":7,"EventUuid":"{}"}},"payload":{{"a":[{{}}]}}}}"#,
                ID.to_uppercase()
            ),
            format!(r#"{{"payload":{{"EventUuid":"{ID}"}}}}"#),
            format!(r#"{{"data":{{"schema":"x","event":{{"EventUuid":"{ID}"}}}},"channel":"/event/A__e"}}"#),
            format!(r#"{{"event":{{"EventUuid":"{ID}"}},"payload":{{"EventUuid":"{ID}"}}}}"#),
        ] {
            assert_eq!(uuid(event.as_bytes()), Ok(Some(ID.to_owned())), "{event}");
        }
    }

    #[test]
    fn a_name_elsewhere_is_none_and_a_doubtful_one_is_an_error() {
        for event in [
            "{}".to_owned(),
            format!(r#"[{{"EventUuid":"{ID}"}}]"#),
            format!(r#"{{"payload":{{"a":{{"EventUuid":"{ID}"}}}}}}"#),
            format!(r#"{{"payload":[{{"EventUuid":"{ID}"}}]}}"#),
            format!(r#"{{"a":["EventUuid","{ID}"]}}"#),
        ] {
            assert_eq!(uuid(event.as_bytes()), Ok(None), "{event}");
        }
        let other = ID.replace('a', "b");
        let two = format!(r#"{{"EventUuid":"{ID}","event":{{"EventUuid":"{other}"}}}}"#);
        assert_eq!(uuid(two.as_bytes()), Err(EventError::Twice));
        assert_eq!(uuid(br#"{"EventUuid":7}"#), Err(EventError::NotUuid));
        assert_eq!(uuid(br#"{"EventUuid":"7"}"#), Err(EventError::NotUuid));
        assert!(matches!(uuid(b"<a/>"), Err(EventError::Json(_))));
    }
}

//! Finds the template that a path matches.

use std::borrow::Cow;

use ahash::AHashMap;
use smallvec::SmallVec;

use crate::validate::openapi::PathItem;
use crate::validate::text::percent_decode;

/// The values of variables, escapes resolved, in the order of the template.
pub type Captured<'h> = SmallVec<[Cow<'h, str>; 4]>;

/// Segments of one path, at most.
const MAX_SEGMENTS: usize = 64;

/// Templates by segment.
#[derive(Debug, Default)]
pub struct Paths {
    literal: AHashMap<Box<str>, Paths>,
    /// Variables between texts, the longer texts first.
    mixed: Vec<(Mixed, Paths)>,
    variable: Option<Box<Paths>>,
    item: Option<PathItem>,
}

/// A variable with text around it, as `{id}.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mixed {
    prefix: Box<str>,
    suffix: Box<str>,
}

/// One segment of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Literal(Box<str>),
    Mixed(Mixed),
    Variable,
}

/// Reads a template: its segments, and the names of its variables.
pub fn template(text: &str) -> Result<(Vec<Segment>, Vec<Box<str>>), &'static str> {
    let Some(text) = text.strip_prefix('/') else { return Err("a path begins with a slash") };
    let (mut segments, mut variables) = (Vec::new(), Vec::<Box<str>>::new());
    for part in text.split('/') {
        let Some((prefix, rest)) = part.split_once('{') else {
            if part.contains('}') {
                return Err("a brace without its partner");
            }
            segments.push(Segment::Literal(percent_decode(part, false).ok_or("a malformed escape")?.into()));
            continue;
        };
        let (name, suffix) = rest.split_once('}').ok_or("a brace without its partner")?;
        if suffix.contains(['{', '}']) || name.contains('{') || prefix.contains('}') {
            return Err("more than one variable in a segment");
        }
        if name.is_empty() || variables.iter().any(|known| **known == *name) {
            return Err("variables have names, each its own");
        }
        variables.push(name.into());
        segments.push(if prefix.is_empty() && suffix.is_empty() {
            Segment::Variable
        } else {
            Segment::Mixed(Mixed { prefix: prefix.into(), suffix: suffix.into() })
        });
    }
    if segments.len() > MAX_SEGMENTS {
        return Err("more than 64 segments");
    }
    Ok((segments, variables))
}

impl Paths {
    /// Puts a path in; false where an equal template is there.
    pub fn insert(&mut self, segments: &[Segment], item: PathItem) -> bool {
        let Some((first, rest)) = segments.split_first() else {
            let free = self.item.is_none();
            self.item.get_or_insert(item);
            return free;
        };
        let next: &mut Self = match first {
            Segment::Literal(text) => self.literal.entry(text.clone()).or_default(),
            Segment::Variable => self.variable.get_or_insert_default(),
            Segment::Mixed(mixed) => {
                let place = self.mixed.iter().position(|(known, _)| known == mixed);
                let place = place.unwrap_or_else(|| {
                    let length = |mixed: &Mixed| mixed.prefix.len() + mixed.suffix.len();
                    let place = self.mixed.partition_point(|(known, _)| length(known) >= length(mixed));
                    self.mixed.insert(place, (mixed.clone(), Self::default()));
                    place
                });
                match self.mixed.get_mut(place) {
                    Some((_, next)) => next,
                    None => return false,
                }
            }
        };
        next.insert(rest, item)
    }

    /// The path's own text before variables, from left to right (`OpenAPI` 3.1, section 4.8.8.2).
    pub fn find<'h>(&self, path: &'h str) -> Option<(&PathItem, Captured<'h>)> {
        let mut segments: SmallVec<[Cow<'h, str>; 8]> = SmallVec::new();
        for part in path.strip_prefix('/')?.split('/') {
            if segments.len() == MAX_SEGMENTS {
                return None;
            }
            segments.push(if part.contains('%') {
                Cow::Owned(percent_decode(part, false)?)
            } else {
                Cow::Borrowed(part)
            });
        }
        let mut captured = Captured::new();
        let item = self.walk(&segments, &mut captured)?;
        Some((item, captured))
    }

    fn walk<'h>(&self, segments: &[Cow<'h, str>], captured: &mut Captured<'h>) -> Option<&PathItem> {
        let Some((first, rest)) = segments.split_first() else { return self.item.as_ref() };
        let before = captured.len();
        if let Some(item) = self.literal.get(&**first).and_then(|next| next.walk(rest, captured)) {
            return Some(item);
        }
        for (mixed, next) in &self.mixed {
            let value = first.strip_prefix(&*mixed.prefix).and_then(|it| it.strip_suffix(&*mixed.suffix));
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                captured.truncate(before);
                captured.push(Cow::Owned(value.to_owned()));
                if let Some(item) = next.walk(rest, captured) {
                    return Some(item);
                }
            }
        }
        captured.truncate(before);
        let next = self.variable.as_ref().filter(|_| !first.is_empty())?;
        captured.push(first.clone());
        let item = next.walk(rest, captured);
        if item.is_none() {
            captured.truncate(before);
        }
        item
    }
}

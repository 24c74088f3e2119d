//! Joins member insertions and removals of several rules into one splice list.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::edits::Splice;

/// Adds removals and insertions to the splices that are already asked for.
///
/// An insertion is `"name":value` without a comma, or nothing, at the offset just behind the `{` of a record. Commas
/// come out right whatever is removed: members go with the comma before them, the first one that stays loses its own.
/// `None` where an earlier splice is neither a pure insertion nor a pure removal.
pub(super) fn merge(
    body: &[u8],
    earlier: &[Splice],
    removals: impl Iterator<Item = Range<usize>>,
    inserts: impl Iterator<Item = (usize, String)>,
) -> Option<Vec<Splice>> {
    let mut cuts: Vec<Range<usize>> = removals.collect();
    let mut texts = BTreeMap::<usize, String>::new();
    for splice in earlier {
        match (splice.range.is_empty(), splice.with.is_empty()) {
            (true, _) => {
                let text = std::str::from_utf8(&splice.with).ok()?;
                texts.insert(splice.range.start, text.to_owned());
            }
            (false, true) => cuts.push(splice.range.clone()),
            (false, false) => return None,
        }
    }
    let mut cuts = united(cuts);
    let mut commas = Vec::new();
    for (at, member) in inserts {
        let (next, byte) = first_left(body, at, &cuts);
        if byte == Some(b',') {
            commas.push(next..next + 1);
        }
        let follower = match byte {
            Some(b',') => first_left(body, next + 1, &cuts).1,
            other => other,
        };
        let text = texts.entry(at).or_default();
        text.truncate(text.trim_end_matches(',').len());
        if text.is_empty() {
            *text = member;
        } else if !member.is_empty() {
            text.push(',');
            text.push_str(&member);
        }
        if follower != Some(b'}') && !text.is_empty() {
            text.push(',');
        }
    }
    texts.retain(|_, text| !text.is_empty());
    cuts.extend(commas);
    Some(splices(united(cuts), texts))
}

/// The ranges sorted, those that touch or overlap made one.
fn united(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

/// The first byte from `at` on that is neither white space nor cut out, and its offset.
fn first_left(body: &[u8], mut at: usize, cuts: &[Range<usize>]) -> (usize, Option<u8>) {
    let mut later = cuts.partition_point(|cut| cut.end <= at);
    loop {
        if let Some(cut) = cuts.get(later).filter(|cut| cut.start <= at) {
            at = at.max(cut.end);
            later += 1;
        }
        match body.get(at) {
            Some(b' ' | b'\n' | b'\t' | b'\r') => at += 1,
            _ if cuts.get(later).is_some_and(|cut| cut.start <= at) => {}
            byte => return (at, byte.copied()),
        }
    }
}

/// Insertions and removals in order; a removal never covers an insertion's offset but at its start.
fn splices(cuts: Vec<Range<usize>>, texts: BTreeMap<usize, String>) -> Vec<Splice> {
    let mut out: Vec<Splice> = texts
        .into_iter()
        .map(|(at, text)| Splice { range: at..at, with: Bytes::from(text) })
        .chain(cuts.into_iter().map(|range| Splice { range, with: Bytes::new() }))
        .collect();
    out.sort_by_key(|splice| (splice.range.start, splice.range.end));
    out
}

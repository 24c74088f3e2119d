//! Paths to routes, with the precedence of Gateway API.

use std::cmp::Reverse;
use std::sync::Arc;

use ahash::AHashMap;
use http::request;
use regex::Regex;

use crate::routes::matcher::{Conditions, PathMatcher};

/// Where a match stands in the documents; the earlier one wins a tie.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order {
    /// `namespace/name` of the `HTTPRoute`.
    pub route: Arc<str>,
    pub rule: usize,
    pub index: usize,
}

/// A match, and the route it leads to.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub conditions: Conditions,
    pub order: Order,
    /// Index into the routes of the table.
    pub route: usize,
}

/// The matches of one host name.
///
/// Exact paths first, then regular expressions, then prefixes from the longest to the shortest.
/// Within one path: a method before none, more headers before fewer, more query parameters before
/// fewer, then the order of the documents.
#[derive(Debug, Default)]
pub struct Paths {
    exact: AHashMap<Box<str>, Vec<Candidate>>,
    regexes: Vec<(Regex, Candidate)>,
    prefixes: AHashMap<Box<str>, Vec<Candidate>>,
    /// Lengths of the prefixes, longest first, each once.
    lengths: Vec<usize>,
}

impl Paths {
    pub fn insert(&mut self, path: PathMatcher, candidate: Candidate) {
        match path {
            PathMatcher::Exact(path) => self.exact.entry(path).or_default().push(candidate),
            PathMatcher::Regex(regex) => self.regexes.push((regex, candidate)),
            PathMatcher::Prefix(path) => {
                if let Err(at) =
                    self.lengths.binary_search_by_key(&Reverse(path.len()), |length| Reverse(*length))
                {
                    self.lengths.insert(at, path.len());
                }
                self.prefixes.entry(path).or_default().push(candidate);
            }
        }
    }

    /// Puts candidates into the order in which they are asked. Must follow the last `insert`.
    pub fn sort(&mut self) {
        for candidates in self.exact.values_mut().chain(self.prefixes.values_mut()) {
            candidates.sort_by(|one, other| one.rank().cmp(&other.rank()));
        }
        self.regexes.sort_by(|(_, one), (_, other)| one.rank().cmp(&other.rank()));
    }

    /// The index of the route for this request.
    pub fn find(&self, path: &str, head: &request::Parts) -> Option<usize> {
        let first = |candidates: &Vec<Candidate>| {
            candidates.iter().find(|candidate| candidate.conditions.accept(head)).map(|found| found.route)
        };
        if let Some(route) = self.exact.get(path).and_then(first) {
            return Some(route);
        }
        let by_regex = self
            .regexes
            .iter()
            .find(|(regex, candidate)| regex.is_match(path) && candidate.conditions.accept(head));
        if let Some((_, candidate)) = by_regex {
            return Some(candidate.route);
        }
        self.lengths.iter().find_map(|length| {
            let (prefix, rest) = path.split_at_checked(*length)?;
            if !rest.is_empty() && !rest.starts_with('/') {
                return None;
            }
            self.prefixes.get(prefix).and_then(first)
        })
    }

    /// Every match, and the one that always takes its requests, where there is one. Follows `sort`.
    pub fn shadows(&self) -> impl Iterator<Item = (&Order, Option<&Order>)> {
        let lists = self.exact.values().chain(self.prefixes.values());
        let same_path = lists.flat_map(|candidates| {
            candidates.iter().enumerate().map(|(index, candidate)| {
                let before = candidates.iter().take(index);
                let shadow = before.into_iter().find(|before| before.conditions == candidate.conditions);
                (&candidate.order, shadow.map(|shadow| &shadow.order))
            })
        });
        let regexes = self.regexes.iter().enumerate().map(|(index, (regex, candidate))| {
            let before = self.regexes.iter().take(index);
            let shadow = before.into_iter().find(|(before, other)| {
                before.as_str() == regex.as_str() && other.conditions == candidate.conditions
            });
            (&candidate.order, shadow.map(|(_, shadow)| &shadow.order))
        });
        same_path.chain(regexes)
    }
}

impl Candidate {
    fn rank(&self) -> impl Ord + '_ {
        let Conditions { method, headers, query } = &self.conditions;
        (method.is_none(), Reverse(headers.len()), Reverse(query.len()), &self.order)
    }
}

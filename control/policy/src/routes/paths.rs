//! Paths to routes, with the precedence of Gateway API.

use std::cmp::Reverse;
use std::sync::Arc;

use ahash::AHashMap;
use http::request;
use regex::Regex;

use crate::routes::matcher::{Conditions, PathMatcher};
use crate::routes::rpcs::Rpcs;

/// Where a match stands in the documents; the earlier one wins a tie.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order {
    /// When the route was made; empty where nothing says so.
    pub created: Arc<str>,
    /// `namespace/name` of the route.
    pub route: Arc<str>,
    pub rule: usize,
    pub index: usize,
    /// True for a `GRPCRoute`.
    pub grpc: bool,
}

/// A match, and the route it leads to.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub conditions: Conditions,
    pub order: Order,
    /// Index into the routes of the table.
    pub route: usize,
}

/// What takes the requests of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    pub by: Order,
    /// False: it is the same match, and stands earlier.
    pub everything: bool,
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
    /// Those of `GRPCRoute`s, asked last: no name is served by both kinds.
    rpcs: Option<Box<Rpcs>>,
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
            PathMatcher::Rpc(rpc) => self.rpcs.get_or_insert_default().insert(rpc, candidate),
        }
    }

    /// Puts candidates into the order in which they are asked. Must follow the last `insert`.
    pub fn sort(&mut self) {
        for candidates in self.exact.values_mut().chain(self.prefixes.values_mut()) {
            candidates.sort_by(|one, other| one.rank().cmp(&other.rank()));
        }
        self.regexes.sort_by(|(_, one), (_, other)| one.rank().cmp(&other.rank()));
        if let Some(rpcs) = &mut self.rpcs {
            rpcs.sort();
        }
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
        let by_prefix = self.lengths.iter().find_map(|length| {
            let (prefix, rest) = path.split_at_checked(*length)?;
            if !rest.is_empty() && !rest.starts_with('/') {
                return None;
            }
            self.prefixes.get(prefix).and_then(first)
        });
        by_prefix.or_else(|| self.rpcs.as_ref()?.find(path, head))
    }

    /// Every match, and what always takes its requests, where there is something. Follows `sort`.
    pub fn shadows(&self) -> impl Iterator<Item = (&Order, Option<Shadow>)> {
        let all = self
            .regexes
            .iter()
            .position(|(regex, candidate)| takes_all(regex) && candidate.conditions == Conditions::default());
        let everything = all.and_then(|index| self.regexes.get(index)).map(|(_, candidate)| &candidate.order);
        let shadow = move |same: Option<&Order>, before: Option<&Order>| {
            let same = same.map(|by| Shadow { by: by.clone(), everything: false });
            same.or_else(|| before.map(|by| Shadow { by: by.clone(), everything: true }))
        };
        let exact = self.exact.values().map(|list| (list, None));
        let lists = exact.chain(self.prefixes.values().map(move |list| (list, everything)));
        let same_path = lists.flat_map(move |(candidates, before)| {
            candidates.iter().enumerate().map(move |(index, candidate)| {
                let mut earlier = candidates.iter().take(index);
                let same = earlier.find(|earlier| earlier.conditions == candidate.conditions);
                (&candidate.order, shadow(same.map(|same| &same.order), before))
            })
        });
        let regexes = self.regexes.iter().enumerate().map(move |(index, (regex, candidate))| {
            let mut earlier = self.regexes.iter().take(index);
            let same = earlier.find(|(earlier, other)| {
                earlier.as_str() == regex.as_str() && other.conditions == candidate.conditions
            });
            let before = everything.filter(|_| all.is_some_and(|all| all < index));
            (&candidate.order, shadow(same.map(|(_, same)| &same.order), before))
        });
        let rpcs = self.rpcs.iter().flat_map(|rpcs| rpcs.shadows());
        let rpcs = rpcs.map(move |(order, same)| (order, shadow(same, None)));
        same_path.chain(regexes).chain(rpcs)
    }
}

/// True for an expression that matches every path.
fn takes_all(regex: &Regex) -> bool {
    let text = regex.as_str();
    let text = text.strip_prefix(r"\A(?:").and_then(|text| text.strip_suffix(r")\z")).unwrap_or(text);
    let text = text.strip_prefix('^').unwrap_or(text);
    matches!(text.strip_suffix('$').unwrap_or(text), ".*" | ".+" | "/.*" | "(.*)" | "(.+)" | "/(.*)")
}

impl Candidate {
    pub(super) fn rank(&self) -> impl Ord + '_ {
        let Conditions { method, headers, query, .. } = &self.conditions;
        (method.is_none(), Reverse(headers.len()), Reverse(query.len()), &self.order)
    }
}

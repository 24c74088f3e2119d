//! gRPC calls to routes, with the precedence of `GRPCRoute`.

use std::cmp::Reverse;

use ahash::AHashMap;
use http::request;

use crate::routes::matcher::{RpcMatcher, ValueMatcher};
use crate::routes::paths::{Candidate, Order};

/// The calls of one host name.
///
/// The longer service comes first, then the longer method, more headers, and the order of the documents. Names come
/// before regular expressions, whose length is that of their text.
#[derive(Debug, Default)]
pub struct Rpcs {
    /// Service and method by name, as a path.
    methods: AHashMap<Box<str>, Vec<Candidate>>,
    /// The service by name, every method.
    services: AHashMap<Box<str>, Vec<Candidate>>,
    others: Vec<(RpcMatcher, Candidate)>,
}

impl Rpcs {
    pub fn insert(&mut self, rpc: RpcMatcher, candidate: Candidate) {
        match (&rpc.service, &rpc.method) {
            (Some(ValueMatcher::Exact(service)), Some(ValueMatcher::Exact(method))) => {
                self.methods.entry(format!("/{service}/{method}").into()).or_default().push(candidate);
            }
            (Some(ValueMatcher::Exact(service)), None) => {
                self.services.entry(service.clone()).or_default().push(candidate);
            }
            _ => self.others.push((rpc, candidate)),
        }
    }

    /// Puts candidates into the order in which they are asked. Must follow the last `insert`.
    pub fn sort(&mut self) {
        for candidates in self.methods.values_mut().chain(self.services.values_mut()) {
            candidates.sort_by(|one, other| one.rank().cmp(&other.rank()));
        }
        let lengths =
            |rpc: &RpcMatcher| (Reverse(length(rpc.service.as_ref())), Reverse(length(rpc.method.as_ref())));
        self.others.sort_by(|(one, first), (other, second)| {
            lengths(one).cmp(&lengths(other)).then_with(|| first.rank().cmp(&second.rank()))
        });
    }

    /// The index of the route for this call; nothing for a path that is none of a call.
    pub fn find(&self, path: &str, head: &request::Parts) -> Option<usize> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        if service.is_empty() || method.is_empty() || method.contains('/') {
            return None;
        }
        let first = |candidates: &Vec<Candidate>| {
            candidates.iter().find(|candidate| candidate.conditions.accept(head)).map(|found| found.route)
        };
        let by_name = self.methods.get(path).and_then(first);
        let by_name = by_name.or_else(|| self.services.get(service).and_then(first));
        by_name.or_else(|| {
            let matches = |(rpc, candidate): &&(RpcMatcher, Candidate)| {
                accepts(rpc.service.as_ref(), service)
                    && accepts(rpc.method.as_ref(), method)
                    && candidate.conditions.accept(head)
            };
            self.others.iter().find(matches).map(|(_, found)| found.route)
        })
    }

    /// Every match, and the same one that stands earlier, where there is one. Follows `sort`.
    pub fn shadows(&self) -> impl Iterator<Item = (&Order, Option<&Order>)> {
        let lists = self.methods.values().chain(self.services.values());
        let named = lists.flat_map(|candidates| {
            candidates.iter().enumerate().map(|(index, candidate)| {
                let mut before = candidates.iter().take(index);
                let shadow = before.find(|before| before.conditions == candidate.conditions);
                (&candidate.order, shadow.map(|shadow| &shadow.order))
            })
        });
        let others = self.others.iter().enumerate().map(|(index, (rpc, candidate))| {
            let mut before = self.others.iter().take(index);
            let shadow =
                before.find(|(other, before)| other == rpc && before.conditions == candidate.conditions);
            (&candidate.order, shadow.map(|(_, shadow)| &shadow.order))
        });
        named.chain(others)
    }
}

fn length(matcher: Option<&ValueMatcher>) -> usize {
    match matcher {
        None => 0,
        Some(ValueMatcher::Exact(name)) => name.len(),
        Some(ValueMatcher::Regex(regex)) => regex.as_str().len(),
    }
}

fn accepts(matcher: Option<&ValueMatcher>, name: &str) -> bool {
    matcher.is_none_or(|matcher| matcher.accepts(name.as_bytes()))
}

//! Where everything a route demands is written, for those who explain decisions.

use std::sync::Arc;

use foregate_filters::rule::Rule;
use foregate_filters::step::Step;
use http::HeaderName;

/// A place in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Path of the file, as it was found.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
}

/// A route and its chain as they are written. Kept with a decision, so that no later reload changes what is
/// told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Revision of the snapshot that it belongs to.
    pub revision: Arc<str>,
    /// The rule of the `HTTPRoute`.
    pub route: Origin,
    /// One for each filter of the chain, in run order.
    pub links: Vec<LinkDescription>,
    /// The upstreams of the route, by name.
    pub upstreams: Vec<(Arc<str>, Origin)>,
    /// Request headers that expressions of the route name, in lower case.
    pub headers: Vec<HeaderName>,
}

impl Description {
    /// Memory that it takes, in bytes, to within a few allocations a rule.
    pub fn weight(&self) -> usize {
        let reads = |rule: &Rule| rule.reads.len() * 4 * size_of::<Box<str>>();
        let rule = |placed: &PlacedRule| {
            // Names, the way and the path of the file, each a small allocation of its own.
            size_of::<PlacedRule>() + placed.rule.source.len() + reads(&placed.rule) + 256
        };
        let link = |link: &LinkDescription| {
            size_of::<LinkDescription>() + 128 + link.rules.iter().map(rule).sum::<usize>()
        };
        let headers = self.headers.len() * size_of::<HeaderName>();
        let upstreams = self.upstreams.len() * 256;
        size_of::<Self>() + headers + upstreams + self.links.iter().map(link).sum::<usize>()
    }
}

/// One filter of a chain.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkDescription {
    pub step: Step,
    /// The part of the policy's `spec` that asks for it, such as `rateLimit`.
    pub filter: &'static str,
    /// Name of the policy.
    pub policy: Arc<str>,
    /// Where that part begins.
    pub at: Origin,
    /// In the order of the document.
    pub rules: Vec<PlacedRule>,
}

/// A rule, and where it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedRule {
    pub rule: Rule,
    pub at: Origin,
}

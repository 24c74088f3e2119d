//! What a filter says of a request: go on, wait, or reply.

use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::reason::Reason;
use crate::violation::Violation;

/// The outcome of one filter.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing against it.
    Continue,
    /// The answer needs something that is not here yet: call `resume`.
    Wait,
    /// The request ends here.
    Reply(Box<Reply>),
}

/// A refusal: one reason, who said so, and the headers the caller needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub reason: Reason,
    /// Name of the rule, issuer or limit that refused; empty where the step alone says it.
    pub rule: Box<str>,
    /// For the operator: logs, decision records. Never sent to the caller, never holds a secret.
    pub detail: Box<str>,
    /// Response headers that belong to the refusal, such as `WWW-Authenticate`.
    pub headers: SmallVec<[(HeaderName, HeaderValue); 2]>,
    /// What the caller may be told of its own message, without any value.
    pub violations: Box<[Violation]>,
}

impl Reply {
    pub fn new(reason: Reason) -> Self {
        Self {
            reason,
            rule: Box::default(),
            detail: Box::default(),
            headers: SmallVec::new(),
            violations: Box::default(),
        }
    }

    #[must_use]
    pub fn rule(mut self, rule: &str) -> Self {
        self.rule = rule.into();
        self
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.detail = detail.into();
        self
    }

    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl From<Reply> for Verdict {
    fn from(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

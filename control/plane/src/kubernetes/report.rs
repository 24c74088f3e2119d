//! What is found out about each object: the matter of its status.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kubernetes::kinds::Resource;
use crate::kubernetes::objects::Key;

/// Longest message of a condition that the API takes.
const MAX_MESSAGE: usize = 32 << 10;

/// One condition, but for when it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub ok: bool,
    /// One word, as Gateway API has it.
    pub reason: &'static str,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    Class(Verdict),
    Gateway(GatewayReport),
    Route(RouteReport),
    /// A policy, and each object that it is about.
    Policy(PolicyReport),
    /// Any other kind.
    Plain(Verdict),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayReport {
    pub accepted: Verdict,
    pub programmed: Verdict,
    pub listeners: Vec<ListenerReport>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerReport {
    pub name: String,
    pub kinds: Vec<Resource>,
    /// Routes that are attached.
    pub attached: usize,
    pub accepted: Verdict,
    pub programmed: Verdict,
    pub resolved: Verdict,
    /// True means that it is in conflict with another.
    pub conflicted: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteReport {
    pub parents: Vec<ParentReport>,
    pub resolved: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentReport {
    /// As the route says it.
    pub reference: Value,
    pub accepted: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyReport {
    /// References to what the policy is about, and whether it holds there.
    pub ancestors: Vec<(Value, Verdict)>,
    pub resolved: Verdict,
}

/// By object.
pub type Reports = BTreeMap<Key, Report>;

impl Verdict {
    pub fn good(reason: &'static str) -> Self {
        Self { ok: true, reason, message: String::new() }
    }

    pub fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Self { ok: false, reason, message: message.into() }
    }

    /// The message within the bounds of the API.
    pub fn bounded(&self) -> &str {
        let mut end = self.message.len().min(MAX_MESSAGE);
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        self.message.get(..end).unwrap_or_default()
    }
}

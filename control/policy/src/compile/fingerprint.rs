//! A number for all that decides about a route: equal means unchanged.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;

use crate::compile::policies::Prepared;
use crate::document::ObjectName;

/// The hash of what a document says.
pub fn of(said: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    // What cannot be written down equals nothing, itself included: `None` never hashes like a text.
    serde_json::to_string(said).ok().hash(&mut hasher);
    hasher.finish()
}

/// The hash of a rule, of either kind of route, as one gateway serves it, under its policies, with the consumers
/// that they accept. `place` tells its route, and where that is attached.
pub fn of_route(
    gateway: &ObjectName,
    place: impl Hash,
    rule: &impl Serialize,
    policies: &[&Prepared<'_>],
    consumers: u64,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    (gateway, place, of(rule)).hash(&mut hasher);
    for policy in policies {
        (&policy.name, of(&policy.spec)).hash(&mut hasher);
        // What the files of schemas and contracts say.
        policy.validate.as_ref().map(|compiled| compiled.digest).hash(&mut hasher);
    }
    if policies.iter().any(|policy| policy.spec.api_key.is_some()) {
        consumers.hash(&mut hasher);
    }
    hasher.finish()
}

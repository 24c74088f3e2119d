//! Finds a claim by its whole name, which may hold dots, else down a path.

use serde_json::{Map, Value};

/// The way to one claim, such as `org.id` or `https://example.com/roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimPath {
    name: Box<str>,
    path: Vec<Box<str>>,
}

impl ClaimPath {
    pub(crate) fn new(claim: &str) -> Self {
        Self { name: claim.into(), path: claim.split('.').map(Into::into).collect() }
    }

    /// As the policy writes it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The value of the claim.
    pub(crate) fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        if let Some(value) = claims.get(&*self.name) {
            return Some(value);
        }
        let (first, rest) = self.path.split_first()?;
        rest.iter().try_fold(claims.get(&**first)?, |value, name| value.get(&**name))
    }
}

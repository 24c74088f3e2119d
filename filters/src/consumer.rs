//! The client that an API key stands for.

use serde_json::{Map, Value};

/// A client known by key. Expressions read it as `consumer`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Consumer {
    /// Name of the `Consumer` document.
    pub name: Box<str>,
    /// Groups it belongs to.
    pub groups: Vec<Box<str>>,
    /// What the document says of it, for expressions.
    pub metadata: Map<String, Value>,
}

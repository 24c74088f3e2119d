//! The files that objects of a cluster become: what a source of policies yields.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

/// Files by their path below the folder of policies, with `/`. Cloning one copies none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Grows with every change; 0 where nothing was ever read.
    pub revision: u64,
    pub files: BTreeMap<Arc<str>, Bytes>,
}

impl Tree {
    /// The file at this path as text; empty where there is none.
    pub fn text(&self, path: &str) -> &str {
        self.files.get(path).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

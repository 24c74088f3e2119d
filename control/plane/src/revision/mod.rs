//! One state of all policies, and what it is made of.

pub mod build;
pub mod closure;
pub mod files_of;
pub mod merge;
pub mod secrets;
pub mod shelf;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::document::{Kind, ObjectName};
use foregate_policy::fleet;
use serde::{Deserialize, Serialize};

use crate::hex::sha256;
use crate::revision::closure::Objects;

/// Digits of the digest that names a revision.
pub const ID_LENGTH: usize = 12;

/// A document or a file, as it is sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    pub name: Arc<str>,
    /// SHA-256 of all that it says, in hexadecimal.
    pub version: Arc<str>,
    pub content: Content,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    Document { path: Arc<str>, line: u32, text: Arc<str> },
    File(Bytes),
}

/// From where a part of a revision came.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    pub source: String,
    pub revision: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
}

/// What is known of a revision without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Label {
    pub id: String,
    /// When it was compiled, in seconds since the Unix epoch.
    pub made: u64,
    pub origins: Vec<Origin>,
}

/// All policies of one moment, found sound as a whole. Endpoints in files are not part of it: they come and go while
/// the policies stay.
#[derive(Debug)]
pub struct Revision {
    pub label: Label,
    /// Documents, and the files they refer to.
    pub resources: BTreeMap<Arc<str>, Arc<Resource>>,
    pub objects: Objects,
    pub warnings: Vec<Diagnostic>,
}

/// Endpoints in files, by their way: those of the newest trees, whatever revision a proxy has.
pub type Endpoints = BTreeMap<Arc<str>, Arc<Resource>>;

impl Resource {
    pub fn file(path: &str, content: Bytes) -> Self {
        Self { name: path.into(), version: sha256(&content).into(), content: Content::File(content) }
    }

    pub fn document(name: String, path: &Arc<str>, line: u32, text: &str) -> Self {
        // Where it stands is part of what is said: a diagnostic names it.
        let said = format!("{path}\n{line}\n{text}");
        let content = Content::Document { path: Arc::clone(path), line, text: text.into() };
        Self { name: name.into(), version: sha256(said.as_bytes()).into(), content }
    }

    /// Roughly what it takes on the wire.
    pub fn size(&self) -> usize {
        let content = match &self.content {
            Content::Document { path, text, .. } => path.len() + text.len(),
            Content::File(bytes) => bytes.len(),
        };
        self.name.len() + self.version.len() + content + 32
    }

    /// As it is sent; of a large file the piece that begins at `offset`, of `most` bytes at most.
    pub fn message(&self, offset: usize, most: usize) -> fleet::Resource {
        let content = match &self.content {
            Content::Document { path, line, text } => {
                let (path, text) = (path.to_string(), text.to_string());
                fleet::Content::Document(fleet::Document { path, line: *line, text })
            }
            Content::File(bytes) => {
                let end = offset.saturating_add(most).min(bytes.len());
                fleet::Content::File(bytes.slice(offset.min(end)..end))
            }
        };
        let size = match &self.content {
            Content::Document { .. } => 0,
            Content::File(bytes) => bytes.len() as u64,
        };
        fleet::Resource {
            name: self.name.to_string(),
            version: self.version.to_string(),
            content: Some(content),
            offset: offset as u64,
            size,
        }
    }
}

impl Revision {
    /// True where another has the same resources.
    pub fn is_as(&self, other: &Self) -> bool {
        let mut pairs = self.resources.iter().zip(&other.resources);
        self.resources.len() == other.resources.len()
            && pairs.all(|((name, one), (also, two))| name == also && one.version == two.version)
    }
}

/// What a document is called among resources: no path of a file looks like it.
pub fn document_name(kind: Kind, name: &ObjectName) -> String {
    format!("{}:{}/{}", kind.word(), name.namespace, name.name)
}

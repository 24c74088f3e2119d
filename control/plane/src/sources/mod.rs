//! Where policies come from: whole trees of files, each with its origin.

pub mod board;
pub mod folder;
pub mod git;
pub mod kubernetes;
pub mod spec;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use foregate_filters::fault::Code;
use foregate_policy::diagnostic::Diagnostic;

use crate::revision::merge::is_same;
use crate::sources::folder::FolderSource;
use crate::sources::git::GitSource;
use crate::sources::spec::SourceSpec;

/// All files of a source at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// What the source calls this state: a commit, a digest, a resource version.
    pub revision: String,
    /// Who vouches for it, where somebody does.
    pub signer: Option<String>,
    /// When it came about, in seconds since the Unix epoch.
    pub time: Option<i64>,
    /// By their way below the root of the source, with `/`.
    pub files: BTreeMap<Arc<str>, Bytes>,
    /// What was left out, and why.
    pub warnings: Vec<Diagnostic>,
}

impl Tree {
    /// True for the same state: content that is the very same is not read.
    pub fn is(&self, other: &Self) -> bool {
        self.revision == other.revision
            && (&self.signer, self.time, &self.warnings) == (&other.signer, other.time, &other.warnings)
            && self.files.len() == other.files.len()
            && self.files.iter().zip(&other.files).all(|((way, content), (there, other))| {
                way == there && (is_same(content, other) || content == other)
            })
    }
}

/// Why there is no tree: what was there before stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFault(pub Vec<Diagnostic>);

impl fmt::Display for SourceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |fault: &Diagnostic| match &fault.help {
            Some(help) => format!("{}; {help}", fault.message),
            None => fault.message.clone(),
        };
        f.write_str(&self.0.iter().map(told).collect::<Vec<_>>().join("; "))
    }
}

impl SourceFault {
    /// One fault of the source as a whole.
    pub fn new(source: &str, code: Code, message: impl Into<String>) -> Self {
        Self(vec![Diagnostic::file(Path::new(source), code, message)])
    }

    #[must_use]
    pub fn help(mut self, help: &str) -> Self {
        if let Some(last) = self.0.last_mut() {
            last.help = Some(help.to_owned());
        }
        self
    }
}

/// Something that gives trees, one after the other.
#[tonic::async_trait]
pub trait Source: fmt::Debug + Send {
    /// The first tree as soon as there is one; then, whenever it may be another. May be dropped and asked again.
    ///
    /// # Errors
    /// What is wrong now; ask again after a while.
    async fn next(&mut self) -> Result<Tree, SourceFault>;
}

/// The source that a specification without faults asks for. `state` is a folder of its own.
pub fn open(spec: &SourceSpec, state: &Path) -> Option<Box<dyn Source>> {
    if let Some(folder) = &spec.folder {
        return Some(Box::new(FolderSource::new(&spec.name, folder.path.clone(), spec.limits)));
    }
    let git = spec.git.clone()?;
    Some(Box::new(GitSource::new(&spec.name, git, spec.limits, state.to_owned())))
}

//! Compiles documents together with the files beside them: revisions, objects, folders.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use foregate_policy::compile::{Options, compile};
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::load::Sources;

use crate::declared::Declared;
use crate::revision::files_of::files_of;

/// Largest file of a folder that is looked at, in bytes: certificates and secrets have less.
const MAX_FILE: u64 = 1 << 20;

/// What the files beside documents hold, by their way below the root.
pub trait Contents: fmt::Debug + Sync {
    /// `None` where it is not known.
    fn content(&self, way: &str) -> Option<Bytes>;
}

/// The files beside documents, all of them.
pub trait Files: Contents {
    /// True where there is such a file, or will be.
    fn has(&self, way: &str) -> bool;

    /// Ways of all that is below a folder.
    fn below(&self, folder: &str) -> Vec<Arc<str>>;
}

/// A folder whose documents may refer to files that are elsewhere.
#[derive(Debug)]
pub struct Folder<'a>(pub &'a Path);

impl Contents for Folder<'_> {
    fn content(&self, way: &str) -> Option<Bytes> {
        let mut content = Vec::new();
        let file = self.0.join(way);
        // Opening a pipe would wait for its writer.
        fs::metadata(&file).ok().filter(fs::Metadata::is_file)?;
        fs::File::open(file).ok()?.take(MAX_FILE).read_to_end(&mut content).ok()?;
        Some(content.into())
    }
}

/// What became of documents.
#[derive(Debug)]
pub struct Whole {
    /// Every fault, of documents and of the files that they refer to.
    pub faults: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
    /// Ways of the files that each document refers to, in the order of the documents.
    pub files: Vec<BTreeSet<Arc<str>>>,
}

/// Compiles documents that take all their files along. Whoever gets the outcome finds what was found here: nothing but
/// what only a proxy has is taken as declared.
pub fn whole(sources: &Sources, files: &dyn Files, options: Options) -> Whole {
    let compiled = compile(sources, &Declared::beside(&sources.root, files), options);
    let (mut faults, warnings) = match compiled {
        Ok(snapshot) => (Vec::new(), snapshot.warnings),
        Err(faults) => (faults, Vec::new()),
    };
    let of = |document| files_of(document, &sources.root, files, &mut faults);
    let files = sources.documents.iter().map(of).collect();
    Whole { faults, warnings, files }
}

//! Schemas and contracts: their files are read, and they are compiled once for each policy.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use foregate_filters::validate::limits::Limits;
use foregate_filters::validate::{Compiled, Files, compile, tape};
use serde_json::Value;

use crate::compile::Compilation;
use crate::compile::typed::spec;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::policy;
use crate::parse;

/// Largest file of a schema or contract.
const MAX_FILE: u64 = 8 << 20;
/// Values of one file, aliases counted as often as they are used.
const MAX_NODES: usize = 500_000;
/// Nesting of one file.
const MAX_DEPTH: usize = 100;

/// Files below the folder of a policy file, or wherever their paths lead.
struct Folder(PathBuf);

impl Files for Folder {
    fn read(&self, file: &str) -> Result<Arc<Value>, String> {
        let path = self.0.join(file);
        let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
        // Opening a pipe would wait for its writer.
        if !std::fs::metadata(&path).map_err(unreadable)?.is_file() {
            return Err(format!("{} is not a file", path.display()));
        }
        let mut text = String::new();
        let opened = File::open(&path).map_err(unreadable)?;
        opened.take(MAX_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_FILE {
            return Err(format!("{} is larger than {} MiB", path.display(), MAX_FILE >> 20));
        }
        if path.extension().is_some_and(|end| end == "json") {
            // Of duplicate names the last would win.
            let place =
                |offset: usize| text.get(..offset).map_or(0, |before| before.matches('\n').count()) + 1;
            tape::read(text.as_bytes(), &Limits::LARGEST).map_err(|unacceptable| {
                format!("{}, line {}: {}", path.display(), place(unacceptable.offset), unacceptable.what)
            })?;
            let parsed = serde_json::from_str(&text).map(Arc::new);
            return parsed.map_err(|error| format!("{}: {error}", path.display()));
        }
        let node = parse::foreign(&text, MAX_NODES, MAX_DEPTH);
        node.map(|node| Arc::new(node.to_json())).map_err(|why| format!("{}, {why}", path.display()))
    }
}

impl Compilation<'_> {
    /// What `validate` of this policy asks for; tells every fault, and gives `None` otherwise.
    pub(super) fn validate(&mut self, document: &Document, said: &policy::Spec) -> Option<Arc<Compiled>> {
        let validate = said.validate.as_ref()?;
        let at = spec().key("validate");
        match compile(validate, &at, &Folder(document.file.folder().to_owned())) {
            Ok((compiled, unchecked)) => {
                let warnings =
                    unchecked.into_iter().map(|fault| Diagnostic::from_fault(document, fault).warning());
                self.warnings.extend(warnings);
                Some(compiled)
            }
            Err(faults) => {
                for fault in faults {
                    self.fault(Diagnostic::from_fault(document, fault));
                }
                None
            }
        }
    }
}

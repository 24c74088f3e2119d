//! One thing wrong in a policy file, with its place.

use std::ops::Range;
use std::path::Path as FilePath;

use foregate_filters::fault::{Code, Fault, Path};

use crate::document::Document;
use crate::source::SourceFile;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// A fault or warning, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub code: Code,
    pub severity: Severity,
    /// Path of the file, as it was found.
    pub file: String,
    /// From 1; 0 where the fault is the file itself.
    pub line: usize,
    /// In characters, from 1; 0 where the fault is the file itself.
    pub column: usize,
    /// Line and column behind the last character; equal to the start where unknown.
    pub end: (usize, usize),
    /// What is wrong, in one line, without a full stop.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
    /// The line at `line`; empty where the fault is the file itself.
    pub source_line: String,
}

impl Diagnostic {
    /// A fault of a file as a whole, or of a folder.
    pub fn file(path: &FilePath, code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            file: path.display().to_string(),
            line: 0,
            column: 0,
            end: (0, 0),
            message: message.into(),
            help: None,
            source_line: String::new(),
        }
    }

    /// A fault at these bytes of a file.
    pub fn spanned(file: &SourceFile, span: &Range<usize>, code: Code, message: impl Into<String>) -> Self {
        let start = file.position(span.start);
        let end = file.position(span.end.max(span.start));
        Self {
            line: start.line,
            column: start.column,
            end: (end.line, end.column),
            source_line: file.text.get(file.line(start.line)).unwrap_or_default().to_owned(),
            ..Self::file(&file.path, code, message)
        }
    }

    /// A fault at `path` of a document: where it stands, or where it is missing.
    pub fn at(document: &Document, path: &Path, code: Code, message: impl Into<String>) -> Self {
        Self::spanned(&document.file, &document.root.locate(path), code, message)
    }

    /// The fault of a filter, found in a document.
    pub fn from_fault(document: &Document, fault: Fault) -> Self {
        let span = match &fault.within {
            Some(within) => document.root.nearest(&fault.at).narrow(&document.file.text, within),
            None => document.root.locate(&fault.at),
        };
        let mut diagnostic = Self::spanned(&document.file, &span, fault.code, fault.message);
        diagnostic.help = fault.help;
        diagnostic
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same as a warning: it does not stop a compilation.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

/// In the order of files and lines, each told once.
pub fn sort(diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.sort_by(|a, b| {
        (&a.file, a.line, a.column, a.code, &a.message).cmp(&(&b.file, b.line, b.column, b.code, &b.message))
    });
    diagnostics.dedup();
}

//! One thing wrong in a policy file, with its place.

use foregate_filters::fault::Code;

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
    /// One line, without a full stop.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
    /// The line at `line`, cut at 400 characters.
    pub source_line: String,
}

//! What a proxy finds wrong with policies, as the control plane is told it.

use std::path::Path;

use foregate_filters::fault::Code;
use foregate_policy::codes;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::fleet::Finding;

/// What was sent and cannot be kept.
pub(super) fn unkept(message: &str) -> Finding {
    finding_of(codes::FLEET_FILE, "", message.to_owned())
}

/// A finding that has a file alone, or nothing.
pub(super) fn finding_of(code: Code, file: &str, message: String) -> Finding {
    Finding { code: code.to_string(), file: file.to_owned(), message, ..Finding::default() }
}

/// A diagnostic with the way that its file has in the sources.
pub(super) fn finding(diagnostic: &Diagnostic, folder: &Path) -> Finding {
    let prefix = format!("{}/", folder.display());
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Finding {
        code: diagnostic.code.to_string(),
        file: diagnostic.file.replace(&prefix, ""),
        line: number(diagnostic.line),
        column: number(diagnostic.column),
        message: diagnostic.message.replace(&prefix, ""),
        help: diagnostic.help.clone().unwrap_or_default(),
    }
}

//! The files that documents refer to, found among those of a revision.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use foregate_policy::codes;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::document::Document;
use foregate_policy::references::{self, Wants};

use crate::revision::merge::ENDPOINTS;
use crate::whole::Files;

/// Ways of the files that a document needs beside it; faults are told of those that cannot be sent.
pub fn files_of(
    document: &Document,
    root: &Path,
    files: &dyn Files,
    faults: &mut Vec<Diagnostic>,
) -> BTreeSet<Arc<str>> {
    let mut found = BTreeSet::new();
    for reference in references::of(document, root) {
        if reference.is_absolute(root) {
            // It stands on the machine of the proxy.
            continue;
        }
        let shown = reference.file.strip_prefix(root).unwrap_or(&reference.file).display().to_string();
        let mut fault = |code, message: String, help: &str| {
            faults.push(Diagnostic::at(document, &reference.at, code, message).help(help));
        };
        let Some(way) = reference.below(root) else {
            let message = format!("`{shown}` lies outside of the policies, and is not sent to proxies");
            let help = "put it among the policies, or name it by an absolute path that every proxy has";
            fault(codes::FILE_OUTSIDE, message, help);
            continue;
        };
        match reference.wants {
            Wants::Written => {
                let message = format!("`{shown}` is written to, and policies that are sent are not");
                fault(codes::FILE_WRITTEN, message, "name it by an absolute path that every proxy has");
            }
            Wants::Folder => {
                let inside = files.below(&way);
                if inside.is_empty() {
                    fault(
                        codes::FILE_ABSENT,
                        format!("no source has a folder `{way}`"),
                        "add it to the source",
                    );
                }
                found.extend(inside);
            }
            // Endpoints come and go: none are as good as a file that is not there.
            Wants::File if way.ends_with(ENDPOINTS) => drop(found.insert(way.into())),
            Wants::File | Wants::MaybeFile if files.has(&way) => drop(found.insert(way.into())),
            Wants::MaybeFile => {}
            Wants::File => {
                let help = "add it to a source, or name it by an absolute path that every proxy has";
                fault(codes::FILE_ABSENT, format!("no source has a file `{way}`"), help);
            }
        }
    }
    found
}

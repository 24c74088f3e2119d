//! The files that documents refer to, found among those of a revision.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use foregate_policy::codes;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::document::Document;
use foregate_policy::references::{self, Wants};

use crate::revision::merge::{ENDPOINTS, Merged};

/// Ways of the files that a document needs beside it; faults are told of those that cannot be sent.
pub fn files_of(
    document: &Document,
    root: &Path,
    merged: &Merged,
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
                let below = format!("{way}/");
                let inside =
                    merged.files.range::<str, _>((Bound::Included(below.as_str()), Bound::Unbounded));
                let inside = inside.take_while(|(path, _)| path.starts_with(&below));
                let before = found.len();
                found.extend(inside.map(|(path, _)| Arc::clone(path)));
                if found.len() == before {
                    fault(
                        codes::FILE_ABSENT,
                        format!("no source has a folder `{way}`"),
                        "add it to the source",
                    );
                }
            }
            // Endpoints come and go: none are as good as a file that is not there.
            Wants::File if way.ends_with(ENDPOINTS) => drop(found.insert(way.into())),
            Wants::File | Wants::MaybeFile => match merged.files.get_key_value(way.as_str()) {
                Some((path, _)) => drop(found.insert(Arc::clone(path))),
                None if reference.wants == Wants::MaybeFile => {}
                None => {
                    let help = "add it to a source, or name it by an absolute path that every proxy has";
                    fault(codes::FILE_ABSENT, format!("no source has a file `{way}`"), help);
                }
            },
        }
    }
    found
}

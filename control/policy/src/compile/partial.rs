//! Documents read without their unknown fields, and the faults that may follow from it.

use ahash::AHashSet;
use foregate_filters::fault::{Code, Fault, Path};

use crate::codes;
use crate::compile::Compilation;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::node::NodeKind;

/// A document with fields that are unknown or not supported, read without them.
#[derive(Debug)]
pub struct Partial<'a> {
    pub document: &'a Document,
    /// Line and column of what stands beside or above a field left out.
    near: AHashSet<(usize, usize)>,
    /// True where the field may have been the namespace, so that names may mean others.
    astray: bool,
}

impl<'a> Partial<'a> {
    pub fn new(document: &'a Document, left_out: &[Path]) -> Self {
        let mut partial = Self { document, near: AHashSet::new(), astray: false };
        for way in left_out {
            let mut above = way.clone();
            above.0.pop();
            partial.astray |= above == Path::default().key("metadata");
            if let NodeKind::Map(members) = &document.root.nearest(&above).kind {
                for member in members {
                    partial.mark(member.key_span.start);
                    partial.mark(member.value.headline().start);
                }
            }
            while above.0.pop().is_some() {
                partial.mark(document.root.locate(&above).start);
            }
        }
        partial
    }

    fn mark(&mut self, offset: usize) {
        let place = self.document.file.position(offset);
        self.near.insert((place.line, place.column));
    }

    /// True where the fault may be there only because a field was left out.
    fn excuses(&self, fault: &Diagnostic) -> bool {
        let place = (fault.line, fault.column);
        match fault.code {
            Code::CONFLICT | codes::STORE => self.holds(fault),
            Code::REFERENCE | codes::NOT_ALLOWED if self.astray => self.holds(fault),
            Code::REFERENCE
            | codes::LISTENER_TLS
            | codes::ROUTE_FILTER
            | codes::ROUTE_MATCH
            | codes::NO_BACKEND
            | codes::ENDPOINT_SOURCE => self.near.contains(&place) && self.holds(fault),
            _ => false,
        }
    }

    fn holds(&self, fault: &Diagnostic) -> bool {
        let (file, span) = (&self.document.file, &self.document.root.span);
        let (start, end) = (file.position(span.start), file.position(span.end));
        fault.file == file.path.display().to_string()
            && (start.line, start.column) <= (fault.line, fault.column)
            && (fault.line, fault.column) < (end.line, end.column)
    }
}

impl Compilation<'_> {
    /// True for a document that was read without some of its fields.
    pub fn is_partial(&self, document: &Document) -> bool {
        self.documents.partial.iter().any(|partial| std::ptr::eq(partial.document, document))
    }

    /// Takes back what may follow from a field left out, for which a fault has been told already.
    pub fn excuse(&mut self) {
        let partial = &self.documents.partial;
        self.faults.retain(|fault| !partial.iter().any(|partial| partial.excuses(fault)));
    }
}

/// True where a policy that is missing, in whole or in part, may be all that the route lacks.
pub fn lacks_policy(fault: &Fault) -> bool {
    // Further down the fault is a weak value.
    fault.code == Code::INSECURE && fault.at.0.len() <= 1
}

/// True where an expression reads a name that another policy, or another part of its own, may define.
pub fn lacks_name(document: &Document, fault: &Fault) -> bool {
    let (Code::EXPRESSION_NAME, Some(within)) = (fault.code, &fault.within) else { return false };
    let Some(text) = document.root.nearest(&fault.at).text() else { return false };
    let name = text.get(within.clone()).unwrap_or_default();
    let before = text.get(..within.start).unwrap_or_default();
    let rule = before.trim_end().strip_suffix('.').is_some_and(|root| root.trim_end().ends_with("enrich"));
    rule || name.split('.').next().is_some_and(|root| matches!(root.trim_end(), "jwt" | "consumer"))
}

//! Documents of sound structure, read into their types.

use std::borrow::Cow;

use ahash::AHashMap;
use foregate_filters::fault::{Code, Path};
use serde::de::DeserializeOwned;

use crate::codes;
use crate::compile::Documents;
use crate::compile::partial::Partial;
use crate::de;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind};
use crate::documents::{Resource, case::Case};
use crate::load::Sources;
use crate::node::Node;
use crate::shape::Checker;

/// Fields left out of one document at most: with more of them it is a document of something else.
const MAX_LEFT_OUT: usize = 64;

/// A document and what it says.
#[derive(Debug)]
pub struct Typed<'a, S> {
    pub document: &'a Document,
    pub spec: S,
}

/// The way to the `spec` of every document.
pub fn spec() -> Path {
    Path::default().key("spec")
}

/// Reads every document; the faulty ones are left out, but of those whose only faults are fields that are
/// unknown or not supported, these fields alone.
pub fn read<'a>(sources: &'a Sources, faults: &mut Vec<Diagnostic>) -> Documents<'a> {
    let mut documents = Documents::default();
    let mut checkers = AHashMap::new();
    for document in &sources.documents {
        let checker = checkers.entry(document.kind).or_insert_with(|| Checker::new(document.kind));
        let Some(left_out) = check(document, checker, faults) else { continue };
        let root = if left_out.is_empty() {
            Cow::Borrowed(&document.root)
        } else {
            documents.partial.push(Partial::new(document, &left_out));
            Cow::Owned(document.root.without(&left_out))
        };
        match document.kind {
            Kind::Gateway => documents.gateways.extend(resource(document, &root, faults)),
            Kind::HttpRoute => documents.routes.extend(resource(document, &root, faults)),
            Kind::GrpcRoute => documents.grpc_routes.extend(resource(document, &root, faults)),
            Kind::TcpRoute => documents.tcp_routes.extend(resource(document, &root, faults)),
            Kind::TlsRoute => documents.tls_routes.extend(resource(document, &root, faults)),
            Kind::BackendTlsPolicy => documents.backend_tls.extend(resource(document, &root, faults)),
            Kind::ReferenceGrant => documents.grants.extend(resource(document, &root, faults)),
            Kind::Upstream => documents.upstreams.extend(resource(document, &root, faults)),
            Kind::Policy => documents.policies.extend(resource(document, &root, faults)),
            Kind::Model => documents.models.extend(resource(document, &root, faults)),
            Kind::Consumer => documents.consumers.extend(resource(document, &root, faults)),
            Kind::Store => documents.stores.extend(resource(document, &root, faults)),
            // Loading keeps cases apart.
            Kind::Case => {}
        }
    }
    // Of two that want the same connections, the first has them.
    documents.tcp_routes.sort_by_key(|route| route.document.created());
    documents.tls_routes.sort_by_key(|route| route.document.created());
    documents
}

/// Reads every case; the faulty ones are left out.
pub fn cases<'a>(sources: &'a Sources, faults: &mut Vec<Diagnostic>) -> Vec<(&'a Document, Case)> {
    let checker = Checker::new(Kind::Case);
    let mut cases = Vec::new();
    for document in &sources.cases {
        if check(document, &checker, faults).is_some_and(|left_out| left_out.is_empty())
            && let Some(case) = whole(document, &document.root, faults)
        {
            cases.push((document, case));
        }
    }
    cases
}

/// Tells of documents with the same kind and name.
pub fn duplicates(sources: &Sources, faults: &mut Vec<Diagnostic>) {
    let mut seen: AHashMap<_, &Document> = AHashMap::new();
    for document in &sources.documents {
        if document.name.name.is_empty() {
            continue;
        }
        if let Some(first) = seen.get(&(document.kind, &document.name)) {
            let place = first.file.position(first.root.locate(&Document::name_path()).start);
            let message = format!("a second {} named `{}`", document.kind.word(), document.name);
            let help = format!("the first is in {}, line {}", first.file.path.display(), place.line);
            let at = Document::name_path();
            faults.push(Diagnostic::at(document, &at, codes::DUPLICATE_NAME, message).help(help));
        } else {
            seen.insert((document.kind, &document.name), document);
        }
    }
}

/// Tells every fault of structure, and gives the ways to the fields without which the document is sound.
fn check(document: &Document, checker: &Checker, faults: &mut Vec<Diagnostic>) -> Option<Vec<Path>> {
    let wrong = checker.check(&document.root);
    let left_out: Vec<Path> = wrong.iter().filter_map(|fault| fault.stray.clone()).collect();
    let readable = left_out.len() == wrong.len() && left_out.len() <= MAX_LEFT_OUT;
    faults.extend(wrong.into_iter().map(|fault| {
        let diagnostic = Diagnostic::spanned(&document.file, &fault.span, fault.code, fault.message);
        Diagnostic { help: fault.help, ..diagnostic }
    }));
    readable.then_some(left_out)
}

fn resource<'a, S: DeserializeOwned>(
    document: &'a Document,
    root: &Node,
    faults: &mut Vec<Diagnostic>,
) -> Option<Typed<'a, S>> {
    whole::<Resource<S>>(document, root, faults).map(|resource| Typed { document, spec: resource.spec })
}

fn whole<T: DeserializeOwned>(document: &Document, root: &Node, faults: &mut Vec<Diagnostic>) -> Option<T> {
    de::read(root)
        .map_err(|error| {
            let span = error.span.unwrap_or_else(|| document.root.headline());
            faults.push(Diagnostic::spanned(&document.file, &span, Code::VALUE, error.message));
        })
        .ok()
}

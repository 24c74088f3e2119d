//! Documents of sound structure, read into their types.

use ahash::AHashMap;
use foregate_filters::fault::{Code, Path};
use serde::de::DeserializeOwned;

use crate::codes;
use crate::compile::Documents;
use crate::de;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind};
use crate::documents::{Resource, case::Case};
use crate::load::Sources;
use crate::shape::Checker;

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

/// Reads every document; the faulty ones are left out.
pub fn read<'a>(sources: &'a Sources, faults: &mut Vec<Diagnostic>) -> Documents<'a> {
    let mut documents = Documents::default();
    let mut checkers = AHashMap::new();
    for document in &sources.documents {
        let checker = checkers.entry(document.kind).or_insert_with(|| Checker::new(document.kind));
        if !sound(document, checker, faults) {
            continue;
        }
        match document.kind {
            Kind::Gateway => documents.gateways.extend(resource(document, faults)),
            Kind::HttpRoute => documents.routes.extend(resource(document, faults)),
            Kind::Upstream => documents.upstreams.extend(resource(document, faults)),
            Kind::Policy => documents.policies.extend(resource(document, faults)),
            Kind::Model => documents.models.extend(resource(document, faults)),
            // Loading keeps cases apart.
            Kind::Case => {}
        }
    }
    documents
}

/// Reads every case; the faulty ones are left out.
pub fn cases<'a>(sources: &'a Sources, faults: &mut Vec<Diagnostic>) -> Vec<(&'a Document, Case)> {
    let checker = Checker::new(Kind::Case);
    let mut cases = Vec::new();
    for document in &sources.cases {
        if sound(document, &checker, faults)
            && let Some(case) = whole(document, faults)
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

fn sound(document: &Document, checker: &Checker, faults: &mut Vec<Diagnostic>) -> bool {
    let wrong = checker.check(&document.root);
    let sound = wrong.is_empty();
    faults.extend(wrong.into_iter().map(|fault| {
        let diagnostic = Diagnostic::spanned(&document.file, &fault.span, fault.code, fault.message);
        Diagnostic { help: fault.help, ..diagnostic }
    }));
    sound
}

fn resource<'a, S: DeserializeOwned>(
    document: &'a Document,
    faults: &mut Vec<Diagnostic>,
) -> Option<Typed<'a, S>> {
    whole::<Resource<S>>(document, faults).map(|resource| Typed { document, spec: resource.spec })
}

fn whole<T: DeserializeOwned>(document: &Document, faults: &mut Vec<Diagnostic>) -> Option<T> {
    de::read(&document.root)
        .map_err(|error| {
            let span = error.span.unwrap_or_else(|| document.root.headline());
            faults.push(Diagnostic::spanned(&document.file, &span, Code::VALUE, error.message));
        })
        .ok()
}

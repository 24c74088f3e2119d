//! Notes for every route where it and the rules of its policies are written.

use std::sync::Arc;

use foregate_filters::chain::{Chain, Link};
use foregate_filters::fault::Path;
use http::HeaderName;

use crate::compile::Compilation;
use crate::compile::policies::Prepared;
use crate::compile::typed::spec;
use crate::description::{Description, LinkDescription, Origin, PlacedRule};
use crate::document::{Document, ObjectName};

impl Compilation<'_> {
    /// Describes the chain built from `policies` for the rule at `at` of a route.
    pub fn describe(
        &self,
        chain: &Chain,
        policies: &[&Prepared<'_>],
        (route, at): (&Document, &Path),
        upstreams: &[usize],
    ) -> Arc<Description> {
        let links: Vec<LinkDescription> = chain
            .links()
            .iter()
            .map(|link| match policies.get(link.policy) {
                Some(policy) => described(link, policy),
                None => LinkDescription {
                    step: link.step,
                    filter: link.section,
                    policy: named(&route.name),
                    at: origin(route, &at.key("filters")),
                    rules: Vec::new(),
                },
            })
            .collect();
        let upstreams = upstreams.iter().filter_map(|index| self.documents.upstreams.get(*index));
        Arc::new(Description {
            revision: Arc::clone(&self.revision),
            route: origin(route, at),
            headers: headers(&links),
            links,
            upstreams: upstreams
                .map(|typed| (named(&typed.document.name), origin(typed.document, &Document::name_path())))
                .collect(),
        })
    }
}

fn named(name: &ObjectName) -> Arc<str> {
    name.to_string().into()
}

fn described(link: &Link, policy: &Prepared<'_>) -> LinkDescription {
    let placed = |rule: foregate_filters::rule::Rule| {
        let mut at = spec();
        at.0.extend(rule.at.0.iter().cloned());
        PlacedRule { at: origin(policy.document, &at), rule }
    };
    LinkDescription {
        step: link.step,
        filter: link.section,
        policy: policy.name.as_str().into(),
        at: origin(policy.document, &spec().key(link.section)),
        rules: link.filter.rules().into_iter().map(placed).collect(),
    }
}

/// Where a value stands, or the nearest that does where it is absent.
fn origin(document: &Document, at: &Path) -> Origin {
    let place = document.file.position(document.root.locate(at).start);
    Origin { file: document.file.path.display().to_string().into(), line: place.line }
}

/// Headers that rules name, each once.
fn headers(links: &[LinkDescription]) -> Vec<HeaderName> {
    let reads = links.iter().flat_map(|link| &link.rules).flat_map(|placed| &placed.rule.reads);
    let named = reads.filter(|input| *input.root == *"request" && *input.field == *"headers");
    let mut headers: Vec<HeaderName> =
        named.filter_map(|input| HeaderName::try_from(input.key.as_deref()?).ok()).collect();
    headers.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    headers.dedup();
    headers
}

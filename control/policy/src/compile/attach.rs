//! Which listeners a route attaches to.

use foregate_filters::fault::{Code, Path, closest};

use crate::codes;
use crate::compile::Compilation;
use crate::compile::capture::Spot;
use crate::compile::gateways::{Gateways, Served};
use crate::compile::streams::carries;
use crate::compile::typed::{Typed, spec};
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind, ObjectName};
use crate::documents::gateway::FromNamespaces;
use crate::documents::http_route::{ParentRef, Spec};
use crate::routes::hosts::intersect;

/// A gateway, and where on it a route serves. Indices into [`Gateways`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub gateway: usize,
    pub spots: Vec<Spot>,
}

impl Compilation<'_> {
    /// One entry a gateway, in the order of `parentRefs`; listeners without a host name in common are left out.
    pub fn attach(&mut self, route: &Typed<'_, Spec>, gateways: &Gateways<'_>) -> Vec<Attachment> {
        let mut attachments: Vec<Attachment> = Vec::new();
        let mut faulty = false;
        for (index, parent) in route.spec.parent_refs.iter().enumerate() {
            let at = spec().key("parentRefs").index(index);
            let Some((gateway, spots)) = self.parent(route.document, parent, gateways, &at) else {
                faulty = true;
                continue;
            };
            let meet = spots.into_iter().filter(|spot| {
                let served = gateways.0.get(gateway).and_then(|gateway| gateway.listeners.get(spot.listener));
                served.is_some_and(|served| meets(served.hostname.as_deref(), &route.spec.hostnames))
            });
            match attachments.iter_mut().find(|attachment| attachment.gateway == gateway) {
                Some(attachment) => attachment.spots.extend(meet),
                None => attachments.push(Attachment { gateway, spots: meet.collect() }),
            }
        }
        for attachment in &mut attachments {
            attachment.spots.sort_unstable();
            attachment.spots.dedup();
        }
        attachments.retain(|attachment| !attachment.spots.is_empty());
        if attachments.is_empty() && !faulty {
            let message = "the route serves nothing: no listener has a host name in common with it";
            let at = spec().key("hostnames");
            self.warnings.push(Diagnostic::at(route.document, &at, codes::ROUTE_DETACHED, message).warning());
        }
        attachments
    }

    /// The gateway a reference names and what it means there; `None` after a fault.
    pub fn parent(
        &mut self,
        document: &Document,
        parent: &ParentRef,
        gateways: &Gateways<'_>,
        at: &Path,
    ) -> Option<(usize, Vec<Spot>)> {
        let namespace = parent.namespace.as_deref().unwrap_or(&document.name.namespace);
        let name = ObjectName::new(Some(namespace), &parent.name);
        let Some(index) = gateways.find(&name) else {
            self.missing(document, Kind::Gateway, &name, &at.key("name"));
            return None;
        };
        let gateway = gateways.0.get(index)?;
        let all = gateway.listeners.iter().enumerate();
        let named: Vec<_> = all
            .filter(|(_, served)| parent.section_name.as_ref().is_none_or(|section| *section == served.name))
            .collect();
        if named.is_empty() {
            let section = parent.section_name.as_deref().unwrap_or_default();
            let listeners: Vec<&str> = gateway.listeners.iter().map(|served| served.name.as_str()).collect();
            let message = format!("the Gateway `{name}` has no listener `{section}`");
            let help = suggest(section, &listeners, "its listeners");
            let at = at.key("sectionName");
            self.fault(Diagnostic::at(document, &at, Code::REFERENCE, message).help(help));
            return None;
        }
        let fits = |(_, served): &(usize, &Served)| carries(document.kind, served.speaks);
        if !named.iter().any(fits) && !self.is_partial(gateway.document) {
            let message = format!(
                "no such listener of the Gateway `{name}` takes routes of the kind {}",
                document.kind.word()
            );
            let help = "an HTTPRoute attaches to listeners with protocol HTTP or HTTPS, a TCPRoute to TCP, a TLSRoute to TLS; both of the first two to TCP where a policy has it detect what is spoken, and to foregate.dev/Inbound and foregate.dev/Outbound";
            self.fault(Diagnostic::at(document, &at.key("name"), codes::ROUTE_PROTOCOL, message).help(help));
            return None;
        }
        let on_port: Vec<_> = named
            .into_iter()
            .filter(fits)
            .filter_map(|(listener, served)| Some((Spot::of(listener, served, parent.port)?, served)))
            .collect();
        if on_port.is_empty() {
            let message = format!("the Gateway `{name}` has no such listener on this port");
            self.fault(Diagnostic::at(document, &at.key("port"), Code::REFERENCE, message));
            return None;
        }
        let same = gateway.document.name.namespace == document.name.namespace;
        let spots: Vec<Spot> = on_port
            .into_iter()
            .filter(|(_, served)| same || served.from == FromNamespaces::All)
            .map(|(spot, _)| spot)
            .collect();
        if spots.is_empty() {
            // The field left out of it may be the one that lets the route attach.
            if self.is_partial(gateway.document) {
                return None;
            }
            let message = format!(
                "the Gateway `{name}` lets no route of the namespace `{}` attach",
                document.name.namespace
            );
            let help = "set allowedRoutes: { namespaces: { from: All } } on the listener";
            let at = at.key("name");
            self.fault(Diagnostic::at(document, &at, codes::NOT_ALLOWED, message).help(help));
            return None;
        }
        Some((index, spots))
    }

    /// Tells of a name that refers to nothing; says nothing where the document exists but is faulty itself.
    pub fn missing(&mut self, document: &Document, kind: Kind, name: &ObjectName, at: &Path) {
        if self.sources.incomplete || self.named(kind).any(|other| other.name == *name) {
            return;
        }
        // Whoever serves it was told what it needs.
        let attaches = document.kind != Kind::BackendTlsPolicy && kind == Kind::Upstream;
        if self.options.part && !attaches {
            return;
        }
        let names: Vec<String> = self.named(kind).map(|other| other.name.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let message = format!("there is no {} named `{name}`", kind.word());
        let help = suggest(&name.to_string(), &names, "there are");
        self.fault(Diagnostic::at(document, at, Code::REFERENCE, message).help(help));
    }
}

/// Advice that names what could have been meant.
pub fn suggest(unknown: &str, known: &[&str], list: &str) -> String {
    match closest(unknown, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("{list}: none"),
        None => format!("{list}: {}", known.join(", ")),
    }
}

fn meets(listener: Option<&str>, hostnames: &[String]) -> bool {
    hostnames.is_empty() || hostnames.iter().any(|hostname| intersect(listener, Some(hostname)))
}

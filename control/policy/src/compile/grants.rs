//! References to other namespaces, where a `ReferenceGrant` allows them.

use foregate_filters::fault::Path;

use crate::codes;
use crate::compile::Compilation;
use crate::compile::backends::Backend;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind};
use crate::documents::http_route::BackendKind;
use crate::documents::reference_grant::FromKind;

impl Compilation<'_> {
    /// True where a grant in `namespace` lets the route refer to this backend there.
    pub fn granted(&self, route: &Document, said: &Backend, namespace: &str) -> bool {
        let kind = match route.kind {
            Kind::GrpcRoute => FromKind::GRPCRoute,
            Kind::TcpRoute => FromKind::TCPRoute,
            Kind::TlsRoute => FromKind::TLSRoute,
            _ => FromKind::HTTPRoute,
        };
        self.documents.grants.iter().any(|grant| {
            let (from, to) = (&grant.spec.from, &grant.spec.to);
            *grant.document.name.namespace == *namespace
                && from.iter().any(|from| from.kind == kind && *from.namespace == *route.name.namespace)
                && to.iter().any(|to| {
                    to.group == said.group
                        && to.kind == said.kind
                        && to.name.as_deref().is_none_or(|name| *name == *said.name)
                })
        })
    }

    /// Tells that no grant allows it, unless one that cannot be read may be the one.
    pub fn not_granted(&mut self, route: &Document, said: &Backend, namespace: &str, at: &Path) {
        let unsure =
            self.sources.incomplete || self.named(Kind::ReferenceGrant).count() > self.documents.grants.len();
        if unsure {
            return;
        }
        let (word, kind, from) = (route.kind.word(), said.kind, &route.name.namespace);
        let message = format!(
            "no ReferenceGrant in the namespace `{namespace}` lets a {word} of `{from}` refer to the {kind} `{}`",
            said.name
        );
        let group = if said.kind == BackendKind::Service { "\"\"" } else { "foregate.dev" };
        let help = format!(
            "add one there: from: [{{ group: gateway.networking.k8s.io, kind: {word}, namespace: {from} }}], to: [{{ group: {group}, kind: {kind} }}]"
        );
        self.fault(Diagnostic::at(route, at, codes::NOT_GRANTED, message).help(help));
    }
}

//! References to upstreams, and those of other namespaces that a `ReferenceGrant` allows.

use foregate_filters::fault::Path;

use crate::codes;
use crate::compile::Compilation;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind, ObjectName};
use crate::documents::reference_grant::FromKind;

impl Compilation<'_> {
    /// The index of the upstream that a route refers to at `at`, and its full name; `None` after a fault.
    pub fn upstream_of(
        &mut self,
        route: &Document,
        (namespace, name): (Option<&str>, &str),
        at: &Path,
    ) -> (ObjectName, Option<usize>) {
        let name = ObjectName::new(Some(namespace.unwrap_or(&route.name.namespace)), name);
        let upstreams = &self.documents.upstreams;
        let Some(index) = upstreams.iter().position(|upstream| upstream.document.name == name) else {
            self.missing(route, Kind::Upstream, &name, &at.key("name"));
            return (name, None);
        };
        if name.namespace == route.name.namespace || self.granted(route, &name) {
            return (name, Some(index));
        }
        let word = route.kind.word();
        let message = format!(
            "no ReferenceGrant in the namespace `{}` lets a {word} of `{}` refer to the Upstream `{}`",
            name.namespace, route.name.namespace, name.name
        );
        let help = format!(
            "add one there: from: [{{ group: gateway.networking.k8s.io, kind: {word}, namespace: {} }}], to: [{{ group: foregate.dev, kind: Upstream }}]",
            route.name.namespace
        );
        // A grant that cannot be read may be the one.
        let unsure =
            self.sources.incomplete || self.named(Kind::ReferenceGrant).count() > self.documents.grants.len();
        if !unsure {
            let fault = Diagnostic::at(route, &at.key("namespace"), codes::NOT_GRANTED, message);
            self.fault(fault.help(help));
        }
        (name, None)
    }

    fn granted(&self, route: &Document, upstream: &ObjectName) -> bool {
        let kind = if route.kind == Kind::GrpcRoute { FromKind::GRPCRoute } else { FromKind::HTTPRoute };
        self.documents.grants.iter().any(|grant| {
            grant.document.name.namespace == upstream.namespace
                && grant
                    .spec
                    .from
                    .iter()
                    .any(|from| from.kind == kind && *from.namespace == *route.name.namespace)
                && grant
                    .spec
                    .to
                    .iter()
                    .any(|to| to.name.as_deref().is_none_or(|name| *name == *upstream.name))
        })
    }
}

//! What routes lead to: upstreams, and Services through the upstreams that stand for them.

use std::fmt;

use foregate_filters::fault::Path;

use crate::codes;
use crate::compile::Compilation;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind, ObjectName};
use crate::documents::http_route::{BackendGroup, BackendKind, BackendRef, MirrorRef};
use crate::documents::{grpc_route, stream_route};

/// What names of upstreams that stand for Services begin with.
pub const RESERVED: &str = "service.";

/// A reference of a route, whatever its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub group: BackendGroup,
    pub kind: BackendKind,
    pub name: String,
    pub namespace: Option<String>,
    pub port: Option<u16>,
}

/// How the endpoints of a Service are spoken to, by the kind of the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Speech {
    /// Requests of an `HTTPRoute`.
    Http,
    /// Calls of a `GRPCRoute`.
    Grpc,
    /// Connections of a `TCPRoute` or `TLSRoute`.
    Tcp,
}

impl Speech {
    pub const ALL: [Self; 3] = [Self::Http, Self::Grpc, Self::Tcp];

    /// That of routes of this kind.
    pub const fn of(route: Kind) -> Self {
        match route {
            Kind::GrpcRoute => Self::Grpc,
            Kind::TcpRoute | Kind::TlsRoute => Self::Tcp,
            _ => Self::Http,
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Http => "",
            Self::Grpc => ".grpc",
            Self::Tcp => ".tcp",
        }
    }
}

/// The name of the upstream that stands for a port of a Service. Names of Services have no dots, so that no two share
/// one.
pub fn upstream_name(service: &str, port: u16, speech: Speech) -> String {
    format!("{RESERVED}{service}.{port}{}", speech.suffix())
}

impl Backend {
    /// What tells it from others of its name.
    pub fn place(&self) -> String {
        format!("{:?} {:?} {:?}", self.kind, self.namespace, self.port)
    }

    /// The name of the upstream that is meant, and what to tell where it is not said whole.
    fn upstream(&self, route: Kind) -> Result<String, (&'static str, &'static str, &'static str)> {
        match (self.kind, self.group, self.port) {
            (BackendKind::Upstream, BackendGroup::Foregate, None) => Ok(self.name.clone()),
            (BackendKind::Upstream, BackendGroup::Foregate, Some(_)) => Err((
                "port",
                "a reference to an Upstream has no port",
                "an Upstream has the port in its endpoints",
            )),
            (BackendKind::Upstream, BackendGroup::Core, _) => Err((
                "kind",
                "the kind Upstream is of the group foregate.dev",
                "write group: foregate.dev beside it",
            )),
            (BackendKind::Service, BackendGroup::Foregate, _) => Err((
                "kind",
                "the kind Service is of the core group",
                "write kind: Upstream, or leave the group out for a Service",
            )),
            (BackendKind::Service, BackendGroup::Core, None) => Err((
                "name",
                "a reference to a Service needs the number of a port",
                "add port: .., or write group: foregate.dev, kind: Upstream for an Upstream",
            )),
            (BackendKind::Service, BackendGroup::Core, Some(port)) => {
                Ok(upstream_name(&self.name, port, Speech::of(route)))
            }
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::Upstream => "Upstream",
        })
    }
}

impl From<&BackendRef> for Backend {
    fn from(said: &BackendRef) -> Self {
        let (name, namespace) = (said.name.clone(), said.namespace.clone());
        Self { group: said.group, kind: said.kind, name, namespace, port: said.port }
    }
}

impl From<&grpc_route::Backend> for Backend {
    fn from(said: &grpc_route::Backend) -> Self {
        let (name, namespace) = (said.name.clone(), said.namespace.clone());
        Self { group: said.group, kind: said.kind, name, namespace, port: said.port }
    }
}

impl From<&stream_route::BackendRef> for Backend {
    fn from(said: &stream_route::BackendRef) -> Self {
        let (name, namespace) = (said.name.clone(), said.namespace.clone());
        Self { group: said.group, kind: said.kind, name, namespace, port: said.port }
    }
}

impl From<&MirrorRef> for Backend {
    fn from(said: &MirrorRef) -> Self {
        let (name, namespace) = (said.name.clone(), said.namespace.clone());
        Self { group: said.group, kind: said.kind, name, namespace, port: said.port }
    }
}

impl Compilation<'_> {
    /// The index of the upstream that a route refers to at `at`, and its full name; `None` after a fault.
    pub fn upstream_of(
        &mut self,
        route: &Document,
        said: &Backend,
        at: &Path,
    ) -> (ObjectName, Option<usize>) {
        let namespace = said.namespace.as_deref().unwrap_or(&route.name.namespace);
        let name = match said.upstream(route.kind) {
            Ok(name) => ObjectName::new(Some(namespace), &name),
            Err((field, message, help)) => {
                let fault = Diagnostic::at(route, &at.key(field), codes::BACKEND_KIND, message);
                self.fault(fault.help(help));
                return (ObjectName::new(Some(namespace), &said.name), None);
            }
        };
        let upstreams = &self.documents.upstreams;
        let Some(index) = upstreams.iter().position(|upstream| upstream.document.name == name) else {
            match said.kind {
                BackendKind::Upstream => self.missing(route, Kind::Upstream, &name, &at.key("name")),
                BackendKind::Service => self.unknown_service(route, said, &name, &at.key("name")),
            }
            return (name, None);
        };
        if name.namespace == route.name.namespace || self.granted(route, said, &name.namespace) {
            return (name, Some(index));
        }
        self.not_granted(route, said, &name.namespace, &at.key("namespace"));
        (name, None)
    }

    fn unknown_service(&mut self, route: &Document, said: &Backend, upstream: &ObjectName, at: &Path) {
        if self.sources.incomplete || self.named(Kind::Upstream).any(|other| other.name == *upstream) {
            return;
        }
        let service = ObjectName::new(Some(&upstream.namespace), &said.name);
        let port = said.port.unwrap_or_default();
        let message = format!("the Service `{service}` and its port {port} are not known here");
        let help = format!(
            "Services are known to the control plane in Kubernetes; here, lead to an Upstream, or let one named `{}` stand in",
            upstream.name
        );
        self.fault(Diagnostic::at(route, at, codes::SERVICE_UNKNOWN, message).help(help));
    }
}

#[cfg(test)]
mod tests {
    use super::{Speech, upstream_name};

    #[test]
    fn no_two_ports_of_services_share_an_upstream() {
        let mut names = Vec::new();
        for (service, port) in [("a", 1), ("a", 11), ("a-1", 1), ("b", 1)] {
            names.extend(Speech::ALL.map(|speech| upstream_name(service, port, speech)));
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{names:?}");
    }
}

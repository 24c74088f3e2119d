//! A document of a known kind, with its file and its place in it.

use std::fmt;
use std::sync::Arc;

use foregate_filters::fault::Path;

use crate::node::Node;
use crate::source::SourceFile;

/// What a document is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Gateway,
    HttpRoute,
    GrpcRoute,
    TcpRoute,
    TlsRoute,
    BackendTlsPolicy,
    ReferenceGrant,
    Upstream,
    Policy,
    Model,
    Consumer,
    Store,
    Case,
}

/// Where a document is found by others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    pub namespace: Box<str>,
    pub name: Box<str>,
}

/// One document as it was read; its structure may still be faulty.
#[derive(Clone, Debug)]
pub struct Document {
    pub file: Arc<SourceFile>,
    pub kind: Kind,
    pub name: ObjectName,
    pub root: Node,
}

impl Kind {
    /// All kinds of this version.
    pub const ALL: [Self; 13] = [
        Self::Gateway,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::BackendTlsPolicy,
        Self::ReferenceGrant,
        Self::Upstream,
        Self::Policy,
        Self::Model,
        Self::Consumer,
        Self::Store,
        Self::Case,
    ];

    /// The word in `kind`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Upstream => "Upstream",
            Self::Policy => "Policy",
            Self::Model => "Model",
            Self::Consumer => "Consumer",
            Self::Store => "Store",
            Self::Case => "Case",
        }
    }

    /// The word in `apiVersion`.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Gateway
            | Self::HttpRoute
            | Self::GrpcRoute
            | Self::TcpRoute
            | Self::TlsRoute
            | Self::BackendTlsPolicy
            | Self::ReferenceGrant => "gateway.networking.k8s.io/v1",
            Self::Upstream | Self::Policy | Self::Model | Self::Consumer | Self::Store | Self::Case => {
                "foregate.dev/v1alpha1"
            }
        }
    }
}

impl ObjectName {
    /// The namespace of documents that name none.
    pub const DEFAULT_NAMESPACE: &'static str = "default";

    pub fn new(namespace: Option<&str>, name: &str) -> Self {
        Self { namespace: namespace.unwrap_or(Self::DEFAULT_NAMESPACE).into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if &*self.namespace == Self::DEFAULT_NAMESPACE {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The annotation of a route that says when it was made, in RFC 3339: of two that tie, the older one wins (Gateway API).
/// Those of people have none, and stand in the order of their names.
pub const CREATED: &str = "foregate.dev/created";

impl Document {
    /// When it was made; empty where nothing says so.
    pub fn created(&self) -> &str {
        let annotations = self.root.key("metadata").and_then(|metadata| metadata.key("annotations"));
        annotations.and_then(|all| all.key(CREATED)).and_then(Node::text).unwrap_or_default()
    }

    /// Which of two that want the same thing has it: the older one, then the first by name.
    pub fn seniority(&self) -> (&str, &ObjectName) {
        (self.created(), &self.name)
    }

    /// The way to its name.
    pub fn name_path() -> Path {
        Path::default().key("metadata").key("name")
    }
}

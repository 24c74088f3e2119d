//! Kinds of Kubernetes objects that policies come from.

use foregate_policy::document::Kind;
use kube::core::ApiResource;

/// The group of Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The group of the kinds of our own.
pub const FOREGATE_GROUP: &str = "foregate.dev";
/// The name that a `GatewayClass` calls this controller by, and that statuses are signed with.
pub const CONTROLLER_NAME: &str = "foregate.dev/gateway-controller";
/// Who owns the fields that this controller applies.
pub const FIELD_MANAGER: &str = "foregate-control";

/// A kind of objects that is watched whole and compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    GatewayClass,
    Gateway,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    ReferenceGrant,
    BackendTlsPolicy,
    Upstream,
    Policy,
    Model,
    Consumer,
    Store,
}

impl Resource {
    pub const ALL: [Self; 13] = [
        Self::GatewayClass,
        Self::Gateway,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::ReferenceGrant,
        Self::BackendTlsPolicy,
        Self::Upstream,
        Self::Policy,
        Self::Model,
        Self::Consumer,
        Self::Store,
    ];
    /// Kinds of routes, in the order of their names.
    pub const ROUTES: [Self; 4] = [Self::GrpcRoute, Self::HttpRoute, Self::TcpRoute, Self::TlsRoute];
    /// Kinds of our own.
    pub const OURS: [Self; 5] = [Self::Upstream, Self::Policy, Self::Model, Self::Consumer, Self::Store];

    /// The kind of document that it becomes; `None` alone for `GatewayClass`.
    pub const fn document(self) -> Option<Kind> {
        Some(match self {
            Self::GatewayClass => return None,
            Self::Gateway => Kind::Gateway,
            Self::HttpRoute => Kind::HttpRoute,
            Self::GrpcRoute => Kind::GrpcRoute,
            Self::TlsRoute => Kind::TlsRoute,
            Self::TcpRoute => Kind::TcpRoute,
            Self::ReferenceGrant => Kind::ReferenceGrant,
            Self::BackendTlsPolicy => Kind::BackendTlsPolicy,
            Self::Upstream => Kind::Upstream,
            Self::Policy => Kind::Policy,
            Self::Model => Kind::Model,
            Self::Consumer => Kind::Consumer,
            Self::Store => Kind::Store,
        })
    }

    /// The word in `kind`.
    pub const fn word(self) -> &'static str {
        match self.document() {
            Some(kind) => kind.word(),
            None => "GatewayClass",
        }
    }

    /// The word in paths of the API.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::GatewayClass => "gatewayclasses",
            Self::Gateway => "gateways",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::TlsRoute => "tlsroutes",
            Self::TcpRoute => "tcproutes",
            Self::ReferenceGrant => "referencegrants",
            Self::BackendTlsPolicy => "backendtlspolicies",
            Self::Upstream => "upstreams",
            Self::Policy => "policies",
            Self::Model => "models",
            Self::Consumer => "consumers",
            Self::Store => "stores",
        }
    }

    pub const fn group(self) -> &'static str {
        match self {
            Self::Upstream | Self::Policy | Self::Model | Self::Consumer | Self::Store => FOREGATE_GROUP,
            _ => GATEWAY_GROUP,
        }
    }

    pub const fn version(self) -> &'static str {
        match self {
            Self::Upstream | Self::Policy | Self::Model | Self::Consumer | Self::Store => "v1alpha1",
            _ => "v1",
        }
    }

    /// False alone for what belongs to no namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::GatewayClass)
    }

    /// True where the status is written by this controller.
    pub const fn has_status(self) -> bool {
        !matches!(self, Self::ReferenceGrant)
    }

    pub fn is_route(self) -> bool {
        Self::ROUTES.contains(&self)
    }

    pub fn is_ours(self) -> bool {
        Self::OURS.contains(&self)
    }

    pub fn api_version(self) -> String {
        format!("{}/{}", self.group(), self.version())
    }

    /// As the client wants it.
    pub fn api(self) -> ApiResource {
        ApiResource {
            group: self.group().to_owned(),
            version: self.version().to_owned(),
            api_version: self.api_version(),
            kind: self.word().to_owned(),
            plural: self.plural().to_owned(),
        }
    }

    /// The kind that is called so, of any group.
    pub fn find(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.word() == word)
    }
}

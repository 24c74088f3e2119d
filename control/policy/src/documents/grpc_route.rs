//! `GRPCRoute`: which calls go where.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::documents::http_route::{
    self, BackendGroup, BackendKind, BackendRef, HeaderMatch, HeaderModifier, ParentRef, RequestMirror,
    RouteFilter, ValueMatchType,
};
use crate::documents::session::SessionPersistence;
use crate::documents::{HOSTNAME, LABEL, OBJECT_NAME};

/// A `GRPCRoute` of `gateway.networking.k8s.io/v1`.
pub type GrpcRoute = crate::documents::Resource<Spec>;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GRPCRouteSpec")]
pub struct Spec {
    /// Gateways this route attaches to.
    #[schemars(length(min = 1, max = 32))]
    pub parent_refs: Vec<ParentRef>,
    /// Names this route serves, `*.` in front of a wildcard; all names of its listeners where absent. No `HTTPRoute`
    /// of the same listener may serve one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(regex(pattern = HOSTNAME), length(max = 253)))]
    pub hostnames: Vec<String>,
    #[schemars(length(min = 1, max = 16))]
    pub rules: Vec<Rule>,
}

/// Calls that match any of `matches` go through `filters` to `backendRefs`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GRPCRouteRule")]
pub struct Rule {
    /// Unique within the route; names it in logs and metrics. The index of the rule where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = OBJECT_NAME), length(max = 253))]
    pub name: Option<String>,
    /// Every call where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub matches: Vec<Match>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<Filter>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub backend_refs: Vec<Backend>,
    /// Keeps the calls of a session together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// A call matches where all of these do.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GRPCRouteMatch")]
pub struct Match {
    /// Every service and method where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<MethodMatch>,
    /// Of several entries with one name the first counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<HeaderMatch>,
}

/// Which method of which service: one of the two, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GRPCMethodMatch")]
pub struct MethodMatch {
    /// How both are compared; regular expressions must match all of the name.
    #[serde(rename = "type", default)]
    pub kind: ValueMatchType,
    /// Name of the service with its package, such as `crm.v1.Leads`; every service where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub service: Option<String>,
    /// Every method where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub method: Option<String>,
}

/// A change to the call: `type`, and the one field that goes with it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GRPCRouteFilter")]
pub struct Filter {
    #[serde(rename = "type")]
    pub kind: FilterType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<RequestMirror>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "GRPCRouteFilterType")]
pub enum FilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
}

/// Refers to an upstream that speaks HTTP/2, or to a `Service`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GRPCBackendRef")]
pub struct Backend {
    #[serde(default)]
    pub group: BackendGroup,
    #[serde(default)]
    pub kind: BackendKind,
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Where it is; the namespace of the route where absent. Another one needs a `ReferenceGrant` there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = LABEL), length(max = 63))]
    pub namespace: Option<String>,
    /// Of a `Service` alone, which must have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Its share of the calls, in relation to the sum of all weights; 1 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: Option<u32>,
    /// Header modifiers for calls that go to this backend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<Filter>,
}

impl From<&Filter> for RouteFilter {
    fn from(filter: &Filter) -> Self {
        let kind = match filter.kind {
            FilterType::RequestHeaderModifier => http_route::FilterType::RequestHeaderModifier,
            FilterType::ResponseHeaderModifier => http_route::FilterType::ResponseHeaderModifier,
            FilterType::RequestMirror => http_route::FilterType::RequestMirror,
        };
        Self {
            kind,
            request_header_modifier: filter.request_header_modifier.clone(),
            response_header_modifier: filter.response_header_modifier.clone(),
            request_mirror: filter.request_mirror.clone(),
            request_redirect: None,
            url_rewrite: None,
            cors: None,
        }
    }
}

impl From<&Backend> for BackendRef {
    fn from(backend: &Backend) -> Self {
        Self {
            group: backend.group,
            kind: backend.kind,
            name: backend.name.clone(),
            namespace: backend.namespace.clone(),
            port: backend.port,
            weight: backend.weight,
            filters: backend.filters.iter().map(RouteFilter::from).collect(),
        }
    }
}

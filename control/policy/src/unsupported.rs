//! What Gateway API knows and this version does not act on, with advice.

use foregate_filters::fault::PathItem;

use crate::document::Kind;
use crate::documents::{HEADER_NAME, HOSTNAME, INSTANT, LABEL, OBJECT_NAME};

/// Kinds of Gateway API and of later versions, as `apiVersion` group and kind.
pub const KINDS: &[(&str, &str)] = &[
    ("gateway.networking.k8s.io", "UDPRoute"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("gateway.networking.k8s.io", "ListenerSet"),
];

/// Fields by kind and way from the top, list items left out; and what to do instead.
const FIELDS: &[(Option<Kind>, &str, &str)] = &[
    (None, "status", "remove it: controllers write it"),
    (None, "metadata.uid", "remove it: the API server writes it"),
    (None, "metadata.resourceVersion", "remove it: the API server writes it"),
    (None, "metadata.generation", "remove it: the API server writes it"),
    (None, "metadata.creationTimestamp", "remove it: the API server writes it"),
    (None, "metadata.managedFields", "remove it: the API server writes it"),
    (None, "metadata.ownerReferences", "remove it"),
    (None, "metadata.finalizers", "remove it"),
    (Some(Kind::Gateway), "spec.infrastructure", "remove it"),
    (Some(Kind::Gateway), "spec.allowedListeners", "write the listeners into the Gateway"),
    (
        Some(Kind::Gateway),
        "spec.tls.backend",
        "say it in the Upstream: tls: { mode: Mutual, clientCertificateRef: { name: .. } }",
    ),
    (
        Some(Kind::Gateway),
        "spec.tls.frontend.default.validation.caCertificateRefs.namespace",
        "authorities are read from the folder beside the policies",
    ),
    (
        Some(Kind::Gateway),
        "spec.tls.frontend.perPort.tls.validation.caCertificateRefs.namespace",
        "authorities are read from the folder beside the policies",
    ),
    (Some(Kind::Gateway), "spec.defaultScope", "name the Gateway in the parentRefs of each route"),
    (
        Some(Kind::Gateway),
        "spec.listeners.tls.frontendValidation",
        "write spec.tls.frontend of the Gateway instead",
    ),
    (
        Some(Kind::Gateway),
        "spec.listeners.tls.certificateRefs.namespace",
        "Secrets are read from the folder beside the policies",
    ),
    (
        Some(Kind::Gateway),
        "spec.listeners.allowedRoutes.kinds",
        "remove it: the protocol of the listener says which routes can attach",
    ),
    (
        Some(Kind::Gateway),
        "spec.listeners.allowedRoutes.namespaces.selector",
        "use `from: Same` or `from: All`",
    ),
    (Some(Kind::BackendTlsPolicy), "spec.targetRefs.sectionName", "target the whole Upstream"),
    (Some(Kind::BackendTlsPolicy), "spec.options", "remove it: there are no options of TLS to upstreams"),
    (Some(Kind::HttpRoute), "spec.useDefaultGateways", "name the Gateway in parentRefs"),
    (Some(Kind::TcpRoute), "spec.useDefaultGateways", "name the Gateway in parentRefs"),
    (Some(Kind::TlsRoute), "spec.useDefaultGateways", "name the Gateway in parentRefs"),
    (Some(Kind::HttpRoute), "spec.rules.filters.extensionRef", "attach a Policy with targetRefs"),
    (Some(Kind::HttpRoute), "spec.rules.filters.externalAuth", "attach a Policy with jwt and authorize"),
    (Some(Kind::HttpRoute), "spec.rules.backendRefs.filters.extensionRef", "attach a Policy with targetRefs"),
    (Some(Kind::GrpcRoute), "spec.useDefaultGateways", "name the Gateway in parentRefs"),
    (Some(Kind::GrpcRoute), "spec.rules.filters.extensionRef", "attach a Policy with targetRefs"),
    (Some(Kind::GrpcRoute), "spec.rules.backendRefs.filters.extensionRef", "attach a Policy with targetRefs"),
    (Some(Kind::Policy), "spec.targetRefs.sectionName", "target the whole route or Gateway"),
];

/// Values that Gateway API knows.
const VALUES: &[(Kind, &str, &[&str])] = &[
    (Kind::Gateway, "spec.listeners.protocol", &["UDP"]),
    (Kind::Gateway, "spec.listeners.allowedRoutes.namespaces.from", &["Selector", "None"]),
    (Kind::Gateway, "spec.addresses.type", &["Hostname", "NamedAddress"]),
    (Kind::BackendTlsPolicy, "spec.targetRefs.kind", &["Service"]),
    (Kind::HttpRoute, "spec.parentRefs.kind", &["Service", "ListenerSet"]),
    (Kind::HttpRoute, "spec.rules.filters.type", &["ExtensionRef", "ExternalAuth"]),
    (Kind::HttpRoute, "spec.rules.filters.requestMirror.backendRef.kind", &["ServiceImport"]),
    (Kind::HttpRoute, "spec.rules.backendRefs.filters.type", &["ExtensionRef", "ExternalAuth"]),
    (Kind::HttpRoute, "spec.rules.backendRefs.kind", &["ServiceImport"]),
    (Kind::TcpRoute, "spec.parentRefs.kind", &["Service", "ListenerSet"]),
    (Kind::TcpRoute, "spec.rules.backendRefs.kind", &["ServiceImport"]),
    (Kind::TlsRoute, "spec.parentRefs.kind", &["Service", "ListenerSet"]),
    (Kind::TlsRoute, "spec.rules.backendRefs.kind", &["ServiceImport"]),
    (Kind::GrpcRoute, "spec.parentRefs.kind", &["Service", "ListenerSet"]),
    (Kind::GrpcRoute, "spec.rules.filters.type", &["ExtensionRef"]),
    (Kind::GrpcRoute, "spec.rules.filters.requestMirror.backendRef.kind", &["ServiceImport"]),
    (Kind::GrpcRoute, "spec.rules.backendRefs.filters.type", &["ExtensionRef"]),
    (Kind::GrpcRoute, "spec.rules.backendRefs.kind", &["ServiceImport"]),
];

/// Advice for a field that is known but not acted on.
pub fn field(kind: Kind, way: &[PathItem]) -> Option<&'static str> {
    let way = keys(way);
    FIELDS
        .iter()
        .find(|(of, field, _)| of.is_none_or(|of| of == kind) && *field == way)
        .map(|(.., advice)| *advice)
}

/// True for a value that is known but not acted on.
pub fn value(kind: Kind, way: &[PathItem], text: &str) -> bool {
    let way = keys(way);
    VALUES.iter().any(|(of, field, values)| *of == kind && *field == way && values.contains(&text))
}

/// The way without list items: `spec.listeners.tls`.
fn keys(way: &[PathItem]) -> String {
    let keys = way.iter().filter_map(|item| match item {
        PathItem::Key(key) => Some(key.as_str()),
        PathItem::Index(_) => None,
    });
    keys.collect::<Vec<_>>().join(".")
}

/// What text that does not match a pattern should have been.
pub fn pattern(pattern: &str, text: &str) -> (String, Option<String>) {
    let wanted = match pattern {
        OBJECT_NAME => "a name of lower-case letters, digits, `-` and `.`",
        LABEL => "a name of lower-case letters, digits and `-`",
        HOSTNAME => "a host name in lower case, `*.` in front of a wildcard",
        HEADER_NAME => "a name of letters, digits and `-`",
        "^/" => "a path that starts with `/`",
        "^$" => "the empty text",
        INSTANT => "a time in UTC such as 2027-01-31T00:00:00Z",
        "^spiffe://" => "a SPIFFE id such as spiffe://example.org/ns/crm/sa/leads",
        other if other.contains("KiB") => "a size with its unit",
        other if other.contains("ms") => "a time span with its unit",
        _ => return (format!("`{text}` does not match {pattern}"), None),
    };
    let help = match pattern {
        other if other.contains("KiB") => Some("write it like 512B, 64KiB or 1MiB".to_owned()),
        other if other.contains("ms") => Some("write it like 3ms, 10s or 1h30m".to_owned()),
        OBJECT_NAME | LABEL | HOSTNAME if text.chars().any(char::is_uppercase) => {
            Some(format!("did you mean `{}`?", text.to_lowercase()))
        }
        _ => None,
    };
    (format!("`{text}` is not {wanted}"), help)
}

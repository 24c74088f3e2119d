//! Listeners: which routes they take, with which others they are in conflict.

use std::collections::BTreeMap;

use foregate_policy::routes::hosts::intersect;
use serde_json::Value;

use crate::kubernetes::kinds::{GATEWAY_GROUP, Resource};
use crate::kubernetes::objects::World;
use crate::kubernetes::render::{list, port, text};
use crate::kubernetes::report::Verdict;

/// A listener of a Gateway, as far as the controller looks.
#[derive(Clone, Debug)]
pub struct Listener {
    /// In the list of the object.
    pub index: usize,
    pub name: String,
    pub port: u16,
    pub protocol: String,
    pub hostname: Option<String>,
    /// Kinds of routes that may attach.
    pub kinds: Vec<Resource>,
    pub accepted: Verdict,
    pub resolved: Verdict,
    pub conflicted: Verdict,
    /// Routes that attached.
    pub attached: usize,
    /// As it is written out; `None` where it is not served.
    pub written: Option<Value>,
}

impl Listener {
    pub fn read(index: usize, said: &Value, detects: bool) -> Self {
        let protocol = text(said, "protocol").unwrap_or_default().to_owned();
        let native = native(&protocol, detects);
        let (kinds, resolved) = kinds(said, &native);
        let accepted = if native.is_empty() {
            let message = format!("the protocol `{protocol}` is not served; HTTP, HTTPS, TLS and TCP are");
            Verdict::bad("UnsupportedProtocol", message)
        } else {
            Verdict::good("Accepted")
        };
        Self {
            index,
            name: text(said, "name").unwrap_or_default().to_owned(),
            port: port(said, "port").unwrap_or_default(),
            hostname: text(said, "hostname").filter(|name| !name.is_empty()).map(str::to_owned),
            protocol,
            kinds,
            accepted,
            resolved,
            conflicted: Verdict { ok: false, reason: "NoConflicts", message: String::new() },
            attached: 0,
            written: None,
        }
    }

    /// True where a reference with this port means the listener.
    pub fn has_port(&self, port: Option<u16>) -> bool {
        is_captured(&self.protocol) || port.is_none_or(|port| port == self.port)
    }

    /// True where the port of a reference is one that redirected connections meant.
    pub fn is_captured(&self) -> bool {
        is_captured(&self.protocol)
    }

    /// True where connections begin with TLS.
    fn is_tls(&self) -> bool {
        matches!(&*self.protocol, "HTTPS" | "TLS")
    }

    /// Why two listeners cannot both be served on one port; `None` where they can.
    pub fn clashes(&self, other: &Self) -> Option<&'static str> {
        if self.port != other.port {
            return None;
        }
        let same = match (self.is_tls(), other.is_tls()) {
            (true, true) => true,
            (false, false) => self.protocol == other.protocol,
            _ => false,
        };
        if !same {
            return Some("ProtocolConflict");
        }
        (self.hostname == other.hostname).then_some("HostnameConflict")
    }

    /// True where a route with these names serves something here.
    pub fn meets(&self, hostnames: &[Value]) -> bool {
        let here = self.hostname.as_deref();
        hostnames.is_empty() || hostnames.iter().any(|name| intersect(here, name.as_str()))
    }
}

/// True for listeners of connections that the kernel redirected: a port of theirs is not the one that is meant.
fn is_captured(protocol: &str) -> bool {
    matches!(protocol, "foregate.dev/Inbound" | "foregate.dev/Outbound")
}

/// Kinds of routes for a protocol.
fn native(protocol: &str, detects: bool) -> Vec<Resource> {
    match protocol {
        "HTTP" | "HTTPS" => vec![Resource::HttpRoute, Resource::GrpcRoute],
        "TLS" => vec![Resource::TlsRoute],
        "TCP" if detects => vec![Resource::TcpRoute, Resource::HttpRoute, Resource::GrpcRoute],
        "TCP" => vec![Resource::TcpRoute],
        captured if is_captured(captured) => {
            vec![Resource::TcpRoute, Resource::HttpRoute, Resource::GrpcRoute]
        }
        _ => Vec::new(),
    }
}

/// The kinds that `allowedRoutes` leaves of these.
fn kinds(said: &Value, native: &[Resource]) -> (Vec<Resource>, Verdict) {
    let wanted = said.get("allowedRoutes").map_or(&[][..], |allowed| list(allowed, "kinds"));
    let good = Verdict::good("ResolvedRefs");
    if wanted.is_empty() {
        return (native.to_vec(), good);
    }
    let (mut kept, mut strange) = (Vec::new(), Vec::new());
    for entry in wanted {
        let word = text(entry, "kind").unwrap_or_default();
        let ours = text(entry, "group").is_none_or(|group| group == GATEWAY_GROUP);
        match Resource::find(word).filter(|resource| ours && native.contains(resource)) {
            Some(resource) if kept.contains(&resource) => {}
            Some(resource) => kept.push(resource),
            None => strange.push(word.to_owned()),
        }
    }
    if strange.is_empty() {
        return (kept, good);
    }
    let message = format!("allowedRoutes.kinds: a listener of this protocol takes no {}", strange.join(", "));
    (kept, Verdict::bad("InvalidRouteKinds", message))
}

/// True where the listener lets routes of `namespace` attach to its Gateway in `home`.
pub fn admits(said: &Value, home: &str, namespace: &str, world: &World) -> bool {
    let namespaces = said.get("allowedRoutes").and_then(|allowed| allowed.get("namespaces"));
    let from = namespaces.and_then(|namespaces| text(namespaces, "from")).unwrap_or("Same");
    match from {
        "All" => true,
        "Same" => home == namespace,
        "Selector" => {
            let labels = world.namespaces.get(namespace);
            let selector = namespaces.and_then(|namespaces| namespaces.get("selector"));
            match (selector, labels) {
                (Some(selector), Some(labels)) => selects(selector, labels),
                _ => false,
            }
        }
        _ => false,
    }
}

/// True where a label selector matches.
fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.get("matchLabels").and_then(Value::as_object);
    let equal = equal.is_none_or(|equal| {
        equal.iter().all(|(key, value)| labels.get(key).is_some_and(|label| value == label.as_str()))
    });
    equal
        && list(selector, "matchExpressions").iter().all(|expression| {
            let label = labels.get(text(expression, "key").unwrap_or_default());
            let listed = label
                .is_some_and(|label| list(expression, "values").iter().any(|value| value == label.as_str()));
            match text(expression, "operator").unwrap_or_default() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::{Listener, admits, selects};
    use crate::kubernetes::objects::World;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn listeners_clash_by_port_protocol_and_name() {
        let listener = |protocol: &str, port: u16, hostname: &str| {
            Listener::read(
                0,
                &json!({ "name": "l", "protocol": protocol, "port": port, "hostname": hostname }),
                false,
            )
        };
        for (one, other, clash) in [
            (("HTTP", 80, "a"), ("HTTP", 80, "b"), None),
            (("HTTP", 80, "a"), ("HTTP", 81, "a"), None),
            (("HTTP", 80, ""), ("HTTP", 80, ""), Some("HostnameConflict")),
            (("HTTP", 80, "a"), ("HTTPS", 80, "b"), Some("ProtocolConflict")),
            (("TLS", 443, "a"), ("HTTPS", 443, "b"), None),
            (("TCP", 1, ""), ("HTTP", 1, "a"), Some("ProtocolConflict")),
        ] {
            let (one, other) = (listener(one.0, one.1, one.2), listener(other.0, other.1, other.2));
            assert_eq!(one.clashes(&other), clash, "{one:?} {other:?}");
        }
    }

    #[test]
    fn namespaces_are_chosen_by_their_labels() {
        let mut world = World::default();
        let labels = [("team".to_owned(), "crm".to_owned())].into();
        world.namespaces.insert("b".into(), Arc::new(labels));
        let from = |said: serde_json::Value| json!({ "allowedRoutes": { "namespaces": said } });
        assert!(admits(&json!({}), "a", "a", &world) && !admits(&json!({}), "a", "b", &world));
        assert!(admits(&from(json!({ "from": "All" })), "a", "b", &world));
        assert!(!admits(&from(json!({ "from": "None" })), "a", "a", &world));
        let selector = |said: serde_json::Value| from(json!({ "from": "Selector", "selector": said }));
        for (said, admitted) in [
            (json!({ "matchLabels": { "team": "crm" } }), true),
            (json!({ "matchLabels": { "team": "crm", "x": "y" } }), false),
            (
                json!({ "matchExpressions": [{ "key": "team", "operator": "In", "values": ["x", "crm"] }] }),
                true,
            ),
            (
                json!({ "matchExpressions": [{ "key": "team", "operator": "NotIn", "values": ["crm"] }] }),
                false,
            ),
            (json!({ "matchExpressions": [{ "key": "x", "operator": "DoesNotExist" }] }), true),
            (json!({ "matchExpressions": [{ "key": "x", "operator": "Exists" }] }), false),
        ] {
            assert_eq!(admits(&selector(said.clone()), "a", "b", &world), admitted, "{said}");
            assert!(!admits(&selector(said), "a", "c", &world), "a namespace that nobody has seen");
        }
        assert!(selects(&json!({}), &[].into()));
    }
}

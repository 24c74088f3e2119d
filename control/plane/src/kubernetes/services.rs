//! Services and their endpoints, and the small files that endpoints are written to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service as CoreService;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::kubernetes::yaml::quoted;

/// The label that says whose endpoints a slice holds.
const OWNER: &str = "kubernetes.io/service-name";
/// Endpoints of one file at most: a proxy takes no more of an upstream.
pub const MAX_ENDPOINTS: usize = 4096;

/// Namespace and name.
pub type Place = (Box<str>, Box<str>);

/// Every Service, by namespace and name. Cloning it copies none.
#[derive(Clone, Debug, Default)]
pub struct Services(pub BTreeMap<Place, Arc<Ports>>);

/// The ports of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// It has no endpoints of its own, but stands for a name of DNS.
    pub is_external: bool,
    /// Endpoints are used before they are ready.
    pub unready: bool,
    /// Of the Service itself; none where it has no address.
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Port>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Empty where the only port has none.
    pub name: Box<str>,
    pub number: u16,
    /// Set where endpoints are spoken to in HTTP/2 without TLS.
    pub is_h2c: bool,
    pub is_tcp: bool,
}

/// Every slice, by the Service and its own name.
#[derive(Debug, Default)]
pub struct Slices(BTreeMap<Place, BTreeMap<Box<str>, Slice>>);

/// A part of the endpoints of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    ports: Vec<(Box<str>, u16)>,
    members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    address: IpAddr,
    zone: Option<Box<str>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// Still answers, and is about to go.
    Leaving,
    NotReady,
}

impl Ports {
    /// Reads the little that is kept of a Service.
    pub fn read(service: &CoreService) -> Self {
        let Some(spec) = &service.spec else { return Self::default() };
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            let protocol = port.app_protocol.as_deref().unwrap_or_default();
            Some(Port {
                name: port.name.as_deref().unwrap_or_default().into(),
                number: u16::try_from(port.port).ok()?,
                is_h2c: matches!(protocol, "kubernetes.io/h2c" | "grpc"),
                is_tcp: port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"),
            })
        });
        let addresses = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let addresses: BTreeSet<IpAddr> = addresses.filter_map(|text| text.parse().ok()).collect();
        Self {
            is_external: spec.type_.as_deref() == Some("ExternalName"),
            unready: spec.publish_not_ready_addresses.unwrap_or(false),
            addresses: addresses.into_iter().collect(),
            ports: ports.collect(),
        }
    }

    /// The port of this number that connections can be made to.
    pub fn find(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number && port.is_tcp)
    }
}

impl Services {
    pub fn find(&self, namespace: &str, name: &str) -> Option<&Arc<Ports>> {
        self.0.get(&place(namespace, name))
    }
}

pub fn place(namespace: &str, name: &str) -> Place {
    (namespace.into(), name.into())
}

impl Slice {
    /// The Service that a slice belongs to, the name of the slice, and what is kept of it; `None` where it belongs to
    /// nobody.
    pub fn read(slice: EndpointSlice) -> Option<(Place, Box<str>, Self)> {
        let owner = slice.metadata.labels.as_ref()?.get(OWNER)?;
        let at = place(slice.metadata.namespace.as_deref().unwrap_or_default(), owner);
        let name = slice.metadata.name.clone().unwrap_or_default().into();
        let ports = slice.ports.into_iter().flatten().filter_map(|port| {
            let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
            let number = port.port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
            number.filter(|_| tcp).map(|number| (port.name.unwrap_or_default().into(), number))
        });
        let members = slice.endpoints.into_iter().flatten().filter_map(Member::read);
        Some((at, name, Self { ports: ports.collect(), members: members.collect() }))
    }
}

impl Member {
    fn read(endpoint: Endpoint) -> Option<Self> {
        // All addresses of an endpoint stand for the same one; the first is enough. Names are not followed.
        let address = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.unwrap_or_default();
        let state = match (conditions.ready, conditions.serving, conditions.terminating) {
            (None | Some(true), ..) => State::Ready,
            (Some(false), Some(true), Some(true)) => State::Leaving,
            _ => State::NotReady,
        };
        let zone = endpoint.zone.filter(|zone| (1..=63).contains(&zone.len())).map(Into::into);
        Some(Self { address, zone, state })
    }
}

impl Slices {
    /// Takes over a slice; says whether anything is different.
    pub fn apply(&mut self, owner: &Place, name: &str, slice: Slice) -> bool {
        let slices = self.0.entry(owner.clone()).or_default();
        if slices.get(name) == Some(&slice) {
            return false;
        }
        slices.insert(name.into(), slice);
        true
    }

    /// Forgets a slice; says whether there was one.
    pub fn remove(&mut self, owner: &Place, name: &str) -> bool {
        let Some(slices) = self.0.get_mut(owner) else { return false };
        let there = slices.remove(name).is_some();
        if slices.is_empty() {
            self.0.remove(owner);
        }
        there
    }

    /// Takes over a whole list; gives the Services whose endpoints differ.
    pub fn replace(&mut self, list: Vec<(Place, Box<str>, Slice)>) -> BTreeSet<Place> {
        let mut new: BTreeMap<Place, BTreeMap<Box<str>, Slice>> = BTreeMap::new();
        for (owner, name, slice) in list {
            new.entry(owner).or_default().insert(name, slice);
        }
        let owners: BTreeSet<&Place> = self.0.keys().chain(new.keys()).collect();
        let changed = owners.into_iter().filter(|owner| self.0.get(*owner) != new.get(*owner));
        let changed = changed.cloned().collect();
        self.0 = new;
        changed
    }

    /// The endpoints of a port as a file that an `Upstream` names, in order of their addresses; and how many there
    /// are.
    pub fn file(&self, owner: &Place, port: &Port, unready: bool) -> (String, usize) {
        let ready = self.members(owner, port, |state| state == State::Ready || unready);
        let found =
            if ready.is_empty() { self.members(owner, port, |state| state == State::Leaving) } else { ready };
        let count = found.len();
        if found.is_empty() {
            return ("endpoints: []\n".to_owned(), 0);
        }
        let mut text = String::with_capacity(16 + count.min(MAX_ENDPOINTS) * 48);
        text.push_str("endpoints:\n");
        for (address, zone) in found.into_iter().take(MAX_ENDPOINTS) {
            let _ = match zone {
                Some(zone) => {
                    writeln!(text, "- {{ \"address\": \"{address}\", \"zone\": {} }}", quoted(zone))
                }
                None => writeln!(text, "- \"{address}\""),
            };
        }
        (text, count)
    }

    /// Endpoints in one of these states, by address, each once.
    fn members(
        &self,
        owner: &Place,
        port: &Port,
        wanted: impl Fn(State) -> bool,
    ) -> BTreeMap<SocketAddr, Option<&str>> {
        let mut found = BTreeMap::new();
        for slice in self.0.get(owner).into_iter().flat_map(BTreeMap::values) {
            for (_, number) in slice.ports.iter().filter(|(name, _)| *name == port.name) {
                for member in slice.members.iter().filter(|member| wanted(member.state)) {
                    found.insert(SocketAddr::new(member.address, *number), member.zone.as_deref());
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{Port, Slice, Slices, place};
    use foregate_policy::documents::endpoints::Endpoint;
    use serde_json::{Value, json};

    fn slice(name: &str, ports: &Value, endpoints: &Value) -> (super::Place, Box<str>, Slice) {
        let text = json!({
            "metadata": { "name": name, "namespace": "crm", "labels": { "kubernetes.io/service-name": "leads" } },
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints
        });
        Slice::read(serde_json::from_value(text).unwrap()).unwrap()
    }

    fn port(name: &str) -> Port {
        Port { name: name.into(), number: 80, is_h2c: false, is_tcp: true }
    }

    #[test]
    fn ready_endpoints_are_written_with_port_and_zone_and_leaving_ones_only_where_no_other_is_left() {
        let mut slices = Slices::default();
        let ports = json!([{ "name": "http", "port": 8080 }, { "name": "metrics", "port": 9090 }]);
        let (at, name, mut read) = slice(
            "leads-1",
            &ports,
            &json!([
                { "addresses": ["10.0.0.2"], "zone": "a", "conditions": { "ready": true } },
                { "addresses": ["10.0.0.1"], "conditions": {} },
                { "addresses": ["10.0.0.3"], "conditions": { "ready": false, "serving": true, "terminating": true } },
                { "addresses": ["10.0.0.4"], "conditions": { "ready": false } },
                { "addresses": ["leads.example.com"], "conditions": {} }
            ]),
        );
        assert!(slices.apply(&at, &name, read.clone()));
        assert!(!slices.apply(&at, &name, read.clone()), "the same again");
        let (_, second, more) = slice(
            "leads-2",
            &json!([{ "name": "http", "port": 8081 }]),
            &json!([{ "addresses": ["fd00::1"], "conditions": { "ready": true } }]),
        );
        slices.apply(&at, &second, more);
        let (text, count) = slices.file(&place("crm", "leads"), &port("http"), false);
        assert_eq!(count, 3);
        assert_eq!(
            text,
            "endpoints:\n- \"10.0.0.1:8080\"\n- { \"address\": \"10.0.0.2:8080\", \"zone\": \"a\" }\n- \"[fd00::1]:8081\"\n"
        );
        assert_eq!(slices.file(&at, &port("http"), true).1, 5);
        assert_eq!(slices.file(&at, &port(""), false).0, "endpoints: []\n");
        slices.remove(&at, &second);
        read.members.remove(0);
        read.members.remove(0);
        slices.apply(&at, &name, read);
        assert_eq!(slices.file(&at, &port("http"), false).0, "endpoints:\n- \"10.0.0.3:8080\"\n");
        assert_eq!(slices.replace(Vec::new()).len(), 1);
    }

    #[test]
    fn a_proxy_reads_what_is_written() {
        let mut slices = Slices::default();
        let (at, name, read) = slice(
            "s",
            &json!([{ "name": "", "port": 80 }]),
            &json!([{ "addresses": ["::1"], "zone": "a b\\\"" }, { "addresses": ["127.0.0.1"] }]),
        );
        slices.apply(&at, &name, read);
        let text = slices.file(&at, &port(""), false).0;
        let root = foregate_policy::parse::parse(&text).documents.remove(0).to_json();
        let read: Vec<Endpoint> = serde_json::from_value(root["endpoints"].clone()).unwrap();
        let addresses: Vec<_> = read.iter().filter_map(Endpoint::address).collect();
        assert_eq!(addresses, ["127.0.0.1:80", "[::1]:80"]);
    }
}

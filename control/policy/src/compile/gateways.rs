//! Gateways: which sockets are opened, which names are served there, with which certificates.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::codes;
use crate::compile::Compilation;
use crate::compile::typed::spec;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, ObjectName};
use crate::documents::gateway::{self, FromNamespaces};
use crate::snapshot::{Capture, Listener, ListenerTls, Speaks};

/// All sound gateways.
#[derive(Debug, Default)]
pub struct Gateways<'a>(pub Vec<Gateway<'a>>);

#[derive(Debug)]
pub struct Gateway<'a> {
    pub document: &'a Document,
    pub addresses: Vec<IpAddr>,
    pub listeners: Vec<Served>,
}

/// One listener of a gateway.
#[derive(Debug)]
pub struct Served {
    pub name: String,
    pub port: u16,
    pub hostname: Option<Box<str>>,
    pub from: FromNamespaces,
    pub tls: Option<ListenerTls>,
    pub speaks: Speaks,
    /// Set where connections begin with a header of the PROXY protocol: from where it is believed.
    pub proxies: Option<Arc<[IpNet]>>,
    /// Set where it takes connections that the kernel redirected.
    pub capture: Option<Capture>,
}

impl Served {
    /// True where connections begin with TLS, whoever ends it.
    pub fn begins_with_tls(&self) -> bool {
        self.tls.is_some() || self.speaks.is_tls()
    }
}

impl Gateways<'_> {
    /// True for a listener whose names must be known to the routes of requests (`http`), or of connections, on its
    /// port: it shares that with such listeners, and its names are not theirs.
    pub fn is_beside(&self, served: &Served, http: bool) -> bool {
        let reads = |other: &Served| other.speaks == Speaks::Http;
        let all = self.0.iter().flat_map(|gateway| &gateway.listeners);
        served.begins_with_tls()
            && reads(served) != http
            && all
                .into_iter()
                .any(|other| other.port == served.port && other.begins_with_tls() && reads(other) == http)
    }

    pub fn find(&self, name: &ObjectName) -> Option<usize> {
        self.0.iter().position(|gateway| gateway.document.name == *name)
    }

    /// One listener for each address.
    pub fn into_listeners(self) -> Vec<Listener> {
        let mut listeners = Vec::new();
        for gateway in self.0 {
            let name = gateway.document.name.to_string();
            for served in gateway.listeners {
                let capture = served.capture.clone().map(Arc::new);
                listeners.extend(gateway.addresses.iter().map(|address| Listener {
                    gateway: name.as_str().into(),
                    name: served.name.as_str().into(),
                    address: *address,
                    port: served.port,
                    hostname: served.hostname.clone(),
                    tls: served.tls.clone(),
                    speaks: served.speaks,
                    proxies: served.proxies.clone(),
                    capture: capture.clone(),
                }));
            }
        }
        listeners
    }
}

impl<'a> Compilation<'a> {
    pub fn gateways(&mut self) -> Gateways<'a> {
        let mut gateways = Vec::new();
        for index in 0..self.documents.gateways.len() {
            let Some(typed) = self.documents.gateways.get(index) else { continue };
            let (document, spec) = (typed.document, typed.spec.clone());
            gateways.push(self.gateway(document, &spec));
        }
        let gateways = Gateways(gateways);
        self.conflicts(&gateways);
        gateways
    }

    fn gateway(&mut self, document: &'a Document, said: &gateway::Spec) -> Gateway<'a> {
        let mut addresses: Vec<IpAddr> = said.addresses.iter().map(|address| address.value).collect();
        if addresses.is_empty() {
            addresses.push(Ipv4Addr::UNSPECIFIED.into());
        }
        addresses.sort_unstable();
        addresses.dedup();
        let list = spec().key("listeners");
        let mut listeners: Vec<Served> = Vec::new();
        for (index, listener) in said.listeners.iter().enumerate() {
            let at = list.index(index);
            if listeners.iter().any(|other| other.name == listener.name) {
                let message = format!("a second listener named `{}`", listener.name);
                self.fault(Diagnostic::at(document, &at.key("name"), codes::DUPLICATE_NAME, message));
            }
            if listener.port == 0 && !self.options.port_zero {
                let message = "port 0 cannot be listened on";
                let help = "choose a port from 1 to 65535";
                self.fault(Diagnostic::at(document, &at.key("port"), codes::PORT_ZERO, message).help(help));
            }
            let tls = self.listener_tls(document, said, listener, &at);
            let namespaces = listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
            listeners.push(Served {
                name: listener.name.clone(),
                port: listener.port,
                hostname: listener.hostname.as_deref().map(Into::into),
                from: namespaces.map(|namespaces| namespaces.from).unwrap_or_default(),
                tls,
                speaks: self.speech(document, listener, &at),
                proxies: None,
                capture: self.capture(document, listener, &at),
            });
        }
        self.unused_frontends(document, said);
        self.expect_proxies(document, &mut listeners);
        self.detecting(document, &mut listeners);
        self.captured(document, &listeners);
        Gateway { document, addresses, listeners }
    }

    /// Listeners on one port must agree on addresses and protocol, and differ in host name.
    fn conflicts(&mut self, gateways: &Gateways<'_>) {
        let all: Vec<(&Gateway<'_>, usize, &Served)> = gateways
            .0
            .iter()
            .flat_map(|gateway| {
                let listeners = gateway.listeners.iter().enumerate();
                listeners.map(move |(index, served)| (gateway, index, served))
            })
            .collect();
        for (position, (gateway, index, served)) in all.iter().enumerate() {
            let apart = self.options.apart;
            let meets = |other: &Gateway<'_>| !apart || other.document.name == gateway.document.name;
            let earlier = all
                .iter()
                .take(position)
                .filter(|(other_gateway, _, other)| other.port == served.port && meets(other_gateway));
            if let Some((.., other)) = earlier.clone().next().filter(|_| served.port != 0) {
                self.proxies_agree(gateway.document, *index, served, other);
            }
            let conflict = earlier.into_iter().find_map(|(other_gateway, _, other)| {
                let who = format!("listener `{}` of `{}`", other.name, other_gateway.document.name);
                if self.is_partial(other_gateway.document) || self.is_partial(gateway.document) {
                    return None;
                }
                let same_protocol = match (served.begins_with_tls(), other.begins_with_tls()) {
                    // The name that a client asks for tells which is meant.
                    (true, true) => true,
                    (false, false) => served.speaks == other.speaks,
                    _ => false,
                };
                // Those have no name by which one could be meant.
                let captured = served.speaks.is_captured() || other.speaks.is_captured();
                if captured && served.port != 0 {
                    Some((
                        "port",
                        format!("{who} has the same port, and redirected connections need one of their own"),
                    ))
                } else if served.port == 0 && !same_protocol {
                    None
                } else if !same_protocol {
                    Some(("protocol", format!("{who} speaks another protocol on port {}", served.port)))
                } else if other.hostname == served.hostname {
                    Some(("port", format!("{who} has the same port and host name")))
                } else if other_gateway.addresses != gateway.addresses {
                    Some((
                        "port",
                        format!(
                            "{who} has the same port on other addresses, which this version cannot tell apart"
                        ),
                    ))
                } else {
                    None
                }
            });
            if let Some((field, message)) = conflict {
                let at = spec().key("listeners").index(*index).key(field);
                let fault = Diagnostic::at(gateway.document, &at, codes::LISTENER_CONFLICT, message);
                self.fault(fault);
            }
        }
    }
}

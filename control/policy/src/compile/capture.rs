//! Listeners for redirected connections, and upstreams that are where these meant to go.

use std::net::SocketAddr;

use ahash::AHashMap;
use foregate_filters::fault::{Code, Path};

use crate::codes;
use crate::compile::Compilation;
use crate::compile::backends::RESERVED;
use crate::compile::detect::WITHIN;
use crate::compile::gateways::{Gateways, Served};
use crate::compile::typed::{Typed, spec};
use crate::diagnostic::Diagnostic;
use crate::document::{Document, ObjectName};
use crate::documents::gateway::{Listener, Protocol};
use crate::documents::policy::Mode;
use crate::documents::upstream;
use crate::routes::streams::StreamTable;
use crate::routes::{Door, RouteTable, Takes};
use crate::snapshot::{Capture, Captured, Speaks};

/// Where a route takes requests or connections from: a listener, and the port that they must have meant there.
/// Indices into [`crate::compile::gateways::Gateway::listeners`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    pub listener: usize,
    /// Of listeners for redirected connections alone; any port where absent.
    pub meant: Option<u16>,
}

impl Spot {
    /// What the port of a parentRef means at a listener; `None` where it means another one.
    pub fn of(listener: usize, served: &Served, port: Option<u16>) -> Option<Self> {
        if served.speaks.is_captured() {
            return Some(Self { listener, meant: port });
        }
        port.is_none_or(|port| port == served.port).then_some(Self { listener, meant: None })
    }
}

/// Every port that routes name at the listener of a spot, and any; the port of the spot alone where it has one.
pub fn doors(spot: Spot, named: &[Spot]) -> Vec<Option<u16>> {
    if spot.meant.is_some() {
        return vec![spot.meant];
    }
    // A route for every port serves those too that others name: the more specific match wins, not the port.
    let others = named.iter().filter(|other| other.listener == spot.listener && other.meant.is_some());
    let mut doors: Vec<Option<u16>> = others.map(|other| other.meant).collect();
    doors.push(None);
    doors.sort_unstable();
    doors.dedup();
    doors
}

impl From<upstream::Captured> for Captured {
    fn from(said: upstream::Captured) -> Self {
        match said {
            upstream::Captured::Address => Self::Address,
            upstream::Captured::Loopback => Self::Loopback,
        }
    }
}

impl Compilation<'_> {
    /// How a listener takes redirected connections; `None` for all others.
    pub fn capture(&mut self, document: &Document, listener: &Listener, at: &Path) -> Option<Capture> {
        if !matches!(listener.protocol, Protocol::Inbound | Protocol::Outbound) {
            return None;
        }
        let told = [
            ("hostname", listener.hostname.is_some(), "no name by which one of several could be meant"),
            (
                "tls",
                listener.tls.is_some(),
                "TLS by its protocol: the identity of the workload inbound, none outbound",
            ),
        ];
        for (field, _, has) in told.into_iter().filter(|(_, said, _)| *said) {
            let message = format!("a listener for redirected connections has {has}");
            let fault = Diagnostic::at(document, &at.key(field), codes::CAPTURE, message);
            self.fault(fault.help(format!("remove `{field}`")));
        }
        let insecure = self.insecure(document);
        let passes_unknown = listener.protocol == Protocol::Outbound
            && insecure.iter().any(|(_, said)| said.unknown_destinations);
        Some(Capture { within: WITHIN, opaque: Box::default(), passes_unknown })
    }

    /// What policies say of listeners for redirected connections that cannot be.
    pub fn captured(&mut self, gateway: &Document, listeners: &[Served]) {
        let list = spec().key("listeners");
        for (index, served) in listeners.iter().enumerate() {
            if served.speaks.is_captured() && served.proxies.is_some() {
                let message = "redirected connections begin with no header of the PROXY protocol";
                let help = "name the other listeners in the proxyProtocol of the policy";
                let at = list.index(index).key("protocol");
                self.fault(Diagnostic::at(gateway, &at, codes::CAPTURE, message).help(help));
            }
        }
        if self.is_partial(gateway) {
            return;
        }
        let has = |speaks: Speaks| listeners.iter().any(|served| served.speaks == speaks);
        let (inbound, outbound) = (has(Speaks::Inbound), has(Speaks::Outbound));
        let unheard: Vec<_> = self
            .insecure(gateway)
            .into_iter()
            .flat_map(|(document, said)| {
                let plain = !said.plain_ports.is_empty() && !inbound;
                let unknown = said.unknown_destinations && !outbound;
                let told = [("plainPorts", plain, "Inbound"), ("unknownDestinations", unknown, "Outbound")];
                told.into_iter()
                    .filter(|(_, told, _)| *told)
                    .map(move |(field, _, kind)| (document, field, kind))
            })
            .map(|(document, field, kind)| {
                let message = format!(
                    "the Gateway `{}` has no listener with protocol foregate.dev/{kind}",
                    gateway.name
                );
                Diagnostic::at(document, &spec().key("insecure").key(field), codes::CAPTURE, message)
            })
            .collect();
        self.faults.extend(unheard);
    }

    /// Warnings of what is open on purpose.
    pub fn weak_capture(&mut self) {
        let mut warnings = Vec::new();
        for typed in &self.documents.policies {
            let Some(insecure) = typed.spec.insecure.as_ref().filter(|_| typed.spec.mode == Mode::Enforce)
            else {
                continue;
            };
            let at = spec().key("insecure");
            if !insecure.plain_ports.is_empty() {
                let ports =
                    insecure.plain_ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let message =
                    format!("whoever reaches this workload may speak plain, as nobody, to its port {ports}");
                let at = at.key("plainPorts");
                warnings.push(Diagnostic::at(typed.document, &at, codes::PLAIN_PORTS, message).warning());
            }
            if insecure.unknown_destinations {
                let message = "the application reaches every address that no upstream has, past all policies";
                let at = at.key("unknownDestinations");
                warnings.push(
                    Diagnostic::at(typed.document, &at, codes::UNKNOWN_DESTINATIONS, message).warning(),
                );
            }
        }
        self.warnings.append(&mut warnings);
    }

    /// Tells where an upstream claims an address that another namespace has: what is meant for that one would be sent to
    /// this one. Services have theirs from the cluster, so that theirs is the better right; else it is the first by name.
    pub fn addresses_taken(&mut self) {
        let claims = |typed: &Typed<'_, upstream::Spec>| {
            let (name, stands_for_service) =
                (typed.document.name.clone(), typed.document.name.name.starts_with(RESERVED));
            (!stands_for_service, name)
        };
        let mut all: Vec<_> = self
            .documents
            .upstreams
            .iter()
            .filter(|typed| !typed.spec.virtual_addresses.is_empty())
            .collect();
        all.sort_by_key(|typed| claims(typed));
        let mut owners: AHashMap<SocketAddr, &ObjectName> = AHashMap::new();
        let mut faults = Vec::new();
        for typed in all {
            let name = &typed.document.name;
            for (index, text) in typed.spec.virtual_addresses.iter().enumerate() {
                let Ok(address) = text.parse::<SocketAddr>() else { continue };
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let owner = *owners.entry(address).or_insert(name);
                if owner.namespace != name.namespace && !name.name.starts_with(RESERVED) {
                    let message = format!(
                        "{address} belongs to `{}` of the namespace `{}`",
                        owner.name, owner.namespace
                    );
                    let help = "remove it: routes of this namespace may lead to that one, where it grants it";
                    let at = spec().key("virtualAddresses").index(index);
                    faults
                        .push(Diagnostic::at(typed.document, &at, codes::ADDRESS_TAKEN, message).help(help));
                }
            }
        }
        self.faults.append(&mut faults);
    }

    /// Warns of redirected connections to a workload that routes of requests and of connections take alike.
    pub fn looked_at(&mut self, gateways: &Gateways<'_>, requests: &RouteTable, connections: &StreamTable) {
        for gateway in &gateways.0 {
            for (index, served) in gateway.listeners.iter().enumerate() {
                let (Speaks::Inbound, Some(capture)) = (&served.speaks, &served.capture) else { continue };
                let both = |meant: Option<u16>| {
                    let door = Door { port: served.port, meant };
                    let requests = requests.takes(door, true).max(requests.takes(door, false));
                    let opaque = meant.is_some_and(|port| capture.opaque.contains(&port));
                    !opaque && requests != Takes::Nothing && requests == connections.takes(door)
                };
                let mut ports: Vec<Option<u16>> =
                    connections.meant(served.port).filter(|it| both(*it)).collect();
                ports.sort_unstable();
                let Some(first) = ports.first() else { continue };
                let which = if first.is_none() {
                    "any port".to_owned()
                } else {
                    let ports: Vec<String> = ports.iter().flatten().map(ToString::to_string).collect();
                    format!("port {}", ports.join(", "))
                };
                let message = format!(
                    "an HTTPRoute and a TCPRoute take connections to {which}: the client's first bytes choose whose rules hold"
                );
                let help = "name ports in the parentRefs, or list them in detect.opaquePorts";
                let at = spec().key("listeners").index(index);
                let warning = Diagnostic::at(gateway.document, &at, codes::LOOKED_AT, message);
                self.warnings.push(warning.help(help).warning());
            }
        }
    }

    /// Tells where a route leads to an upstream that is where connections meant to go, and has none that were
    /// redirected, or does not say which ports of loopback may be reached.
    pub fn leads_where_meant(
        &mut self,
        route: &Document,
        upstream: usize,
        spots: &[(&Served, Spot)],
        at: &Path,
    ) {
        let Some(typed) = self.documents.upstreams.get(upstream) else { return };
        let (Some(captured), name) = (typed.spec.captured, &typed.document.name) else { return };
        let open = spots.iter().any(|(served, spot)| spot.meant.is_none() && served.speaks.is_captured());
        let (message, help) = if spots.iter().any(|(served, _)| !served.speaks.is_captured()) {
            (
                format!(
                    "the upstream `{name}` is where redirected connections meant to go, and the route has others"
                ),
                "attach the route to listeners with protocol foregate.dev/Inbound or foregate.dev/Outbound alone",
            )
        } else if captured == upstream::Captured::Loopback && open {
            (
                format!("every port of loopback would be reached by the upstream `{name}`"),
                "name the port in the parentRefs of the route, or write captured: Address",
            )
        } else {
            return;
        };
        self.fault(Diagnostic::at(route, at, codes::CAPTURED_UPSTREAM, message).help(help));
    }
}

/// What an upstream says of redirected connections: other addresses of it, and whether it is where they meant to go.
pub fn upstream(
    document: &Document,
    said: &upstream::Spec,
    faults: &mut Vec<Diagnostic>,
) -> (Box<[SocketAddr]>, Option<Captured>) {
    let mut addresses = Vec::new();
    for (index, text) in said.virtual_addresses.iter().enumerate() {
        if let Some(address) = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0) {
            addresses.push(SocketAddr::new(address.ip().to_canonical(), address.port()));
        } else {
            let message = format!("`{text}` is no address with a port");
            let help = "write it like 10.96.0.10:80 or [fd00::10]:80";
            let at = spec().key("virtualAddresses").index(index);
            faults.push(Diagnostic::at(document, &at, Code::VALUE, message).help(help));
        }
    }
    if said.captured.is_some() {
        for (field, _) in [
            ("endpoints", !said.endpoints.is_empty()),
            ("endpointsFile", said.endpoints_file.is_some()),
            ("virtualAddresses", !said.virtual_addresses.is_empty()),
            ("dns", said.dns.is_some()),
            ("loadBalancing", said.load_balancing.is_some()),
            ("sessionPersistence", said.session_persistence.is_some()),
            ("healthCheck", said.health_check.is_some()),
            ("outlierDetection", said.outlier_detection.is_some()),
            ("circuitBreaker", said.circuit_breaker.is_some()),
        ]
        .into_iter()
        .filter(|(_, said)| *said)
        {
            let message =
                format!("an upstream that is where connections meant to go has no use for `{field}`");
            let help = format!("remove `{field}`, or `captured`");
            let at = spec().key(field);
            faults.push(Diagnostic::at(document, &at, codes::CAPTURED_UPSTREAM, message).help(help));
        }
    }
    (addresses.into(), said.captured.map(Captured::from))
}

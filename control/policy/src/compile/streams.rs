//! `TCPRoute` and `TLSRoute`: attached to listeners, with chain and backends.

use std::sync::Arc;

use ahash::AHashSet;
use foregate_filters::chain::Chain;
use foregate_filters::fault::Path;
use foregate_filters::spec::OfRoute;

use crate::codes;
use crate::compile::backends::Backend;
use crate::compile::capture::Spot;
use crate::compile::filters::Lent;
use crate::compile::gateways::{Gateways, Served};
use crate::compile::policies::{Applied, Policies, Prepared};
use crate::compile::typed::spec;
use crate::compile::{Compilation, fingerprint};
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind, ObjectName};
use crate::documents::http_route::ParentRef;
use crate::documents::policy::TargetKind;
use crate::documents::stream_route::Rule;
use crate::routes::Door;
use crate::routes::destinations::{Destinations, Known};
use crate::routes::hosts::intersect;
use crate::routes::streams::{StreamBackend, StreamRoute, StreamTable};
use crate::snapshot::{Protocol, Speaks};

/// The table, and what the lints ask about it.
#[derive(Debug, Default)]
pub struct Streams<'p> {
    pub table: StreamTable,
    pub destinations: Destinations,
    pub used_upstreams: AHashSet<ObjectName>,
    pub used_gateways: AHashSet<ObjectName>,
    /// Names of policies whose filters were built here.
    pub checked: AHashSet<&'p str>,
    /// Policies and sections that were told to be unfit already.
    told: AHashSet<(String, &'static str)>,
}

/// What either kind of route says.
struct Said<'a> {
    document: &'a Document,
    parents: Vec<ParentRef>,
    /// `None` alone for a `TCPRoute`.
    hosts: Vec<Option<String>>,
    rules: Vec<Rule>,
}

/// What a policy asks of requests, which a connection has none of.
const OF_REQUESTS: [&str; 11] = [
    "jwt",
    "introspection",
    "apiKey",
    "fairness",
    "orgQuota",
    "enrich",
    "choose",
    "inject",
    "idempotency",
    "body",
    "validate",
];

impl<'a> Compilation<'a> {
    pub fn streams<'p>(
        &mut self,
        gateways: &Gateways<'_>,
        policies: &'p Policies<'a>,
        lent: &Lent<'_>,
    ) -> Streams<'p> {
        let mut streams = Streams::default();
        for served in gateways.0.iter().flat_map(|gateway| &gateway.listeners) {
            if served.speaks != Speaks::Http || gateways.is_beside(served, false) {
                streams.table.listener(served.port, served.hostname.as_deref());
            }
        }
        let tcp = std::mem::take(&mut self.documents.tcp_routes).into_iter().map(|typed| Said {
            document: typed.document,
            parents: typed.spec.parent_refs,
            hosts: vec![None],
            rules: typed.spec.rules,
        });
        let tls = std::mem::take(&mut self.documents.tls_routes).into_iter().map(|typed| Said {
            document: typed.document,
            parents: typed.spec.parent_refs,
            hosts: typed.spec.hostnames.into_iter().map(Some).collect(),
            rules: typed.spec.rules,
        });
        for said in tcp.chain(tls).collect::<Vec<_>>() {
            self.stream(&said, gateways, policies, lent, &mut streams);
        }
        streams
    }

    fn stream<'p>(
        &mut self,
        said: &Said<'a>,
        gateways: &Gateways<'_>,
        policies: &'p Policies<'a>,
        lent: &Lent<'_>,
        streams: &mut Streams<'p>,
    ) {
        let Some(rule) = said.rules.first() else { return };
        let backends = self.stream_backends(said.document, rule, &mut streams.used_upstreams);
        let kind = said.document.kind;
        let target = if kind == Kind::TcpRoute { TargetKind::TCPRoute } else { TargetKind::TLSRoute };
        let mut attached = false;
        for (index, parent) in said.parents.iter().enumerate() {
            let at = spec().key("parentRefs").index(index);
            let Some((gateway, spots)) = self.parent(said.document, parent, gateways, &at) else {
                attached = true;
                continue;
            };
            let Some(gateway) = gateways.0.get(gateway) else { continue };
            let spots = spots.into_iter();
            let spots: Vec<(&Served, Spot)> =
                spots.filter_map(|spot| Some((gateway.listeners.get(spot.listener)?, spot))).collect();
            for (place, backend) in backends.iter().enumerate() {
                let at = spec().key("rules").index(0).key("backendRefs").index(place).key("name");
                self.leads_where_meant(said.document, backend.upstream, &spots, &at);
            }
            let applied = policies.of(&gateway.document.name, target, &said.document.name);
            streams.checked.extend(applied.policies.iter().map(|policy| policy.name.as_str()));
            let chain = self.chain(&applied.policies, Some(said.document), &OfRoute::default(), lent);
            self.unfit(said.document, &applied, chain.as_ref(), streams);
            let Some(chain) = chain else { continue };
            let route =
                self.stream_route(said, rule, &backends, (chain, &applied), &gateway.document.name, lent);
            let route = streams.table.add(route);
            for (served, spot) in spots {
                let listener = served.hostname.as_deref();
                for host in said.hosts.iter().map(Option::as_deref) {
                    if !intersect(listener, host) {
                        continue;
                    }
                    attached = true;
                    streams.used_gateways.insert(gateway.document.name.clone());
                    let taken = streams.attach((served, spot), host, (route, &backends));
                    let Some(taken) = taken else { continue };
                    let what = host.map_or_else(String::new, |host| format!(" for `{host}`"));
                    let message = format!(
                        "the connections{what} of the listener `{}` go to the route `{}` already",
                        served.name, taken.name
                    );
                    let help = if served.speaks.is_captured() {
                        "let one route lead to several backendRefs, or name other ports in the parentRefs"
                    } else {
                        "let one route lead to several backendRefs, or attach it to another listener"
                    };
                    let fault = Diagnostic::at(said.document, &at, codes::STREAM_TAKEN, message).help(help);
                    self.fault(fault);
                }
            }
        }
        if !attached {
            let message = "the route serves nothing: no listener has a host name in common with it";
            let at = spec().key("hostnames");
            self.warnings.push(Diagnostic::at(said.document, &at, codes::ROUTE_DETACHED, message).warning());
        }
    }

    fn stream_route(
        &self,
        said: &Said<'_>,
        rule: &Rule,
        backends: &[StreamBackend],
        (chain, applied): (Chain, &Applied<'_, '_>),
        gateway: &ObjectName,
        lent: &Lent<'_>,
    ) -> StreamRoute {
        let at = spec().key("rules").index(0);
        let upstreams: Vec<usize> = backends.iter().map(|backend| backend.upstream).collect();
        let description = self.describe(&chain, &applied.policies, (said.document, &at), &upstreams);
        let consumers = lent.consumers_fingerprint();
        let place = (&said.document.name, fingerprint::of(&(&said.parents, &said.hosts)));
        StreamRoute {
            name: match &rule.name {
                Some(name) => format!("{}/{name}", said.document.name).into(),
                None => format!("{}/0", said.document.name).into(),
            },
            fingerprint: fingerprint::of_route(gateway, place, rule, &applied.policies, consumers),
            chain,
            backends: backends.to_vec(),
            // At most 16 weights of at most 1,000,000.
            total_weight: backends.iter().map(|backend| backend.weight).sum(),
            description,
        }
    }

    fn stream_backends(
        &mut self,
        document: &Document,
        rule: &Rule,
        used: &mut AHashSet<ObjectName>,
    ) -> Vec<StreamBackend> {
        let list = spec().key("rules").index(0).key("backendRefs");
        let mut backends = Vec::new();
        for (index, backend) in rule.backend_refs.iter().enumerate() {
            let at = list.index(index);
            let (name, upstream) = self.upstream_of(document, &Backend::from(backend), &at);
            used.insert(name);
            if let Some(upstream) = upstream {
                self.speaks(document, upstream, true, &at.key("name"));
                backends.push(StreamBackend { upstream, weight: backend.weight.unwrap_or(1) });
            }
        }
        if rule.backend_refs.iter().all(|backend| backend.weight == Some(0)) {
            let at = list.index(0).key("weight");
            let message = "the route leads nowhere: every weight is 0";
            self.fault(Diagnostic::at(document, &at, codes::NO_BACKEND, message));
        }
        backends
    }

    /// Tells of an upstream that speaks something else than its route.
    pub fn speaks(&mut self, document: &Document, upstream: usize, stream: bool, at: &Path) {
        let Some(upstream) = self.documents.upstreams.get(upstream) else { return };
        let tcp = Protocol::from(upstream.spec.protocol) == Protocol::Tcp;
        if tcp == stream || self.is_partial(upstream.document) {
            return;
        }
        let name = &upstream.document.name;
        let (message, help) = if stream {
            (
                format!("the upstream `{name}` speaks HTTP, and the route passes connections on unread"),
                "write protocol: Tcp in an Upstream for this route",
            )
        } else {
            (
                format!("the upstream `{name}` has protocol Tcp, and the route sends requests"),
                "write protocol: Http1 or Http2 in an Upstream for this route",
            )
        };
        self.fault(Diagnostic::at(document, at, codes::UPSTREAM_PROTOCOL, message).help(help));
    }

    /// Tells what policies ask of connections that only requests have.
    fn unfit(
        &mut self,
        route: &Document,
        applied: &Applied<'_, '_>,
        chain: Option<&Chain>,
        streams: &mut Streams<'_>,
    ) {
        let word = route.kind.word();
        for policy in &applied.policies {
            for section in OF_REQUESTS.into_iter().filter(|section| asks(policy, section)) {
                if streams.told.insert((policy.name.clone(), section)) {
                    let message =
                        format!("`{section}` asks for requests, and the {word} `{}` has none", route.name);
                    let help = "target the HTTPRoutes instead; connections are admitted by addresses, peers and authorize";
                    let at = spec().key(section);
                    let fault = Diagnostic::at(policy.document, &at, codes::OF_REQUESTS, message).help(help);
                    self.fault(fault);
                }
            }
        }
        let host = route.kind == Kind::TlsRoute;
        for link in chain.into_iter().flat_map(Chain::links) {
            let Some(policy) = applied.policies.get(link.policy) else { continue };
            for rule in link.filter.rules() {
                let known = |field: &str| field == "time" || (host && field == "host");
                let input = rule.reads.iter().find(|input| *input.root == *"request" && !known(&input.field));
                let Some(input) = input else { continue };
                if !streams.told.insert((format!("{} {}", policy.name, rule.at), link.section)) {
                    continue;
                }
                let message = format!("`{input}` is read, and the {word} `{}` has no requests", route.name);
                let help = if host {
                    "of a TLSRoute, rules read source, destination, peer, request.host (the name asked for) and request.time"
                } else {
                    "of a TCPRoute, rules read source, destination, peer and request.time"
                };
                let mut at = spec();
                at.0.extend(rule.at.0.iter().cloned());
                self.fault(Diagnostic::at(policy.document, &at, codes::OF_REQUESTS, message).help(help));
            }
        }
    }
}

impl Streams<'_> {
    /// Lets the connections of a listener take a route; gives the route that has some of them already.
    fn attach(
        &mut self,
        (served, spot): (&Served, Spot),
        host: Option<&str>,
        (route, backends): (usize, &[StreamBackend]),
    ) -> Option<Arc<StreamRoute>> {
        if served.speaks == Speaks::Outbound {
            let add = |backend: &StreamBackend| {
                let known = Known { upstream: backend.upstream, port: spot.meant, stream: Some(route) };
                self.destinations.add(served.port, known)
            };
            let taken = backends.iter().find_map(add);
            return taken.and_then(|taken| self.table.all().get(taken).cloned());
        }
        // A route for every port leaves those to others that they name.
        let door = Door { port: served.port, meant: spot.meant };
        self.table.attach(door, served.hostname.as_deref(), host, route).cloned()
    }
}

fn asks(policy: &Prepared<'_>, section: &str) -> bool {
    let said = &policy.spec;
    match section {
        "jwt" => !said.jwt.is_empty(),
        "introspection" => !said.introspection.is_empty(),
        "apiKey" => said.api_key.is_some(),
        "fairness" => said.fairness.is_some(),
        "enrich" => !said.enrich.is_empty(),
        "orgQuota" => said.org_quota.is_some(),
        "idempotency" => said.idempotency.is_some(),
        "choose" => !said.choose.is_empty(),
        "inject" => !said.inject.is_empty(),
        "body" => said.body.is_some(),
        "validate" => said.validate.is_some(),
        _ => false,
    }
}

/// True where a route of this kind may attach to a listener that speaks this.
pub const fn carries(kind: Kind, speaks: Speaks) -> bool {
    match kind {
        Kind::TcpRoute => {
            matches!(speaks, Speaks::Tcp | Speaks::Detected(_) | Speaks::Inbound | Speaks::Outbound)
        }
        Kind::TlsRoute => matches!(speaks, Speaks::Tls | Speaks::Passthrough),
        _ => {
            matches!(speaks, Speaks::Http | Speaks::Detected(_) | Speaks::Inbound | Speaks::Outbound)
        }
    }
}

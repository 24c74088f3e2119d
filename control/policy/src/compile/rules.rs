//! Rules of routes: attached to listeners, with matches, chain and action.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};

use crate::balancing::Session;
use crate::codes;
use crate::compile::attach::Attachment;
use crate::compile::backends::Backend;
use crate::compile::calls::{Calls, calls, lowered};
use crate::compile::capture::{Spot, doors};
use crate::compile::filters::Lent;
use crate::compile::gateways::{Gateway, Gateways, Served};
use crate::compile::hosts::Claim;
use crate::compile::matches::matches;
use crate::compile::modifiers::{Modifiers, modifiers};
use crate::compile::policies::Policies;
use crate::compile::streams::carries;
use crate::compile::typed::{Typed, spec};
use crate::compile::{Compilation, fingerprint};
use crate::description::Description;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind, ObjectName};
use crate::documents::grpc_route::Match;
use crate::documents::http_route::{self, Rule};
use crate::documents::policy::TargetKind;
use crate::documents::upstream;
use crate::route::{Action, Forward, Mirror, Retry, Route, Share, Timeouts, WeightedBackend};
use crate::routes::destinations::{Destinations, Known};
use crate::routes::hosts::intersect;
use crate::routes::matcher::{Conditions, PathMatcher};
use crate::routes::paths::{Candidate, Order, Shadow};
use crate::routes::{Door, Place, RouteTable, TableBuilder};
use crate::snapshot::Speaks;
use foregate_filters::fault::{Code, Path};
use foregate_filters::spec::OfRoute;

/// The table, and what the lints ask about it.
#[derive(Debug, Default)]
pub struct Routes {
    pub table: RouteTable,
    /// Names of upstreams that some route leads to.
    pub used_upstreams: AHashSet<ObjectName>,
    /// Gateways that some route attaches to.
    pub used_gateways: AHashSet<ObjectName>,
    /// Matches that no request reaches, with those that take their requests.
    pub shadows: Vec<(Order, Shadow)>,
}

/// What a rule says, without the filters of its policies.
struct Compiled {
    name: String,
    matches: Vec<(PathMatcher, Conditions)>,
    modifiers: Modifiers,
    backends: Vec<(usize, u32, Modifiers)>,
    /// Upstreams that get copies, and of how many requests.
    mirrors: Vec<(usize, Share)>,
    timeouts: Timeouts,
    retry: Option<Retry>,
    session: Option<Session>,
}

impl Compilation<'_> {
    /// `checked` are the policies whose filters were built already; what routes of outbound listeners lead to is
    /// added to the destinations.
    pub fn routes<'p>(
        &mut self,
        gateways: &Gateways<'_>,
        policies: &'p Policies<'_>,
        lent: &Lent<'_>,
        (mut checked, destinations): (AHashSet<&'p str>, &mut Destinations),
    ) -> Routes {
        let mut routes = Routes::default();
        let mut builder = known_listeners(gateways);
        let mut claims: Vec<Claim<'_>> = Vec::new();
        let http = std::mem::take(&mut self.documents.routes).into_iter().map(|typed| (typed, Vec::new()));
        let grpc = std::mem::take(&mut self.documents.grpc_routes);
        let all: Vec<_> = http
            .chain(grpc.iter().map(lowered))
            .map(|(typed, calls)| {
                let attachments = self.attach(&typed, gateways);
                (typed, calls, attachments)
            })
            .collect();
        let named = Named::of(all.iter().flat_map(|(_, _, attachments)| attachments));
        for (typed, calls, attachments) in all {
            let rules = self.rules(&typed, &calls, &mut routes.used_upstreams);
            claims.extend(Claim::all(&typed, &attachments));
            for attachment in attachments {
                let Some(gateway) = gateways.0.get(attachment.gateway) else { continue };
                routes.used_gateways.insert(gateway.document.name.clone());
                let grpc = typed.document.kind == Kind::GrpcRoute;
                let kind = if grpc { TargetKind::GRPCRoute } else { TargetKind::HTTPRoute };
                let applied = policies.of(&gateway.document.name, kind, &typed.document.name);
                checked.extend(applied.policies.iter().map(|policy| policy.name.as_str()));
                let spots: Vec<(&Served, Spot)> = spots(gateway, &attachment.spots);
                for (index, rule) in rules.iter().enumerate() {
                    if let Some(rule) = rule {
                        self.captured_backends(typed.document, rule, index, &spots);
                        rule.known(&spots, destinations);
                    }
                    let said = typed.spec.rules.get(index);
                    let backends = said.iter().flat_map(|said| &said.backend_refs);
                    let backends: Vec<&str> = backends.map(|backend| backend.name.as_str()).collect();
                    let of_route = rule.as_ref().map(|rule| rule.of_route(&backends)).unwrap_or_default();
                    let chain = self.chain(&applied.policies, Some(typed.document), &of_route, lent);
                    let (Some(rule), Some(chain)) = (rule, chain) else { continue };
                    let id = builder.next();
                    let at = spec().key("rules").index(index);
                    let upstreams: Vec<usize> = rule.backends.iter().map(|backend| backend.0).collect();
                    let place = (typed.document, &at);
                    let description = self.describe(&chain, &applied.policies, place, &upstreams);
                    let fingerprint = said.map(|said| {
                        let consumers = lent.consumers_fingerprint();
                        let spec = &typed.spec;
                        let at =
                            (&typed.document.name, fingerprint::of(&(&spec.parent_refs, &spec.hostnames)));
                        let said = (said, calls.get(index));
                        fingerprint::of_route(&gateway.document.name, at, &said, &applied.policies, consumers)
                    });
                    builder.route(rule.route(
                        id,
                        chain,
                        applied.body_limit(),
                        fingerprint.unwrap_or_default(),
                        description,
                    ));
                    rule.place(&mut builder, (id, index), &typed, gateways, (&attachment, &named));
                }
            }
        }
        self.exclusive(&claims, gateways);
        self.unreached(&claims, gateways);
        for policy in policies.0.iter().filter(|policy| !checked.contains(policy.name.as_str())) {
            self.chain(&[policy], None, &OfRoute::default(), lent);
        }
        (routes.table, routes.shadows) = builder.build();
        routes
    }

    /// Tells of backends that are where redirected connections meant to go, where the route has others.
    fn captured_backends(
        &mut self,
        document: &Document,
        rule: &Compiled,
        index: usize,
        spots: &[(&Served, Spot)],
    ) {
        let at = spec().key("rules").index(index);
        for (place, (upstream, ..)) in rule.backends.iter().enumerate() {
            let at = at.key("backendRefs").index(place).key("name");
            self.leads_where_meant(document, *upstream, spots, &at);
        }
        for (upstream, _) in &rule.mirrors {
            let captured = |typed: &Typed<'_, upstream::Spec>| typed.spec.captured.is_some();
            if self.documents.upstreams.get(*upstream).is_some_and(captured) {
                let message = "copies have nowhere that they meant to go";
                let help = "mirror to an upstream with endpoints";
                let fault = Diagnostic::at(document, &at.key("filters"), codes::CAPTURED_UPSTREAM, message);
                self.fault(fault.help(help));
            }
        }
    }

    fn rules(
        &mut self,
        typed: &Typed<'_, http_route::Spec>,
        calls: &[Calls],
        used: &mut AHashSet<ObjectName>,
    ) -> Vec<Option<Compiled>> {
        let list = spec().key("rules");
        let mut names: Vec<&str> = Vec::new();
        let rules = typed.spec.rules.iter().enumerate();
        rules
            .map(|(index, rule)| {
                let at = list.index(index);
                if let Some(name) = rule.name.as_deref() {
                    if names.contains(&name) {
                        let message = format!("a second rule named `{name}`");
                        let at = at.key("name");
                        self.fault(Diagnostic::at(typed.document, &at, codes::DUPLICATE_NAME, message));
                    }
                    names.push(name);
                }
                let before = self.faults.len();
                let calls = calls.get(index).and_then(Option::as_deref);
                let compiled = self.rule(typed.document, (rule, calls), index, &at, used);
                (self.faults.len() == before).then_some(compiled)
            })
            .collect()
    }

    fn rule(
        &mut self,
        document: &Document,
        (rule, calls): (&Rule, Option<&[Match]>),
        index: usize,
        at: &Path,
        used: &mut AHashSet<ObjectName>,
    ) -> Compiled {
        let at_matches = at.key("matches");
        let (mut matches, mut wrong) = match calls {
            Some(calls) => self::calls(calls, &at_matches),
            None => matches(&rule.matches, &at_matches),
        };
        let prefix = match matches.as_slice() {
            [(PathMatcher::Prefix(prefix), _)] => Some(&**prefix),
            _ => None,
        };
        let (modifiers, faults) = modifiers(&rule.filters, prefix, &at.key("filters"), false);
        wrong.extend(faults);
        let mut backends = Vec::new();
        for (index, backend) in rule.backend_refs.iter().enumerate() {
            let at = at.key("backendRefs").index(index);
            let (name, upstream) = self.upstream_of(document, &Backend::from(backend), &at);
            used.insert(name);
            let (edits, faults) = self::modifiers(&backend.filters, None, &at.key("filters"), true);
            wrong.extend(faults);
            if let Some(upstream) = upstream {
                self.speaks(document, upstream, false, &at.key("name"));
                if calls.is_some() {
                    self.speaks_grpc(document, upstream, &at.key("name"));
                }
                backends.push((upstream, backend.weight.unwrap_or(1), edits));
            }
        }
        if modifiers.cors.is_some() {
            for (_, conditions) in &mut matches {
                conditions.preflight = conditions.method.is_some();
            }
        }
        self.any_origin(document, &modifiers);
        let mirrors = self.mirrors(document, &modifiers, calls.is_some(), used);
        let request = rule.timeouts.as_ref().and_then(|timeouts| timeouts.request).map(|span| span.0);
        let backend_request =
            rule.timeouts.as_ref().and_then(|timeouts| timeouts.backend_request).map(|span| span.0);
        self.faults.extend(wrong.into_iter().map(|fault| Diagnostic::from_fault(document, fault)));
        if let (Some(request), Some(backend)) = (request, backend_request)
            && !request.is_zero()
            && backend > request
        {
            let message = "backendRequest is longer than request";
            let at = at.key("timeouts").key("backendRequest");
            self.fault(Diagnostic::at(document, &at, Code::CONFLICT, message));
        }
        self.destination(document, rule, &modifiers, at);
        Compiled {
            name: match &rule.name {
                Some(name) => format!("{}/{name}", document.name),
                None => format!("{}/{index}", document.name),
            },
            matches,
            modifiers,
            backends,
            mirrors,
            timeouts: Timeouts { request, backend_request },
            retry: self.retry(document, rule, at),
            session: self.session(document, rule.session_persistence.as_ref(), at),
        }
    }

    /// Where copies of requests go.
    fn mirrors(
        &mut self,
        document: &Document,
        modifiers: &Modifiers,
        grpc: bool,
        used: &mut AHashSet<ObjectName>,
    ) -> Vec<(usize, Share)> {
        let mut mirrors = Vec::new();
        for mirror in &modifiers.mirrors {
            let (name, upstream) = self.upstream_of(document, &mirror.backend, &mirror.at);
            used.insert(name);
            if let Some(upstream) = upstream {
                if grpc {
                    self.speaks_grpc(document, upstream, &mirror.at.key("name"));
                }
                mirrors.push((upstream, mirror.share));
            }
        }
        mirrors
    }

    /// A rule forwards to something, or redirects: one of the two.
    fn destination(&mut self, document: &Document, rule: &Rule, modifiers: &Modifiers, at: &Path) {
        let redirects = modifiers.redirect.is_some();
        let weights = rule.backend_refs.iter().map(|backend| backend.weight.unwrap_or(1));
        let (message, at) = if redirects && !rule.backend_refs.is_empty() {
            ("a rule that redirects cannot forward as well", at.key("backendRefs"))
        } else if redirects {
            return;
        } else if rule.backend_refs.is_empty() {
            ("the rule leads nowhere: it has no backendRefs and does not redirect", at.clone())
        } else if weights.into_iter().all(|weight| weight == 0) {
            ("the rule leads nowhere: every weight is 0", at.key("backendRefs").index(0).key("weight"))
        } else {
            return;
        };
        self.fault(Diagnostic::at(document, &at, codes::NO_BACKEND, message));
    }
}

impl Compiled {
    /// What the rule adds to its policies.
    fn of_route<'a>(&'a self, backends: &'a [&'a str]) -> OfRoute<'a> {
        let cors = self.modifiers.cors.as_ref();
        let at = cors.map(|(_, at)| at.clone()).unwrap_or_default();
        OfRoute {
            cors: cors.map(|(cors, _)| cors),
            at,
            backends,
            request: self.timeouts.request.or(self.timeouts.backend_request),
        }
    }

    fn route(
        &self,
        id: usize,
        chain: foregate_filters::chain::Chain,
        body_limit: usize,
        fingerprint: u64,
        description: Arc<Description>,
    ) -> Route {
        let action = match &self.modifiers.redirect {
            Some(redirect) => Action::Redirect(redirect.clone()),
            None => Action::Forward(Forward {
                backends: self
                    .backends
                    .iter()
                    .map(|(upstream, weight, edits)| WeightedBackend {
                        upstream: *upstream,
                        weight: *weight,
                        request_headers: edits.request_headers.clone(),
                        response_headers: edits.response_headers.clone(),
                    })
                    .collect(),
                // At most 16 weights of at most 1,000,000.
                total_weight: self.backends.iter().map(|(_, weight, _)| weight).sum(),
                rewrite: self.modifiers.rewrite.clone(),
                mirrors: self.mirrors.iter().map(|(upstream, share)| mirror(*upstream, *share)).collect(),
            }),
        };
        Route {
            id,
            name: self.name.as_str().into(),
            fingerprint,
            chain,
            body_limit,
            action,
            request_headers: self.modifiers.request_headers.clone(),
            response_headers: self.modifiers.response_headers.clone(),
            timeouts: self.timeouts,
            retry: self.retry.clone(),
            session: self.session.clone().map(Box::new),
            description,
        }
    }

    /// Makes known where redirected connections of an application may go by this rule.
    fn known(&self, spots: &[(&Served, Spot)], destinations: &mut Destinations) {
        for (served, spot) in spots.iter().filter(|(served, _)| served.speaks == Speaks::Outbound) {
            for (upstream, ..) in &self.backends {
                destinations.add(served.port, Known { upstream: *upstream, port: spot.meant, stream: None });
            }
        }
    }

    /// Puts every match below every host name of every listener that the route is attached to.
    fn place(
        &self,
        builder: &mut TableBuilder,
        (route, rule): (usize, usize),
        typed: &Typed<'_, http_route::Spec>,
        gateways: &Gateways<'_>,
        (attachment, ports): (&Attachment, &Named),
    ) {
        let name = &typed.document.name;
        let order_name: std::sync::Arc<str> = format!("{}/{}", name.namespace, name.name).into();
        let created: std::sync::Arc<str> = typed.document.created().into();
        let hosts: Vec<Option<&str>> = match typed.spec.hostnames.as_slice() {
            [] => vec![None],
            names => names.iter().map(|name| Some(name.as_str())).collect(),
        };
        let Some(gateway) = gateways.0.get(attachment.gateway) else { return };
        for (served, spot) in spots(gateway, &attachment.spots) {
            let listener = served.hostname.as_deref();
            let hosts = hosts.iter().filter(|host| intersect(listener, **host));
            let doors = doors(spot, ports.at(attachment.gateway));
            for (host, meant) in hosts.flat_map(|host| doors.iter().map(move |meant| (host, *meant))) {
                let door = Door { port: served.port, meant };
                let place = Place { door, tls: served.tls.is_some(), listener, host: *host };
                for (index, (path, conditions)) in self.matches.iter().enumerate() {
                    let grpc = typed.document.kind == Kind::GrpcRoute;
                    let (created, route_name) = (created.clone(), order_name.clone());
                    let order = Order { created, route: route_name, rule, index, grpc };
                    let candidate = Candidate { conditions: conditions.clone(), order, route };
                    builder.insert(place, path.clone(), candidate);
                }
            }
        }
    }
}

/// A table that knows the listeners whose requests are read, and those beside them.
fn known_listeners(gateways: &Gateways<'_>) -> TableBuilder {
    let mut builder = TableBuilder::default();
    for served in gateways.0.iter().flat_map(|gateway| &gateway.listeners) {
        if carries(Kind::HttpRoute, served.speaks) || gateways.is_beside(served, true) {
            builder.listener(served.port, served.begins_with_tls(), served.hostname.as_deref());
        }
    }
    builder
}

/// The spots of a gateway, with their listeners.
fn spots<'g>(gateway: &'g Gateway<'_>, spots: &[Spot]) -> Vec<(&'g Served, Spot)> {
    spots.iter().filter_map(|spot| Some((gateway.listeners.get(spot.listener)?, *spot))).collect()
}

/// The ports that routes name of redirected connections, by gateway.
struct Named(AHashMap<usize, Vec<Spot>>);

impl Named {
    fn of<'a>(attachments: impl Iterator<Item = &'a Attachment>) -> Self {
        let mut named: AHashMap<usize, Vec<Spot>> = AHashMap::new();
        for attachment in attachments {
            let spots = attachment.spots.iter().copied().filter(|spot| spot.meant.is_some());
            named.entry(attachment.gateway).or_default().extend(spots);
        }
        Self(named)
    }

    fn at(&self, gateway: usize) -> &[Spot] {
        self.0.get(&gateway).map(Vec::as_slice).unwrap_or_default()
    }
}

fn mirror(upstream: usize, share: Share) -> Mirror {
    let backend =
        WeightedBackend { upstream, weight: 0, request_headers: Vec::new(), response_headers: Vec::new() };
    Mirror { backend, share }
}

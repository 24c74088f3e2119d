//! Who serves which host name: names for two kinds of routes, names that never arrive.

use crate::codes;
use crate::compile::Compilation;
use crate::compile::attach::Attachment;
use crate::compile::capture::Spot;
use crate::compile::gateways::{Gateway, Gateways, Served};
use crate::compile::typed::{Typed, spec};
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind};
use crate::documents::http_route;
use crate::routes::hosts::intersect;

/// The names that a route of either kind serves on a listener.
#[derive(Debug)]
pub struct Claim<'a> {
    document: &'a Document,
    gateway: usize,
    spot: Spot,
    hostnames: Vec<String>,
}

impl<'a> Claim<'a> {
    /// What a route serves at the places where it is attached.
    pub fn all(typed: &Typed<'a, http_route::Spec>, attachments: &[Attachment]) -> Vec<Self> {
        let places = attachments
            .iter()
            .flat_map(|attachment| attachment.spots.iter().map(move |spot| (attachment.gateway, *spot)));
        let claim = |(gateway, spot)| Self {
            document: typed.document,
            gateway,
            spot,
            hostnames: typed.spec.hostnames.clone(),
        };
        places.map(claim).collect()
    }

    fn is_grpc(&self) -> bool {
        self.document.kind == Kind::GrpcRoute
    }

    fn served<'g>(&self, gateways: &'g Gateways<'_>) -> Option<&'g Served> {
        gateways.0.get(self.gateway).and_then(|gateway| gateway.listeners.get(self.spot.listener))
    }

    /// True where some name below that of the listener is served by both.
    fn meets(&self, other: &Self, listener: Option<&str>) -> bool {
        let names = |claim: &Self| -> Vec<Option<String>> {
            if claim.hostnames.is_empty() {
                return vec![listener.map(str::to_owned)];
            }
            let here = claim.hostnames.iter().filter(|name| intersect(listener, Some(name)));
            here.cloned().map(Some).collect()
        };
        let others = names(other);
        names(self).iter().any(|one| others.iter().any(|other| intersect(one.as_deref(), other.as_deref())))
    }
}

impl Compilation<'_> {
    /// One listener serves a name to an `HTTPRoute` or to a `GRPCRoute`, not to both (Gateway API).
    pub fn exclusive(&mut self, claims: &[Claim<'_>], gateways: &Gateways<'_>) {
        let (grpc, http): (Vec<_>, Vec<_>) = claims.iter().partition(|claim| claim.is_grpc());
        let mut wrong: Vec<Diagnostic> = Vec::new();
        for one in grpc {
            let Some(served) = one.served(gateways) else { continue };
            let same = |other: &&&Claim<'_>| {
                let (here, there) = (one.spot, other.spot);
                let apart = here.meant.is_some() && there.meant.is_some() && here.meant != there.meant;
                (other.gateway, there.listener) == (one.gateway, here.listener) && !apart
            };
            let hostname = served.hostname.as_deref();
            let Some(other) = http.iter().filter(same).find(|other| one.meets(other, hostname)).copied()
            else {
                continue;
            };
            let older = one.document.seniority() <= other.document.seniority();
            let (kept, refused) = if older { (one, other) } else { (other, one) };
            let message = format!(
                "the {} `{}` serves the same host on listener `{}`",
                kept.document.kind.word(),
                kept.document.name,
                served.name
            );
            let help =
                "give gRPC a host name of its own in `hostnames` of both routes, or a listener of its own";
            let fault = Diagnostic::at(refused.document, &Document::name_path(), codes::HOST_SHARED, message);
            wrong.push(fault.help(help));
        }
        self.faults.append(&mut wrong);
    }

    /// Warns of names that a more specific listener takes from every listener that the route is attached to.
    pub fn unreached(&mut self, claims: &[Claim<'_>], gateways: &Gateways<'_>) {
        let mut rest = claims;
        while let Some(first) = rest.first() {
            // The claims of one route stand together.
            let count = rest.iter().take_while(|claim| std::ptr::eq(claim.document, first.document)).count();
            let (of_route, others) = rest.split_at(count);
            rest = others;
            for (index, host) in first.hostnames.iter().enumerate().filter(|(_, host)| !host.starts_with('*'))
            {
                let here = of_route.iter().filter_map(|claim| claim.served(gateways));
                let here = here.filter(|served| intersect(served.hostname.as_deref(), Some(host)));
                let takers = here.map(|served| taker(gateways, served, host));
                let takers: Vec<_> = takers.collect();
                let Some(Some((gateway, served))) = takers.first() else { continue };
                if takers.iter().any(Option::is_none) {
                    continue;
                }
                let message = format!(
                    "no request for `{host}` reaches this route: listener `{}` of `{}` takes them all",
                    served.name, gateway.document.name
                );
                let at = spec().key("hostnames").index(index);
                let warning = Diagnostic::at(first.document, &at, codes::ROUTE_SHADOWED, message);
                self.warnings.push(warning.help("attach the route to that listener").warning());
            }
        }
    }
}

/// The listener that takes requests for `host` from `served`; `None` where it keeps them.
fn taker<'g, 'a>(
    gateways: &'g Gateways<'a>,
    served: &'g Served,
    host: &str,
) -> Option<(&'g Gateway<'a>, &'g Served)> {
    let rank = |served: &Served| match served.hostname.as_deref() {
        Some(name) if name == host => usize::MAX,
        Some(name) => name.len(),
        None => 0,
    };
    let all = gateways.0.iter().flat_map(|gateway| gateway.listeners.iter().map(move |it| (gateway, it)));
    let same = all.filter(|(_, other)| {
        other.port == served.port
            && other.tls.is_some() == served.tls.is_some()
            && intersect(other.hostname.as_deref(), Some(host))
    });
    let best = same.max_by_key(|(_, other)| rank(other))?;
    (rank(best.1) > rank(served)).then_some(best)
}

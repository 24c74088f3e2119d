//! Which route a request takes, or where it is sent instead.

use std::sync::Arc;

use foregate_filters::chain::Refusal;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use foregate_policy::route::{Redirect, Route, Target};
use foregate_policy::routes::RouteMiss;
use http::HeaderValue;
use http::request::Parts;

use crate::handshake::vouch;
use crate::life::Life;
use crate::respond::{End, at};

/// The route of a request, noted in its life; refused where none serves it on this connection.
pub fn find_route(life: &mut Life, head: &Parts) -> Result<Arc<Route>, Refusal> {
    let table = &life.live.snapshot.routes;
    // What was agreed in TLS for one listener is not lent to another (RFC 9110, section 7.4).
    let serving = |host: &str| table.listener(life.connection.door(), life.connection.tls, host);
    if let Some(name) = &life.connection.server_name
        && **name != *life.host
        && serving(name) != serving(&life.host)
    {
        let detail = format!("the connection was made for {name}");
        return Err(at(Step::Route)(Reply::new(Reason::Misdirected).detail(detail)));
    }
    if vouch::outdated(&life.connection, &life.live) {
        let detail = "the connection was made before the listener asked for certificates";
        return Err(at(Step::Route)(Reply::new(Reason::Misdirected).detail(detail)));
    }
    // Nor is what held for a client that named none.
    if let Some(unnamed) = &life.connection.unnamed
        && table.named(life.connection.door(), life.connection.tls, unnamed.hostname.as_deref())
            != serving(&life.host)
    {
        let detail = "the connection was made for another listener";
        return Err(at(Step::Route)(Reply::new(Reason::Misdirected).detail(detail)));
    }
    let found = table.find(life.connection.door(), life.connection.tls, &life.host, head);
    let route = Arc::clone(found.map_err(|miss| {
        let detail = match miss {
            RouteMiss::Host => "no listener or route serves this host",
            RouteMiss::Rule => "no rule of this host matches",
        };
        at(Step::Route)(life.live.miss(detail))
    })?);
    life.ctx.route = Arc::clone(&route.name);
    life.fingerprint = route.fingerprint;
    life.metrics = Some(Arc::clone(life.live.metrics(route.id)));
    life.route = Some(route.id);
    Ok(route)
}

/// The answer of a route that only tells where to go.
pub fn redirected(
    life: &Life,
    head: &Parts,
    redirect: &Redirect,
    route: &Arc<Route>,
) -> Result<End, Refusal> {
    let target = Target {
        scheme: if life.connection.secure { "https" } else { "http" },
        host: &life.host,
        port: life.connection.door().meant.unwrap_or(life.connection.port),
        path: head.uri.path(),
        query: head.uri.query(),
    };
    let location = HeaderValue::try_from(redirect.location(target)).map_err(|_| {
        at(Step::Shape)(Reply::new(Reason::Internal).detail("the redirect is not a header value"))
    })?;
    Ok(End::Redirected { route: Arc::clone(route), location, status: redirect.status })
}

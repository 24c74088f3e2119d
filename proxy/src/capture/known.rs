//! What redirected connections of the application may mean.

use std::net::SocketAddr;
use std::sync::Arc;

use foregate_policy::routes::destinations::Known;
use foregate_policy::routes::streams::StreamRoute;
use foregate_policy::snapshot::Speaks;

use crate::live::Live;

/// What was found for an address.
#[derive(Debug, Default)]
pub struct Meant<'a> {
    /// The route that takes connections to it.
    pub stream: Option<&'a Arc<StreamRoute>>,
    /// True where some route of requests leads to an upstream that has it.
    pub requests: bool,
}

/// What connections to an address mean that came in on this port of a listener: upstreams that have it now, and where
/// there are none, those that go wherever a connection meant to go.
pub fn find(live: &Live, listener: u16, meant: SocketAddr) -> Meant<'_> {
    let known = || live.snapshot.destinations.of(listener, meant.port());
    let upstream = |known: &Known| live.upstreams.get(known.upstream);
    let exact = of(live, known().filter(|known| upstream(known).is_some_and(|it| it.is_meant_by(meant))));
    if exact.requests || exact.stream.is_some() {
        return exact;
    }
    of(live, known().filter(|known| upstream(known).is_some_and(|it| it.spec.captured.is_some())))
}

fn of(live: &Live, known: impl Iterator<Item = Known>) -> Meant<'_> {
    known.fold(Meant::default(), |found, known| match known.stream {
        None => Meant { requests: true, ..found },
        Some(route) => Meant { stream: found.stream.or(live.snapshot.streams.all().get(route)), ..found },
    })
}

/// The route that takes connections to an address.
pub fn stream_route(live: &Live, listener: u16, meant: SocketAddr) -> Option<&Arc<StreamRoute>> {
    find(live, listener, meant).stream
}

/// True where connections are passed on whose destination nobody knows.
pub fn passes_unknown(live: &Live, port: u16) -> bool {
    live.snapshot.listeners.iter().any(|listener| {
        listener.port == port
            && listener.speaks == Speaks::Outbound
            && listener.capture.as_ref().is_some_and(|capture| capture.passes_unknown)
    })
}

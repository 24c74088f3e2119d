//! The life of a case's connection: admitted by its route, without a socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use foregate_filters::chain::Refusal;
use foregate_filters::context::{Client, RequestContext};
use foregate_filters::moment::Moment;
use foregate_filters::peer::Peer;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request};

use crate::cases::flow::{Outcome, Verdict, at_once, door, missed};
use crate::documents::case;
use crate::routes::destinations::Known;
use crate::routes::streams::StreamRoute;
use crate::snapshot::{Endpoint, Listener, Snapshot, Speaks, Upstream};

/// A connection as it comes in.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// `<gateway>/<listener>`, or `<listener>`.
    listener: Option<String>,
    port: Option<u16>,
    destination: Option<SocketAddr>,
    /// In lower case; empty where none is asked for.
    name: String,
    source: IpAddr,
    peer: Option<Arc<Peer>>,
    moment: Moment,
}

impl Incoming {
    pub fn new(said: &case::Connection, peer: Option<Arc<Peer>>, moment: Moment) -> Self {
        Self {
            listener: said.listener.clone(),
            port: said.port,
            destination: said.destination,
            name: said.server_name.as_deref().unwrap_or_default().to_ascii_lowercase(),
            source: said.source.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            peer,
            moment,
        }
    }

    /// True for a listener that the case may mean.
    fn may_mean(&self, listener: &Listener) -> bool {
        let named = |wanted: &String| {
            *wanted == *listener.name
                || wanted
                    .split_once('/')
                    .is_some_and(|(gateway, name)| *gateway == *listener.gateway && *name == *listener.name)
        };
        listener.speaks != Speaks::Http
            && listener.speaks.is_captured() == self.destination.is_some()
            && self.port.is_none_or(|port| port == listener.port)
            && self.listener.as_ref().is_none_or(named)
    }

    /// The route that takes it, and whether its listener speaks TLS.
    fn route<'a>(&self, snapshot: &'a Snapshot) -> Option<(&'a Arc<StreamRoute>, bool)> {
        // Whoever asks for a name speaks TLS: a listener for that is likelier meant.
        let likely = |listener: &&Listener| listener.speaks.is_tls() != self.name.is_empty();
        let meant = || snapshot.listeners.iter().filter(|listener| self.may_mean(listener));
        let find = |listener: &Listener| {
            let route = match self.destination.filter(|_| listener.speaks == Speaks::Outbound) {
                Some(meant) => meant_by(snapshot, listener, meant)
                    .into_iter()
                    .find_map(|known| snapshot.streams.all().get(known.stream?))?,
                None => snapshot.streams.find(door(listener, self.destination), &self.name)?,
            };
            Some((route, listener.tls.is_some() || listener.speaks.is_tls() || !self.name.is_empty()))
        };
        meant().filter(likely).find_map(find).or_else(|| meant().find_map(find))
    }
}

/// What a redirected connection of the application means: upstreams that have its address, and where there are none,
/// those that go wherever it meant to go. Names of endpoints are not looked up.
fn meant_by(snapshot: &Snapshot, listener: &Listener, meant: SocketAddr) -> Vec<Known> {
    let known: Vec<Known> = snapshot.destinations.of(listener.port, meant.port()).collect();
    let of = |fits: &dyn Fn(&Upstream) -> bool| -> Vec<Known> {
        let fits = |known: &&Known| snapshot.upstreams.get(known.upstream).is_some_and(|it| fits(it));
        known.iter().filter(fits).copied().collect()
    };
    let exact = of(&|upstream| upstream.is_meant_by(meant));
    if exact.is_empty() { of(&|upstream| upstream.captured.is_some()) } else { exact }
}

/// True where requests to this address may find a route: some upstream of one has it, or may turn out to.
pub fn knows(snapshot: &Snapshot, listener: &Listener, meant: SocketAddr) -> bool {
    let found = meant_by(snapshot, listener, meant);
    if !found.is_empty() {
        return found.iter().any(|known| known.stream.is_none());
    }
    let named = |endpoint: &Endpoint| endpoint.host.parse::<IpAddr>().is_err();
    let may = |upstream: &Arc<Upstream>| {
        !upstream.services.is_empty()
            || upstream.endpoints_file.is_some()
            || upstream.endpoints.iter().any(named)
    };
    let known = snapshot.destinations.of(listener.port, meant.port());
    known
        .filter(|known| known.stream.is_none())
        .any(|known| snapshot.upstreams.get(known.upstream).is_some_and(may))
}

/// Takes a connection through its route and filters.
pub fn decide(snapshot: &Snapshot, incoming: Incoming) -> Outcome {
    let Some((route, tls)) = incoming.route(snapshot) else {
        return Outcome { connection: true, ..missed() };
    };
    let Incoming { name, destination, source, peer, moment, .. } = incoming;
    let (mut head, ()) = Request::new(()).into_parts();
    if let (false, Ok(name)) = (name.is_empty(), HeaderValue::from_str(&name)) {
        head.headers.insert(HOST, name);
    }
    // The port of the client is of no meaning to any rule.
    let client = Client { peer: SocketAddr::new(source, 49152), address: source, tls, destination };
    let mut ctx = RequestContext::new(moment, client);
    ctx.route = Arc::clone(&route.name);
    ctx.peer = peer;
    let admitted = async {
        route.chain.run_head(&head, &mut ctx).await?;
        route.chain.run_body(&head, &mut ctx).await
    };
    let verdict = match at_once(admitted) {
        None => Verdict::Waits,
        Some(Err(Refusal { step, reply })) => {
            Verdict::Refused { reason: reply.reason, step, rule: reply.rule, detail: reply.detail }
        }
        Some(Ok(())) => {
            let backends = route.backends.iter().filter(|backend| backend.weight > 0);
            let upstreams = backends.map(|backend| backend.upstream).collect();
            Verdict::Forwarded { headers: HeaderMap::new(), body: Bytes::new(), upstreams }
        }
    };
    let (route, limits) = (Some(Arc::clone(&route.name)), ctx.limits);
    Outcome { route, verdict, limits, _open: ctx.counted, connection: true }
}

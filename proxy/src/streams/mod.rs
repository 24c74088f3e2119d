//! Connections that are passed on unread: admitted once, relayed, recorded at their end.

pub mod detect;
pub mod hello;
pub mod life;
pub mod relay;
pub mod splice;
pub mod tally;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foregate_filters::chain::Refusal;
use foregate_filters::context::RequestContext;
use foregate_filters::peer::Peer;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use foregate_policy::routes::streams::StreamRoute;
use foregate_policy::snapshot::Speaks;
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admission::clients::Seat;
use crate::capture;
use crate::capture::own;
use crate::clock;
use crate::connection::{Entry, ends};
use crate::dispatch::circuit::Outcome;
use crate::dispatch::connect::{ConnectError, Opened, open};
use crate::dispatch::endpoint::{Endpoint, EndpointState, Outstanding};
use crate::dispatch::upstream::{UpstreamState, Want};
use crate::dispatch::{DispatchError, affinity};
use crate::drain::Drain;
use crate::gateway::Gateway;
use crate::handshake::vouch::Vouched;
use crate::handshake::{Established, establish};
use crate::identity::clients::ClientTrust;
use crate::live::Live;
use crate::proxy_protocol::header::Ends;
use crate::stream::Transport;
use crate::streams::detect::Spoken;
use crate::streams::life::StreamLife;
use crate::streams::relay::{Cut, Ended, Passed, relay, relay_plain};
use crate::telemetry::occupancy::Occupied;
use crate::telemetry::random;
use crate::telemetry::record::End;

/// Endpoints of one upstream that are tried for a connection.
const CONNECT_ATTEMPTS: usize = 3;

/// Time for a connection to stand whose destination nobody knows, and how long it may be silent: what an upstream has
/// that says nothing of either.
const CONNECT: Duration = Duration::from_secs(2);
const SILENT: Duration = Duration::from_hours(1);

/// Who connects.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub peer: SocketAddr,
    /// Where it connected to; known where some upstream wants to know it.
    pub destination: Option<SocketAddr>,
    /// What its first bytes were found to be, where somebody looked.
    pub spoken: Spoken,
}

/// A connection to an upstream, the time for which nothing may pass, and its place in the choices of others.
type Connected = (Opened, Duration, Outstanding);

/// A client's connection, ready to be passed on.
#[derive(Debug)]
pub struct Arrived {
    transport: Transport,
    /// The name asked for in TLS; empty where none was.
    name: Box<str>,
    tls: bool,
    peer: Option<Arc<Peer>>,
    vouched: Option<Vouched>,
}

impl From<Established> for Arrived {
    fn from(established: Established) -> Self {
        let Established { transport, server_name, peer, vouched, .. } = established;
        let tls = matches!(transport, Transport::Tls(_));
        Self { transport, name: server_name.unwrap_or_default(), tls, peer, vouched }
    }
}

impl Arrived {
    /// One that is passed on as it comes.
    pub fn plain(stream: TcpStream) -> Self {
        let transport = Transport::Plain(stream);
        Self { transport, name: Box::default(), tls: false, peer: None, vouched: None }
    }
}

/// Serves a connection to its end.
pub async fn serve(
    gateway: Arc<Gateway>,
    entry: Entry,
    (stream, client): (TcpStream, Client),
    drain: Drain,
    (open, seat): (Occupied, Seat),
) {
    let arriving = timeout(gateway.deadlines.head, arrive(&gateway, &entry, client, stream));
    let arrived = tokio::select! {
        arrived = arriving => match arrived {
            Ok(Ok(arrived)) => arrived,
            Ok(Err(_)) | Err(_) => return,
        },
        // A connection that has not said a word is not worth waiting for.
        () = drain.noticed() => return,
    };
    carry(gateway, entry, (arrived, client), drain, (open, seat)).await;
}

/// Passes on a connection that has arrived, to its end.
pub async fn carry(
    gateway: Arc<Gateway>,
    entry: Entry,
    (arrived, client): (Arrived, Client),
    drain: Drain,
    (open, seat): (Occupied, Seat),
) {
    let Arrived { mut transport, name, tls, peer, vouched } = arrived;
    let drain = Vouched::follow(vouched, &gateway, drain);
    let mut life = StreamLife::new(
        Arc::clone(&gateway),
        (client.peer, tls),
        (Arc::clone(&entry.listener), entry.captured),
        name,
        open,
    );
    life.ctx.peer = peer;
    // Counted first: a publication in between is asked about once too often, not once too seldom.
    let seen = gateway.publications.count();
    match admit(&mut life, &entry, client).await {
        Ok((mut upstream, silence, _outstanding)) => {
            pass(&mut life, (&mut transport, &mut upstream), &entry, silence, (&drain, seen)).await;
        }
        Err(refusal) => {
            life.refusal = Some(refusal);
            transport.cut();
        }
    }
    drop(seat);
}

/// Brings a connection to where its bytes can be passed on.
async fn arrive(gateway: &Gateway, entry: &Entry, client: Client, stream: TcpStream) -> io::Result<Arrived> {
    if matches!(entry.speaks, Speaks::Tcp | Speaks::Detected(_)) {
        let tls = client.spoken == Spoken::Tls;
        // What only begins like TLS is passed on as well.
        let name = if tls { hello::server_name(&stream).await.unwrap_or_default() } else { None };
        return Ok(Arrived { name: name.unwrap_or_default(), tls, ..Arrived::plain(stream) });
    }
    let tls = gateway.live.pin().tls.get(&entry.port).map(Arc::clone).ok_or(io::ErrorKind::NotFound)?;
    if tls.passes_through() {
        let name = hello::server_name(&stream).await?;
        let terms = tls.terms(name.as_deref()).ok_or(io::ErrorKind::NotFound)?;
        if terms.speaks == Speaks::Passthrough {
            return Ok(Arrived { name: name.unwrap_or_default(), tls: true, ..Arrived::plain(stream) });
        }
    }
    let entry = Entry { tls: true, ..entry.clone() };
    Ok(Box::pin(establish(gateway, &entry, client.peer.ip(), stream)).await?.into())
}

fn at(step: Step, reason: Reason, detail: impl Into<Box<str>>) -> Refusal {
    Refusal { step, reply: Box::new(Reply::new(reason).detail(detail)) }
}

/// The route of a connection.
fn route_of<'a>(live: &'a Live, entry: &Entry, name: &str) -> Option<&'a Arc<StreamRoute>> {
    match entry.captured.filter(|_| entry.speaks == Speaks::Outbound) {
        Some(meant) => capture::stream_route(live, entry.port, meant),
        None => live.snapshot.streams.find(entry.door(), name),
    }
}

fn missed(live: &Live, detail: &str) -> Refusal {
    Refusal { step: Step::Route, reply: Box::new(live.miss(detail)) }
}

/// Where a connection goes whose destination nobody knows, where that is passed on.
fn unknown(live: &Live, entry: &Entry) -> Option<SocketAddr> {
    entry.captured.filter(|_| entry.speaks == Speaks::Outbound && capture::passes_unknown(live, entry.port))
}

/// Connects to where a connection meant to go.
async fn wherever(life: &mut StreamLife, meant: SocketAddr) -> Result<Connected, Refusal> {
    life.endpoint = Some(meant);
    life.attempts = 1;
    let outcome = match timeout(CONNECT, TcpStream::connect(meant)).await {
        Ok(Ok(stream)) => own::opened(&stream).map_err(ConnectError::Loop).map(|()| stream),
        Ok(Err(error)) => Err(ConnectError::Tcp(error)),
        Err(_) => Err(ConnectError::Timeout),
    };
    match outcome {
        Ok(stream) => {
            let _ = stream.set_nodelay(true);
            let outstanding = Outstanding::new(&Arc::new(EndpointState::new(meant)));
            Ok((Opened::Plain(stream), SILENT, outstanding))
        }
        Err(source) => {
            let failed = DispatchError::Connect { endpoint: meant, source };
            Err(at(Step::Dispatch, failed.reason(), failed.to_string()))
        }
    }
}

/// Finds the route, asks its filters, and connects to an upstream.
async fn admit(life: &mut StreamLife, entry: &Entry, client: Client) -> Result<Connected, Refusal> {
    if life.gateway.telemetry.must_refuse() {
        return Err(at(Step::Pin, Reason::LogUnavailable, ""));
    }
    let pinned = life.gateway.live.pin();
    let route = route_of(&pinned, entry, &life.name).map(Arc::clone);
    if route.is_none()
        && let Some(meant) = unknown(&pinned, entry)
    {
        return Box::pin(wherever(life, meant)).await;
    }
    let route =
        route.ok_or_else(|| missed(&pinned, "no route takes the connections of this name and port"))?;
    life.ctx.route = Arc::clone(&route.name);
    life.route = Some(Arc::clone(&route));
    route.chain.run_head(&life.head, &mut life.ctx).await?;
    route.chain.run_body(&life.head, &mut life.ctx).await?;
    let told = ends(client.peer, client.destination, entry.port);
    let started = clock::monotonic();
    let outcome = Box::pin(connect(life, &pinned, &route, told)).await;
    life.upstream_time = Some(clock::monotonic().saturating_sub(started));
    outcome
}

/// Connects to the backend that the weights choose; where it cannot be reached, to the others.
async fn connect(
    life: &mut StreamLife,
    pinned: &Live,
    route: &StreamRoute,
    told: Ends,
) -> Result<Connected, Refusal> {
    let mut last = at(Step::Dispatch, Reason::BackendInvalid, "the route names no upstream");
    #[expect(clippy::cast_possible_truncation, reason = "any 32 of the random bits will do")]
    let number = random::next() as u32;
    for backend in route.in_turn(number) {
        let Some(upstream) = pinned.upstreams.get(backend.upstream) else { continue };
        life.upstream = Some(Arc::clone(&upstream.spec.name));
        let key = affinity::of_connection(upstream, life.ctx.client.address);
        let mut failed = DispatchError::NoEndpoint;
        let mut tried: SmallVec<[u64; CONNECT_ATTEMPTS]> = SmallVec::new();
        while tried.len() < CONNECT_ATTEMPTS {
            let now = clock::monotonic();
            // Nothing has been passed on yet: another endpoint may be tried whatever is spoken.
            let want = Want { key, safe: true, tried: &tried, now };
            let picked = match upstream.spec.captured {
                None => upstream.pick(&want).map(|picked| picked.endpoint),
                // There is one, and it was tried before where any was.
                Some(_) => upstream.meant(life.ctx.client.destination),
            };
            let Some(endpoint) = picked else { break };
            if tried.contains(&endpoint.pool) {
                break;
            }
            tried.push(endpoint.pool);
            life.attempts += 1;
            // From now on: many that connect at once must see one another.
            let outstanding = Outstanding::new(&endpoint.state);
            let outcome = connected(upstream, &endpoint, told, &life.name).await;
            if upstream.is_balanced() {
                let verdict = if outcome.is_ok() { Outcome::Good } else { Outcome::Failure };
                let then = clock::monotonic();
                upstream.judge(&endpoint, verdict, then.saturating_sub(now), then);
            }
            match outcome {
                Ok(opened) => {
                    life.endpoint = Some(endpoint.address());
                    return Ok((opened, upstream.spec.idle_timeout, outstanding));
                }
                Err(source) => failed = DispatchError::Connect { endpoint: endpoint.address(), source },
            }
        }
        life.endpoint = failed.endpoint();
        let reply = Reply::new(failed.reason()).rule(&upstream.spec.name).detail(failed.to_string());
        last = Refusal { step: Step::Dispatch, reply: Box::new(reply) };
    }
    Err(last)
}

async fn connected(
    upstream: &UpstreamState,
    endpoint: &Endpoint,
    told: Ends,
    name: &str,
) -> Result<Opened, ConnectError> {
    let name = (!name.is_empty()).then_some(name);
    let opening = open(upstream, endpoint, Some(told), name);
    timeout(upstream.spec.connect_timeout, opening).await.unwrap_or(Err(ConnectError::Timeout))
}

/// Passes bytes until an end, a revocation, or the end of what vouches for the client.
async fn pass(
    life: &mut StreamLife,
    (client, upstream): (&mut Transport, &mut Opened),
    entry: &Entry,
    silence: Duration,
    (drain, seen): (&Drain, u64),
) {
    let (of_client, of_upstream) = (Arc::clone(&life.client), Passed::default());
    let ended = {
        let passing = async {
            match (client.plain(), upstream.plain()) {
                (Some(from), Some(to)) => relay_plain((from, &*of_client), (to, &of_upstream), silence).await,
                _ => relay((&mut *client, &*of_client), (&mut *upstream, &of_upstream), silence).await,
            }
        };
        tokio::select! {
            ended = passing => Ok(ended),
            // Nothing vouches for the client any more.
            () = drain.cut() => Err((End::Revoked, None)),
            // Nothing that was said here tells when it ends: the process cannot wait for it.
            () = drain.last_call() => Err((End::Drained, None)),
            refusal = revoked(life, entry, seen) => Err((End::Revoked, Some(refusal))),
        }
    };
    life.end = match ended {
        Ok(Ended::Complete) => End::Complete,
        Ok(Ended::Silent) => End::Idle,
        Ok(Ended::Broken) if of_client.broken.load(Ordering::Relaxed) => End::ClientGone,
        Ok(Ended::Broken) => End::UpstreamBroke,
        Err((end, refusal)) => {
            life.refusal = refusal;
            end
        }
    };
    if life.end != End::Complete {
        // Neither side shall take what it has for the whole.
        client.cut();
        upstream.cut();
    }
}

/// Waits until what is in force would not admit the connection any more; says why.
async fn revoked(life: &StreamLife, entry: &Entry, mut seen: u64) -> Refusal {
    let mut told = life.gateway.publications.subscribe();
    loop {
        let news = told.wait_for(|count| *count != seen).await.map(|count| *count);
        // The gateway outlives its connections; without one there is nothing to obey.
        let Ok(count) = news else { return std::future::pending().await };
        seen = count;
        let pinned = life.gateway.live.pin();
        let name = (!life.name.is_empty()).then_some(&*life.name);
        let terms = pinned.tls.get(&entry.port).and_then(|tls| tls.terms(name));
        let asks = terms.and_then(|terms| terms.clients.as_ref()).is_some_and(ClientTrust::required);
        if life.tls && life.ctx.peer.is_none() && asks {
            let detail = "the connection was made before the listener asked for certificates";
            return at(Step::Route, Reason::Misdirected, detail);
        }
        let Some(route) = route_of(&pinned, entry, &life.name) else {
            if life.route.is_none() && unknown(&pinned, entry).is_some() {
                continue;
            }
            return missed(&pinned, "no route takes it any more");
        };
        let mut ctx = RequestContext::new(clock::now(), life.ctx.client);
        ctx.route = Arc::clone(&route.name);
        ctx.peer.clone_from(&life.ctx.peer);
        if let Err(refusal) = route.chain.recheck(&life.head, &mut ctx).await {
            return refusal;
        }
    }
}

//! The life of a request, top to bottom.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use foregate_filters::body_memory::BodyMemory;
use foregate_filters::chain::Refusal;
use foregate_filters::filter::BodyNeed;
use foregate_filters::org_quota::pool::Ticket;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use foregate_policy::route::{Action, Forward, Route, WeightedBackend};
use foregate_policy::store::Store;
use futures_util::FutureExt;
use http::header::{CONNECTION, HOST};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::watch;

use crate::admission::capacity::Capacity;
use crate::admission::{Permit, overloaded};
use crate::answer::ResponseBody;
use crate::body::{RequestBody, collect, discard};
use crate::clock;
use crate::connection::Connection;
use crate::dispatch::course::Course;
use crate::dispatch::outgoing::Outgoing;
use crate::dispatch::upstream::UpstreamState;
use crate::dispatch::{self, Answer, Call, DispatchError};
use crate::handshake::tally::Tally;
use crate::head::{self, HopByHop};
use crate::idempotency;
use crate::inject;
use crate::inspect::{self, Inspected};
use crate::life::Life;
use crate::live::Live;
use crate::mirror;
use crate::oauth::credential::Shown;
use crate::open::{Asked, Publications};
use crate::org_quota;
use crate::panics;
use crate::passage::{chosen, course, credential, enter, settled, shaped_body};
use crate::rare::Kind;
use crate::respond::{End, at, refuse};
use crate::routing;
use crate::shape::{self, Wire};
use crate::stream::Deadlines;
use crate::streams::tally::StreamTally;
use crate::telemetry::Telemetry;
use crate::telemetry::traces::attempts::AttemptLog;
use crate::timeouts::{late, time_for_body, time_for_course};
use crate::timer::within;
use crate::upgrade;

/// What all requests share.
#[derive(Debug)]
pub struct Gateway {
    pub live: Store<Live>,
    /// Tells what is open that something new is in force.
    pub publications: Publications,
    pub telemetry: Arc<Telemetry>,
    pub deadlines: Deadlines,
    pub capacity: Capacity,
    pub tally: Tally,
    /// Connections whose bytes are passed on unread.
    pub streams: StreamTally,
    /// Tells of every publication: open connections look whether they still may be.
    pub published: watch::Sender<()>,
}

/// Where a forwarded request went.
struct Chosen<'a> {
    backend: &'a WeightedBackend,
    answer: Box<Answer>,
}

/// What a request that is forwarded is bound for.
struct Bound<'a> {
    route: &'a Route,
    forward: &'a Forward,
    hop: &'a HopByHop,
    backend: &'a WeightedBackend,
    /// The key of its session.
    session: Option<u64>,
}

/// A request as it goes to its upstream, with what it holds there.
struct Shaped<'a> {
    request: Outgoing,
    ticket: Option<Box<Ticket>>,
    permit: Permit<'a>,
    /// The credential that it carries.
    shown: Option<Shown>,
    course: Option<Course<'a>>,
}

/// A request that everything lets pass, before it is forwarded.
#[derive(Debug)]
pub struct Admitted {
    request: Outgoing,
    route: Arc<Route>,
    hop: HopByHop,
}

/// Serves one request. Every outcome is a response; every request gets exactly one record.
pub fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> {
    // pin: one moment, one snapshot. At once: the stream must know that a request is under way before the
    // codec asks it for more bytes.
    let life = Life::pin(connection, &request);
    let (head, body) = request.into_parts();
    serve(life, Box::new(head), body)
}

async fn serve(
    mut life: Box<Life>,
    head: Box<Parts>,
    body: Incoming,
) -> Result<Response<ResponseBody>, Infallible> {
    let connection = Arc::clone(&life.connection);
    let mut body = Some(body);
    let expects = life.rare.has(Kind::Expect);
    let http1 = head.version < Version::HTTP_2;
    // A defect costs this request a 500, not the other requests of its connection.
    let outcome = AssertUnwindSafe(run(&mut life, head, &mut body)).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|payload| Err(panics::refusal(&life, payload)));
    let mut last = false;
    let mut response = match outcome {
        // Boxed: no request but those that hold a key pays for it.
        Ok(End::Admitted(admitted)) => Box::pin(idempotency::carry_out(life, admitted)).await,
        Ok(end) => panics::answered(life.id, || end.respond(life)),
        Err(refusal) => {
            // Where one head ends in two ways, the next begins in two ways.
            last = refusal.reply.reason == Reason::RequestMalformed;
            // A client that sends on meets a reset before it reads the answer; one that waits to be
            // asked for its body is not asked.
            if let Some(body) =
                body.filter(|_| http1 && !expects && refusal.reply.reason != Reason::BodyTimeout)
            {
                let (done, took) = clock::timed(discard(body)).await;
                life.unread = !done;
                life.waited += took;
            }
            refuse(life, refusal)
        }
    };
    last |= connection.drain.started() || connection.spent();
    if http1 && last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn run(life: &mut Life, mut head: Box<Parts>, body: &mut Option<Incoming>) -> Result<End, Refusal> {
    if life.connection.gateway.telemetry.must_refuse() {
        return Err(at(Step::Pin)(Reply::new(Reason::LogUnavailable)));
    }
    if life.connection.gateway.capacity.load.sheds() {
        return Err(at(Step::Pin)(overloaded(Reason::Overloaded, "a worker does not keep up".to_owned())));
    }
    // route: one spelling of the head, one route.
    let hop = head::canonicalize(&mut head, life.rare, &life.live.owned)
        .map_err(|reply| Refusal { step: Step::Route, reply })?;
    life.asked_host = head.headers.get(HOST).cloned();
    life.host = head::host(life.asked_host.as_ref()).into();
    life.path = head.uri.path().into();
    let route = routing::find_route(life, &head)?;
    let since = life.moment().monotonic;
    if let Some(call) = &mut life.grpc {
        call.read(&head.headers, since).map_err(|reply| Refusal { step: Step::Route, reply })?;
        call.bound(route.timeouts.request, since);
    }

    let decided = async {
        // guard, identify, admit: what can be decided without the body.
        route.chain.run_head(&head, &mut life.ctx).await?;

        // enrich, decide: what needs the body, collected within the bound of the route.
        let body = read_body(life, &route, &head, body).await?;
        let before = (route.chain.body() == BodyNeed::Whole).then(clock::monotonic);
        route.chain.run_body(&head, &mut life.ctx).await?;
        let before = before.filter(|_| !life.ctx.scores.is_empty());
        life.enrich_time = before.map(|before| clock::monotonic().saturating_sub(before));
        Ok(body)
    }
    .await;
    life.heed(&head, decided.is_err());
    let sent = decided?;
    if let Some(end) = idempotency::met(life, &route) {
        return Ok(end);
    }
    if let Some(injection) = life.ctx.injection.take() {
        // Boxed: no request but those that a policy means pays for it.
        Box::pin(inject::meet(life, &injection)).await?;
    }

    // shape and dispatch, or a redirect.
    match &route.action {
        Action::Redirect(redirect) => routing::redirected(life, &head, redirect, &route),
        Action::Forward(_) if idempotency::holds_keys(life) => {
            let request = Outgoing { head, body: sent };
            Ok(End::Admitted(Box::new(Admitted { request, route: Arc::clone(&route), hop })))
        }
        Action::Forward(forward) => {
            let client = hop.upgrade.as_ref().and_then(|_| head.extensions.remove::<OnUpgrade>());
            let chosen = dispatch(life, Outgoing { head, body: sent }, body, &route, forward, &hop).await?;
            let end = chosen.end(forward, &route, client);
            // Boxed: only routes whose contract speaks of responses pay for it.
            if inspect::is_asked(life) { Box::pin(inspected(life, end)).await } else { Ok(end) }
        }
    }
}

/// Forwards a request that was admitted, apart from the connection it came on. Upgrades hold no keys.
pub async fn carry_on(life: &mut Life, admitted: Admitted) -> Result<End, Refusal> {
    let Admitted { request, route, hop } = admitted;
    let Action::Forward(forward) = &route.action else {
        return Err(at(Step::Dispatch)(Reply::new(Reason::Internal).detail("the route forwards nothing")));
    };
    life.reached = Some(Arc::default());
    let chosen = dispatch(life, request, &mut None, &route, forward, &hop).await?;
    let end = chosen.end(forward, &route, None);
    if inspect::is_asked(life) { inspected(life, end).await } else { Ok(end) }
}

/// What the contract of the service says of an answer.
async fn inspected(life: &mut Life, end: End) -> Result<End, Refusal> {
    let End::Answered { route, backend, answer, client } = end else { return Ok(end) };
    Ok(match inspect::meet(life, answer, time_for_body(&route)).await? {
        Inspected::Passing(answer) => End::Answered { route, backend, answer, client },
        Inspected::Held(response) => End::Held { route, backend, response },
    })
}

impl Chosen<'_> {
    fn end(self, forward: &Forward, route: &Arc<Route>, client: Option<OnUpgrade>) -> End {
        let backend = forward.backends.iter().position(|backend| std::ptr::eq(backend, self.backend));
        let (backend, answer) = (backend.unwrap_or_default(), self.answer);
        End::Answered { backend, answer, client, route: Arc::clone(route) }
    }
}

/// Leaves the body to stream past where no filter needs it; reads it whole where one does.
async fn read_body(
    life: &mut Life,
    route: &Route,
    head: &Parts,
    body: &mut Option<Incoming>,
) -> Result<RequestBody, Refusal> {
    if route.chain.body() == BodyNeed::None || route.chain.body_of(head) == BodyNeed::None {
        return Ok(body
            .take()
            .map_or(RequestBody::Empty, |body| RequestBody::streaming(body, &life.live.owned)));
    }
    let Some(incoming) = body else { return Ok(RequestBody::Empty) };
    let Gateway { deadlines, capacity, .. } = &*life.connection.gateway;
    let collecting = collect(incoming, route.body_limit, deadlines.body, capacity.bodies.share());
    let (whole, took) = clock::timed(collecting).await;
    life.waited += took;
    let whole = whole.map_err(at(Step::Enrich))?;
    life.unread = false;
    life.received(whole.len() as u64);
    life.ctx.body = Some(whole.clone());
    life.ctx.body_memory = Some(Arc::clone(&life.connection.gateway.capacity.bodies) as Arc<dyn BodyMemory>);
    // The head may have come long ago.
    life.ctx.counted_at = clock::now();
    Ok(RequestBody::from(whole))
}

async fn dispatch<'a>(
    life: &mut Life,
    request: Outgoing,
    left: &mut Option<Incoming>,
    route: &Route,
    forward: &'a Forward,
    hop: &HopByHop,
) -> Result<Chosen<'a>, Refusal> {
    let invalid = |detail: &str| at(Step::Dispatch)(Reply::new(Reason::BackendInvalid).detail(detail));
    let (backend, session) = chosen(life, &request.head, route, forward);
    let backend = backend.ok_or_else(|| invalid("no backend has a weight"))?;
    let upstream = life.live.upstreams.get(backend.upstream).map(Arc::clone);
    let upstream = upstream.ok_or_else(|| invalid("the backend names no upstream"))?;
    life.upstream = Some(Arc::clone(&upstream.spec.name));
    let bound = Bound { route, forward, hop, backend, session };
    let Shaped { request, mut ticket, mut permit, shown, mut course } =
        shaped(life, request, left, &bound, &upstream).await?;

    // dispatch: one endpoint, within the time of the route.
    life.progress = request.body.progress();
    let started = clock::monotonic();
    life.dispatched = Some(started);
    permit.sent(started);
    org_quota::sent(ticket.as_deref_mut());
    let limit = time_for_course(life, route, course.as_mut(), started)?;
    let tries = AtomicU32::new(0);
    if let Some(course) = &mut course {
        course.tries = Some(&tries);
    }
    let told = life.connection.gateway.telemetry.tells(&life.trace);
    life.attempts = told.then(|| Arc::new(AttemptLog::new(&life.trace)));
    let (reached, attempts) = (life.reached.clone(), life.attempts.clone());
    let call = Call {
        now: started,
        course,
        reached: reached.as_deref(),
        meant: life.connection.captured,
        attempts: attempts.as_deref(),
    };
    let mut sending = pin!(dispatch::send(&upstream, request, call));
    let outcome = match limit {
        None => sending.await,
        Some(limit) => {
            let Some(outcome) = within(started.saturating_add(limit), sending.as_mut()).await else {
                life.upstream_time = Some(limit);
                if life.still_sends() {
                    permit.forget();
                }
                return Err(late(life, limit));
            };
            outcome
        }
    };
    life.tries = tries.load(Ordering::Relaxed);
    org_quota::settle(life, &upstream, ticket, &outcome);
    let answer = settled(life, &upstream, permit, started, outcome)?;
    life.endpoint = Some(answer.endpoint);
    if answer.response.status() == StatusCode::UNAUTHORIZED
        && let (Some(credential), Some(shown)) = (&upstream.credential, &shown)
    {
        credential.refused(shown, clock::monotonic());
    }
    Ok(Chosen { backend, answer })
}

/// Enters the upstream, and applies all edits, once.
async fn shaped<'a>(
    life: &mut Life,
    Outgoing { mut head, body }: Outgoing,
    left: &mut Option<Incoming>,
    &Bound { route, forward, hop, backend, session }: &Bound<'a>,
    upstream: &'a UpstreamState,
) -> Result<Shaped<'a>, Refusal> {
    let (ticket, permit) = match enter(life, upstream).await {
        Ok(entered) => entered,
        Err(refusal) => {
            *left = body.unread();
            return Err(refusal);
        }
    };

    // Before the head is shaped and moved out.
    life.asked = Asked::keep(&head, life.rare, hop, life.metrics.as_ref());
    let shown = credential(life, upstream).await?;
    let course = course(life, &head, route, upstream, session);

    // shape: all edits, once.
    let wire = Wire { http2: upstream.is_http2(), tls: upstream.tls.is_some(), trailers: hop.trailers };
    let copies = mirror::copies(life, &head, route, forward, hop);
    let carried =
        upstream.credential.as_deref().zip(shown.as_ref()).map(|(it, shown)| (&it.header, &shown.value));
    shape::request(&mut head, life, route, &forward.rewrite, backend, carried, wire)
        .map_err(|error| at(Step::Shape)(Reply::new(Reason::Internal).detail(error.to_string())))?;
    let body = copies.send_with(shaped_body(life, &mut head, body)?);
    if let (Some(protocol), false) = (&hop.upgrade, wire.http2) {
        upgrade::ask(&mut head.headers, protocol);
    }
    if upstream.spec.proxy_protocol.is_some() {
        head.extensions.insert(life.connection.ends());
    }
    Ok(Shaped { request: Outgoing { head, body }, ticket, permit, shown, course })
}

/// Sends the copy of a request, shaped already, to an upstream that mirrors.
///
/// # Errors
/// As [`dispatch::send`].
pub async fn send_copy(
    upstream: &Arc<UpstreamState>,
    request: Outgoing,
) -> Result<Box<Answer>, DispatchError> {
    let course = Course { retry: None, limit: None, total: None, of_caller: false, key: None, tries: None };
    let course = upstream.is_balanced().then_some(course);
    let call = Call { now: clock::monotonic(), course, reached: None, meant: None, attempts: None };
    Box::pin(dispatch::send(upstream, request, call)).await
}

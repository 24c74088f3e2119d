//! What is gathered about one request until its one record is made.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use foregate_filters::chain::Refusal;
use foregate_filters::context::{Client, RequestContext};
use foregate_filters::moment::Moment;
use foregate_policy::description::Description;
use foregate_policy::route::Route;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use http_body::Body;

use crate::clock;
use crate::connection::Connection;
use crate::grpc::Call;
use crate::idempotency;
use crate::inspect::Watched;
use crate::live::Live;
use crate::open::{Asked, Open};
use crate::org_quota::OrgFact;
use crate::panics;
use crate::progress::{Progress, Silence};
use crate::rare::{Kind, Rare};
use crate::stream::Deadlines;
use crate::telemetry::explain::{self, Explanation, HeaderFact};
use crate::telemetry::occupancy::Occupied;
use crate::telemetry::random;
use crate::telemetry::record::{self, CameWith, DecisionId, Durations, End, Marks, Protocol, Record};
use crate::telemetry::route_metrics::RouteMetrics;
use crate::telemetry::trace_context::TraceContext;
use crate::telemetry::traces::attempts::AttemptLog;

/// The status of a request whose client left before there was an answer, as other proxies record it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A request that takes longer may be met by a publication: the next ones on its route keep their heads.
const LONG: Duration = Duration::from_secs(1);

/// One request from pin to record. Recorded exactly once: when it ends, or when it is dropped.
#[derive(Debug)]
pub struct Life {
    pub connection: Arc<Connection>,
    pub live: Arc<Live>,
    pub ctx: RequestContext,
    pub id: DecisionId,
    /// `id` as a header value.
    pub decision: HeaderValue,
    pub request_id: HeaderValue,
    pub trace: TraceContext,
    /// Of the headers that it came with.
    pub rare: Rare,
    /// What the request was when it came, kept for its record.
    method: Method,
    protocol: Protocol,
    came_with: Option<Box<CameWith>>,
    /// Set where the request is a gRPC call.
    pub grpc: Option<Call>,
    /// `Host` as the client meant it: a rewrite may change the header.
    pub asked_host: Option<HeaderValue>,
    pub host: Box<str>,
    pub path: Box<str>,
    pub metrics: Option<Arc<RouteMetrics>>,
    /// [`foregate_policy::route::Route::id`], once it is found.
    pub route: Option<usize>,
    /// Noted where the decision will be kept.
    headers: Option<Vec<HeaderFact>>,
    pub upstream: Option<Arc<str>>,
    pub endpoint: Option<SocketAddr>,
    /// How often endpoints were asked; 0 where there was nothing to count.
    pub tries: u32,
    /// Notes each of them, where that is to be told.
    pub attempts: Option<Arc<AttemptLog>>,
    pub upstream_time: Option<Duration>,
    /// What it answered; 0 where nothing.
    pub upstream_status: u16,
    /// When it was first sent; monotonic.
    pub dispatched: Option<Duration>,
    /// When the head of the response was ready; monotonic.
    pub responded: Option<Duration>,
    /// Time waited for client or upstream, or on purpose, while the request was not with the upstream.
    pub waited: Duration,
    pub enrich_time: Option<Duration>,
    /// What a request with a key met.
    pub once: Option<&'static str>,
    /// Set where the request holds keys: true once something of it may have reached an upstream.
    pub reached: Option<Arc<AtomicBool>>,
    /// Set where an org counts its calls.
    pub org: Option<Box<OrgFact>>,
    pub progress: Option<Arc<Progress>>,
    /// The copy of a response body that is looked at when it has ended.
    pub watched: Option<Box<Watched>>,
    /// False once its body is known to be at its end.
    pub unread: bool,
    pub refusal: Option<Refusal>,
    /// Publications before the request was pinned.
    pub publications: u64,
    /// That of the route.
    pub fingerprint: u64,
    /// The head as it was admitted, where the answer may stay open for long.
    pub asked: Option<Box<Asked>>,
    pub status: u16,
    received: u64,
    sent: u64,
    recorded: bool,
    /// Counts the request as under way.
    _occupied: Occupied,
}

/// The trace that a request is part of.
fn trace(rare: Rare, headers: &HeaderMap) -> TraceContext {
    if rare.has(Kind::TraceParent) {
        TraceContext::from_headers(headers, random::next)
    } else {
        TraceContext::begin(random::next)
    }
}

impl Life {
    /// Reads the clock, loads what is in force, and names the request.
    pub fn pin<B: Body>(connection: Arc<Connection>, request: &Request<B>) -> Box<Self> {
        connection.activity.begin();
        let moment = clock::now();
        let id = DecisionId::new(moment);
        let decision = id.header_value();
        let client = Client {
            peer: connection.peer,
            address: connection.peer.ip().to_canonical(),
            tls: connection.secure,
            destination: connection.captured,
        };
        let mut ctx = RequestContext::new(moment, client);
        ctx.peer.clone_from(&connection.certificate);
        let http2 = request.version() >= Version::HTTP_2;
        // Counted first: a publication in between is asked about once too often, not once too seldom.
        let publications = connection.gateway.publications.count();
        let rare = Rare::of(request.headers());
        let request_id = if rare.has(Kind::RequestId) {
            record::request_id(request.headers(), &decision)
        } else {
            decision.clone()
        };
        let telemetry = &connection.gateway.telemetry;
        let trace = telemetry.sampled(trace(rare, request.headers()));
        if telemetry.times(id, &trace) {
            ctx.trace.time(clock::monotonic);
        }
        Box::new(Self {
            publications,
            fingerprint: 0,
            asked_host: None,
            live: connection.gateway.live.pin(),
            ctx,
            id,
            request_id,
            decision,
            trace,
            rare,
            method: request.method().clone(),
            came_with: telemetry.notes(request.headers()),
            protocol: if http2 { Protocol::Http2 } else { Protocol::Http1 },
            grpc: if http2 { Call::of(request) } else { None },
            asked: None,
            host: Box::default(),
            path: Box::default(),
            metrics: None,
            route: None,
            headers: None,
            upstream: None,
            endpoint: None,
            tries: 0,
            attempts: None,
            upstream_time: None,
            upstream_status: 0,
            dispatched: None,
            responded: None,
            waited: Duration::ZERO,
            enrich_time: None,
            once: None,
            reached: None,
            org: None,
            progress: None,
            watched: None,
            unread: !request.body().is_end_stream(),
            refusal: None,
            status: 0,
            received: 0,
            sent: 0,
            recorded: false,
            _occupied: connection.gateway.telemetry.metrics().requests_in_flight().enter(),
            connection,
        })
    }

    /// When the request was pinned.
    pub fn moment(&self) -> Moment {
        self.ctx.moment
    }

    /// True while the client sends a body that passes by.
    pub fn still_sends(&self) -> bool {
        self.progress.as_ref().is_some_and(|progress| !progress.done())
    }

    /// True where the client asked for a head alone.
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Notes what rules may have read of the head, where the decision will be kept: it is refused, audited
    /// or one of the sample.
    pub fn heed(&mut self, head: &Parts, refused: bool) {
        if (refused || !self.ctx.audits.is_empty() || self.ctx.trace.timing.is_some())
            && let Some(description) = self.description()
        {
            self.headers = Some(explain::look(description, &head.headers));
        }
    }

    /// What the route demands.
    fn description(&self) -> Option<&Arc<Description>> {
        self.live.snapshot.routes.all().get(self.route?).map(|route| &route.description)
    }

    /// True once for every publication since the request was pinned.
    pub fn published(&mut self) -> bool {
        let count = self.connection.gateway.publications.count();
        std::mem::replace(&mut self.publications, count) != count
    }

    /// What must be known of the request while its answer is open; `seen` publications are not news.
    pub fn open(&mut self, seen: u64, tunnel: bool) -> Open {
        let rest = || Asked::rest(&self.method, &self.host, &self.path);
        Open {
            asked: self.asked.take().unwrap_or_else(rest),
            connection: Arc::clone(&self.connection),
            peer: self.ctx.peer.clone(),
            scores: self.ctx.scores.clone(),
            tunnel,
            since: self.ctx.moment.monotonic,
            seen,
            fingerprint: self.fingerprint,
            route: self.metrics.clone(),
        }
    }

    /// Counts request body bytes that were read here.
    pub fn received(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
    }

    /// Keeps what the client is sent of a response body that is to be looked at.
    pub fn watch(&mut self, data: &[u8]) {
        if let Some(watched) = &mut self.watched {
            watched.push(data, self.ctx.contract.as_deref());
        }
    }

    /// Counts response body bytes handed to the client.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u64);
        if let Some(progress) = &self.progress {
            progress.answers(bytes);
        }
    }

    /// The answer has begun: a body that is still on its way must keep coming. That of a call, and of a route whose
    /// time for requests is switched off, is a stream: it may be silent for as long as a tunnel.
    pub fn hurry(&self, route: &Route) {
        let Some(progress) = self.progress.as_ref().filter(|progress| !progress.done()) else { return };
        let Deadlines { body, tunnel, .. } = self.connection.gateway.deadlines;
        let streams = self.grpc.is_some() || route.timeouts.request.is_some_and(|limit| limit.is_zero());
        progress.watch(if streams { Silence::OfBoth(tunnel) } else { Silence::OfClient(body) });
    }

    /// What it took until now, which is monotonic.
    fn durations(&self, now: Duration) -> Durations {
        let marks = Marks {
            began: self.ctx.moment.monotonic,
            dispatched: self.dispatched,
            upstream: self.upstream_time,
            responded: self.responded,
            waited: self.waited,
        };
        Durations {
            total: now.saturating_sub(marks.began),
            upstream: self.upstream_time,
            enrich: self.enrich_time,
            added: marks.added(),
            dispatched: self.dispatched.map(|at| at.saturating_sub(marks.began)),
        }
    }

    /// Makes the one record of this request; later calls do nothing.
    pub fn record(&mut self, end: End) {
        if std::mem::replace(&mut self.recorded, true) {
            return;
        }
        if let Some(watched) = self.watched.take().filter(|_| end == End::Complete) {
            watched.end(&mut self.ctx);
        }
        let now = clock::monotonic();
        let unread = self.unread && !self.progress.as_ref().is_some_and(|progress| progress.done());
        self.connection.activity.end(now, unread);
        let total = now.saturating_sub(self.ctx.moment.monotonic);
        if self.status == 0 && total < LONG {
            self.connection.activity.abandon(now);
        }
        if total > LONG
            && let Some(route) = &self.metrics
        {
            route.stay_open();
        }
        let streamed = self.progress.as_ref().map_or(0, |progress| progress.bytes());
        let mut record = Record {
            id: self.id,
            request_id: self.request_id.clone(),
            moment: self.ctx.moment,
            protocol: self.protocol,
            listener: Arc::clone(&self.connection.listener),
            route: Arc::clone(&self.ctx.route),
            method: std::mem::take(&mut self.method),
            came_with: self.came_with.take(),
            host: std::mem::take(&mut self.host),
            path: std::mem::take(&mut self.path),
            status: if self.status == 0 { CLIENT_CLOSED_REQUEST } else { self.status },
            grpc: self.grpc.and_then(|call| call.ending.code(end)),
            refusal: self.refusal.take().map(record::Refusal::of),
            client: self.ctx.client.address,
            tls: self.connection.secure,
            peer: self.ctx.peer.take(),
            subject: self.ctx.principal.take(),
            consumer: self.ctx.consumer.take(),
            upstream: self.upstream.take(),
            endpoint: self.endpoint,
            upstream_status: self.upstream_status,
            attempts: self.tries.max(u32::from(self.upstream_time.is_some())),
            tries: self.attempts.take().map(|log| log.take()).unwrap_or_default(),
            durations: self.durations(now),
            bytes_received: self.received.saturating_add(streamed),
            bytes_sent: self.sent,
            scores: std::mem::take(&mut self.ctx.scores),
            limits: std::mem::take(&mut self.ctx.limits),
            audits: std::mem::take(&mut self.ctx.audits),
            shadows: std::mem::take(&mut self.ctx.shadows),
            once: self.once,
            org: self.org.take(),
            trace: Some(self.trace.clone()),
            traced: false,
            end,
            explanation: None,
        };
        let telemetry = &self.connection.gateway.telemetry;
        record.traced = telemetry.traces().is_some_and(|traces| traces.wants(&record));
        if record.traced || telemetry.decisions().wants(&record) {
            let description = self.description().cloned();
            let (principal, headers) = (record.subject.as_deref(), self.headers.take());
            let explanation = Explanation::new(description, &mut self.ctx, principal, headers);
            record.explanation = Some(Box::new(explanation));
        }
        telemetry.record(record, self.metrics.as_ref().unwrap_or(&self.live.unrouted));
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // Where it ends without an answer or a refusal: a panic, or the end of the process.
        idempotency::let_go(self);
        if !self.recorded && std::thread::panicking() {
            // A second panic while the first unwinds would end the process.
            let record = || {
                panics::blame(self);
                self.record(End::Complete);
            };
            let _ = catch_unwind(AssertUnwindSafe(record));
            return;
        }
        self.record(End::ClientGone);
    }
}

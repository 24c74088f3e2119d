//! What is gathered about one connection until its one record is made.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foregate_filters::chain::Refusal;
use foregate_filters::context::{Client, RequestContext};
use foregate_filters::step::Step;
use foregate_policy::routes::streams::StreamRoute;
use http::header::HOST;
use http::{HeaderValue, Method, Request, request};

use crate::clock;
use crate::gateway::Gateway;
use crate::panics;
use crate::streams::relay::Passed;
use crate::telemetry::explain::Explanation;
use crate::telemetry::occupancy::Occupied;
use crate::telemetry::record::{self, DecisionId, Durations, End, Protocol, Record};

/// One connection from its first byte to its record. Recorded exactly once: at its end, or when it is dropped.
#[derive(Debug)]
pub struct StreamLife {
    pub gateway: Arc<Gateway>,
    pub ctx: RequestContext,
    pub id: DecisionId,
    /// What stands for a request before the filters of the route.
    pub head: request::Parts,
    pub listener: Arc<str>,
    /// The name that the client asked for in TLS; empty where it asked for none.
    pub name: Box<str>,
    /// True where the client spoke TLS, whoever ended it.
    pub tls: bool,
    pub route: Option<Arc<StreamRoute>>,
    pub upstream: Option<Arc<str>>,
    pub endpoint: Option<SocketAddr>,
    /// Endpoints that were connected to, or could not be.
    pub attempts: u32,
    pub upstream_time: Option<Duration>,
    pub refusal: Option<Refusal>,
    /// What passed the client's end.
    pub client: Arc<Passed>,
    pub end: End,
    recorded: bool,
    /// Counts the connection as open.
    _open: Occupied,
}

impl StreamLife {
    pub fn new(
        gateway: Arc<Gateway>,
        (peer, secure): (SocketAddr, bool),
        (listener, destination): (Arc<str>, Option<SocketAddr>),
        name: Box<str>,
        open: Occupied,
    ) -> Self {
        let moment = clock::now();
        let client = Client { peer, address: peer.ip().to_canonical(), tls: secure, destination };
        let (mut head, ()) = Request::new(()).into_parts();
        if let (false, Ok(host)) = (name.is_empty(), HeaderValue::from_str(&name)) {
            head.headers.insert(HOST, host);
        }
        Self {
            gateway,
            ctx: RequestContext::new(moment, client),
            id: DecisionId::new(moment),
            head,
            listener,
            name,
            tls: secure,
            route: None,
            upstream: None,
            endpoint: None,
            attempts: 0,
            upstream_time: None,
            refusal: None,
            client: Arc::default(),
            end: End::ClientGone,
            recorded: false,
            _open: open,
        }
    }

    /// Makes the one record of this connection.
    fn record(&mut self) {
        if std::mem::replace(&mut self.recorded, true) {
            return;
        }
        let now = clock::monotonic();
        let passed = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut record = Record {
            id: self.id,
            request_id: self.id.header_value(),
            moment: self.ctx.moment,
            protocol: if self.tls { Protocol::Tls } else { Protocol::Tcp },
            listener: Arc::clone(&self.listener),
            route: Arc::clone(&self.ctx.route),
            method: Method::CONNECT,
            came_with: None,
            host: std::mem::take(&mut self.name),
            path: Box::default(),
            status: 0,
            grpc: None,
            refusal: self.refusal.take().map(record::Refusal::of),
            client: self.ctx.client.address,
            tls: self.tls,
            peer: self.ctx.peer.take(),
            subject: None,
            consumer: None,
            upstream: self.upstream.take(),
            endpoint: self.endpoint,
            upstream_status: 0,
            attempts: self.attempts,
            tries: Vec::new(),
            durations: Durations {
                total: now.saturating_sub(self.ctx.moment.monotonic),
                upstream: self.upstream_time,
                added: None,
                dispatched: None,
                enrich: None,
            },
            bytes_received: passed(&self.client.read),
            bytes_sent: passed(&self.client.written),
            scores: std::mem::take(&mut self.ctx.scores),
            limits: std::mem::take(&mut self.ctx.limits),
            audits: std::mem::take(&mut self.ctx.audits),
            shadows: std::mem::take(&mut self.ctx.shadows),
            once: None,
            org: None,
            trace: None,
            traced: false,
            end: self.end,
            explanation: None,
        };
        let telemetry = &self.gateway.telemetry;
        if telemetry.decisions().wants(&record) {
            let description = self.route.as_ref().map(|route| Arc::clone(&route.description));
            record.explanation = Some(Box::new(Explanation::new(description, &mut self.ctx, None, None)));
        }
        self.gateway.streams.observe(&record);
        let route = telemetry.route(&record.route);
        telemetry.record_stream(record, &route);
    }
}

impl Drop for StreamLife {
    fn drop(&mut self) {
        if !self.recorded && std::thread::panicking() {
            // A second panic while the first unwinds would end the process.
            let record = || {
                self.refusal = Some(panics::defect(self.id, Step::Route));
                self.record();
            };
            let _ = catch_unwind(AssertUnwindSafe(record));
            return;
        }
        self.record();
    }
}

//! What one record does to the metrics of its route.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use http::Method;
use prometheus_client::metrics::counter::Counter;

use crate::telemetry::code::Code;
use crate::telemetry::families::{Families, MAX_EXCHANGES};
use crate::telemetry::histogram::{Exemplar, Histogram};
use crate::telemetry::labels::{
    AuditLabels, ClientLabels, Exchange, METHODS, OTHER, RefusalLabels, RevocationLabels, RouteLabels,
    STATUSES, ServerLabels, method, status,
};
use crate::telemetry::record::{End, Record, Refusal};
use crate::telemetry::series::{Budget, Series};

type ByRule = Series<Arc<str>, Counter>;

/// Handles by status, made on first use.
type ByStatus = [OnceLock<Arc<Histogram>>; STATUSES];

/// The same by method. What is beyond a bound shares a series for each class of statuses.
#[derive(Debug)]
struct Exchanges {
    handles: [OnceLock<Box<ByStatus>>; METHODS],
    /// Calls, and what failed though its status does not tell.
    others: Series<Exchange, Arc<Histogram>>,
    budget: Budget,
}

/// How an exchange ended, and how long it took.
#[derive(Clone, Copy, Debug)]
struct Ended {
    status: u16,
    code: Option<Code>,
    fault: Option<&'static str>,
    time: Duration,
    exemplar: Option<Exemplar>,
}

/// Those of one upstream.
type ByUpstream = (Arc<str>, Exchanges);

/// The handles of one route. The same name gives the same handles, snapshot after snapshot.
#[derive(Debug)]
pub struct RouteMetrics {
    name: Arc<str>,
    families: Arc<Families>,
    requests: Exchanges,
    added: OnceLock<Arc<Histogram>>,
    /// The upstream that came first: most routes have no other.
    upstream: OnceLock<ByUpstream>,
    upstreams: Series<Arc<str>, Arc<ByUpstream>>,
    /// Those that found no room.
    other_upstreams: OnceLock<ByUpstream>,
    refusals: Series<(Step, Reason), Arc<ByRule>>,
    audits: ByRule,
    revocations: Series<Reason, Counter>,
    /// An answer on this route has stayed open for long.
    stays_open: AtomicBool,
}

impl Default for Exchanges {
    fn default() -> Self {
        Self { handles: Default::default(), others: Series::default(), budget: Budget::new(MAX_EXCHANGES) }
    }
}

impl Exchanges {
    /// Counts an exchange; `make` is given its labels where it is the first of its kind.
    fn observe(&self, sent: &Method, ended: Ended, make: impl FnOnce(Exchange) -> Arc<Histogram>) {
        let ((row, method), (place, status)) = (method(sent), status(ended.status));
        let code = ended.code.map(Code::name).unwrap_or_default();
        let exchange = Exchange { method, status, code, fault: ended.fault.unwrap_or_default() };
        let labels = || if self.budget.take() { exchange } else { exchange.of_class(ended.status) };
        if exchange.is_plain() {
            let Some(row) = self.handles.get(row) else { return };
            let row = row.get_or_init(|| Box::new([const { OnceLock::new() }; STATUSES]));
            if let Some(series) = row.get(place) {
                series.get_or_init(|| make(labels())).observe(ended.time, ended.exemplar);
            }
            return;
        }
        // Handles alone, of closed lists: what they lead to is bounded by the labels.
        let make = || (exchange, make(labels()));
        if let Some(series) = self.others.find_or_make(&exchange, &Budget::new(1), make) {
            series.observe(ended.time, ended.exemplar);
        }
    }
}

impl Ended {
    fn of(record: &Record, exemplar: Option<Exemplar>) -> Self {
        Self {
            status: record.status,
            code: record.grpc,
            fault: record.fault().filter(|_| record.status < 500),
            time: record.durations.total,
            exemplar,
        }
    }

    /// How the upstream ended it; `time` is until the head of its response.
    fn of_upstream(record: &Record, time: Duration) -> Self {
        Self {
            status: record.upstream_status,
            code: record.upstream_grpc(),
            fault: record.upstream_fault(),
            time,
            exemplar: None,
        }
    }
}

impl RouteMetrics {
    pub(crate) fn new(name: Arc<str>, families: Arc<Families>) -> Self {
        Self {
            name,
            families,
            requests: Exchanges::default(),
            added: OnceLock::new(),
            upstream: OnceLock::new(),
            upstreams: Series::default(),
            other_upstreams: OnceLock::new(),
            refusals: Series::default(),
            audits: Series::default(),
            revocations: Series::default(),
            stays_open: AtomicBool::new(false),
        }
    }

    /// True where an answer has stayed open for long, so that another may.
    pub fn stays_open(&self) -> bool {
        self.stays_open.load(Ordering::Relaxed)
    }

    /// Notes that an answer stays open for long.
    pub fn stay_open(&self) {
        if !self.stays_open() {
            self.stays_open.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn observe(&self, record: &Record, kept: bool) {
        let labels = |exchange| ServerLabels { exchange, route: self.name.clone() };
        // One that leads to a decision which is not kept, or to a trace which nobody has, would lead nowhere.
        let exemplar = kept.then(|| Exemplar {
            decision: record.id,
            trace: record.trace.as_ref().filter(|it| record.traced || it.sampled()).map(|it| it.trace),
            unix: record.moment.unix + record.durations.total,
        });
        let make = |exchange| self.families.server.series(labels(exchange));
        self.requests.observe(&record.method, Ended::of(record, exemplar), make);
        if let Some(time) = record.durations.added {
            let added = || self.families.added.series(RouteLabels { route: self.name.clone() });
            self.added.get_or_init(added).observe(time, None);
        }
        if let (Some(upstream), Some(time)) = (&record.upstream, record.durations.upstream) {
            self.with_upstream(upstream, |(name, exchanges)| {
                let make = |exchange| {
                    let labels = ClientLabels { server: labels(exchange), upstream: Arc::clone(name) };
                    self.families.client.series(labels)
                };
                exchanges.observe(&record.method, Ended::of_upstream(record, time), make);
            });
        }
        self.observe_verdict(record);
    }

    fn with_upstream(&self, upstream: &Arc<str>, observe: impl FnOnce(&ByUpstream)) {
        let new = || (Arc::clone(upstream), Exchanges::default());
        let first = self.upstream.get_or_init(new);
        if *first.0 == **upstream {
            return observe(first);
        }
        let make = || (Arc::clone(upstream), Arc::new(new()));
        match self.upstreams.find_or_make(&**upstream, &self.families.upstream_budget, make) {
            Some(known) => observe(&known),
            None => observe(self.other_upstreams.get_or_init(|| (OTHER.into(), Exchanges::default()))),
        }
    }

    pub(crate) fn observe_verdict(&self, record: &Record) {
        match &record.refusal {
            // It was admitted, and counted so, when it came.
            Some(refusal) if record.end == End::Revoked => self.observe_revocation(refusal.reason),
            Some(refusal) => self.observe_refusal(refusal),
            None => {}
        }
        for audit in &record.audits {
            self.observe_audit(&audit.rule);
        }
    }

    fn observe_revocation(&self, reason: Reason) {
        let make = || {
            let labels = RevocationLabels { route: self.name.clone(), reason: reason.name() };
            (reason, self.families.revocations.get_or_create_owned(&labels))
        };
        // Reasons are a closed list.
        if let Some(counter) = self.revocations.find_or_make(&reason, &Budget::new(1), make) {
            counter.inc();
        }
    }

    fn observe_refusal(&self, refusal: &Refusal) {
        let kind = (refusal.step, refusal.reason);
        // Handles alone, of closed lists: what they lead to is bounded below.
        let Some(rules) = self.refusals.find_or_make(&kind, &Budget::new(1), || (kind, Arc::default()))
        else {
            return;
        };
        let make = |route: Arc<str>, rule: &str| {
            let rule: Arc<str> = rule.into();
            let labels = RefusalLabels {
                route,
                step: refusal.step.name(),
                reason: refusal.reason.name(),
                rule: rule.clone(),
            };
            (rule, self.families.refusals.get_or_create_owned(&labels))
        };
        let counter = rules
            .find_or_make(&*refusal.rule, &self.families.refusal_budget, || {
                make(self.name.clone(), &refusal.rule)
            })
            .or_else(|| {
                let route = || self.route_of_others(&self.families.other_refusal_budget);
                rules.find_or_make(OTHER, &Budget::new(1), || make(route(), OTHER))
            });
        if let Some(counter) = counter {
            counter.inc();
        }
    }

    fn observe_audit(&self, rule: &str) {
        let make = |route: Arc<str>, rule: &str| {
            let rule: Arc<str> = rule.into();
            let labels = AuditLabels { route, rule: rule.clone() };
            (rule, self.families.audits.get_or_create_owned(&labels))
        };
        let counter = self
            .audits
            .find_or_make(rule, &self.families.audit_budget, || make(self.name.clone(), rule))
            .or_else(|| {
                let route = || self.route_of_others(&self.families.other_audit_budget);
                self.audits.find_or_make(OTHER, &Budget::new(1), || make(route(), OTHER))
            });
        if let Some(counter) = counter {
            counter.inc();
        }
    }

    /// The route that rules without series of their own are counted under: this one while there is room.
    fn route_of_others(&self, budget: &Budget) -> Arc<str> {
        if budget.take() { self.name.clone() } else { OTHER.into() }
    }
}

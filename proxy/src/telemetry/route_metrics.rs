//! What one record does to the metrics of its route.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use crate::telemetry::families::{Exemplified, Families};
use crate::telemetry::labels::{
    AuditLabels, OTHER, RefusalLabels, RevocationLabels, RouteLabels, STATUSES, StatusLabels, status,
};
use crate::telemetry::record::{End, Record, Refusal};
use crate::telemetry::series::{Budget, Series};

type ByRule = Series<Arc<str>, Counter>;

/// The handles of one route. The same name gives the same handles, snapshot after snapshot.
#[derive(Debug)]
pub struct RouteMetrics {
    name: Arc<str>,
    families: Arc<Families>,
    requests: [OnceLock<Counter>; STATUSES],
    duration: OnceLock<Exemplified>,
    upstream: OnceLock<Histogram>,
    refusals: Series<(Step, Reason), Arc<ByRule>>,
    audits: ByRule,
    /// An answer on this route has stayed open for long.
    stays_open: AtomicBool,
}

impl RouteMetrics {
    pub(crate) fn new(name: Arc<str>, families: Arc<Families>) -> Self {
        Self {
            name,
            families,
            requests: [const { OnceLock::new() }; STATUSES],
            duration: OnceLock::new(),
            upstream: OnceLock::new(),
            refusals: Series::default(),
            audits: Series::default(),
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

    fn labels(&self) -> RouteLabels {
        RouteLabels { route: self.name.clone() }
    }

    pub(crate) fn observe(&self, record: &Record, kept: bool) {
        let (place, label) = status(record.status);
        if let Some(slot) = self.requests.get(place) {
            let labels = || StatusLabels { route: self.name.clone(), status: label };
            slot.get_or_init(|| self.families.requests.get_or_create_owned(&labels())).inc();
        }
        let ended = SystemTime::UNIX_EPOCH.checked_add(record.moment.unix + record.durations.total);
        self.duration.get_or_init(|| self.families.durations.get_or_create_owned(&self.labels())).observe(
            record.durations.total.as_secs_f64(),
            kept.then_some(record.id),
            ended,
        );
        if let Some(upstream) = record.durations.upstream {
            self.upstream
                .get_or_init(|| self.families.upstream.get_or_create_owned(&self.labels()))
                .observe(upstream.as_secs_f64());
        }
        self.observe_verdict(record);
    }

    pub(crate) fn observe_verdict(&self, record: &Record) {
        match &record.refusal {
            // It was admitted, and counted so, when it came.
            Some(refusal) if record.end == End::Revoked => {
                let labels = RevocationLabels { route: self.name.clone(), reason: refusal.reason.name() };
                self.families.revocations.get_or_create_owned(&labels).inc();
            }
            Some(refusal) => self.observe_refusal(refusal),
            None => {}
        }
        for audit in &record.audits {
            self.observe_audit(&audit.rule);
        }
    }

    fn observe_refusal(&self, refusal: &Refusal) {
        let kind = (refusal.step, refusal.reason);
        // Steps and reasons are closed lists, so this level needs no bound.
        let Some(rules) = self.refusals.find_or_make(&kind, &Budget::new(1), || (kind, Arc::default()))
        else {
            return;
        };
        let make = |rule: &str| {
            let rule: Arc<str> = rule.into();
            let labels = RefusalLabels {
                route: self.name.clone(),
                step: refusal.step.name(),
                reason: refusal.reason.name(),
                rule: rule.clone(),
            };
            (rule, self.families.refusals.get_or_create_owned(&labels))
        };
        let counter = rules
            .find_or_make(&*refusal.rule, &self.families.refusal_budget, || make(&refusal.rule))
            .or_else(|| rules.find_or_make(OTHER, &Budget::new(1), || make(OTHER)));
        if let Some(counter) = counter {
            counter.inc();
        }
    }

    fn observe_audit(&self, rule: &str) {
        let make = |rule: &str| {
            let rule: Arc<str> = rule.into();
            let labels = AuditLabels { route: self.name.clone(), rule: rule.clone() };
            (rule, self.families.audits.get_or_create_owned(&labels))
        };
        let counter = self
            .audits
            .find_or_make(rule, &self.families.audit_budget, || make(rule))
            .or_else(|| self.audits.find_or_make(OTHER, &Budget::new(1), || make(OTHER)));
        if let Some(counter) = counter {
            counter.inc();
        }
    }
}

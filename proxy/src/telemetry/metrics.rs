//! The metrics of the gateway: handles, what one record does to them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foregate_filters::context::{LimitFact, ScoreFact, ShadowFact, ShadowVerdict};
use foregate_filters::rate_limit::OnError;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use prometheus_client::metrics::counter::Counter;

use crate::mirror::Outcome;
use crate::telemetry::families::{Families, seconds};
use crate::telemetry::histogram::{self, NoLabels};
use crate::telemetry::labels::{
    FailureLabels, InjectionLabels, LimitLabels, ListenerLabels, MirrorLabels, ModelLabels, OTHER, OUTCOMES,
    OutcomeLabels, ScoreLabels, ShadowLabels, StepLabels, StoreLabels, UnavailableLabels, outcome,
};
use crate::telemetry::occupancy::Occupancy;
use crate::telemetry::record::{End, Record};
use crate::telemetry::route_metrics::RouteMetrics;
use crate::telemetry::series::{Budget, Series};
use crate::telemetry::values::Values;

/// Every handle. One for the process; it outlives snapshots.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) families: Arc<Families>,
    routes: Series<Arc<str>, Arc<RouteMetrics>>,
    models: Series<Arc<str>, Arc<ModelMetrics>>,
    limits: Series<Arc<str>, Arc<LimitMetrics>>,
    listeners: Series<Arc<str>, Occupancy>,
    shadows: Series<ShadowKind, Arc<Series<Arc<str>, Counter>>>,
    mirrors: Series<MirrorLabels, Counter>,
    injections: Series<InjectionLabels, Counter>,
    failures: Series<(Arc<str>, Reason), Counter>,
    stores: Series<Arc<str>, Values>,
    steps: [OnceLock<Arc<histogram::Histogram>>; Step::ALL.len()],
    enrich: OnceLock<Arc<histogram::Histogram>>,
    outcomes: OutcomeCounts,
}

/// How all requests together ended, for reports to the control plane.
#[derive(Debug, Default)]
pub struct OutcomeCounts {
    /// Somebody reports them: workers that share three counters pay for it with each request.
    reported: AtomicBool,
    requests: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

/// Counts of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub requests: u64,
    /// By policies, for what callers are or do.
    pub refused: u64,
    /// By the gateway or an upstream: see [`Record::failed`].
    pub failed: u64,
}

impl OutcomeCounts {
    fn count(&self, record: &Record) {
        if !self.reported.load(Ordering::Relaxed) {
            return;
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        // What was revoked was admitted, and counted so, when it came.
        if record.failed() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        } else if record.refusal.is_some() && record.end != End::Revoked {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn read(&self) -> Outcomes {
        Outcomes {
            requests: self.requests.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// Policy, its verdict, and the real one.
type ShadowKind = (Arc<str>, &'static str, &'static str);

#[derive(Debug)]
struct LimitMetrics {
    admitted: Counter,
    refused: Counter,
    /// By what was done instead; made on first use, for stores are there most of the time.
    unavailable: [OnceLock<Counter>; 3],
}

#[derive(Debug)]
struct ModelMetrics {
    outcomes: [Counter; OUTCOMES.len()],
    values: Values,
}

impl Metrics {
    /// The handles of this route; keep them in the snapshot.
    pub fn route(&self, route: &str) -> Arc<RouteMetrics> {
        let make = |name: &str| {
            let name: Arc<str> = name.into();
            (name.clone(), Arc::new(RouteMetrics::new(name, self.families.clone())))
        };
        self.routes
            .find_or_make(route, &self.families.route_budget, || make(route))
            .or_else(|| self.routes.find_or_make(OTHER, &Budget::new(1), || make(OTHER)))
            .unwrap_or_else(|| make(OTHER).1)
    }

    /// Counts the open connections of this listener; keep it with the listener.
    pub fn connections(&self, listener: &str) -> Occupancy {
        let make = || {
            let name: Arc<str> = listener.into();
            let gauge =
                self.families.connections.get_or_create_owned(&ListenerLabels { listener: name.clone() });
            (name, Occupancy(gauge))
        };
        self.listeners.find_or_make(listener, &self.families.listener_budget, make).unwrap_or_default()
    }

    /// How all requests together ended, counted from the first time that somebody asks.
    pub fn outcomes(&self) -> &OutcomeCounts {
        self.outcomes.reported.store(true, Ordering::Relaxed);
        &self.outcomes
    }

    /// Counts the requests between head and record.
    pub fn requests_in_flight(&self) -> &Occupancy {
        &self.families.in_flight
    }

    /// Counts what became of the copy of a request for this upstream.
    pub fn mirrored(&self, upstream: &Arc<str>, outcome: Outcome) {
        let labels = MirrorLabels { upstream: Arc::clone(upstream), outcome: outcome.name() };
        let make = || (labels.clone(), self.families.mirrors.get_or_create_owned(&labels));
        if let Some(counter) = self.mirrors.find_or_make(&labels, &self.families.mirror_budget, make) {
            counter.inc();
        }
    }

    /// Counts a fault of this rule, of the kind `delay` or `abort`.
    pub fn injected(&self, rule: &Arc<str>, kind: &'static str) {
        let labels = InjectionLabels { rule: Arc::clone(rule), kind };
        let make = || (labels.clone(), self.families.injections.get_or_create_owned(&labels));
        if let Some(counter) = self.injections.find_or_make(&labels, &self.families.injection_budget, make) {
            counter.inc();
        }
    }

    /// A snapshot was published at this time since the Unix epoch.
    pub fn reload_succeeded(&self, revision: &str, unix: Duration) {
        self.families.reloads.get_or_create(&OutcomeLabels { outcome: "success" }).inc();
        self.families.rejected.set(0);
        self.families.reload_success.set(unix.as_secs_f64());
        self.families.revision.store(Arc::new(revision.into()));
    }

    /// How long a store takes to answer; told nowhere where there are as many stores as may be.
    pub fn store_latency(&self, store: &Arc<str>) -> Values {
        let make = || {
            let labels = StoreLabels { store: Arc::clone(store) };
            (Arc::clone(store), self.families.stores.get_or_create_owned(&labels))
        };
        self.stores.find_or_make(&**store, &self.families.store_budget, make).unwrap_or_else(seconds)
    }

    /// A new configuration was refused; the old snapshot stays.
    pub fn reload_failed(&self) {
        self.families.rejected.set(1);
        self.families.reloads.get_or_create(&OutcomeLabels { outcome: "failure" }).inc();
    }

    /// Counts one finished request, as an exemplar too where its decision is kept. Formats nothing, and takes a lock
    /// for exemplars alone.
    pub fn observe(&self, record: &Record, route: &RouteMetrics, kept: bool) {
        route.observe(record, kept);
        self.outcomes.count(record);
        for fact in &record.scores {
            self.observe_score(fact);
        }
        for fact in &record.limits {
            self.observe_limit(fact);
        }
        for fact in &record.shadows {
            self.observe_shadow(fact);
        }
        if let Some(enrich) = record.durations.enrich {
            self.enrich.get_or_init(|| self.families.enrich.series(NoLabels)).observe(enrich, None);
        }
        self.observe_failure(record);
        self.observe_steps(record);
    }

    /// Counts what was decided about one connection that was passed on unread.
    pub fn observe_stream(&self, record: &Record, route: &RouteMetrics) {
        route.observe_verdict(record);
        for fact in &record.limits {
            self.observe_limit(fact);
        }
        for fact in &record.shadows {
            self.observe_shadow(fact);
        }
    }

    /// Counts what an upstream did not answer, or not whole.
    fn observe_failure(&self, record: &Record) {
        let (Some(upstream), Some(_)) = (&record.upstream, record.durations.upstream) else { return };
        let reason = match &record.refusal {
            Some(refusal) if record.upstream_status == 0 => refusal.reason,
            None if record.end == End::UpstreamBroke => Reason::UpstreamReset,
            _ => return,
        };
        // What a client does to its body, or how long it waits, says nothing of the upstream.
        if matches!(reason, Reason::BodyMalformed | Reason::BodyTimeout | Reason::DeadlineExceeded) {
            return;
        }
        let key = (Arc::clone(upstream), reason);
        let make = || {
            let labels = FailureLabels { upstream: Arc::clone(upstream), reason: reason.name() };
            (key.clone(), self.families.failures.get_or_create_owned(&labels))
        };
        if let Some(counter) = self.failures.find_or_make(&key, &self.families.failure_budget, make) {
            counter.inc();
        }
    }

    /// The time of each step, where steps are timed.
    fn observe_steps(&self, record: &Record) {
        let Some(explanation) = &record.explanation else { return };
        if explanation.trace.timing.is_none() {
            return;
        }
        let dispatch = record.durations.upstream.map(|time| (Step::Dispatch, time));
        let timed = explanation.timed().map(|(step, _, _, spent)| (step, spent));
        for (step, time) in timed.chain(dispatch) {
            if let Some(slot) = self.steps.get(step as usize) {
                let make = || self.families.steps.series(StepLabels { step: step.name() });
                slot.get_or_init(make).observe(time, None);
            }
        }
    }

    fn observe_score(&self, fact: &ScoreFact) {
        let families = &self.families;
        let make = || (fact.model.clone(), Arc::new(ModelMetrics::new(&fact.model, families)));
        let Some(model) = self.models.find_or_make(&*fact.model, &families.model_budget, make) else {
            return;
        };
        if let Some(counter) = model.outcomes.get(outcome(fact.fault.as_ref())) {
            counter.inc();
        }
        // With a fault some of the scores are defaults, which say nothing of the model.
        if fact.fault.is_none() {
            for score in &fact.scores {
                model.values.observe(f64::from(*score));
            }
        }
    }

    fn observe_shadow(&self, fact: &ShadowFact) {
        let families = &self.families;
        let rule = match &fact.verdict {
            ShadowVerdict::Refuse { rule, .. } => &**rule,
            ShadowVerdict::Allow | ShadowVerdict::Undecided => "",
        };
        let real = if fact.allowed { "allow" } else { "refuse" };
        let kind: ShadowKind = (Arc::clone(&fact.policy), fact.verdict.name(), real);
        let make = || (kind.clone(), Arc::default());
        let Some(rules) = self.shadows.find_or_make(&kind, &families.shadow_kind_budget, make) else {
            return;
        };
        let make = || {
            let (rule, (policy, verdict, real)) = (Arc::<str>::from(rule), kind.clone());
            let labels = ShadowLabels { policy, verdict, real, rule: Arc::clone(&rule) };
            (rule, families.shadows.get_or_create_owned(&labels))
        };
        if let Some(counter) = rules.find_or_make(rule, &families.shadow_budget, make) {
            counter.inc();
        }
    }

    fn observe_limit(&self, fact: &LimitFact) {
        let families = &self.families;
        let make = || {
            let counter = |admitted| {
                families.limits.get_or_create_owned(&LimitLabels { rule: fact.rule.clone(), admitted })
            };
            (
                fact.rule.clone(),
                Arc::new(LimitMetrics {
                    admitted: counter("true"),
                    refused: counter("false"),
                    unavailable: Default::default(),
                }),
            )
        };
        let Some(limit) = self.limits.find_or_make(&*fact.rule, &families.limit_budget, make) else { return };
        if let Some(done) = fact.unavailable
            && let Some(counter) = limit.unavailable.get(place(done))
        {
            let labels = || UnavailableLabels { rule: fact.rule.clone(), outcome: done.name() };
            counter.get_or_init(|| families.unavailable.get_or_create_owned(&labels())).inc();
        }
        if fact.unavailable.is_none_or(|done| done == OnError::Local) {
            let counter = if fact.admitted { &limit.admitted } else { &limit.refused };
            counter.inc();
        }
    }
}

/// Where what was done instead is counted.
const fn place(done: OnError) -> usize {
    match done {
        OnError::Reject => 0,
        OnError::Continue => 1,
        OnError::Local => 2,
    }
}

impl ModelMetrics {
    fn new(model: &Arc<str>, families: &Families) -> Self {
        let counter =
            |outcome| families.scores.get_or_create_owned(&ScoreLabels { model: model.clone(), outcome });
        Self {
            outcomes: OUTCOMES.map(counter),
            values: families.score_values.get_or_create_owned(&ModelLabels { model: model.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Metrics, Outcomes};
    use crate::telemetry::code::Code;
    use crate::telemetry::exposition::Exposition;
    use crate::telemetry::families::{MAX_EXCHANGES, MAX_NAMES, MAX_OTHER_RULES, MAX_ROUTES, MAX_RULES};
    use crate::telemetry::record::{End, Record};
    use crate::telemetry::sources::Sources;
    use crate::telemetry::testing::{failed_records, full_record, record};
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    fn scrape(metrics: &Metrics) -> String {
        Exposition::new(metrics, &Arc::new(Sources::default()), Vec::new()).encode(true)
    }

    #[track_caller]
    fn assert_line(text: &str, line: &str) {
        assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }

    #[test]
    fn one_full_record_moves_every_family() {
        let metrics = Metrics::default();
        let mut refused = full_record();
        refused.scores[0].fault = None;
        metrics.observe(&refused, &metrics.route("leads"), true);
        metrics.observe(&full_record(), &metrics.route("leads"), true);
        let text = scrape(&metrics);
        for line in [
            r#"http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="429",http_route="leads"} 2"#,
            r#"http_client_request_duration_seconds_count{http_request_method="POST",http_response_status_code="201",http_route="leads",foregate_upstream="leads-svc"} 2"#,
            r#"http_client_request_duration_seconds_bucket{le="0.001",http_request_method="POST",http_response_status_code="201",http_route="leads",foregate_upstream="leads-svc"} 2"#,
            r#"http_client_request_duration_seconds_bucket{le="0.0005",http_request_method="POST",http_response_status_code="201",http_route="leads",foregate_upstream="leads-svc"} 0"#,
            r#"foregate_added_duration_seconds_count{route="leads"} 2"#,
            r#"foregate_added_duration_seconds_sum{route="leads"} 0.000668"#,
            r#"foregate_refusals_total{route="leads",step="admit",reason="RateLimited",rule="per-org"} 2"#,
            r#"foregate_audits_total{route="leads",rule="hold-risky"} 2"#,
            r#"foregate_limit_decisions_total{rule="per-org",admitted="false"} 2"#,
            r#"foregate_limit_decisions_total{rule="per-org",admitted="true"} 0"#,
            r#"foregate_scores_total{model="lead-score",outcome="scored"} 1"#,
            r#"foregate_scores_total{model="lead-score",outcome="feature"} 1"#,
            r#"foregate_score_value_count{model="lead-score"} 2"#,
            r#"foregate_score_value_sum{model="lead-score"} 0.75"#,
            "foregate_enrich_duration_seconds_count 2",
        ] {
            assert_line(&text, line);
        }
        let exemplar = format!("# {{decision_id=\"{}\"}} 0.001234 1790000000.001235", refused.id);
        assert!(!text.contains(&exemplar), "a later request of the bucket takes its place");
        assert_eq!(text.matches("# {decision_id=").count(), 1);
    }

    #[test]
    fn an_exemplar_names_the_decision_its_time_and_its_duration() {
        let metrics = Metrics::default();
        let record = record();
        metrics.observe(&record, &metrics.route("leads"), true);
        let line = format!(
            "http_server_request_duration_seconds_bucket{{le=\"0.0025\",http_request_method=\"POST\",\
             http_response_status_code=\"201\",http_route=\"leads\"}} 1 # {{decision_id=\"{}\"}} 0.001234 1790000000.001235",
            record.id
        );
        assert_line(&scrape(&metrics), &line);
    }

    /// The labels of requests by POST that follow the method, with the number of requests.
    #[track_caller]
    fn assert_posts(text: &str, side: &str, expected: &[(&str, usize)]) {
        for (labels, count) in expected {
            let name = format!("http_{side}_request_duration_seconds_count");
            let line =
                format!("{name}{{http_request_method=\"POST\",http_response_status_code={labels}}} {count}");
            assert_line(text, &line);
        }
    }

    #[test]
    fn what_failed_is_told_apart_from_what_was_refused_whatever_its_status() {
        let metrics = Metrics::default();
        let (route, outcomes) = (metrics.route("leads"), metrics.outcomes());
        let call = || Record { status: 200, upstream_status: 200, grpc: Some(Code::of(8)), ..record() };
        let refused = || Record { refusal: full_record().refusal, upstream_status: 0, ..call() };
        let revoked = Record { end: End::Revoked, upstream_status: 200, ..refused() };
        let others = [call(), refused(), full_record(), revoked, record()];
        for record in failed_records().into_iter().chain(others) {
            metrics.observe(&record, &route, false);
        }
        assert_eq!(outcomes.read(), Outcomes { requests: 12, refused: 2, failed: 7 });
        let text = scrape(&metrics);
        let (route, code) = (r#"http_route="leads""#, "rpc_response_status_code");
        let server = [
            (format!(r#""502",{route}"#), 1),
            (format!(r#""201",{route},error_type="UpstreamReset""#), 1),
            (format!(r#""201",{route},error_type="DeadlineExceeded""#), 1),
            (format!(r#""200",{route},{code}="INTERNAL",error_type="INTERNAL""#), 2),
            (format!(r#""200",{route},{code}="UNAVAILABLE",error_type="UpstreamUnreachable""#), 1),
            (format!(r#""200",{route},{code}="RESOURCE_EXHAUSTED",error_type="Overloaded""#), 1),
            (format!(r#""200",{route},{code}="RESOURCE_EXHAUSTED""#), 3),
            (format!(r#""429",{route}"#), 1),
            (format!(r#""201",{route}"#), 1),
        ];
        assert_posts(&text, "server", &server.each_ref().map(|(labels, count)| (labels.as_str(), *count)));
        let upstream = r#"foregate_upstream="leads-svc""#;
        let client = [
            (format!(r#""201",{route},{upstream}"#), 4),
            (format!(r#""201",{route},error_type="UpstreamReset",{upstream}"#), 1),
            (format!(r#""200",{route},error_type="UpstreamReset",{upstream}"#), 1),
            (format!(r#""200",{route},{code}="INTERNAL",error_type="INTERNAL",{upstream}"#), 1),
            (format!(r#""200",{route},{code}="RESOURCE_EXHAUSTED",{upstream}"#), 1),
            (format!(r#""200",{route},{upstream}"#), 1),
            (format!(r#""",{route},{upstream}"#), 3),
        ];
        assert_posts(&text, "client", &client.each_ref().map(|(labels, count)| (labels.as_str(), *count)));
    }

    #[test]
    fn that_it_failed_stays_known_where_a_route_has_all_series_that_it_may() {
        let metrics = Metrics::default();
        let route = metrics.route("leads");
        for (method, status) in
            ["GET", "PUT", "HEAD"].iter().flat_map(|it| (200..600).map(move |at| (it, at)))
        {
            metrics.observe(&Record { status, method: method.parse().unwrap(), ..record() }, &route, false);
        }
        for record in failed_records() {
            metrics.observe(&record, &route, false);
        }
        let labels = "http_request_method=\"_OTHER\",http_response_status_code=\"2xx\",http_route=\"leads\"";
        let name = "http_server_request_duration_seconds_count";
        assert_line(&scrape(&metrics), &format!("{name}{{{labels},error_type=\"_OTHER\"}} 6"));
    }

    #[test]
    fn a_route_keeps_its_handles_and_too_many_share_one() {
        let metrics = Metrics::default();
        let leads = metrics.route("leads");
        assert!(Arc::ptr_eq(&leads, &metrics.route("leads")));
        assert!(!Arc::ptr_eq(&leads, &metrics.route("cases")));
        let distinct: BTreeSet<_> =
            (0..MAX_ROUTES + 50).map(|number| Arc::as_ptr(&metrics.route(&number.to_string()))).collect();
        assert_eq!(distinct.len(), MAX_ROUTES - 2 + 1);
        metrics.observe(&record(), &metrics.route("one too many"), true);
        assert_line(
            &scrape(&metrics),
            r#"http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="201",http_route="other"} 1"#,
        );
    }

    #[test]
    fn stores_beyond_the_bound_are_left_out_and_counted() {
        let metrics = Metrics::default();
        for number in 0..MAX_NAMES + 2 {
            metrics.store_latency(&format!("store-{number}").into()).observe(0.5);
        }
        metrics.store_latency(&"store-7".into()).observe(0.5);
        let text = scrape(&metrics);
        let count = |store: usize| {
            let series = format!("foregate_store_request_duration_seconds_count{{store=\"store-{store}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&*series))
        };
        assert_eq!((count(7), count(MAX_NAMES - 1), count(MAX_NAMES)), (Some("2"), Some("1"), None));
        let refused =
            "foregate_metric_series_refused_total{metric=\"foregate_store_request_duration_seconds\"} 2.0";
        assert_line(&text, refused);
    }

    #[test]
    fn rules_beyond_the_bound_count_as_other() {
        let metrics = Metrics::default();
        let route = metrics.route("leads");
        for number in 0..MAX_RULES + 30 {
            let mut refused = full_record();
            refused.refusal.as_mut().unwrap().rule = format!("rule-{number}").into();
            refused.audits[0].rule = format!("rule-{number}").into();
            metrics.observe(&refused, &route, true);
        }
        let text = scrape(&metrics);
        for (family, rest) in [
            ("foregate_refusals_total", r#",step="admit",reason="RateLimited",rule="other"} 30"#),
            ("foregate_audits_total", r#",rule="other"} 30"#),
        ] {
            assert_line(&text, &format!("{family}{{route=\"leads\"{rest}"));
            let series = text.lines().filter(|line| line.starts_with(&format!("{family}{{"))).count();
            assert_eq!(series, MAX_RULES + 1, "{family}");
            assert_line(&text, &format!("foregate_metric_series_refused_total{{metric=\"{family}\"}} 30.0"));
        }
    }

    #[test]
    fn routes_share_a_series_where_rules_of_too_many_have_none() {
        let metrics = Metrics::default();
        let observe = |route: &str, rule: &str| {
            let mut refused = full_record();
            refused.refusal.as_mut().unwrap().rule = rule.into();
            refused.audits[0].rule = rule.into();
            metrics.observe(&refused, &metrics.route(route), false);
        };
        (0..MAX_RULES).for_each(|number| observe("leads", &number.to_string()));
        (0..MAX_OTHER_RULES + 30).for_each(|number| observe(&number.to_string(), "late"));
        let text = scrape(&metrics);
        for (family, rest) in [
            ("foregate_refusals_total", r#",step="admit",reason="RateLimited",rule="other"}"#),
            ("foregate_audits_total", r#",rule="other"}"#),
        ] {
            assert_line(&text, &format!("{family}{{route=\"0\"{rest} 1"));
            assert_line(&text, &format!("{family}{{route=\"other\"{rest} 30"));
            let series = text.lines().filter(|line| line.starts_with(&format!("{family}{{"))).count();
            assert_eq!(series, MAX_RULES + MAX_OTHER_RULES + 1, "{family}");
        }
    }

    #[test]
    fn upstreams_beyond_the_bound_count_as_other() {
        let metrics = Metrics::default();
        for route in 0..64 {
            let handles = metrics.route(&format!("route-{route}"));
            // The first of a route takes no room of the others.
            for upstream in 0..=MAX_ROUTES / 64 + 1 {
                let mut record = record();
                record.upstream = Some(format!("svc-{upstream}").into());
                metrics.observe(&record, &handles, false);
            }
        }
        let text = scrape(&metrics);
        for line in [
            r#"http_client_request_duration_seconds_count{http_request_method="POST",http_response_status_code="201",http_route="route-63",foregate_upstream="svc-0"} 1"#,
            r#"http_client_request_duration_seconds_count{http_request_method="POST",http_response_status_code="201",http_route="route-63",foregate_upstream="other"} 64"#,
            r#"foregate_metric_series_refused_total{metric="http_client_request_duration_seconds"} 64.0"#,
        ] {
            assert_line(&text, line);
        }
    }

    #[test]
    fn callers_cannot_use_up_the_series_of_all_routes() {
        let metrics = Metrics::default();
        let methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"];
        let codes = [200, 201, 204, 301, 302, 304, 400, 401, 403, 404, 409, 429, 500, 503];
        for (method, code) in methods.iter().flat_map(|method| codes.map(|code| (method, code))) {
            let mut record = record();
            record.method = method.parse().unwrap();
            (record.status, record.upstream_status) = (code, code);
            metrics.observe(&record, &metrics.route("leads"), false);
        }
        metrics.observe(&record(), &metrics.route("cases"), false);
        let text = scrape(&metrics);
        for (family, upstream) in [
            ("http_server_request_duration_seconds_count", ""),
            ("http_client_request_duration_seconds_count", ",foregate_upstream=\"leads-svc\""),
        ] {
            let of_route = |line: &&str| line.starts_with(family) && line.contains("http_route=\"leads\"");
            let series: Vec<_> = text.lines().filter(of_route).collect();
            assert_eq!(series.len(), MAX_EXCHANGES + ["2xx", "3xx", "4xx", "5xx"].len(), "{family}");
            let counted =
                series.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap());
            assert_eq!(counted.sum::<usize>(), methods.len() * codes.len(), "{family}");
            let labels = |method: &str, status: &str, route: &str| {
                format!(
                    "{family}{{http_request_method=\"{method}\",http_response_status_code=\"{status}\",\
                     http_route=\"{route}\"{upstream}}}"
                )
            };
            assert_line(&text, &format!("{} 1", labels("GET", "200", "leads")));
            assert_line(&text, &format!("{} 1", labels("POST", "201", "cases")));
            assert!(text.contains(&labels("_OTHER", "4xx", "leads")), "{text}");
        }
    }

    #[test]
    fn what_is_open_is_counted_until_dropped() {
        let metrics = Metrics::default();
        let https = metrics.connections("https");
        let (first, second) = (https.enter(), metrics.connections("https").enter());
        let request = metrics.requests_in_flight().enter();
        assert_line(&scrape(&metrics), r#"foregate_connections_open{listener="https"} 2"#);
        assert_line(&scrape(&metrics), "http_server_active_requests 1");
        drop((first, second, request));
        assert_eq!((https.count(), metrics.requests_in_flight().count()), (0, 0));
        assert_line(&scrape(&metrics), r#"foregate_connections_open{listener="https"} 0"#);
    }

    #[test]
    fn reloads_show_their_outcome_and_the_revision_in_force() {
        let metrics = Metrics::default();
        assert!(!scrape(&metrics).contains("foregate_config_revision"));
        metrics.reload_succeeded("a1", Duration::from_millis(1_790_000_000_500));
        metrics.reload_succeeded("b2", Duration::from_millis(1_790_000_001_500));
        metrics.reload_failed();
        let text = scrape(&metrics);
        for line in [
            r#"foregate_config_revision_info{revision="b2"} 1"#,
            r#"foregate_config_reloads_total{outcome="success"} 2"#,
            r#"foregate_config_reloads_total{outcome="failure"} 1"#,
            "foregate_config_last_success_timestamp_seconds 1790000001.5",
            "foregate_config_rejected 1",
        ] {
            assert_line(&text, line);
        }
        assert!(!text.contains("a1"));
        metrics.reload_succeeded("c3", Duration::from_secs(1));
        assert_line(&scrape(&metrics), "foregate_config_rejected 0");
    }
}

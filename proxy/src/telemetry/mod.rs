//! One record a request becomes metrics, a recent decision and a log line.

pub mod access_log;
pub mod code;
mod combined;
pub mod compat;
pub mod decisions;
mod ecs;
pub mod event;
mod event_queue;
pub mod explain;
pub mod exposition;
mod extent;
mod failure;
mod families;
pub mod filter;
#[cfg(test)]
mod gate;
mod histogram;
pub mod json;
mod labels;
pub mod metrics;
pub mod occupancy;
pub mod otlp;
mod process;
pub mod random;
pub mod record;
pub mod route_metrics;
pub mod series;
pub mod sources;
#[cfg(test)]
pub(crate) mod testing;
pub mod trace_context;
pub mod traces;
pub mod values;
pub mod watch;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::clock;
use crate::decision_log::{DecisionLog, DecisionLogOptions};
use crate::telemetry::access_log::{AccessLog, LogFormat, LogQueue};
use crate::telemetry::compat::Compat;
use crate::telemetry::decisions::{Decisions, SAMPLE};
use crate::telemetry::exposition::Exposition;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otlp::{Destination, Exporter};
use crate::telemetry::record::{CameWith, DecisionId, End, Record};
use crate::telemetry::route_metrics::RouteMetrics;
use crate::telemetry::sources::{Kind, Sources};
use crate::telemetry::trace_context::{SAMPLED, TraceContext};
use crate::telemetry::traces::{TraceOptions, Traces};
use crate::telemetry::watch::{Watched, Watcher};

/// How telemetry is set up.
#[derive(Clone, Debug)]
pub struct TelemetryOptions {
    pub access_log: AccessLog,
    pub log_format: LogFormat,
    /// One in this many of the records that tell nothing special is logged.
    pub log_sample: u32,
    /// How many recent decisions are kept at most.
    pub decisions: usize,
    /// One in this many of those that tell nothing special is kept; rounded up to a power of two.
    pub sample: u32,
    pub decision_log: Option<DecisionLogOptions>,
    /// Whose names metrics have besides our own.
    pub compat: Vec<Compat>,
    /// Where spans go; nothing is traced without.
    pub traces: Option<TraceOptions>,
    /// Where the access log goes by OTLP, whether or not it is written too.
    pub logs: Option<Destination>,
}

/// All that watches requests. One for the process.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    decisions: Decisions,
    watched: Watched,
    log: LogQueue,
    log_sample: u32,
    decision_log: Option<DecisionLog>,
    traces: Option<Traces>,
    log_exporter: Option<Exporter>,
    sources: Arc<Sources>,
    exposition: Exposition,
}

impl Default for TelemetryOptions {
    fn default() -> Self {
        Self {
            access_log: AccessLog::Stdout,
            log_format: LogFormat::default(),
            log_sample: 1,
            decisions: 4_096,
            sample: SAMPLE,
            decision_log: None,
            compat: Vec::new(),
            traces: None,
            logs: None,
        }
    }
}

impl Telemetry {
    /// Opens the access log and the decision log, and starts the threads that write them.
    ///
    /// Fails where a file or key cannot be read or a thread cannot be started.
    pub fn new(options: TelemetryOptions) -> io::Result<Arc<Self>> {
        let metrics = Metrics::default();
        let sources = Arc::new(Sources::default());
        let log = LogQueue::start(options.access_log, options.log_format)?;
        let exposition = Exposition::new(&metrics, &sources, options.compat);
        log.export(&sources);
        event::export(&sources);
        let decisions = Decisions::new(options.decisions, options.sample);
        let decision_log =
            options.decision_log.map(DecisionLog::open).transpose().map_err(io::Error::other)?;
        if let Some(log) = &decision_log {
            log.export(&sources);
        }
        let traces = options.traces.map(Traces::start).transpose()?;
        let log_exporter = options.logs.map(Exporter::start).transpose()?;
        for exporter in traces.as_ref().map(Traces::exporter).into_iter().chain(&log_exporter) {
            exporter.export(&sources);
        }
        let watched = Watched::default();
        let log_sample = options.log_sample;
        Ok(Arc::new(Self {
            metrics,
            decisions,
            watched,
            log,
            log_sample,
            decision_log,
            traces,
            log_exporter,
            sources,
            exposition,
        }))
    }

    /// Counts, keeps and logs one finished request. Called exactly once a request; never blocks on output.
    pub fn record(&self, record: Record, route: &RouteMetrics) {
        let keep = self.decisions.wants(&record);
        // An exemplar leads to its decision: one that is not kept would lead nowhere.
        self.metrics.observe(&record, route, keep);
        self.keep(record, keep);
    }

    /// The same for a connection that was passed on unread.
    pub fn record_stream(&self, record: Record, route: &RouteMetrics) {
        let keep = self.decisions.wants(&record);
        self.metrics.observe_stream(&record, route);
        self.keep(record, keep);
    }

    fn keep(&self, mut record: Record, keep: bool) {
        let logged = (!self.log.is_off() || self.log_exporter.is_some()) && self.is_logged(&record);
        if !keep && !record.traced && !logged && self.decision_log.is_none() {
            return;
        }
        record.bound();
        // These hold on to it for longer than it takes to write a line.
        if keep || record.traced || (logged && self.log_exporter.is_some()) {
            record.forget_claims();
        }
        let record = Arc::new(record);
        if let Some(traces) = self.traces.as_ref().filter(|_| record.traced) {
            traces.push(record.clone());
        }
        if keep {
            self.watched.tell(&record);
            self.decisions.push(record.clone());
        }
        if let Some(log) = &self.decision_log {
            log.push(record.clone());
        }
        if let Some(exporter) = self.log_exporter.as_ref().filter(|_| logged) {
            exporter.push(record.clone());
        }
        if logged {
            self.log.push(record);
        }
    }

    /// True where the access log has this record: it refuses, audits or failed, or is one of the sample.
    fn is_logged(&self, record: &Record) -> bool {
        let telling = || record.is_telling() || record.end == End::Revoked;
        self.log_sample <= 1 || record.id.draw(self.log_sample) || telling()
    }

    /// What the access log tells of the headers that a request came with, where it tells any.
    pub fn notes(&self, headers: &HeaderMap) -> Option<Box<CameWith>> {
        self.log.tells_headers().then(|| CameWith::of(headers))
    }

    /// The trace of a request, sampled where it begins here and chance says so.
    pub fn sampled(&self, mut trace: TraceContext) -> TraceContext {
        let begins = trace.parent.is_none();
        if self.traces.as_ref().is_some_and(|traces| begins && traces.samples(trace.trace)) {
            trace.flags |= SAMPLED;
        }
        trace
    }

    /// True where the steps of a request are timed: its decision is kept whatever becomes of it, or its spans are sent.
    pub fn times(&self, id: DecisionId, trace: &TraceContext) -> bool {
        self.decisions.samples(id) || self.tells(trace)
    }

    /// True where the spans of a request in this trace are sent whatever becomes of it.
    pub fn tells(&self, trace: &TraceContext) -> bool {
        self.traces.is_some() && trace.sampled()
    }

    /// Where spans go, where they go anywhere.
    pub fn traces(&self) -> Option<&Traces> {
        self.traces.as_ref()
    }

    /// True while the decision log cannot be written and nothing may pass without it.
    pub fn must_refuse(&self) -> bool {
        self.decision_log.as_ref().is_some_and(DecisionLog::must_refuse)
    }

    /// The handles of this route; keep them in the snapshot.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        self.metrics.route(name)
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Watches the decisions that are kept from now on; `None` where as many watch as may.
    pub fn watch(&self) -> Option<Watcher> {
        self.watched.watch()
    }

    /// Adds a number that is read whenever metrics are; see [`Sources::register`].
    pub fn register_source(
        &self,
        kind: Kind,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        self.sources.register(kind, name, help, labels, read);
    }

    /// The numbers that other parts keep.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// All metrics as text: `OpenMetrics` with exemplars, or the classic format of Prometheus without.
    pub fn exposition(&self, open_metrics: bool) -> String {
        self.exposition.encode(open_metrics)
    }

    /// Waits until every record so far is written, at most this long; true where all were.
    /// Blocks the thread: call it where that harms nobody, at the end of a drain.
    pub fn flush(&self, within: Duration) -> bool {
        self.log.flush(within)
    }

    /// Flushes, sends the spans and logs that wait, and closes the decision log with its last checkpoint, in at most
    /// this time for all together; what comes later is not in it.
    pub fn close(&self, within: Duration) -> bool {
        let until = clock::monotonic().saturating_add(within);
        let left = || until.saturating_sub(clock::monotonic());
        let exporters = || self.traces.as_ref().map(Traces::exporter).into_iter().chain(&self.log_exporter);
        // All write and send at the same time: waiting for one takes nothing from the others.
        exporters().for_each(Exporter::end);
        let closed = self.decision_log.as_ref().is_none_or(|log| log.close(left()));
        let flushed = self.flush(left());
        exporters().for_each(|exporter| exporter.close(left()));
        flushed && closed
    }
}

#[cfg(test)]
mod tests {
    use super::access_log::AccessLog;
    use super::otlp::Destination;
    use super::otlp::signal::Signal;
    use super::otlp::target::Target;
    use super::random;
    use super::record::{End, Record};
    use super::testing::{full_record, record};
    use super::trace_context::TraceContext;
    use super::traces::TraceOptions;
    use super::{Telemetry, TelemetryOptions};
    use crate::clock;
    use foregate_filters::context::{LimitFact, ShadowFact, ShadowVerdict};
    use foregate_filters::rate_limit::OnError;
    use foregate_filters::reason::Reason;
    use foregate_filters::step::Step;
    use std::fs;
    use std::net::TcpListener;
    use std::time::Duration;

    const SERVER_429: &str = "http_server_request_duration_seconds_count{http_request_method=\"POST\",\
        http_response_status_code=\"429\",http_route=\"leads\"} 1\n";
    const SERVER_201: &str = "http_server_request_duration_seconds_count{http_request_method=\"POST\",\
        http_response_status_code=\"201\",http_route=\"leads\"} 100\n";

    #[test]
    fn one_record_makes_one_count_one_decision_one_line() {
        let path = std::env::temp_dir()
            .join(format!("foregate-{}.log", super::record::DecisionId::new(super::testing::MOMENT,)));
        let options = TelemetryOptions {
            access_log: AccessLog::File(path.clone()),
            decisions: 8,
            ..Default::default()
        };
        let telemetry = Telemetry::new(options).unwrap();
        let refused = full_record();
        let id = refused.id;
        telemetry.record(refused, &telemetry.route("leads"));

        let metrics = telemetry.exposition(true);
        assert!(metrics.contains(SERVER_429), "{metrics}");
        assert_eq!(telemetry.decisions().find(id).unwrap().id, id);
        assert!(telemetry.flush(Duration::from_secs(10)));
        let log = fs::read_to_string(&path).unwrap();
        assert_eq!(log.matches(&id.to_string()).count(), 2, "decision and request id: {log}");
        assert_eq!(log.lines().count(), 1);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn claims_do_not_stay_in_memory_with_a_kept_decision() {
        let options = TelemetryOptions { access_log: AccessLog::Off, decisions: 8, ..Default::default() };
        let telemetry = Telemetry::new(options).unwrap();
        let refused = full_record();
        let (id, principal) = (refused.id, refused.subject.clone().unwrap());
        telemetry.record(refused, &telemetry.route("leads"));
        let kept = telemetry.decisions().find(id).unwrap().subject.clone().unwrap();
        assert_eq!((&kept.issuer, &kept.subject), (&principal.issuer, &principal.subject));
        assert!(kept.claims.is_empty());
        assert_eq!(std::sync::Arc::strong_count(&principal), 1);
    }

    #[test]
    fn a_sampled_log_has_every_refusal_audit_and_failure() {
        let path = std::env::temp_dir()
            .join(format!("foregate-{}.log", super::record::DecisionId::new(super::testing::MOMENT)));
        let options = TelemetryOptions {
            access_log: AccessLog::File(path.clone()),
            log_sample: 1 << 20,
            ..Default::default()
        };
        let telemetry = Telemetry::new(options).unwrap();
        let route = telemetry.route("leads");
        let (mut failed, mut audited, mut broke) = (record(), record(), record());
        failed.status = 502;
        audited.audits = full_record().audits;
        broke.end = End::UpstreamBroke;
        let told = [full_record(), failed, audited, broke];
        let ids: Vec<_> = told.iter().map(|record| record.id.to_string()).collect();
        for record in told.into_iter().chain((0..50).map(|_| record())) {
            telemetry.record(record, &route);
        }
        assert!(telemetry.flush(Duration::from_secs(10)));
        let log = fs::read_to_string(&path).unwrap();
        assert!(ids.iter().all(|id| log.contains(id)), "{log}");
        assert!(log.lines().count() < 10, "one in a million of the rest");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn closing_takes_no_longer_than_it_may_however_many_do_not_answer() {
        // It takes connections and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let to = |signal| Destination { target: Target::parse(&url, signal).unwrap(), resource: Vec::new() };
        let options = TelemetryOptions {
            access_log: AccessLog::Off,
            traces: Some(TraceOptions { to: to(Signal::Traces), ratio: 1.0, refusals: 0 }),
            logs: Some(to(Signal::Logs)),
            ..Default::default()
        };
        let telemetry = Telemetry::new(options).unwrap();
        let mut waiting = record();
        (waiting.trace, waiting.traced) = (Some(TraceContext::begin(random::next)), true);
        telemetry.record(waiting, &telemetry.route("leads"));
        let (within, before) = (Duration::from_secs(2), clock::monotonic());
        telemetry.close(within);
        let took = clock::monotonic().saturating_sub(before);
        assert!((within..2 * within).contains(&took), "{took:?}");
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_an_error() {
        let access_log = AccessLog::File("/nonexistent/folder/access.log".into());
        assert!(Telemetry::new(TelemetryOptions { access_log, ..Default::default() }).is_err());
    }

    #[test]
    fn what_is_only_counted_allocates_nothing() {
        let options = TelemetryOptions { access_log: AccessLog::Off, decisions: 0, ..Default::default() };
        let telemetry = Telemetry::new(options).unwrap();
        let route = telemetry.route("leads");
        // All that can be found out about a request, each time from the same rules.
        let full = || {
            let mut full = full_record();
            full.limits.push(LimitFact { unavailable: Some(OnError::Local), ..full.limits[0].clone() });
            let verdict = ShadowVerdict::Refuse {
                step: Step::Admit,
                reason: Reason::RateLimited,
                rule: "per-org".into(),
            };
            for verdict in [ShadowVerdict::Allow, ShadowVerdict::Undecided, verdict] {
                full.shadows.push(ShadowFact { policy: "next".into(), verdict, allowed: true });
            }
            let mut scored = full.scores[0].clone();
            scored.fault = None;
            full.scores.push(scored);
            full
        };
        let revoked = || Record { end: End::Revoked, ..full() };
        let broke = || Record { end: End::UpstreamBroke, ..record() };
        let all = || [record(), full(), revoked(), broke()];
        for record in all() {
            telemetry.record(record, &route);
        }
        let records: Vec<Record> = (0..10).flat_map(|_| all()).collect();
        let counted = allocation_counter::measure(|| {
            for record in records {
                telemetry.record(record, &route);
            }
        });
        assert_eq!(counted.count_total, 0, "{counted:?}");
        assert!(telemetry.exposition(false).contains("foregate_policy_shadow_total{policy=\"next\""));
        // The measure does measure.
        assert!(allocation_counter::measure(|| drop(record())).count_total > 0);
    }

    #[test]
    fn counters_start_at_nothing_and_follow_every_record() {
        let options = TelemetryOptions { access_log: AccessLog::Off, decisions: 0, ..Default::default() };
        let telemetry = Telemetry::new(options).unwrap();
        let route = telemetry.route("leads");
        assert!(!telemetry.exposition(true).contains("duration_seconds_count{"));
        for _ in 0..100 {
            telemetry.record(record(), &route);
        }
        assert!(telemetry.exposition(true).contains(SERVER_201));
        assert!(telemetry.decisions().recent(500, |_| true).is_empty());
    }
}

//! The spans of one finished request, made from its record.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use foregate_filters::step::Step;

use crate::telemetry::labels::{OUTCOMES, method, outcome};
use crate::telemetry::otlp::message::{CLIENT, ERROR, INTERNAL, KeyValue, SERVER, Span, Status, Value};
use crate::telemetry::random;
use crate::telemetry::record::{End, Record};
use crate::telemetry::trace_context::TraceContext;

/// The parent is of another process (opentelemetry-proto, `SpanFlags`): it is known whether it is, and it is.
const REMOTE_PARENT: u32 = 0x300;
/// It is known that the parent is of this process.
const LOCAL_PARENT: u32 = 0x100;

/// Most attempts that are told of one request.
const MAX_ATTEMPTS: usize = 16;

/// One attempt to have an answer of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub endpoint: SocketAddr,
    /// Monotonic.
    pub began: Duration,
    pub took: Duration,
    /// 0 where there was no response.
    pub status: u16,
}

/// Attempts as they are made: one after the other, by one request.
#[derive(Debug, Default)]
pub struct AttemptLog(Mutex<Vec<Attempt>>);

impl AttemptLog {
    /// Notes one more, where there is room.
    pub fn push(&self, attempt: Attempt) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() < MAX_ATTEMPTS {
            attempts.push(attempt);
        }
    }

    /// Takes all of them out.
    pub fn take(&self) -> Vec<Attempt> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How many spans a record gives.
pub fn count(record: &Record) -> usize {
    let steps = record.explanation.as_ref().map_or(0, |explanation| explanation.timed().count());
    1 + steps + usize::from(record.durations.upstream.is_some()) + record.tries.len()
}

/// Appends the spans of a record; those of a connection that was passed on are none.
///
/// They tell what a record may tell and less: no query, header, token, claim, subject or feature.
pub fn write(record: &Record, spans: &mut Vec<Span>) {
    let Some(trace) = &record.trace else { return };
    let told = Told { record, trace };
    spans.push(told.server());
    if let Some(explanation) = &record.explanation {
        for (step, filter, began, took) in explanation.timed() {
            let mut span = told.child(format!("{step} {filter}"), INTERNAL, began, took);
            told.step(&mut span, step);
            spans.push(span);
        }
    }
    if let Some(took) = record.durations.upstream {
        let began = record.durations.dispatched.unwrap_or_default();
        let mut span = told.child(told.method().to_owned(), CLIENT, record.moment.monotonic + began, took);
        told.client(&mut span);
        let parent = span.span_id.clone();
        spans.push(span);
        for (number, attempt) in (1_u32..).zip(&record.tries) {
            let mut span = told.child(format!("attempt {number}"), CLIENT, attempt.began, attempt.took);
            span.parent_span_id.clone_from(&parent);
            told.attempt(&mut span, number, attempt);
            spans.push(span);
        }
    }
}

struct Told<'a> {
    record: &'a Record,
    trace: &'a TraceContext,
}

impl Told<'_> {
    fn method(&self) -> &'static str {
        method(&self.record.method).1
    }

    /// Nanoseconds since the Unix epoch of a monotonic time.
    fn unix(&self, monotonic: Duration) -> u64 {
        let moment = self.record.moment;
        let at = moment.unix + monotonic.saturating_sub(moment.monotonic);
        u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
    }

    fn span(&self, id: u64, name: String, kind: i32, began: Duration, took: Duration) -> Span {
        Span {
            trace_id: self.trace.trace.to_be_bytes().to_vec(),
            span_id: id.to_be_bytes().to_vec(),
            name,
            kind,
            start_time_unix_nano: self.unix(began),
            end_time_unix_nano: self.unix(began.saturating_add(took)),
            ..Span::default()
        }
    }

    fn child(&self, name: String, kind: i32, began: Duration, took: Duration) -> Span {
        let mut span = self.span(random::next().max(1), name, kind, began, took);
        span.parent_span_id = self.trace.span.to_be_bytes().to_vec();
        span.flags = u32::from(self.trace.flags) | LOCAL_PARENT;
        span
    }

    fn server(&self) -> Span {
        let record = self.record;
        let name = match &*record.route {
            "" => self.method().to_owned(),
            route => format!("{} {route}", self.method()),
        };
        let mut span =
            self.span(self.trace.span, name, SERVER, record.moment.monotonic, record.durations.total);
        if let Some(parent) = self.trace.parent {
            span.parent_span_id = parent.to_be_bytes().to_vec();
        }
        span.flags = u32::from(self.trace.flags)
            | if self.trace.parent.is_some() { REMOTE_PARENT } else { LOCAL_PARENT };
        let state = self.trace.state.as_ref().and_then(|state| state.to_str().ok());
        state.unwrap_or_default().clone_into(&mut span.trace_state);
        span.attributes = vec![
            KeyValue::text("http.request.method", self.method()),
            KeyValue::text("url.scheme", if record.tls { "https" } else { "http" }),
            KeyValue::text("url.path", &*record.path),
            KeyValue::text("server.address", &*record.host),
            KeyValue::text("client.address", record.client.to_string()),
            KeyValue::text("network.protocol.version", record.protocol.version()),
            KeyValue::int("http.response.status_code", record.status),
            KeyValue::int("http.request.body.size", record.bytes_received),
            KeyValue::int("http.response.body.size", record.bytes_sent),
            KeyValue::text("foregate.decision", record.id.to_string()),
            KeyValue::text("foregate.listener", &*record.listener),
            KeyValue::text("foregate.end", record.end.name()),
        ];
        if !record.route.is_empty() {
            span.attributes.push(KeyValue::text("http.route", &*record.route));
        }
        if self.method() == "_OTHER" {
            span.attributes.push(KeyValue::text("http.request.method_original", record.method.as_str()));
        }
        if let Some(refusal) = &record.refusal {
            span.attributes.push(KeyValue::text("foregate.step", refusal.step.name()));
            span.attributes.push(KeyValue::text("foregate.reason", refusal.reason.name()));
            span.attributes.push(KeyValue::text("foregate.rule", &*refusal.rule));
        }
        if record.status >= 500 || record.end == End::UpstreamBroke {
            self.fail(&mut span, record.status);
        }
        span
    }

    /// The operation failed: by its reason where there is one, by its status otherwise.
    fn fail(&self, span: &mut Span, status: u16) {
        span.status = Some(Status { code: ERROR, message: String::new() });
        let reason = self.record.refusal.as_ref().map(|refusal| refusal.reason.name().to_owned());
        let reason = reason.filter(|_| status == 0 || status == self.record.status);
        let kind =
            reason.unwrap_or_else(|| if status == 0 { "_OTHER".to_owned() } else { status.to_string() });
        span.attributes.push(KeyValue::text("error.type", kind));
    }

    /// What is told of a step beside its time: who refused in it, and what a model said.
    fn step(&self, span: &mut Span, step: Step) {
        span.attributes.push(KeyValue::text("foregate.step", step.name()));
        // Names of attributes are unique in a span: one model stands for all.
        if let (Step::Enrich, Some(fact)) = (step, self.record.scores.first()) {
            let outcome = OUTCOMES.get(outcome(fact.fault.as_ref())).copied().unwrap_or_default();
            span.attributes.push(KeyValue::text("foregate.model", &*fact.model));
            span.attributes.push(KeyValue::text("foregate.model.version", &*fact.version));
            span.attributes.push(KeyValue::text("foregate.model.outcome", outcome));
            if let (Some(score), true) = (fact.scores.first(), fact.fault.is_none()) {
                span.attributes.push(KeyValue::of("foregate.score", Value::Double(f64::from(*score))));
            }
        }
        if let Some(refusal) = self.record.refusal.as_ref().filter(|refusal| refusal.step == step) {
            span.attributes.push(KeyValue::text("foregate.reason", refusal.reason.name()));
            span.attributes.push(KeyValue::text("foregate.rule", &*refusal.rule));
        }
    }

    fn client(&self, span: &mut Span) {
        let record = self.record;
        span.attributes.push(KeyValue::text("http.request.method", self.method()));
        if let Some(upstream) = &record.upstream {
            span.attributes.push(KeyValue::text("foregate.upstream", &**upstream));
        }
        self.answered(span, record.endpoint, record.upstream_status);
    }

    fn attempt(&self, span: &mut Span, number: u32, attempt: &Attempt) {
        span.attributes.push(KeyValue::text("http.request.method", self.method()));
        if number > 1 {
            span.attributes.push(KeyValue::int("http.request.resend_count", number - 1));
        }
        self.answered(span, Some(attempt.endpoint), attempt.status);
    }

    fn answered(&self, span: &mut Span, endpoint: Option<SocketAddr>, status: u16) {
        if let Some(endpoint) = endpoint {
            span.attributes.push(KeyValue::text("server.address", endpoint.ip().to_string()));
            span.attributes.push(KeyValue::int("server.port", endpoint.port()));
        }
        if status != 0 {
            span.attributes.push(KeyValue::int("http.response.status_code", status));
        }
        // Of a client span every 4xx is an error (semantic conventions of HTTP).
        if status == 0 || status >= 400 {
            self.fail(span, status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempt, LOCAL_PARENT, REMOTE_PARENT, count, write};
    use crate::telemetry::otlp::message::{ERROR, Span, Value};
    use crate::telemetry::record::Record;
    use crate::telemetry::testing::{MOMENT, explained_record, full_record, record};
    use crate::telemetry::trace_context::TraceContext;
    use http::Method;
    use prost::Message;
    use std::time::Duration;

    fn spans(record: &Record) -> Vec<Span> {
        let mut spans = Vec::new();
        write(record, &mut spans);
        assert_eq!(spans.len(), count(record));
        spans
    }

    fn traced(mut record: Record) -> Record {
        record.trace = Some(TraceContext { trace: 7, parent: Some(8), span: 9, flags: 1, state: None });
        record
    }

    fn text(span: &Span, key: &str) -> Option<String> {
        let found = span.attributes.iter().find(|it| it.key == key)?;
        match found.value.as_ref()?.value.as_ref()? {
            Value::Text(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            Value::Double(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
        }
    }

    #[test]
    fn a_request_is_a_server_span_with_its_dispatch_below_it() {
        let mut record = traced(record());
        record.durations.dispatched = Some(Duration::from_micros(334));
        let spans = spans(&record);
        let (server, client) = (&spans[0], &spans[1]);
        assert_eq!((&*server.name, server.kind, server.flags), ("POST leads", 2, 1 | REMOTE_PARENT));
        assert_eq!(server.trace_id, 7_u128.to_be_bytes());
        assert_eq!(
            (&*server.parent_span_id, &*server.span_id),
            (&8_u64.to_be_bytes()[..], &9_u64.to_be_bytes()[..])
        );
        assert_eq!(client.parent_span_id, server.span_id);
        assert_eq!((client.kind, client.flags), (3, 1 | LOCAL_PARENT));
        let start = u64::try_from(MOMENT.unix.as_nanos()).unwrap();
        assert_eq!(server.start_time_unix_nano, start);
        assert_eq!(server.end_time_unix_nano, start + 1_234_000);
        assert_eq!(client.start_time_unix_nano, start + 334_000);
        assert_eq!(client.end_time_unix_nano, start + 1_234_000);
        assert_eq!(text(server, "http.response.status_code").unwrap(), "201");
        assert_eq!(text(server, "http.route").unwrap(), "leads");
        assert_eq!(text(client, "foregate.upstream").unwrap(), "leads-svc");
        assert_eq!(text(client, "server.port").unwrap(), "8443");
        assert!(server.status.is_none() && client.status.is_none());
    }

    #[test]
    fn steps_lie_where_they_ran_and_the_refusing_one_says_so() {
        let record = traced(explained_record());
        let spans = spans(&record);
        let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["POST leads", "guard addresses", "admit rateLimit", "POST"]);
        assert!(spans[1..3].iter().all(|span| span.parent_span_id == spans[0].span_id));
        assert!(spans[1].end_time_unix_nano <= spans[2].start_time_unix_nano);
        assert_eq!(text(&spans[2], "foregate.reason").unwrap(), "RateLimited");
        assert_eq!(text(&spans[1], "foregate.reason"), None);
    }

    #[test]
    fn attempts_stand_below_the_dispatch_and_failures_are_errors() {
        let mut record = traced(record());
        let attempt = |micros, status| Attempt {
            endpoint: ([10, 0, 0, 1], 8443).into(),
            began: MOMENT.monotonic + Duration::from_micros(micros),
            took: Duration::from_micros(100),
            status,
        };
        record.tries = vec![attempt(400, 0), attempt(600, 201)];
        let spans = spans(&record);
        assert_eq!(spans.len(), 4);
        assert!(spans[2..].iter().all(|span| span.parent_span_id == spans[1].span_id));
        assert_eq!(spans[2].status.as_ref().unwrap().code, ERROR);
        assert_eq!(text(&spans[2], "error.type").unwrap(), "_OTHER");
        assert_eq!(text(&spans[3], "http.request.resend_count").unwrap(), "1");
        assert!(spans[3].status.is_none());
    }

    #[test]
    fn a_refusal_names_its_reason_and_nothing_secret_is_told() {
        let mut refused = traced(explained_record());
        refused.status = 503;
        refused.method = Method::from_bytes(b"PURGE").unwrap();
        let spans = spans(&refused);
        assert_eq!(text(&spans[0], "error.type").unwrap(), "RateLimited");
        assert_eq!(text(&spans[0], "http.request.method").unwrap(), "_OTHER");
        assert_eq!(text(&spans[0], "http.request.method_original").unwrap(), "PURGE");
        for secret in ["claim-not-to-be-seen", "hunter2", "uid:005", "\u{fc}ber", "crm.write"] {
            let found =
                spans.iter().any(|span| String::from_utf8_lossy(&span.encode_to_vec()).contains(secret));
            assert!(!found, "{secret}");
        }
        assert!(full_record().subject.is_some(), "there was something to leave out");
    }
}

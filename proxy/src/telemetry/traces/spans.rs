//! The spans of one finished request, made from its record.

use std::time::Duration;

use foregate_filters::context::ScoreFact;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;

use crate::telemetry::code::Code;
use crate::telemetry::explain::Explanation;
use crate::telemetry::labels::{OTHER_FAULT, OTHER_METHOD, OUTCOMES, method, outcome};
use crate::telemetry::otlp::message::{CLIENT, ERROR, INTERNAL, KeyValue, SERVER, Span, Status, Value};
use crate::telemetry::random;
use crate::telemetry::record::{End, Record};
use crate::telemetry::trace_context::TraceContext;
use crate::telemetry::traces::attempts::Attempt;

/// The parent is of another process (opentelemetry-proto, `SpanFlags`): it is known whether it is, and it is.
const REMOTE_PARENT: u32 = 0x300;
/// It is known that the parent is of this process.
const LOCAL_PARENT: u32 = 0x100;

/// How many spans a record gives.
pub fn count(record: &Record) -> usize {
    let steps = record.explanation.as_ref().map_or(0, |explanation| explanation.timed().count());
    let scores = record.explanation.as_ref().map_or(0, |explanation| scored(record, explanation).count());
    let sent = match record.tries.len() {
        0 => usize::from(record.durations.upstream.is_some()),
        1 => 1,
        several => several + 1,
    };
    1 + steps + scores + sent
}

/// Appends the spans of a record; those of a connection that was passed on are none.
///
/// They tell what a record may tell and less: no query, header, token, claim, subject or feature.
pub fn write(record: &Record, spans: &mut Vec<Span>) {
    let Some(trace) = &record.trace else { return };
    let told = Told { record, trace };
    spans.push(told.server());
    if let Some(explanation) = &record.explanation {
        told.steps(explanation, spans);
    }
    let upstream = record.durations.upstream;
    let began = record.moment.monotonic + record.durations.dispatched.unwrap_or_default();
    match &record.tries[..] {
        [] => spans.extend(upstream.map(|took| told.exchange(began, took))),
        [only] => spans.push(told.attempt(1, only, trace.span)),
        several => {
            let took = upstream.unwrap_or_else(|| told.ended().saturating_sub(began));
            let id = random::next().max(1);
            spans.push(told.dispatch(id, began, took));
            let attempts = (1_u32..).zip(several);
            spans.extend(attempts.map(|(number, attempt)| told.attempt(number, attempt, id)));
        }
    }
}

/// Each score with the time at which it was there or known to be missing, where that was measured.
fn scored<'a>(
    record: &'a Record,
    explanation: &'a Explanation,
) -> impl Iterator<Item = (&'a ScoreFact, Duration)> {
    let times = explanation.trace.timing.iter().flat_map(|timing| &timing.scored).copied();
    record.scores.iter().zip(times)
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

    /// When the request ended; monotonic.
    fn ended(&self) -> Duration {
        self.record.moment.monotonic + self.record.durations.total
    }

    /// The filters that were asked, and the models below those that asked them.
    fn steps(&self, explanation: &Explanation, spans: &mut Vec<Span>) {
        let mut scored = scored(self.record, explanation).peekable();
        for (step, filter, began, took) in explanation.timed() {
            let mut span = self.child(format!("{step} {filter}"), INTERNAL, began, took);
            self.step(&mut span, step);
            let parent = span.span_id.clone();
            spans.push(span);
            // One model after the other, in the order of their rules.
            let mut asked = began;
            while step == Step::Enrich
                && let Some((fact, there)) = scored.next_if(|(_, there)| *there <= began + took)
            {
                let mut span = self.score(fact, asked, there.saturating_sub(asked));
                span.parent_span_id.clone_from(&parent);
                spans.push(span);
                asked = there;
            }
        }
    }

    /// A model that was asked, and what became of it.
    fn score(&self, fact: &ScoreFact, asked: Duration, took: Duration) -> Span {
        let mut span = self.child(format!("score {}", fact.model), INTERNAL, asked, took);
        let outcome = OUTCOMES.get(outcome(fact.fault.as_ref())).copied().unwrap_or_default();
        span.attributes.push(KeyValue::text("foregate.rule", &*fact.rule));
        span.attributes.push(KeyValue::text("foregate.model", &*fact.model));
        span.attributes.push(KeyValue::text("foregate.model.version", &*fact.version));
        span.attributes.push(KeyValue::text("foregate.model.outcome", outcome));
        if fact.fault.is_some() {
            fail(&mut span, outcome);
        } else if let Some(score) = fact.scores.first() {
            span.attributes.push(KeyValue::of("foregate.score", Value::Double(f64::from(*score))));
        }
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
        if self.method() == OTHER_METHOD {
            span.attributes.push(KeyValue::text("http.request.method_original", record.method.as_str()));
        }
        if let Some(refusal) = &record.refusal {
            span.attributes.push(KeyValue::text("foregate.step", refusal.step.name()));
            span.attributes.push(KeyValue::text("foregate.reason", refusal.reason.name()));
            span.attributes.push(KeyValue::text("foregate.rule", &*refusal.rule));
        }
        note_code(&mut span, record.grpc);
        match record.fault() {
            Some(fault) => fail(&mut span, fault),
            None if record.failed() => fail(&mut span, &record.status.to_string()),
            None => {}
        }
        span
    }

    /// What is told of a step beside its time: who refused in it.
    fn step(&self, span: &mut Span, step: Step) {
        span.attributes.push(KeyValue::text("foregate.step", step.name()));
        if let Some(refusal) = self.record.refusal.as_ref().filter(|refusal| refusal.step == step) {
            span.attributes.push(KeyValue::text("foregate.reason", refusal.reason.name()));
            span.attributes.push(KeyValue::text("foregate.rule", &*refusal.rule));
        }
    }

    /// All attempts together, where there are several: what the upstream sees are the attempts.
    fn dispatch(&self, id: u64, began: Duration, took: Duration) -> Span {
        let mut span = self.child("dispatch".to_owned(), INTERNAL, began, took);
        span.span_id = id.to_be_bytes().to_vec();
        self.step(&mut span, Step::Dispatch);
        self.upstream(&mut span);
        if self.record.upstream_status == 0 {
            fail(&mut span, &self.unanswered());
        }
        span
    }

    /// The exchange with the upstream, where its attempts were not noted.
    fn exchange(&self, began: Duration, took: Duration) -> Span {
        let record = self.record;
        let mut span = self.child(self.method().to_owned(), CLIENT, began, took);
        self.client(&mut span, record.endpoint.map(|it| (it.ip().to_string(), it.port())));
        self.answered(&mut span, record.upstream_status, None, record.upstream_grpc());
        span
    }

    /// One attempt, below that span.
    fn attempt(&self, number: u32, attempt: &Attempt, parent: u64) -> Span {
        // One that was given up ends with the time for all of them, or with the request.
        let record = self.record;
        let over = match (record.durations.dispatched, record.durations.upstream) {
            (Some(dispatched), Some(took)) => record.moment.monotonic + dispatched + took,
            _ => self.ended(),
        };
        let took = attempt.took.unwrap_or_else(|| over.saturating_sub(attempt.began));
        let mut span = self.child(self.method().to_owned(), CLIENT, attempt.began, took);
        span.span_id = attempt.span.to_be_bytes().to_vec();
        span.parent_span_id = parent.to_be_bytes().to_vec();
        self.client(&mut span, Some((attempt.endpoint.ip().to_string(), attempt.endpoint.port())));
        if number > 1 {
            span.attributes.push(KeyValue::int("http.request.resend_count", number - 1));
        }
        // The last of them brought the answer, where one did.
        let last = record.tries.last().is_some_and(|last| last.span == attempt.span);
        self.answered(&mut span, attempt.status, attempt.fault, record.upstream_grpc().filter(|_| last));
        span
    }

    fn upstream(&self, span: &mut Span) {
        if let Some(upstream) = &self.record.upstream {
            span.attributes.push(KeyValue::text("foregate.upstream", &**upstream));
        }
    }

    fn client(&self, span: &mut Span, endpoint: Option<(String, u16)>) {
        span.attributes.push(KeyValue::text("http.request.method", self.method()));
        self.upstream(span);
        if let Some((address, port)) = endpoint {
            span.attributes.push(KeyValue::text("server.address", address));
            span.attributes.push(KeyValue::int("server.port", port));
        }
    }

    fn answered(&self, span: &mut Span, status: u16, fault: Option<Reason>, code: Option<Code>) {
        if status != 0 {
            span.attributes.push(KeyValue::int("http.response.status_code", status));
        }
        note_code(span, code);
        // Of a client span every 4xx is an error, and every code but OK (semantic conventions of HTTP and of gRPC).
        match (status, fault, code) {
            (0, Some(fault), _) => fail(span, fault.name()),
            (0, None, _) => fail(span, &self.unanswered()),
            (400.., _, _) => fail(span, &status.to_string()),
            (_, _, Some(code)) if !code.is_ok() => fail(span, code.name()),
            _ => {}
        }
    }

    /// Why there was no answer to what was under way last: the refusal says so, or how the request ended.
    fn unanswered(&self) -> String {
        match &self.record.refusal {
            Some(refusal) => refusal.reason.name().to_owned(),
            None if self.record.end == End::Complete => OTHER_FAULT.to_owned(),
            None => self.record.end.name().to_owned(),
        }
    }
}

/// How a gRPC call ended, where it is one.
fn note_code(span: &mut Span, code: Option<Code>) {
    span.attributes.extend(code.map(|code| KeyValue::text("rpc.response.status_code", code.name())));
}

/// The operation failed: of this kind.
fn fail(span: &mut Span, kind: &str) {
    span.status = Some(Status { code: ERROR, message: String::new() });
    span.attributes.push(KeyValue::text("error.type", kind));
}

#[cfg(test)]
mod tests {
    use super::{Attempt, LOCAL_PARENT, REMOTE_PARENT, count, write};
    use crate::telemetry::code::Code;
    use crate::telemetry::otlp::message::{ERROR, Span, Value};
    use crate::telemetry::record::{End, Record, Refusal};
    use crate::telemetry::testing::{MOMENT, explained_record, full_record, record};
    use crate::telemetry::trace_context::TraceContext;
    use foregate_filters::reason::Reason;
    use foregate_filters::score::ScoreFault;
    use foregate_filters::step::Step;
    use foregate_policy::description::Description;
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
            Value::Array(_) | Value::List(_) => None,
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

    fn attempt(span: u64, micros: u64, status: u16, fault: Option<Reason>) -> Attempt {
        let began = MOMENT.monotonic + Duration::from_micros(micros);
        let took = Some(Duration::from_micros(100));
        Attempt { span, endpoint: ([10, 0, 0, 1], 8443).into(), began, took, status, fault }
    }

    #[test]
    fn the_only_attempt_is_the_exchange_and_has_the_span_that_the_upstream_was_told() {
        let mut record = traced(record());
        record.tries = vec![attempt(21, 400, 404, None)];
        let spans = spans(&record);
        assert_eq!(spans.len(), 2);
        let (server, client) = (&spans[0], &spans[1]);
        assert_eq!((&*client.name, client.kind), ("POST", 3));
        assert_eq!(client.span_id, 21_u64.to_be_bytes());
        assert_eq!(client.parent_span_id, server.span_id);
        assert_eq!(text(client, "foregate.upstream").unwrap(), "leads-svc");
        assert_eq!(text(client, "server.address").unwrap(), "10.0.0.1");
        assert_eq!(text(client, "error.type").unwrap(), "404", "of a client it is an error");
        assert!(server.status.is_none());
    }

    #[test]
    fn several_attempts_stand_below_a_dispatch_and_failures_say_why() {
        let mut record = traced(record());
        record.tries = vec![attempt(21, 400, 0, Some(Reason::UpstreamReset)), attempt(22, 600, 201, None)];
        let spans = spans(&record);
        assert_eq!(spans.len(), 4);
        assert_eq!((&*spans[1].name, spans[1].kind), ("dispatch", 1), "it is no exchange of its own");
        assert_eq!(spans[1].parent_span_id, spans[0].span_id);
        for (span, id) in spans[2..].iter().zip([21_u64, 22]) {
            assert_eq!((&*span.name, span.kind), ("POST", 3));
            assert_eq!((&span.parent_span_id, &*span.span_id), (&spans[1].span_id, &id.to_be_bytes()[..]));
        }
        assert_eq!(spans[2].status.as_ref().unwrap().code, ERROR);
        assert_eq!(text(&spans[2], "error.type").unwrap(), "UpstreamReset");
        assert_eq!(text(&spans[2], "http.request.resend_count"), None);
        assert_eq!(text(&spans[3], "http.request.resend_count").unwrap(), "1");
        assert!(spans[1].status.is_none() && spans[3].status.is_none());
    }

    #[test]
    fn a_call_that_failed_is_an_error_whatever_its_http_status() {
        let call =
            |code| Record { status: 200, upstream_status: 200, grpc: Some(Code::of(code)), ..record() };
        let kinds = |record: Record| {
            let record = traced(record);
            let told = spans(&record).into_iter().map(|span| {
                let code = text(&span, "rpc.response.status_code").unwrap_or_default();
                let kind = text(&span, "error.type").unwrap_or_default();
                assert_eq!(span.status.is_some_and(|status| status.code == ERROR), !kind.is_empty());
                (code, kind)
            });
            told.collect::<Vec<_>>()
        };
        let pair = |code: &str, kind: &str| (code.to_owned(), kind.to_owned());
        assert_eq!(kinds(call(0)), [pair("OK", ""), pair("OK", "")]);
        assert_eq!(kinds(call(13)), [pair("INTERNAL", "INTERNAL"), pair("INTERNAL", "INTERNAL")]);
        // What was asked for was not there: that is the client's error.
        assert_eq!(kinds(call(5)), [pair("NOT_FOUND", ""), pair("NOT_FOUND", "NOT_FOUND")]);
        let tries = vec![attempt(21, 400, 0, Some(Reason::UpstreamReset)), attempt(22, 600, 200, None)];
        let retried = kinds(Record { tries, ..call(14) });
        let (failed, none) = (pair("UNAVAILABLE", "UNAVAILABLE"), pair("", ""));
        assert_eq!(retried, [failed.clone(), none, pair("", "UpstreamReset"), failed]);

        let mut refused = call(8);
        refused.upstream_status = 0;
        let (rule, detail) = ("".into(), "".into());
        refused.refusal = Some(Refusal { step: Step::Dispatch, reason: Reason::Overloaded, rule, detail });
        assert_eq!(kinds(refused), [pair("RESOURCE_EXHAUSTED", "Overloaded"), pair("", "Overloaded")]);
        let broke = Record { end: End::UpstreamBroke, ..record() };
        assert_eq!(kinds(broke), [pair("", "UpstreamReset"), pair("", "")]);
    }

    #[test]
    fn an_attempt_that_was_given_up_ends_when_nobody_waited_any_more() {
        let mut late = traced(record());
        (late.status, late.upstream_status) = (504, 0);
        late.durations.dispatched = Some(Duration::from_micros(200));
        late.refusal = Some(Refusal {
            step: Step::Dispatch,
            reason: Reason::UpstreamTimeout,
            rule: "".into(),
            detail: "".into(),
        });
        late.tries = vec![Attempt { took: None, ..attempt(21, 200, 0, None) }];
        let client = &spans(&late)[1];
        assert_eq!(client.end_time_unix_nano - client.start_time_unix_nano, 900_000, "the time for all");
        assert_eq!(text(client, "error.type").unwrap(), "UpstreamTimeout");

        let mut left = traced(record());
        (left.status, left.upstream_status, left.end) = (499, 0, End::ClientGone);
        left.durations.upstream = None;
        left.tries = late.tries;
        let client = &spans(&left)[1];
        assert_eq!(client.end_time_unix_nano - client.start_time_unix_nano, 1_034_000, "the request");
        assert_eq!(text(client, "error.type").unwrap(), "client_gone");
    }

    #[test]
    fn each_model_is_a_span_below_the_step_that_asked_it() {
        let mut record = traced(explained_record());
        let mut second = record.scores[0].clone();
        (second.rule, second.model, second.version) = ("risk".into(), "risk-score".into(), "7".into());
        second.fault = Some(ScoreFault::Late);
        record.scores[0].fault = None;
        record.scores.push(second);
        let explanation = record.explanation.as_mut().unwrap();
        let mut description: Description = (**explanation.description.as_ref().unwrap()).clone();
        (description.links[1].step, description.links[1].filter) = (Step::Enrich, "enrich");
        explanation.description = Some(description.into());
        let timing = explanation.trace.timing.as_mut().unwrap();
        // The step began after nine microseconds and took three.
        timing.scored.extend([10, 12].map(|micros| MOMENT.monotonic + Duration::from_micros(micros)));
        let spans = spans(&record);
        let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
        let steps =
            ["POST leads", "guard addresses", "enrich enrich", "score lead-score", "score risk-score"];
        assert_eq!(names[..5], steps);
        let (first, second) = (&spans[3], &spans[4]);
        assert!(spans[3..5].iter().all(|span| span.parent_span_id == spans[2].span_id));
        assert_eq!(first.start_time_unix_nano, spans[2].start_time_unix_nano);
        assert_eq!(first.end_time_unix_nano, second.start_time_unix_nano);
        assert_eq!(second.end_time_unix_nano, spans[2].end_time_unix_nano);
        for (span, model, version, outcome) in
            [(first, "lead-score", "3", "scored"), (second, "risk-score", "7", "late")]
        {
            assert_eq!(text(span, "foregate.model").unwrap(), model);
            assert_eq!(text(span, "foregate.model.version").unwrap(), version);
            assert_eq!(text(span, "foregate.model.outcome").unwrap(), outcome);
        }
        assert_eq!(
            (text(first, "foregate.score").unwrap(), text(second, "foregate.score")),
            ("0.25".into(), None)
        );
        assert_eq!((first.status.is_none(), text(second, "error.type").unwrap()), (true, "late".into()));
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

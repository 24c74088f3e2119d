//! Records as log records of OTLP: what the JSON access log tells, and no more.

use serde_json::Value as Json;

use crate::telemetry::otlp::message::{AnyValue, ArrayValue, KeyValue, KeyValueList, LogRecord, Value};
use crate::telemetry::record::{End, Record};

/// Names the kind of event that each of these log records is.
const EVENT: &str = "foregate.decision";

/// Severities (opentelemetry-proto, `SeverityNumber`) and what they are called.
const INFO: (i32, &str) = (9, "INFO");
const WARN: (i32, &str) = (13, "WARN");
const ERROR: (i32, &str) = (17, "ERROR");

/// Entries of the JSON that have fields of their own here.
const FIELDS: [&str; 3] = ["timestamp", "trace_id", "span_id"];

/// The log record of a request, or of a connection that was passed on.
///
/// Its attributes are made of the JSON of the access log, so that neither tells what the other leaves out.
pub fn of(record: &Record) -> LogRecord {
    let attributes = match serde_json::to_value(record) {
        Ok(Json::Object(entries)) => entries,
        _ => serde_json::Map::new(),
    };
    let attributes = attributes.into_iter().filter(|(key, _)| !FIELDS.contains(&&**key));
    let (severity_number, severity_text) = severity(record);
    let trace = record.trace.as_ref();
    LogRecord {
        time_unix_nano: nanos(record.moment.unix),
        // It is known whole when it ends.
        observed_time_unix_nano: nanos(record.moment.unix.saturating_add(record.durations.total)),
        severity_number,
        severity_text: severity_text.to_owned(),
        body: Some(AnyValue { value: Some(Value::Text(body(record))) }),
        attributes: pairs(attributes),
        flags: trace.map_or(0, |trace| u32::from(trace.flags)),
        trace_id: trace.map(|trace| trace.trace.to_be_bytes().to_vec()).unwrap_or_default(),
        span_id: trace.map(|trace| trace.span.to_be_bytes().to_vec()).unwrap_or_default(),
        event_name: EVENT.to_owned(),
    }
}

/// A failure is an error; a refusal, a rule that would have refused and a revocation are warnings.
fn severity(record: &Record) -> (i32, &'static str) {
    if record.failed() {
        ERROR
    } else if record.refusal.is_some() || !record.audits.is_empty() || record.end == End::Revoked {
        WARN
    } else {
        INFO
    }
}

/// What people read first: what was asked, and what came of it.
fn body(record: &Record) -> String {
    let mut text = if record.protocol.is_stream() {
        format!("connection to {} {}", record.route, record.end.name())
    } else {
        format!("{} {} {}", record.method, record.path, record.status)
    };
    if let Some(refusal) = &record.refusal {
        text.push(' ');
        text.push_str(refusal.reason.name());
    }
    text
}

fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn pairs(entries: impl IntoIterator<Item = (String, Json)>) -> Vec<KeyValue> {
    let pair = |(key, value)| KeyValue { key, value: Some(any(value)) };
    entries.into_iter().filter(|(_, value)| !value.is_null()).map(pair).collect()
}

/// A value of JSON; what is absent in a list keeps its place.
fn any(value: Json) -> AnyValue {
    let value = match value {
        Json::Null => None,
        Json::Bool(truth) => Some(Value::Bool(truth)),
        Json::String(text) => Some(Value::Text(text)),
        Json::Number(number) => {
            number.as_i64().map(Value::Int).or_else(|| number.as_f64().map(Value::Double))
        }
        Json::Array(items) => Some(Value::Array(ArrayValue { values: items.into_iter().map(any).collect() })),
        Json::Object(entries) => Some(Value::List(KeyValueList { values: pairs(entries) })),
    };
    AnyValue { value }
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::telemetry::code::Code;
    use crate::telemetry::otlp::message::{AnyValue, LogRecord, Value};
    use crate::telemetry::record::{End, Protocol, Record};
    use crate::telemetry::testing::{MOMENT, failed_records, full_record, record};
    use prost::Message;
    use serde_json::{Value as Json, json};

    /// The JSON that a value was made of.
    fn back(value: &AnyValue) -> Json {
        match value.value.as_ref() {
            None => Json::Null,
            Some(Value::Text(text)) => json!(text),
            Some(Value::Bool(truth)) => json!(truth),
            Some(Value::Int(number)) => json!(number),
            Some(Value::Double(number)) => json!(number),
            Some(Value::Array(array)) => array.values.iter().map(back).collect(),
            Some(Value::List(list)) => {
                let pair = |it: &crate::telemetry::otlp::message::KeyValue| {
                    (it.key.clone(), back(it.value.as_ref().unwrap()))
                };
                Json::Object(list.values.iter().map(pair).collect())
            }
        }
    }

    fn attributes(log: &LogRecord) -> Json {
        let pairs = log.attributes.iter().map(|it| (it.key.clone(), back(it.value.as_ref().unwrap())));
        Json::Object(pairs.collect())
    }

    fn text(log: &LogRecord) -> Json {
        back(log.body.as_ref().unwrap())
    }

    #[test]
    fn a_log_record_tells_what_the_line_of_json_tells() {
        for record in [record(), full_record()] {
            let mut line = serde_json::to_value(&record).unwrap();
            let entries = line.as_object_mut().unwrap();
            for field in super::FIELDS {
                entries.remove(field);
            }
            let log = of(&record);
            assert_eq!(attributes(&log), line);
            assert_eq!(log, LogRecord::decode(&*log.encode_to_vec()).unwrap());
        }
    }

    #[test]
    fn time_severity_and_trace_have_fields_of_their_own() {
        let refused = full_record();
        let log = of(&refused);
        let start = u64::try_from(MOMENT.unix.as_nanos()).unwrap();
        assert_eq!((log.time_unix_nano, log.observed_time_unix_nano), (start, start + 1_234_000));
        assert_eq!((log.severity_number, &*log.severity_text), (13, "WARN"));
        assert_eq!(text(&log), "POST /services/data/v62.0/sobjects/Lead 429 RateLimited");
        let trace = refused.trace.as_ref().unwrap();
        assert_eq!(log.trace_id, trace.trace.to_be_bytes());
        assert_eq!(log.span_id, trace.span.to_be_bytes());
        let plain = of(&record());
        assert_eq!((plain.severity_number, plain.trace_id.len(), plain.span_id.len()), (9, 0, 0));
        let severity = |change: fn(&mut Record)| {
            let mut record = record();
            change(&mut record);
            of(&record).severity_number
        };
        assert!(failed_records().iter().all(|failed| of(failed).severity_number == 17));
        assert_eq!(severity(|it| it.grpc = Some(Code::of(5))), 9);
        assert_eq!(severity(|it| it.end = End::Revoked), 13);
        let mut stream = record();
        stream.protocol = Protocol::Tcp;
        assert_eq!(text(&of(&stream)), "connection to leads complete");
    }

    #[test]
    fn hostile_values_are_data_and_nothing_secret_is_told() {
        let mut hostile = full_record();
        hostile.host = "a\"},{\"severity\":\"\u{1b}[31m\n\u{0}".into();
        let log = of(&hostile);
        assert_eq!(attributes(&log)["server.address"], &*hostile.host);
        let bytes = log.encode_to_vec();
        assert!(!String::from_utf8_lossy(&bytes).contains("claim-not-to-be-seen"));
        hostile.bytes_sent = u64::MAX;
        assert!(attributes(&of(&hostile))["foregate.bytes_sent"].is_f64(), "it fits no signed number");
    }
}

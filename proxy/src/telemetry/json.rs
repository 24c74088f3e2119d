//! Records as JSON: one shape for log and admin, safe against hostile values.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use foregate_filters::context::{AuditFact, LimitFact, ScoreFact, ShadowFact, ShadowVerdict};
use foregate_filters::rule::RuleKind;
use foregate_filters::score::{Predictor, Reasons};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::ser::Formatter;

use crate::telemetry::labels::{OUTCOMES, outcome};
use crate::telemetry::record::{Protocol, Record};

/// Writes compact JSON in printable ASCII: a value can neither end the line nor steer a terminal.
#[derive(Debug)]
struct Ascii;

/// Time since the Unix epoch, as RFC 3339 in UTC with microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp(pub Duration);

/// A value by its text.
pub(super) struct Text<T>(pub(super) T);

struct Score<'a>(&'a ScoreFact);

/// Why a score is what it is.
pub(crate) struct Told<'a>(pub(crate) &'a Reasons);

struct Reason<'a>(&'a Predictor);

struct Limit<'a>(&'a LimitFact);
struct Audit<'a>(&'a AuditFact);
struct Shadow<'a>(&'a ShadowFact);

/// Items of a list, each in a shape of ours.
struct List<I>(I);

/// Appends a value as JSON, without a line break.
pub fn write(value: &impl Serialize, line: &mut Vec<u8>) -> serde_json::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(line, Ascii))
}

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        // Control characters below 0x20, quotes and backslashes are escaped by the serializer.
        let printable = |c: char| c.is_ascii() && c != '\u{7f}';
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| !printable(c)) {
            let (plain, other) = rest.split_at_checked(at).unwrap_or((rest, ""));
            writer.write_all(plain.as_bytes())?;
            let end = other.find(printable).unwrap_or(other.len());
            let (other, tail) = other.split_at_checked(end).unwrap_or((other, ""));
            for unit in other.encode_utf16() {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = tail;
        }
        writer.write_all(rest.as_bytes())
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs();
        // Days to a civil date: Howard Hinnant, "chrono-compatible low-level date algorithms".
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        let micros = self.0.subsec_micros();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<I: Iterator<Item: Serialize> + Clone> Serialize for List<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for item in self.0.clone() {
            list.serialize_element(&item)?;
        }
        list.end()
    }
}

impl Serialize for Score<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fault = self.0.fault.as_ref();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("rule", &*self.0.rule)?;
        map.serialize_entry("model", &*self.0.model)?;
        map.serialize_entry("version", &*self.0.version)?;
        map.serialize_entry("outcome", OUTCOMES.get(outcome(fault)).unwrap_or(&""))?;
        map.serialize_entry("scores", self.0.scores.as_slice())?;
        if let Some(beside) = self.0.beside.as_deref() {
            for (name, list) in [("classes", &beside.classes), ("bands", &beside.bands)] {
                if !list.is_empty() {
                    map.serialize_entry(name, &List(list.iter().map(|text| &**text)))?;
                }
            }
            if !beside.reasons.is_empty() {
                let reasons = beside.reasons.iter().map(|reasons| reasons.as_ref().map(Told));
                map.serialize_entry("reasons", &List(reasons))?;
            }
        }
        if let Some(fault) = fault {
            map.serialize_entry("fault", &Text(fault))?;
        }
        map.end()
    }
}

impl Serialize for Told<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("base", &self.0.base)?;
        map.serialize_entry("margin", &self.0.margin)?;
        map.serialize_entry("predictors", &List(self.0.predictors.iter().map(Reason)))?;
        map.end()
    }
}

impl Serialize for Reason<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &*self.0.name)?;
        map.serialize_entry("contribution", &self.0.contribution)?;
        // Features that are personal come without a value.
        if let Some(value) = &self.0.value {
            let value: Value = serde_json::from_str(value).unwrap_or_else(|_| (**value).into());
            map.serialize_entry("value", &value)?;
        }
        map.end()
    }
}

impl Serialize for Limit<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("rule", &*self.0.rule)?;
        map.serialize_entry("admitted", &self.0.admitted)?;
        map.serialize_entry("remaining", &self.0.remaining)?;
        if let (false, Some(time)) = (self.0.admitted, patience(self.0)) {
            map.serialize_entry("retry_after_us", &micros(time))?;
        }
        if self.0.kind != RuleKind::Limit {
            map.serialize_entry("kind", self.0.kind.name())?;
        }
        if let Some(done) = self.0.unavailable {
            map.serialize_entry("unavailable", done.name())?;
        }
        map.end()
    }
}

/// Time until a limit admits what it refused, where anybody knows.
pub fn patience(fact: &LimitFact) -> Option<Duration> {
    (fact.retry_after < Duration::MAX).then_some(fact.retry_after)
}

impl Serialize for Audit<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("step", self.0.step.name())?;
        map.serialize_entry("rule", &*self.0.rule)?;
        map.serialize_entry("detail", &*self.0.detail)?;
        map.end()
    }
}

impl Serialize for Shadow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("policy", &*self.0.policy)?;
        map.serialize_entry("verdict", self.0.verdict.name())?;
        map.serialize_entry("real", if self.0.allowed { "allow" } else { "refuse" })?;
        if let ShadowVerdict::Refuse { step, reason, rule } = &self.0.verdict {
            map.serialize_entry("step", step.name())?;
            map.serialize_entry("reason", reason.name())?;
            map.serialize_entry("rule", &**rule)?;
        }
        map.end()
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Names are those of the OpenTelemetry semantic conventions where they have one, `foregate.*` otherwise.
/// What is absent is left out.
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.serialize_entries(&mut map)?;
        map.end()
    }
}

impl Record {
    /// Every entry, into a map that may hold more.
    pub(super) fn serialize_entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("timestamp", &Timestamp(self.moment.unix))?;
        map.serialize_entry("foregate.decision", &Text(self.id))?;
        map.serialize_entry("foregate.request_id", self.request_id.to_str().unwrap_or_default())?;
        self.serialize_exchange(map)?;
        self.serialize_verdict(map)?;
        self.serialize_facts(map)?;
        if let Some(trace) = &self.trace {
            map.serialize_entry("trace_id", &Text(format_args!("{:032x}", trace.trace)))?;
            map.serialize_entry("span_id", &Text(format_args!("{:016x}", trace.span)))?;
        }
        Ok(())
    }

    /// What went over the wire.
    fn serialize_exchange<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        if self.protocol.is_stream() {
            map.serialize_entry("network.transport", "tcp")?;
            if self.protocol == Protocol::Tls {
                map.serialize_entry("network.protocol.name", "tls")?;
            }
            if !self.host.is_empty() {
                map.serialize_entry("tls.client.server_name", &*self.host)?;
            }
            map.serialize_entry("foregate.route", &*self.route)?;
        } else {
            map.serialize_entry("http.request.method", self.method.as_str())?;
            map.serialize_entry("url.scheme", if self.tls { "https" } else { "http" })?;
            map.serialize_entry("server.address", &*self.host)?;
            map.serialize_entry("url.path", &*self.path)?;
            map.serialize_entry("http.response.status_code", &self.status)?;
            if let Some(code) = self.grpc {
                map.serialize_entry("rpc.response.status_code", code.name())?;
            }
            map.serialize_entry("http.route", &*self.route)?;
            map.serialize_entry("network.protocol.version", self.protocol.version())?;
        }
        map.serialize_entry("client.address", &self.client)?;
        map.serialize_entry("foregate.listener", &*self.listener)?;
        map.serialize_entry("foregate.bytes_received", &self.bytes_received)?;
        map.serialize_entry("foregate.bytes_sent", &self.bytes_sent)?;
        map.serialize_entry("foregate.end", self.end.name())?;
        map.serialize_entry("foregate.duration_us", &micros(self.durations.total))?;
        if let Some(upstream) = &self.upstream {
            map.serialize_entry("foregate.upstream", &**upstream)?;
        }
        if let Some(endpoint) = &self.endpoint {
            map.serialize_entry("foregate.endpoint", endpoint)?;
        }
        if self.attempts > 1 {
            map.serialize_entry("foregate.attempts", &self.attempts)?;
        }
        if let Some(time) = self.durations.upstream {
            map.serialize_entry("foregate.upstream_duration_us", &micros(time))?;
        }
        Ok(())
    }

    /// Who asked, and who refused.
    fn serialize_verdict<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        if let Some(id) = self.peer.as_ref().and_then(|peer| peer.id.as_ref()) {
            map.serialize_entry("foregate.peer", id.as_str())?;
        }
        if let Some(principal) = &self.subject {
            map.serialize_entry("foregate.issuer", &*principal.issuer)?;
            map.serialize_entry("foregate.subject", &*principal.subject)?;
        }
        if let Some(consumer) = &self.consumer {
            map.serialize_entry("foregate.consumer", &*consumer.name)?;
        }
        if let Some(refusal) = &self.refusal {
            map.serialize_entry("foregate.step", refusal.step.name())?;
            map.serialize_entry("foregate.reason", refusal.reason.name())?;
            map.serialize_entry("foregate.rule", &*refusal.rule)?;
            map.serialize_entry("foregate.detail", &*refusal.detail)?;
        }
        Ok(())
    }

    /// What the filters found out.
    fn serialize_facts<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        if !self.scores.is_empty() {
            map.serialize_entry("foregate.scores", &List(self.scores.iter().map(Score)))?;
        }
        if let Some(time) = self.durations.enrich {
            map.serialize_entry("foregate.enrich_duration_us", &micros(time))?;
        }
        if !self.limits.is_empty() {
            map.serialize_entry("foregate.limits", &List(self.limits.iter().map(Limit)))?;
        }
        if !self.audits.is_empty() {
            map.serialize_entry("foregate.audits", &List(self.audits.iter().map(Audit)))?;
        }
        if !self.shadows.is_empty() {
            map.serialize_entry("foregate.shadows", &List(self.shadows.iter().map(Shadow)))?;
        }
        if let Some(once) = self.once {
            map.serialize_entry("foregate.idempotency", once)?;
        }
        if let Some(org) = &self.org {
            map.serialize_entry("foregate.org_quota", &**org)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Timestamp, write};
    use crate::telemetry::code::Code;
    use crate::telemetry::record::Record;
    use crate::telemetry::testing::{full_record, record};
    use http::HeaderValue;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn line(record: &Record) -> String {
        let mut line = Vec::new();
        write(record, &mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_plain_record_names_the_exchange_and_nothing_else() {
        let record = record();
        let value: Value = serde_json::from_str(&line(&record)).unwrap();
        let id = record.id.to_string();
        let expected = json!({
            "timestamp": "2026-09-21T14:13:20.000001Z",
            "foregate.decision": id, "foregate.request_id": id,
            "http.request.method": "POST", "url.scheme": "https", "server.address": "crm.example.org",
            "url.path": "/services/data/v62.0/sobjects/Lead",
            "http.response.status_code": 201, "http.route": "leads", "network.protocol.version": "2",
            "client.address": "203.0.113.7", "foregate.listener": "https",
            "foregate.bytes_received": 1024, "foregate.bytes_sent": 64, "foregate.end": "complete",
            "foregate.duration_us": 1234, "foregate.upstream": "leads-svc",
            "foregate.endpoint": "10.0.0.1:8443", "foregate.upstream_duration_us": 900,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_call_tells_its_code() {
        let call = Record { status: 200, grpc: Some(Code::of(14)), ..record() };
        let value: Value = serde_json::from_str(&line(&call)).unwrap();
        assert_eq!(
            (&value["http.response.status_code"], &value["rpc.response.status_code"]),
            (&json!(200), &json!("UNAVAILABLE"))
        );
    }

    #[test]
    fn a_full_record_tells_every_fact_and_no_claim() {
        let record = full_record();
        let text = line(&record);
        assert!(!text.contains("claim-not-to-be-seen"), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["foregate.issuer"], "https://idp.example.com/");
        assert_eq!(value["foregate.subject"], "uid:005");
        assert_eq!(value["foregate.step"], "admit");
        assert_eq!(value["foregate.reason"], "RateLimited");
        assert_eq!(value["foregate.rule"], "per-org");
        assert_eq!(value["foregate.enrich_duration_us"], 12);
        let score = json!({
            "rule": "lead", "model": "lead-score", "version": "3", "outcome": "feature",
            "scores": [0.25, 0.5], "bands": ["cold", "warm"],
            "reasons": [
                { "base": -1.0, "margin": -0.75, "predictors": [
                    { "name": "visits", "contribution": 0.5, "value": "\u{fc}ber" },
                    { "name": "email", "contribution": -0.25 },
                ] },
                null,
            ],
            "fault": "feature Title",
        });
        assert_eq!(value["foregate.scores"], json!([score]));
        let limit = json!({ "rule": "per-org", "admitted": false, "remaining": 0, "retry_after_us": 20_000 });
        assert_eq!(value["foregate.limits"], json!([limit]));
        let audit = json!({ "step": "decide", "rule": "hold-risky", "detail": "score under 0.05" });
        assert_eq!(value["foregate.audits"], json!([audit]));
        let trace = record.trace.unwrap();
        assert_eq!(value["trace_id"], format!("{:032x}", trace.trace));
        assert_eq!(value["span_id"], format!("{:016x}", trace.span));
    }

    #[test]
    fn hostile_values_stay_inside_their_strings() {
        for hostile in [
            "\"}\n{\"http.response.status_code\":200,\"x\":\"",
            "a\r\nb\u{0}\u{b}\u{c}\u{1b}[2J",
            "\u{2028}\u{2029}\u{85}\u{9b}2J\u{7f}\u{202e}",
            "\\\\\" \\u000a \u{1f600}x\u{e9}",
        ] {
            let mut record = full_record();
            record.path = hostile.into();
            record.host = hostile.into();
            record.refusal.as_mut().unwrap().detail = hostile.into();
            record.audits[0].detail = hostile.into();
            record.request_id = HeaderValue::from_static("\"},{\"a\":\"\\");
            let text = line(&record);
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{text}");
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["url.path"], hostile);
            assert_eq!(value["server.address"], hostile);
            assert_eq!(value["foregate.detail"], hostile);
            assert_eq!(value["foregate.audits"][0]["detail"], hostile);
            assert_eq!(value["foregate.request_id"], "\"},{\"a\":\"\\");
            assert_eq!(value["http.response.status_code"], 429);
        }
    }

    #[test]
    fn a_score_that_is_no_number_leaves_the_line_valid() {
        let mut record = full_record();
        record.scores[0].scores = [f32::NAN, f32::INFINITY].into_iter().collect();
        let value: Value = serde_json::from_str(&line(&record)).unwrap();
        assert_eq!(value["foregate.scores"][0]["scores"], json!([null, null]));
    }

    #[test]
    fn time_is_written_as_rfc_3339() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199_000_000, "2024-02-29T23:59:59.000000Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(Timestamp(Duration::from_micros(micros)).to_string(), text);
        }
    }
}

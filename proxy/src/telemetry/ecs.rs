//! Records in the names of the Elastic Common Schema.

use std::fmt::Display;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::telemetry::json::{Text, Timestamp};
use crate::telemetry::record::{Record, Refusal};

/// The version of the schema that the names are of.
const VERSION: &str = "9.1.0";

/// A record as ECS has it. What it has no name for stands under `foregate.`.
#[derive(Debug)]
pub struct Ecs<'a>(pub &'a Record);

impl Serialize for Ecs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("@timestamp", &Timestamp(self.0.moment.unix))?;
        map.serialize_entry("ecs.version", VERSION)?;
        map.serialize_entry("service.name", "foregate")?;
        map.serialize_entry("observer.type", "proxy")?;
        self.event(&mut map)?;
        self.exchange(&mut map)?;
        self.ends(&mut map)?;
        if let Some(trace) = &self.0.trace {
            text(&mut map, "trace.id", format_args!("{:032x}", trace.trace))?;
            text(&mut map, "span.id", format_args!("{:016x}", trace.span))?;
        }
        map.end()
    }
}

fn text<M: SerializeMap>(map: &mut M, key: &str, value: impl Display) -> Result<(), M::Error> {
    map.serialize_entry(key, &Text(value))
}

/// Where the schema expects an event of this type: what is denied is of the network also where it is of the web.
fn categories(stream: bool, kind: &str) -> &'static [&'static str] {
    match (stream, kind) {
        (true, _) => &["network"],
        (false, "denied") => &["network", "web"],
        (false, _) => &["web"],
    }
}

/// Policies deny, as the counts that control planes get have it; what cannot be served for other reasons is an error, so
/// that an outage is no attack to whoever counts denials.
fn event_type(refusal: Option<&Refusal>) -> &'static str {
    match refusal {
        None => "access",
        Some(refusal) if refusal.reason.status().is_client_error() => "denied",
        Some(_) => "error",
    }
}

impl Ecs<'_> {
    fn event<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let record = self.0;
        let refusal = record.refusal.as_ref();
        let failed = refusal.is_some() || record.failed();
        map.serialize_entry("event.kind", "event")?;
        let kind = event_type(refusal);
        map.serialize_entry("event.category", categories(record.protocol.is_stream(), kind))?;
        map.serialize_entry("event.type", &[kind])?;
        map.serialize_entry("event.outcome", if failed { "failure" } else { "success" })?;
        text(map, "event.id", record.id)?;
        map.serialize_entry(
            "event.duration",
            &u64::try_from(record.durations.total.as_nanos()).unwrap_or(u64::MAX),
        )?;
        if let Some(refusal) = refusal {
            map.serialize_entry("event.action", refusal.step.name())?;
            map.serialize_entry("event.reason", refusal.reason.name())?;
            map.serialize_entry("rule.name", &*refusal.rule)?;
            map.serialize_entry("foregate.detail", &*refusal.detail)?;
        }
        if !record.audits.is_empty() {
            let rules: Vec<&str> = record.audits.iter().map(|audit| &*audit.rule).collect();
            map.serialize_entry("foregate.audits", &rules)?;
        }
        map.serialize_entry("foregate.end", record.end.name())
    }

    fn exchange<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let record = self.0;
        map.serialize_entry("foregate.route", &*record.route)?;
        if record.protocol.is_stream() {
            map.serialize_entry("network.transport", "tcp")?;
            map.serialize_entry("source.bytes", &record.bytes_received)?;
            map.serialize_entry("destination.bytes", &record.bytes_sent)?;
            return Ok(());
        }
        map.serialize_entry("network.protocol", "http")?;
        map.serialize_entry("http.version", record.protocol.version())?;
        map.serialize_entry("http.request.method", record.method.as_str())?;
        map.serialize_entry("http.request.id", record.request_id.to_str().unwrap_or_default())?;
        map.serialize_entry("http.request.body.bytes", &record.bytes_received)?;
        map.serialize_entry("http.response.status_code", &record.status)?;
        map.serialize_entry("http.response.body.bytes", &record.bytes_sent)?;
        map.serialize_entry("url.scheme", if record.tls { "https" } else { "http" })?;
        map.serialize_entry("url.domain", &*record.host)?;
        map.serialize_entry("url.path", &*record.path)?;
        if let Some(came) = record.came_with.as_deref() {
            map.serialize_entry("user_agent.original", &*came.agent)?;
            map.serialize_entry("http.request.referrer", &*came.referer)?;
        }
        Ok(())
    }

    /// Who asked, and who answered.
    fn ends<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let record = self.0;
        map.serialize_entry("client.ip", &record.client)?;
        map.serialize_entry("foregate.listener", &*record.listener)?;
        if let Some(id) = record.peer.as_ref().and_then(|peer| peer.id.as_ref()) {
            map.serialize_entry("foregate.peer", id.as_str())?;
        }
        if let Some(principal) = &record.subject {
            map.serialize_entry("user.id", &*principal.subject)?;
            map.serialize_entry("user.domain", &*principal.issuer)?;
        }
        if let Some(consumer) = &record.consumer {
            map.serialize_entry("user.name", &*consumer.name)?;
        }
        if let Some(upstream) = &record.upstream {
            map.serialize_entry("foregate.upstream", &**upstream)?;
        }
        if let Some(endpoint) = &record.endpoint {
            map.serialize_entry("destination.ip", &endpoint.ip())?;
            map.serialize_entry("destination.port", &endpoint.port())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Ecs;
    use crate::telemetry::json::write;
    use crate::telemetry::record::CameWith;
    use crate::telemetry::testing::{full_record, record};
    use foregate_filters::reason::Reason;
    use serde_json::{Value, json};

    #[test]
    fn names_are_those_of_the_schema() {
        let mut refused = full_record();
        refused.came_with = Some(Box::new(CameWith { agent: "curl/8".into(), referer: "".into() }));
        let mut line = Vec::new();
        write(&Ecs(&refused), &mut line).unwrap();
        let text = String::from_utf8(line).unwrap();
        assert!(!text.contains("claim-not-to-be-seen"), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        for (name, expected) in [
            ("@timestamp", json!("2026-09-21T14:13:20.000001Z")),
            ("event.category", json!(["network", "web"])),
            ("event.type", json!(["denied"])),
            ("event.outcome", json!("failure")),
            ("event.duration", json!(1_234_000)),
            ("event.reason", json!("RateLimited")),
            ("rule.name", json!("per-org")),
            ("http.response.status_code", json!(429)),
            ("url.path", json!("/services/data/v62.0/sobjects/Lead")),
            ("client.ip", json!("203.0.113.7")),
            ("destination.port", json!(8443)),
            ("user.id", json!("uid:005")),
            ("user_agent.original", json!("curl/8")),
        ] {
            assert_eq!(value[name], expected, "{name}");
        }
        let mut line = Vec::new();
        write(&Ecs(&record()), &mut line).unwrap();
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&value["event.outcome"], &value["event.type"]), (&json!("success"), &json!(["access"])));
        assert!(value.get("event.reason").is_none());
    }

    #[test]
    fn policies_deny_and_outages_are_errors() {
        for (reason, expected) in [
            (Reason::AccessDenied, "denied"),
            (Reason::TokenMissing, "denied"),
            (Reason::QuotaExceeded, "denied"),
            (Reason::UpstreamReset, "error"),
            (Reason::UpstreamTimeout, "error"),
            (Reason::Overloaded, "error"),
            (Reason::GrantLost, "error"),
            (Reason::KeysUnavailable, "error"),
        ] {
            let mut refused = full_record();
            refused.refusal.as_mut().unwrap().reason = reason;
            let mut line = Vec::new();
            write(&Ecs(&refused), &mut line).unwrap();
            let value: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(
                (&value["event.type"], &value["event.outcome"]),
                (&json!([expected]), &json!("failure"))
            );
        }
    }
}

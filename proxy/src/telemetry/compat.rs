//! The names that dashboards of Istio and Linkerd ask for, made at each scrape.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::ValueEnum;

use crate::telemetry::families::Families;
use crate::telemetry::histogram::{Histograms, Labels, REQUEST_BOUNDS, Reading, Written, braced, number};
use crate::telemetry::labels::Exchange;

/// Whose names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compat {
    Istio,
    Linkerd,
}

/// The labels of a series, in the order in which they are written.
type Key = Vec<(&'static str, String)>;

/// Series that have the same labels once those that others do not know are left out.
type Summed = BTreeMap<Key, Reading>;

/// Stands where Istio names what the gateway does not know.
const UNKNOWN: &str = "unknown";

/// What Istio says of a request without a response.
const NO_RESPONSE: &str = "0";

impl Compat {
    /// Appends all families, from the handles of our own.
    pub(crate) fn write(self, families: &Families, text: &mut String) {
        match self {
            Self::Istio => istio(families, text),
            Self::Linkerd => linkerd(families, text),
        }
    }
}

fn add<L: Labels>(from: &Histograms<L>, to: &mut Summed, labels: impl Fn(&L) -> Key) {
    for (its, histogram) in from.read() {
        to.entry(labels(&its)).or_default().add(&histogram.read());
    }
}

fn istio(families: &Families, text: &mut String) {
    let labels = |reporter: &'static str, source: &str, destination: &str, status: &str| {
        let status = if status.is_empty() { NO_RESPONSE } else { status };
        vec![
            ("reporter", reporter.to_owned()),
            ("source_workload", source.to_owned()),
            ("source_workload_namespace", UNKNOWN.to_owned()),
            ("destination_service", destination.to_owned()),
            ("destination_service_name", destination.to_owned()),
            ("destination_service_namespace", UNKNOWN.to_owned()),
            ("destination_workload", destination.to_owned()),
            ("destination_workload_namespace", UNKNOWN.to_owned()),
            ("request_protocol", "http".to_owned()),
            ("response_code", status.to_owned()),
            ("connection_security_policy", UNKNOWN.to_owned()),
        ]
    };
    let mut summed = Summed::new();
    add(&families.server, &mut summed, |it| labels("destination", UNKNOWN, &it.route, it.exchange.status));
    add(&families.client, &mut summed, |it| {
        labels("source", "foregate", &it.upstream, it.server.exchange.status)
    });
    counter(text, "istio_requests", "Requests, as Istio counts them", &summed);
    let name = "istio_request_duration_milliseconds";
    histogram(text, name, "Time of requests, as Istio measures it", &summed);
}

fn linkerd(families: &Families, text: &mut String) {
    let labels = |direction: &'static str, authority: &str, exchange: &Exchange| {
        vec![
            ("direction", direction.to_owned()),
            ("authority", authority.to_owned()),
            ("status_code", exchange.status.to_owned()),
            ("classification", if exchange.failed() { "failure" } else { "success" }.to_owned()),
        ]
    };
    let mut responses = Summed::new();
    add(&families.server, &mut responses, |it| labels("inbound", &it.route, &it.exchange));
    add(&families.client, &mut responses, |it| labels("outbound", &it.upstream, &it.server.exchange));
    // Linkerd tells requests and their latency without what became of them.
    let (mut requests, mut latencies) = (Summed::new(), Summed::new());
    for (labels, reading) in &responses {
        let named =
            |known: &[&str]| labels.iter().filter(|(name, _)| known.contains(name)).cloned().collect();
        requests.entry(named(&["direction", "authority"])).or_default().add(reading);
        latencies.entry(named(&["direction", "authority", "status_code"])).or_default().add(reading);
    }
    counter(text, "request", "Requests, as Linkerd counts them", &requests);
    counter(text, "response", "Responses, as Linkerd counts them", &responses);
    histogram(
        text,
        "response_latency_ms",
        "Time to the end of a response, as Linkerd measures it",
        &latencies,
    );
}

fn pairs(key: &Key) -> Vec<(&'static str, &str)> {
    key.iter().map(|(name, value)| (*name, &**value)).collect()
}

fn counter(text: &mut String, name: &str, help: &str, summed: &Summed) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
    for (labels, reading) in summed {
        let _ = writeln!(text, "{name}_total{} {}", braced(&pairs(labels), None), reading.count());
    }
}

fn histogram(text: &mut String, name: &str, help: &str, summed: &Summed) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
    #[expect(clippy::cast_precision_loss, reason = "metrics are doubles")]
    let millis = |nanos: u64| number(nanos as f64 / 1e6);
    for (labels, reading) in summed {
        let series = Written { name, labels: &pairs(labels), scale: &millis };
        series.write(text, REQUEST_BOUNDS, reading, &BTreeMap::new());
    }
}

#[cfg(test)]
mod tests {
    use super::Compat;
    use crate::telemetry::code::Code;
    use crate::telemetry::exposition::Exposition;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::record::Record;
    use crate::telemetry::sources::Sources;
    use crate::telemetry::testing::{failed_records, record};
    use http::Method;
    use std::sync::Arc;

    fn scraped(compat: Vec<Compat>) -> String {
        let metrics = Metrics::default();
        let route = metrics.route("leads");
        let mut failed = record();
        (failed.status, failed.upstream_status) = (502, 0);
        let mut read = record();
        read.method = Method::GET;
        for record in [record(), read, failed] {
            metrics.observe(&record, &route, false);
        }
        Exposition::new(&metrics, &Arc::new(Sources::default()), compat).encode(true)
    }

    /// True where a line has this name, all these labels, and this value.
    fn has(text: &str, name: &str, labels: &[&str], value: &str) -> bool {
        let fits = |line: &str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') && rest.ends_with(value))
                && labels.iter().all(|label| line.contains(label))
        };
        text.lines().any(fits)
    }

    #[test]
    fn names_of_others_come_only_where_they_are_asked_for() {
        let text = scraped(Vec::new());
        assert!(!text.contains("istio") && !text.contains("response_latency_ms"));
        assert!(scraped(vec![Compat::Istio]).ends_with("# EOF\n"));
    }

    #[test]
    fn istio_has_both_reporters_with_methods_summed() {
        let text = scraped(vec![Compat::Istio]);
        let inbound =
            [r#"reporter="destination""#, r#"destination_service="leads""#, r#"response_code="201""#];
        assert!(has(&text, "istio_requests_total", &inbound, "} 2"), "{text}");
        let lost = [r#"reporter="source""#, r#"destination_workload="leads-svc""#, r#"response_code="0""#];
        assert!(has(&text, "istio_requests_total", &lost, "} 1"), "{text}");
        let bucket = [r#"le="2.5""#, r#"reporter="destination""#, r#"response_code="201""#];
        assert!(has(&text, "istio_request_duration_milliseconds_bucket", &bucket, "} 2"), "{text}");
        let sum = [r#"reporter="destination""#, r#"response_code="502""#];
        assert!(has(&text, "istio_request_duration_milliseconds_sum", &sum, "} 1.234"), "{text}");
    }

    #[test]
    fn linkerd_classifies_responses_and_counts_requests_apart() {
        let text = scraped(vec![Compat::Linkerd]);
        let (inbound, outbound) = (r#"direction="inbound""#, r#"direction="outbound""#);
        assert!(has(&text, "request_total", &[inbound, r#"authority="leads""#], "} 3"), "{text}");
        let failed = [outbound, r#"authority="leads-svc""#, r#"classification="failure""#];
        assert!(has(&text, "response_total", &failed, "} 1"), "{text}");
        let good = [inbound, r#"status_code="201""#, r#"classification="success""#];
        assert!(has(&text, "response_total", &good, "} 2"), "{text}");
        let bucket = [r#"le="2.5""#, inbound, r#"status_code="201""#];
        assert!(has(&text, "response_latency_ms_bucket", &bucket, "} 2"), "{text}");
    }

    #[test]
    fn linkerd_is_told_of_failures_whatever_their_status() {
        let metrics = Metrics::default();
        let route = metrics.route("leads");
        let call = Record { status: 200, upstream_status: 200, grpc: Some(Code::of(0)), ..record() };
        for record in failed_records().into_iter().chain([call]) {
            metrics.observe(&record, &route, false);
        }
        let compat = vec![Compat::Linkerd];
        let text = Exposition::new(&metrics, &Arc::new(Sources::default()), compat).encode(true);
        for (direction, status, classification, count) in [
            ("inbound", "200", "failure", 4),
            ("inbound", "201", "failure", 2),
            ("inbound", "502", "failure", 1),
            ("inbound", "200", "success", 1),
            ("outbound", "200", "failure", 2),
            ("outbound", "201", "failure", 1),
            ("outbound", "", "failure", 2),
            ("outbound", "200", "success", 1),
        ] {
            let (direction, status) =
                (format!("direction=\"{direction}\""), format!("status_code=\"{status}\""));
            let classified = format!("classification=\"{classification}\"");
            let labels = [direction.as_str(), status.as_str(), classified.as_str()];
            assert!(has(&text, "response_total", &labels, &format!("}} {count}")), "{labels:?} in {text}");
        }
        let latency = [r#"direction="inbound""#, r#"status_code="200""#];
        assert!(has(&text, "response_latency_ms_count", &latency, "} 5"), "{text}");
    }
}

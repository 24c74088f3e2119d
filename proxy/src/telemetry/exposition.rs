//! Metrics as text: `OpenMetrics` with exemplars, or the classic format.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::telemetry::compat::Compat;
use crate::telemetry::families::Families;
use crate::telemetry::labels::RevisionLabels;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::process;
use crate::telemetry::sources::{Kind, REFUSED_SERIES, Sources, number};

/// Media type of the `OpenMetrics` text format.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Media type of the classic text format of Prometheus.
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Ends the `OpenMetrics` text format.
const END: &str = "# EOF\n";

/// All that is exported.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
    families: Arc<Families>,
    compat: Vec<Compat>,
}

/// The revision in force, as an info metric whose label changes at a reload.
#[derive(Debug)]
struct Revision(Arc<Families>);

impl Collector for Revision {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let revision = Arc::clone(&self.0.revision.load());
        if revision.is_empty() {
            return Ok(());
        }
        let help = "Revision of the configuration in force.";
        let mut encoder =
            encoder.encode_descriptor("foregate_config_revision", help, None, MetricType::Info)?;
        encoder.encode_info(&RevisionLabels { revision: (*revision).clone() })
    }
}

impl Exposition {
    /// With the names of others besides, where these are asked for.
    pub fn new(metrics: &Metrics, sources: &Arc<Sources>, compat: Vec<Compat>) -> Self {
        let families = &metrics.families;
        let mut registry = Registry::default();
        register_requests(&mut registry, families);
        register_rules(&mut registry, families);
        register_state(&mut registry, families);
        register_refused_series(sources, families);
        process::register(sources);
        registry.register_collector(Box::new(Revision(families.clone())));
        registry.register_collector(Box::new(sources.clone()));
        Self { registry, families: Arc::clone(families), compat }
    }

    /// Everything as text.
    pub fn encode(&self, open_metrics: bool) -> String {
        let mut text = String::new();
        if text::encode(&mut text, &self.registry).is_err() {
            // Writing to a string does not fail; an empty answer would look like a healthy process.
            return "# foregate: the metrics could not be encoded\n".to_owned();
        }
        let mut text = text.strip_suffix(END).unwrap_or(&text).to_owned();
        self.write_histograms(&mut text);
        for names in &self.compat {
            names.write(&self.families, &mut text);
        }
        text.push_str(END);
        if open_metrics { text } else { classic(&text) }
    }
}

impl Exposition {
    fn write_histograms(&self, text: &mut String) {
        let families = &self.families;
        families.server.write(text);
        families.client.write(text);
        families.added.write(text);
        families.steps.write(text);
        families.enrich.write(text);
    }
}

fn register_requests(registry: &mut Registry, families: &Families) {
    registry.register(
        "foregate_upstream_failures",
        "Requests to an upstream that brought no response, or only a part of one",
        families.failures.clone(),
    );
    registry.register(
        "http_server_active_requests",
        "Requests between head and record",
        families.in_flight.0.clone(),
    );
    registry.register("foregate_connections_open", "Open connections", families.connections.clone());
}

fn register_rules(registry: &mut Registry, families: &Families) {
    registry.register("foregate_refusals", "Refused requests", families.refusals.clone());
    registry.register(
        "foregate_audits",
        "Requests that a rule in audit mode would have refused",
        families.audits.clone(),
    );
    registry.register(
        "foregate_policy_shadow",
        "Verdicts of policies in shadow mode, beside the real ones",
        families.shadows.clone(),
    );
    registry.register(
        "foregate_revocations",
        "Open responses and tunnels ended because what is in force no longer allows them",
        families.revocations.clone(),
    );
    registry.register(
        "foregate_mirrored_requests",
        "Copies of requests for a mirror, by upstream and outcome",
        families.mirrors.clone(),
    );
    registry.register(
        "foregate_injected_faults",
        "Requests delayed or refused on purpose, by rule",
        families.injections.clone(),
    );
    registry.register("foregate_limit_decisions", "Answers of limits", families.limits.clone());
    let help = "Requests whose limit could not be asked of its store, and what was done instead";
    registry.register("foregate_limit_unavailable", help, families.unavailable.clone());
    registry.register("foregate_scores", "Bodies given to a model, by outcome", families.scores.clone());
    registry.register("foregate_score_value", "Scores given, one a record", families.score_values.clone());
    registry.register_with_unit(
        "foregate_store_request_duration",
        "Time until a store answered",
        Unit::Seconds,
        families.stores.clone(),
    );
}

fn register_state(registry: &mut Registry, families: &Families) {
    registry.register("foregate_config_reloads", "Reloads of the configuration", families.reloads.clone());
    registry.register(
        "foregate_config_rejected",
        "1 while the configuration that came last was refused, else 0",
        families.rejected.clone(),
    );
    registry.register_with_unit(
        "foregate_config_last_success_timestamp",
        "When the configuration in force was published",
        Unit::Seconds,
        families.reload_success.clone(),
    );
}

/// Tells when a bounded label hid something.
fn register_refused_series(sources: &Sources, families: &Arc<Families>) {
    type Refused = fn(&Families) -> usize;
    let budgets: [(&str, Refused); 13] = [
        ("http_server_request_duration_seconds", |it| it.server.refused() + it.route_budget.refused()),
        ("http_client_request_duration_seconds", |it| it.client.refused() + it.upstream_budget.refused()),
        ("foregate_added_duration_seconds", |it| it.added.refused()),
        ("foregate_refusals_total", |it| it.refusal_budget.refused()),
        ("foregate_audits_total", |it| it.audit_budget.refused()),
        ("foregate_policy_shadow_total", |it| it.shadow_budget.refused() + it.shadow_kind_budget.refused()),
        ("foregate_scores_total", |it| it.model_budget.refused()),
        ("foregate_limit_decisions_total", |it| it.limit_budget.refused()),
        ("foregate_connections_open", |it| it.listener_budget.refused()),
        ("foregate_mirrored_requests_total", |it| it.mirror_budget.refused()),
        ("foregate_injected_faults_total", |it| it.injection_budget.refused()),
        ("foregate_upstream_failures_total", |it| it.failure_budget.refused()),
        ("foregate_store_request_duration_seconds", |it| it.store_budget.refused()),
    ];
    for (metric, refused) in budgets {
        let families = families.clone();
        sources.register(
            Kind::Counter,
            REFUSED_SERIES,
            "Times that a series was wanted of a metric that has as many as it may.",
            &[("metric", metric)],
            move || number(refused(&families) as u64),
        );
    }
}

/// The classic text format from the `OpenMetrics` one: no exemplars, units or end mark, and metric names as
/// they stand in the samples.
fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut kinds = Vec::new();
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        let comment = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        match comment {
            Some(("HELP", rest)) => help = rest.split_once(' '),
            Some(("TYPE", rest)) => {
                let Some((name, kind)) = rest.split_once(' ') else { continue };
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some((_, help)) = help.take() {
                    kinds.extend(["# HELP ", name, suffix, " ", help, "\n"]);
                }
                kinds.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
                text.extend(kinds.drain(..));
            }
            _ if line.starts_with('#') => {}
            _ => {
                text.push_str(without_exemplar(line));
                text.push('\n');
            }
        }
    }
    text
}

/// A sample without what follows its value. Label values may hold anything, so quotes are heeded.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line.get(..at).unwrap_or(line).trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{Exposition, classic, without_exemplar};
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::sources::{Kind, Sources};
    use crate::telemetry::testing::full_record;
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    fn exposed() -> (Arc<Sources>, Exposition) {
        let (metrics, sources) = (Metrics::default(), Arc::new(Sources::default()));
        metrics.observe(&full_record(), &metrics.route("le\"a\\d\ns # {x} 1"), true);
        metrics.reload_succeeded("r1", std::time::Duration::from_secs(1));
        let exposition = Exposition::new(&metrics, &sources, Vec::new());
        (sources, exposition)
    }

    /// Kinds by family name, and the names of all samples.
    fn names(text: &str) -> (BTreeMap<&str, &str>, BTreeSet<&str>) {
        let (mut kinds, mut samples) = (BTreeMap::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(kinds.insert(name, kind), None, "{name} is declared twice");
            } else if !line.starts_with('#') {
                samples.insert(&line[..line.find(['{', ' ']).unwrap()]);
            }
        }
        (kinds, samples)
    }

    #[test]
    fn every_sample_belongs_to_a_declared_family_of_its_kind() {
        let (_sources, exposition) = exposed();
        let text = exposition.encode(true);
        assert!(text.ends_with("# EOF\n"));
        let (kinds, samples) = names(&text);
        for sample in &samples {
            let fits = kinds.iter().any(|(family, kind)| {
                sample.strip_prefix(family).is_some_and(|suffix| match *kind {
                    "counter" => suffix == "_total",
                    "info" => suffix == "_info",
                    "histogram" => matches!(suffix, "_bucket" | "_sum" | "_count"),
                    _ => suffix.is_empty(),
                })
            });
            assert!(fits, "{sample}");
        }
        for name in [
            "foregate_audits_total",
            "http_server_request_duration_seconds_bucket",
            "foregate_config_revision_info",
            "foregate_build_info",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_cpu_seconds_total",
            "process_open_fds",
        ] {
            assert!(samples.contains(name), "{name}");
        }
    }

    #[test]
    fn the_classic_format_has_the_same_samples_without_exemplars() {
        let (_sources, exposition) = exposed();
        let (open, plain) = (exposition.encode(true), exposition.encode(false));
        assert!(open.contains(" # {decision_id=") && !plain.contains("decision_id"));
        assert!(!plain.contains("# EOF") && !plain.contains("# UNIT"));
        assert_eq!(names(&open).1, names(&plain).1);
        let (kinds, samples) = names(&plain);
        assert_eq!(kinds["foregate_audits_total"], "counter");
        assert_eq!(kinds["foregate_config_revision_info"], "gauge");
        for sample in samples {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| sample.strip_suffix(suffix));
            let declared =
                kinds.contains_key(sample) || family.is_some_and(|family| kinds[family] == "histogram");
            assert!(declared, "{sample}");
        }
    }

    #[test]
    fn exemplars_are_cut_and_label_values_are_not() {
        for (line, kept) in [
            ("a_bucket{le=\"1\"} 1 # {id=\"x\"} 0.5 1.5", "a_bucket{le=\"1\"} 1"),
            ("a{route=\"x # {y} 1\"} 2", "a{route=\"x # {y} 1\"} 2"),
            ("a{route=\"\\\" # \\\\\"} 2 # {} 1", "a{route=\"\\\" # \\\\\"} 2"),
            ("a 1", "a 1"),
        ] {
            assert_eq!(without_exemplar(line), kept);
        }
        assert_eq!(
            classic("# HELP a Help me.\n# TYPE a counter\n# UNIT a seconds\na_total 1\n# EOF\n"),
            "# HELP a_total Help me.\n# TYPE a_total counter\na_total 1\n"
        );
    }

    #[test]
    fn sources_are_read_at_each_scrape_and_replaced_by_name_and_labels() {
        let (sources, exposition) = exposed();
        let age = |value: f64| {
            let labels = [("issuer", "https://idp.example.com/")];
            sources.register(Kind::Gauge, "foregate_jwks_age_seconds", "Age.", &labels, move || value);
        };
        age(1.0);
        age(2.5);
        sources.register(Kind::Gauge, "foregate_jwks_age_seconds", "Age.", &[("issuer", "b")], || f64::NAN);
        sources.register(Kind::Counter, "foregate_token_cache_hits_total", "Hits.", &[], || 7.0);
        let text = exposition.encode(true);
        assert!(
            text.contains("foregate_jwks_age_seconds{issuer=\"https://idp.example.com/\"} 2.5\n"),
            "{text}"
        );
        assert_eq!(text.matches("foregate_jwks_age_seconds{").count(), 1, "NaN is left out, 1.0 replaced");
        assert!(
            text.contains("# TYPE foregate_token_cache_hits counter\nforegate_token_cache_hits_total 7.0\n")
        );
    }
}

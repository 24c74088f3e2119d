//! Metrics of long-lived parts: keys, limits, caches, models, questions and tokens for upstreams.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use foregate_filters::introspection::AnswerCache;
use foregate_filters::jwt::TokenCache;
use foregate_filters::rate_limit::concurrency::OpenRequests;
use foregate_filters::rate_limit::limiter::Limiter;
use foregate_filters::rate_limit::windows::WindowCounter;
use foregate_filters::score::Scorer;
use foregate_filters::timestamp::Timestamp;
use foregate_inference::rollout::Rollout;
use foregate_inference::rollout::trial::{Counts, Guardrail, Role, Trial};
use foregate_inference::scorer::ModelScorer;

use crate::admission::Admission;
use crate::clock;
use crate::dispatch::upstream::UpstreamState;
use crate::features::LiveFeatures;
use crate::keys::IssuerKeys;
use crate::live::Live;
use crate::oauth::credential::{Credential, CredentialStatus};
use crate::oauth::introspect::HttpIntrospector;
use crate::sidecar::{Kind as FaultKind, Sidecar};
use crate::telemetry::Telemetry;
use crate::telemetry::sources::Kind;

const KEYS: (&str, &str) = ("foregate_limit_keys", "Keys that a limit remembers.");
const EVICTIONS: (&str, &str) =
    ("foregate_limit_evictions_total", "Keys that a limit forgot because it remembers too many.");

/// A count as metrics have it.
#[expect(clippy::cast_precision_loss, reason = "metrics are doubles; counts above 2^53 are not reached")]
fn count(number: u64) -> f64 {
    number as f64
}

/// Where one kind of part is told of.
struct Sources<'a, T, const LABELS: usize> {
    telemetry: &'a Telemetry,
    labels: [(&'a str, &'a str); LABELS],
    part: &'a Arc<T>,
}

impl<T: Send + Sync + 'static, const LABELS: usize> Sources<'_, T, LABELS> {
    /// Registers one number; what no policy uses any more is not kept for its metrics.
    fn add(&self, kind: Kind, name: &str, help: &str, read: fn(&T) -> f64) {
        self.telemetry.sources().register_part(kind, name, help, &self.labels, self.part, read);
    }
}

/// Registers how the keys of an issuer stand.
pub fn keys(telemetry: &Telemetry, issuer: &str, part: &Arc<IssuerKeys>) {
    let sources = Sources { telemetry, labels: [("issuer", issuer)], part };
    let help = "Time since the keys of an issuer were last had from their source.";
    sources.add(Kind::Gauge, "foregate_jwks_age_seconds", help, |it| {
        it.status(clock::now()).age.map_or(f64::NAN, |age| age.as_secs_f64())
    });
    sources.add(Kind::Gauge, "foregate_jwks_keys", "Usable keys of an issuer.", |it| {
        count(it.status(clock::now()).keys as u64)
    });
    let name = "foregate_jwks_fetches_succeeded_total";
    sources.add(Kind::Counter, name, "Reads or fetches of keys that gave keys.", |it| {
        count(it.status(clock::now()).succeeded)
    });
    let name = "foregate_jwks_fetches_failed_total";
    sources.add(Kind::Counter, name, "Reads or fetches of keys that failed.", |it| {
        count(it.status(clock::now()).failed)
    });
}

/// Registers how a feature store stands, and the stream that it is kept current by.
pub fn features(telemetry: &Telemetry, live: &Arc<LiveFeatures>) {
    let part = &live.store;
    let path = part.path().display().to_string();
    if live.said.stream.is_some() {
        stream(&Sources { telemetry, labels: [("store", &path)], part: live });
    }
    let sources = Sources { telemetry, labels: [("store", &path)], part };
    let name = "foregate_feature_store_age_seconds";
    sources.add(Kind::Gauge, name, "Time since the newest row of a feature store was known.", |it| {
        let now = Timestamp::from_unix(clock::now().unix).micros();
        it.pin().newest().map_or(f64::NAN, |newest| seconds(now.saturating_sub(newest)))
    });
    sources.add(Kind::Gauge, "foregate_feature_store_rows", "Rows of a feature store.", |it| {
        count(it.pin().rows() as u64)
    });
    let name = "foregate_feature_lookups_found_total";
    sources.add(Kind::Counter, name, "Keys looked up and found.", |it| count(it.counts().found()));
    let name = "foregate_feature_lookups_absent_total";
    sources.add(
        Kind::Counter,
        name,
        "Keys looked up that a store does not have, or records without one.",
        |it| count(it.counts().absent()),
    );
    let name = "foregate_feature_lookups_stale_total";
    sources
        .add(Kind::Counter, name, "Keys looked up whose row was too old.", |it| count(it.counts().stale()));
    let name = "foregate_feature_rows_applied_total";
    sources
        .add(Kind::Counter, name, "Rows taken up into a feature store.", |it| count(it.counts().applied()));
    let name = "foregate_feature_files_rejected_total";
    sources
        .add(Kind::Counter, name, "Files of updates that were refused.", |it| count(it.counts().rejected()));
}

fn stream(sources: &Sources<'_, LiveFeatures, 1>) {
    let name = "foregate_feature_stream_age_seconds";
    let help = "Time since all that the stream of a feature store held was taken up.";
    sources.add(Kind::Gauge, name, help, |it| it.tally.age().map_or(f64::NAN, |age| age.as_secs_f64()));
    let name = "foregate_feature_stream_entries_total";
    sources.add(Kind::Counter, name, "Entries of a stream that were updates.", |it| count(it.tally.taken()));
    let name = "foregate_feature_stream_refused_total";
    let help = "Entries of a stream that were no updates, or that there was no room for.";
    sources.add(Kind::Counter, name, help, |it| count(it.tally.refused()));
    let name = "foregate_feature_stream_lost_total";
    let help = "Entries that were gone from a stream before they were read, where the server counts them.";
    sources.add(Kind::Counter, name, help, |it| count(it.tally.lost()));
}

/// Microseconds as metrics have time; never negative, as clocks differ.
#[expect(clippy::cast_precision_loss, reason = "metrics are doubles; a century of microseconds fits")]
fn seconds(micros: i64) -> f64 {
    micros.max(0) as f64 / 1e6
}

/// Registers how a rate limit stands.
pub fn limiter(telemetry: &Telemetry, rule: &str, part: &Arc<Limiter>) {
    let sources = Sources { telemetry, labels: [("rule", rule)], part };
    sources.add(Kind::Gauge, KEYS.0, KEYS.1, |it| count(it.live_keys() as u64));
    sources.add(Kind::Counter, EVICTIONS.0, EVICTIONS.1, |it| count(it.evictions()));
}

/// Registers how a quota stands.
pub fn quota(telemetry: &Telemetry, rule: &str, part: &Arc<WindowCounter>) {
    let sources = Sources { telemetry, labels: [("rule", rule)], part };
    sources.add(Kind::Gauge, KEYS.0, KEYS.1, |it| count(it.live_keys() as u64));
    sources.add(Kind::Counter, EVICTIONS.0, EVICTIONS.1, |it| count(it.evictions()));
}

/// Registers how a bound of concurrency stands.
pub fn concurrency(telemetry: &Telemetry, rule: &str, part: &Arc<OpenRequests>) {
    let sources = Sources { telemetry, labels: [("rule", rule)], part };
    sources.add(Kind::Gauge, KEYS.0, KEYS.1, |it| count(it.live_keys()));
    let help = "Requests that are open under a bound of concurrency.";
    sources.add(Kind::Gauge, "foregate_limit_open_requests", help, |it| count(it.open()));
    let help = "Requests turned away because too many keys have open ones.";
    sources.add(Kind::Counter, "foregate_limit_keys_refused_total", help, |it| count(it.turned_away()));
}

/// Registers how a cache of verified tokens is used.
pub fn tokens(telemetry: &Telemetry, issuer: &str, part: &Arc<TokenCache>) {
    let sources = Sources { telemetry, labels: [("issuer", issuer)], part };
    let name = "foregate_token_cache_hits_total";
    sources.add(Kind::Counter, name, "Tokens found verified.", |it| count(it.hits()));
    let name = "foregate_token_cache_misses_total";
    sources.add(Kind::Counter, name, "Tokens that had to be verified.", |it| count(it.misses()));
}

/// Registers how questions to one endpoint go.
pub fn introspector(telemetry: &Telemetry, endpoint: &str, part: &Arc<HttpIntrospector>) {
    let sources = Sources { telemetry, labels: [("endpoint", endpoint)], part };
    let name = "foregate_introspections_answered_total";
    sources.add(Kind::Counter, name, "Questions about tokens that were answered.", |it| {
        count(it.status().answered)
    });
    let name = "foregate_introspections_failed_total";
    sources.add(Kind::Counter, name, "Questions about tokens that were not answered.", |it| {
        count(it.status().failed)
    });
}

/// Registers how often answers were known.
pub fn answers(telemetry: &Telemetry, issuer: &str, part: &Arc<AnswerCache>) {
    let sources = Sources { telemetry, labels: [("issuer", issuer)], part };
    let name = "foregate_introspection_cache_hits_total";
    sources.add(Kind::Counter, name, "Tokens whose answer was known.", |it| count(it.hits()));
    let name = "foregate_introspection_cache_misses_total";
    sources.add(Kind::Counter, name, "Tokens that were asked about.", |it| count(it.asked()));
    let name = "foregate_introspection_cache_tokens";
    sources.add(Kind::Gauge, name, "Tokens remembered.", |it| count(it.count() as u64));
}

/// Registers how the token for one upstream stands.
pub fn credential(telemetry: &Telemetry, upstream: &str, part: &Arc<Credential>) {
    if part.status(clock::monotonic()).is_none() {
        return;
    }
    let sources = Sources { telemetry, labels: [("upstream", upstream)], part };
    let name = "foregate_credential_age_seconds";
    sources.add(Kind::Gauge, name, "Time since a token was granted.", |it| {
        status(it).and_then(|status| status.age).map_or(f64::NAN, |age| age.as_secs_f64())
    });
    let name = "foregate_credential_expires_in_seconds";
    sources.add(Kind::Gauge, name, "Time until a token expires; 0 once it has.", |it| {
        status(it).and_then(|status| status.left).map_or(f64::NAN, |left| left.as_secs_f64())
    });
    let name = "foregate_credential_fetches_succeeded_total";
    sources.add(Kind::Counter, name, "Tokens granted for an upstream.", |it| {
        status(it).map_or(f64::NAN, |status| count(status.succeeded))
    });
    let name = "foregate_credential_fetches_failed_total";
    sources.add(Kind::Counter, name, "Tokens for an upstream that were not granted.", |it| {
        status(it).map_or(f64::NAN, |status| count(status.failed))
    });
}

fn status(credential: &Credential) -> Option<CredentialStatus> {
    credential.status(clock::monotonic())
}

/// Registers how the upstreams in force are held up.
pub fn admissions(telemetry: &Telemetry, upstreams: &[Arc<UpstreamState>]) {
    for upstream in upstreams {
        admission(telemetry, &upstream.spec.name, &upstream.admission);
    }
}

fn admission(telemetry: &Telemetry, upstream: &str, part: &Arc<Admission>) {
    let sources = Sources { telemetry, labels: [("upstream", upstream)], part };
    let name = "foregate_upstream_requests_in_flight";
    let help = "Requests at an upstream whose response heads are not there yet.";
    sources.add(Kind::Gauge, name, help, |it| f64::from(it.under_way()));
    let name = "foregate_upstream_concurrency_limit";
    sources.add(Kind::Gauge, name, "Requests that an upstream is given at once.", |it| f64::from(it.limit()));
    let name = "foregate_upstream_requests_waiting";
    sources.add(Kind::Gauge, name, "Requests that wait for an upstream.", |it| f64::from(it.waiting()));
    let name = "foregate_upstream_requests_queued_total";
    sources.add(Kind::Counter, name, "Requests that had to wait for an upstream.", |it| count(it.queued()));
    let name = "foregate_upstream_requests_shed_total";
    sources
        .add(Kind::Counter, name, "Requests refused because an upstream has enough.", |it| count(it.shed()));
}

/// Registers when the certificates of the listeners in force expire.
pub fn certificates(telemetry: &Telemetry, live: &Live) {
    let name = "foregate_certificate_expires_timestamp_seconds";
    let help = "When a certificate that a listener shows expires, since the Unix epoch.";
    for listener in &live.snapshot.listeners {
        let Some(tls) = &listener.tls else { continue };
        let of_listener = format!("{}/{}", listener.gateway, listener.name);
        let terms = live.tls.get(&listener.port).and_then(|tls| tls.of(listener.hostname.as_deref()));
        let Some(terms) = terms else { continue };
        for (place, files) in tls.certificates.iter().enumerate() {
            let file = files.certificate.display().to_string();
            let labels = [("listener", of_listener.as_str()), ("certificate", file.as_str())];
            telemetry.sources().register_part(Kind::Gauge, name, help, &labels, terms, move |terms| {
                terms.expires.get(place).map_or(f64::NAN, Duration::as_secs_f64)
            });
        }
    }
}

/// A quantile, and what tells it.
type Quantile = (&'static str, fn(&ModelScorer) -> Duration);

/// Registers how long a version of a model runs.
pub fn runs(telemetry: &Telemetry, model: &str, version: &str, part: &Arc<ModelScorer>) {
    let help = "Time of one row in the last 256 runs that were timed.";
    let quantiles: [Quantile; 2] = [("0.5", ModelScorer::median), ("0.99", ModelScorer::p99)];
    for (quantile, read) in quantiles {
        let labels = [("model", model), ("version", version), ("quantile", quantile)];
        let name = "foregate_model_run_duration_seconds";
        telemetry.sources().register_part(Kind::Gauge, name, help, &labels, part, move |it| {
            Some(read(it)).filter(|time| !time.is_zero()).map_or(f64::NAN, |time| time.as_secs_f64())
        });
    }
}

/// Registers how the inference sidecar does.
pub fn sidecar(telemetry: &Telemetry, part: &Arc<Sidecar>) {
    let sources = Sources { telemetry, labels: [], part };
    let name = "foregate_inference_sidecar_connected";
    let help = "1 while there is a connection to the inference sidecar, else 0.";
    sources.add(Kind::Gauge, name, help, |it| f64::from(u8::from(it.is_connected())));
    let name = "foregate_inference_sidecar_calls_in_flight";
    let help = "Calls of the inference sidecar that are not answered yet.";
    sources.add(Kind::Gauge, name, help, |it| count(it.under_way() as u64));
    let name = "foregate_inference_sidecar_calls_total";
    let help = "Times that the inference sidecar was to be asked.";
    sources.add(Kind::Counter, name, help, |it| count(it.counts.calls.load(Relaxed)));
    for kind in FaultKind::ALL {
        let read = move |it: &Sidecar| count(it.counts.faults(kind));
        let (name, help) =
            ("foregate_inference_sidecar_faults_total", "Calls of the inference sidecar without scores.");
        telemetry.sources().register_part(Kind::Counter, name, help, &[("kind", kind.name())], part, read);
    }
}

/// Registers how the versions of a model do.
pub fn rollout(telemetry: &Telemetry, part: &Arc<Rollout>) {
    let model = part.model();
    let sources = Sources { telemetry, labels: [("model", model)], part };
    let name = "foregate_model_canary_percent";
    let help = "Part of the bodies that the canary of a model decides about; 0 once it was taken off.";
    sources.add(Kind::Gauge, name, help, |it| f64::from(it.canary_share()) / 100.0);
    let name = "foregate_model_comparisons_dropped_total";
    let help = "Bodies whose scores were not compared because too many waited.";
    sources.add(Kind::Counter, name, help, |it| count(it.dropped()));
    for trial in part.trials() {
        on_trial(telemetry, model, trial);
    }
    for role in [Role::Production, Role::Canary, Role::Shadow] {
        drift(telemetry, part, role);
    }
}

fn on_trial(telemetry: &Telemetry, model: &str, trial: &Arc<Trial>) {
    let labels = [("model", model), ("version", &*trial.version), ("role", trial.role.name())];
    let add = |name: &str, help: &str, read: fn(&Counts) -> u64| {
        telemetry
            .sources()
            .register_part(Kind::Counter, name, help, &labels, trial, move |it| count(read(&it.counts)));
    };
    let name = "foregate_model_trial_records_total";
    add(name, "Records that a canary or a shadow was given.", |it| it.records.load(Relaxed));
    let (name, help) =
        ("foregate_model_trial_errors_total", "Records that it failed on and production did not.");
    add(name, help, |it| it.errors.load(Relaxed));
    let (name, help) =
        ("foregate_model_comparisons_total", "Records that it and production have both scored.");
    add(name, help, |it| it.compared.load(Relaxed));
    let (name, help) = ("foregate_model_disagreements_total", "Compared records whose scores differ.");
    add(name, help, |it| it.disagreed.load(Relaxed));
    let (name, help) =
        ("foregate_model_rollbacks_total", "Times that it was taken off, by the guardrail it broke.");
    for (place, guardrail) in Guardrail::ALL.into_iter().enumerate() {
        let labels: Vec<_> = labels.into_iter().chain([("guardrail", guardrail.name())]).collect();
        telemetry.sources().register_part(Kind::Counter, name, help, &labels, trial, move |it| {
            it.counts.breaches.get(place).map_or(f64::NAN, |breaches| count(breaches.load(Relaxed)))
        });
    }
}

/// One gauge for each feature of the reference, and one for the score.
fn drift(telemetry: &Telemetry, rollout: &Arc<Rollout>, role: Role) {
    for (place, feature) in rollout.watched(role).iter().enumerate() {
        let read = move |rollout: &Rollout| {
            rollout.drift(role).and_then(|moved| moved.get(place).copied()).unwrap_or(f64::NAN)
        };
        let labels = [("model", rollout.model()), ("role", role.name()), ("feature", feature)];
        let help = "Population stability index against the training records, of the last full window.";
        telemetry.sources().register_part(Kind::Gauge, "foregate_model_drift", help, &labels, rollout, read);
    }
}

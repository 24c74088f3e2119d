//! How endpoints are chosen, checked and spared: defaults, bounds, contradictions.

use std::sync::Arc;
use std::time::Duration;

use foregate_filters::expression::{Environment, KeyExpression};
use foregate_filters::fault::{Code, Path};
use foregate_filters::units::TimeSpan;
use http::HeaderName;

use crate::balancing::{
    Balancing, Breaker, Budget, Carried, Check, CheckKind, Dns, HashOn, Keyed, Outliers, Session,
};
use crate::codes;
use crate::compile::typed::spec;
use crate::compile::upstreams::bounded;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::balancing::{self, Algorithm, CheckType, SessionType};
use crate::documents::upstream::{Protocol, Spec};

/// Per cent of fit endpoints below which all are used.
const PANIC: u8 = 25;
/// Name of the cookie or header of a session.
pub const SESSION: &str = "foregate-session";
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

struct Reader<'a> {
    document: &'a Document,
    said: &'a Spec,
    faults: &'a mut Vec<Diagnostic>,
}

/// Reads it all, and notes every fault.
pub fn balancing(document: &Document, said: &Spec, faults: &mut Vec<Diagnostic>) -> Balancing {
    let mut reader = Reader { document, said, faults };
    let (policy, hash_on) = reader.choice();
    let at = spec().key("loadBalancing");
    let load = said.load_balancing.as_ref();
    Balancing {
        policy,
        hash_on,
        slow_start: reader.span(
            load.and_then(|load| load.slow_start),
            Duration::ZERO,
            (SECOND, HOUR),
            &at.key("slowStart"),
        ),
        panic_threshold: load.and_then(|load| load.panic_threshold).unwrap_or(PANIC),
        session: reader.session(policy),
        check: said.health_check.as_ref().map(|check| reader.check(check)),
        outliers: reader.outliers(),
        breaker: reader.breaker(),
        budget: reader.budget(),
        dns: reader.dns(),
    }
}

impl Reader<'_> {
    fn span(
        &mut self,
        span: Option<TimeSpan>,
        default: Duration,
        bounds: (Duration, Duration),
        at: &Path,
    ) -> Duration {
        bounded(self.document, span, default, bounds, at, self.faults)
    }

    fn fault(&mut self, at: &Path, code: foregate_filters::fault::Code, message: &str, help: &str) {
        self.faults.push(Diagnostic::at(self.document, at, code, message).help(help));
    }

    fn choice(&mut self) -> (Algorithm, Option<HashOn>) {
        let Some(load) = &self.said.load_balancing else { return (Algorithm::default(), None) };
        let at = spec().key("loadBalancing");
        let hashes = load.policy == Algorithm::Maglev;
        if hashes && load.slow_start.is_some() {
            let message = "equal keys go to equal endpoints: none can begin slowly";
            self.fault(
                &at.key("slowStart"),
                codes::BALANCING,
                message,
                "remove slowStart, or choose PeakEwma",
            );
        }
        let Some(said) = &load.hash_on else { return (load.policy, hashes.then_some(HashOn::Source)) };
        let at = at.key("hashOn");
        if !hashes {
            let message = "only the policy Maglev hashes";
            self.fault(&at, codes::BALANCING, message, "write policy: Maglev, or remove hashOn");
        }
        let balancing::HashOn { header, cookie, expression, source_address } = said;
        let key = match (header, cookie, expression, source_address) {
            (Some(header), None, None, None) => HeaderName::try_from(header).ok().map(HashOn::Header),
            (None, Some(cookie), None, None) => Some(HashOn::Cookie(cookie.as_str().into())),
            (None, None, Some(text), None) => self.expression(text, &at.key("expression")),
            (None, None, None, Some(true)) => Some(HashOn::Source),
            _ => {
                let message = "a key is one of header, cookie, expression, sourceAddress: true";
                self.fault(&at, codes::BALANCING, message, "write hashOn: { header: x-org-id }");
                None
            }
        };
        (load.policy, key)
    }

    fn expression(&mut self, text: &str, at: &Path) -> Option<HashOn> {
        // Several routes may lead here: what one of them does not know has no value there.
        let environment = Environment { principal: true, consumer: true, ..Environment::default() };
        match KeyExpression::new(text, &environment, at) {
            Ok(key) => Some(HashOn::Expression(Keyed(Arc::new(key)))),
            Err(wrong) => {
                let wrong = wrong.into_iter().map(|fault| Diagnostic::from_fault(self.document, fault));
                self.faults.extend(wrong);
                None
            }
        }
    }

    fn session(&mut self, policy: Algorithm) -> Option<Session> {
        let said = self.said.session_persistence.as_ref()?;
        let at = spec().key("sessionPersistence");
        if policy == Algorithm::Maglev {
            let message = "the policy Maglev has chosen by its own key already";
            self.fault(&at, codes::BALANCING, message, "remove sessionPersistence, or the policy");
        }
        let name = said.session_name.as_deref().unwrap_or(SESSION);
        let age = at.key("absoluteTimeout");
        match said.kind {
            SessionType::Header => {
                if said.absolute_timeout.is_some() {
                    let message = "a header has no time to live";
                    self.fault(
                        &age,
                        codes::BALANCING,
                        message,
                        "remove absoluteTimeout, or write type: Cookie",
                    );
                }
                let carried = Carried::Header(HeaderName::try_from(name).ok()?);
                Some(Session { carried, max_age: None, absolute: None, idle: None })
            }
            SessionType::Cookie => {
                let max_age =
                    said.absolute_timeout.map(|span| self.span(Some(span), HOUR, (SECOND, 365 * DAY), &age));
                Some(Session { carried: Carried::Cookie(name.into()), max_age, absolute: None, idle: None })
            }
        }
    }

    fn check(&mut self, said: &balancing::HealthCheck) -> Check {
        let at = spec().key("healthCheck");
        let http = said.kind == CheckType::HTTP;
        let grpc = said.kind == CheckType::GRPC;
        let told = [
            ("path", said.path.is_some(), http, "HTTP"),
            ("expectedStatuses", !said.expected_statuses.is_empty(), http, "HTTP"),
            ("service", said.service.is_some(), grpc, "GRPC"),
            ("host", said.host.is_some(), http || grpc, "HTTP or GRPC"),
        ];
        for (field, _, _, wanted) in told.into_iter().filter(|(_, said, fits, _)| *said && !*fits) {
            let message = format!("`{field}` goes with type {wanted}");
            self.fault(&at.key(field), codes::HEALTH_CHECK, &message, "remove it, or change the type");
        }
        if grpc && self.said.protocol == Protocol::Http1 {
            let message = "gRPC is spoken on HTTP/2";
            self.fault(
                &at.key("type"),
                codes::HEALTH_CHECK,
                message,
                "write protocol: Http2 in this Upstream",
            );
        }
        let host = said.host.as_deref().map(Into::into);
        let kind = match said.kind {
            CheckType::HTTP => CheckKind::Http {
                path: said.path.as_deref().unwrap_or("/").into(),
                host,
                statuses: said.expected_statuses.clone(),
            },
            CheckType::TCP => CheckKind::Tcp,
            CheckType::GRPC => {
                CheckKind::Grpc { service: said.service.as_deref().unwrap_or_default().into(), host }
            }
        };
        let interval = self.span(said.interval, 10 * SECOND, (50 * MILLISECOND, HOUR), &at.key("interval"));
        Check {
            kind,
            interval,
            timeout: self.span(said.timeout, SECOND, (10 * MILLISECOND, 60 * SECOND), &at.key("timeout")),
            healthy_threshold: said.healthy_threshold.unwrap_or(2),
            unhealthy_threshold: said.unhealthy_threshold.unwrap_or(3),
        }
    }

    fn outliers(&mut self) -> Outliers {
        let default = Outliers::default();
        let Some(said) = &self.said.outlier_detection else { return default };
        let at = spec().key("outlierDetection");
        let (base, longest) = self.grows(
            (said.base_ejection_time, default.base, at.key("baseEjectionTime")),
            (said.max_ejection_time, default.longest, at.key("maxEjectionTime")),
        );
        let consecutive = said.consecutive_errors.unwrap_or(default.consecutive);
        let max_percent = said.max_ejection_percent.unwrap_or(default.max_percent);
        Outliers { consecutive, base, longest, max_percent }
    }

    fn breaker(&mut self) -> Breaker {
        let default = Breaker::default();
        let Some(said) = &self.said.circuit_breaker else { return default };
        let at = spec().key("circuitBreaker");
        let (base, longest) = self.grows(
            (said.base_open_time, default.base, at.key("baseOpenTime")),
            (said.max_open_time, default.longest, at.key("maxOpenTime")),
        );
        Breaker { consecutive: said.consecutive_failures.unwrap_or(default.consecutive), base, longest }
    }

    /// A time that doubles, and the longest that it becomes.
    fn grows(
        &mut self,
        (base, base_default, base_at): (Option<TimeSpan>, Duration, Path),
        (longest, longest_default, longest_at): (Option<TimeSpan>, Duration, Path),
    ) -> (Duration, Duration) {
        let base = self.span(base, base_default, (10 * MILLISECOND, HOUR), &base_at);
        let told = longest.is_some();
        let longest = self.span(longest, longest_default.max(base), (10 * MILLISECOND, DAY), &longest_at);
        if told && longest < base {
            let message = "the longest time is shorter than the first";
            self.fault(&longest_at, Code::CONFLICT, message, "make it as long at least");
        }
        (base, longest)
    }

    fn budget(&mut self) -> Budget {
        let default = Budget::default();
        let Some(said) = &self.said.retry_constraint else { return default };
        let at = spec().key("retryConstraint");
        let bounds = (SECOND, HOUR);
        let interval =
            self.span(said.budget.interval, default.interval, bounds, &at.key("budget").key("interval"));
        let rate = &said.min_retry_rate;
        let per = self.span(rate.interval, SECOND, bounds, &at.key("minRetryRate").key("interval"));
        let least = f64::from(rate.count.unwrap_or(10)) * interval.as_secs_f64() / per.as_secs_f64().max(1.0);
        Budget {
            percent: said.budget.percent.unwrap_or(default.percent),
            interval,
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within bounds")]
            least: least.clamp(0.0, 1e9) as u32,
        }
    }

    fn dns(&mut self) -> Dns {
        let default = Dns::default();
        let Some(said) = &self.said.dns else { return default };
        let at = spec().key("dns");
        let min_ttl = self.span(said.min_ttl, default.min_ttl, (SECOND, HOUR), &at.key("minTtl"));
        let max_ttl = self.span(said.max_ttl, default.max_ttl.max(min_ttl), (SECOND, DAY), &at.key("maxTtl"));
        if said.max_ttl.is_some() && max_ttl < min_ttl {
            let message = "maxTtl is shorter than minTtl";
            self.fault(&at.key("maxTtl"), Code::CONFLICT, message, "make it as long at least");
        }
        let max_stale =
            self.span(said.max_stale, default.max_stale, (Duration::ZERO, DAY), &at.key("maxStale"));
        Dns { server: said.server, min_ttl, max_ttl, max_stale }
    }
}

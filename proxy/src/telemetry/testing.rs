//! A record to test with.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::context::{AuditFact, Beside, Client, LimitFact, RequestContext, ScoreFact};
use foregate_filters::expression::inputs::Input;
use foregate_filters::moment::Moment;
use foregate_filters::principal::Principal;
use foregate_filters::reason::Reason;
use foregate_filters::rule::{Rule, RuleKind};
use foregate_filters::score::{Predictor, Reasons, ScoreFault};
use foregate_filters::step::Step;
use foregate_policy::description::{Description, LinkDescription, Origin, PlacedRule};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Map;
use smallvec::smallvec;

use crate::telemetry::code::Code;
use crate::telemetry::explain::{self, Explanation};
use crate::telemetry::random;
use crate::telemetry::record::{DecisionId, Durations, End, Protocol, Record, Refusal};
use crate::telemetry::trace_context::TraceContext;

/// 2026-09-21T14:13:20.000001Z
pub const MOMENT: Moment =
    Moment { unix: Duration::from_micros(1_790_000_000_000_001), monotonic: Duration::from_secs(9) };

/// A plain request that was forwarded.
pub fn record() -> Record {
    let id = DecisionId::new(MOMENT);
    Record {
        id,
        request_id: id.header_value(),
        moment: MOMENT,
        protocol: Protocol::Http2,
        listener: "https".into(),
        route: "leads".into(),
        method: Method::POST,
        came_with: None,
        host: "crm.example.org".into(),
        path: "/services/data/v62.0/sobjects/Lead".into(),
        status: 201,
        grpc: None,
        refusal: None,
        client: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
        tls: true,
        peer: None,
        subject: None,
        consumer: None,
        upstream: Some("leads-svc".into()),
        endpoint: Some(([10, 0, 0, 1], 8443).into()),
        upstream_status: 201,
        tries: Vec::new(),
        attempts: 1,
        durations: Durations {
            total: Duration::from_micros(1_234),
            upstream: Some(Duration::from_micros(900)),
            enrich: None,
            added: Some(Duration::from_micros(334)),
            dispatched: None,
        },
        bytes_received: 1_024,
        bytes_sent: 64,
        scores: Vec::new(),
        limits: Vec::new(),
        audits: Vec::new(),
        shadows: Vec::new(),
        once: None,
        org: None,
        trace: None,
        traced: false,
        end: End::Complete,
        explanation: None,
    }
}

/// Requests that failed: their status says so, it is a call whose code does, or they broke off.
pub fn failed_records() -> Vec<Record> {
    let call = || Record { status: 200, upstream_status: 200, ..record() };
    let refusal = |reason| Refusal { step: Step::Dispatch, reason, rule: "".into(), detail: "".into() };
    let refused = |reason: Reason| Record {
        grpc: Some(Code::of(reason.grpc_code())),
        refusal: Some(refusal(reason)),
        upstream_status: 0,
        ..call()
    };
    vec![
        Record { status: 502, ..record() },
        Record { end: End::UpstreamBroke, ..record() },
        Record { end: End::Late, ..record() },
        Record { grpc: Some(Code::of(13)), ..call() },
        Record { grpc: Some(Code::of(13)), end: End::UpstreamBroke, ..call() },
        refused(Reason::UpstreamUnreachable),
        // Told as a code that is no failure elsewhere.
        refused(Reason::Overloaded),
    ]
}

/// A record in which everything that can be set is set.
pub fn full_record() -> Record {
    let claims: Map<_, _> = [("secret".to_owned(), "claim-not-to-be-seen".into())].into_iter().collect();
    let principal = Principal {
        issuer: "https://idp.example.com/".into(),
        subject: "uid:005".into(),
        scopes: ["crm.write".into()].into(),
        claims: claims.into(),
        expires: 1_790_000_100,
    };
    Record {
        status: 429,
        refusal: Some(Refusal {
            step: Step::Admit,
            reason: Reason::RateLimited,
            rule: "per-org".into(),
            detail: "used up".into(),
        }),
        subject: Some(Arc::new(principal)),
        scores: vec![ScoreFact {
            rule: "lead".into(),
            model: "lead-score".into(),
            version: "3".into(),
            scores: smallvec![0.25, 0.5],
            fault: Some(ScoreFault::Feature("Title".into())),
            beside: Some(Box::new(Beside {
                bands: ["cold".into(), "warm".into()].into(),
                reasons: [Some(reasons()), None].into(),
                ..Beside::default()
            })),
        }],
        limits: vec![LimitFact {
            rule: "per-org".into(),
            remaining: 0,
            retry_after: Duration::from_millis(20),
            admitted: false,
            key: 0x0123_4567_89ab_cdef,
            kind: RuleKind::Limit,
            unavailable: None,
        }],
        audits: vec![AuditFact {
            step: Step::Decide,
            rule: "hold-risky".into(),
            detail: "score under 0.05".into(),
        }],
        durations: Durations { enrich: Some(Duration::from_micros(12)), ..record().durations },
        trace: Some(TraceContext::from_headers(&HeaderMap::new(), random::next)),
        ..record()
    }
}

fn origin(line: usize) -> Origin {
    Origin { file: "edge.yaml".into(), line }
}

fn placed(name: &Arc<str>, kind: RuleKind, list: &str, line: usize, reads: Vec<Input>) -> PlacedRule {
    let rule = Rule { reads, ..Rule::listed(name.clone(), kind, list, 0) };
    PlacedRule { rule, at: origin(line) }
}

/// One feature that may be told, and one that is personal.
fn reasons() -> Reasons {
    let predictor = |name: &str, contribution, value: Option<&str>| Predictor {
        contribution,
        label: name.into(),
        name: name.into(),
        value: value.map(Into::into),
    };
    let predictors = vec![predictor("visits", 0.5, Some("\"\u{fc}ber\"")), predictor("email", -0.25, None)];
    Reasons { base: -1.0, margin: -0.75, predictors }
}

/// A route with a list of addresses, a limit by claim and a rule that reads a score.
pub fn description() -> Description {
    described(&"per-org".into())
}

fn described(limit: &Arc<str>) -> Description {
    let link = |step, filter, line, rules| LinkDescription {
        step,
        filter,
        policy: "edge".into(),
        at: origin(line),
        rules,
    };
    let addresses = Input::new("source", "address");
    let claim = Input { key: Some("org".into()), ..Input::new("jwt", "claims") };
    let score = Input::scored("lead", "score");
    Description {
        revision: "a1b2c3".into(),
        route: origin(4),
        links: vec![
            link(
                Step::Guard,
                "addresses",
                10,
                vec![placed(&"addresses".into(), RuleKind::Addresses, "addresses", 10, vec![addresses])],
            ),
            link(
                Step::Admit,
                "rateLimit",
                13,
                vec![placed(limit, RuleKind::Limit, "rateLimit", 14, vec![claim])],
            ),
            link(
                Step::Decide,
                "authorize",
                17,
                vec![placed(&"hold-risky".into(), RuleKind::Deny, "authorize", 18, vec![score])],
            ),
        ],
        upstreams: vec![("leads-svc".into(), origin(30))],
        headers: ["content-type", "user-agent", "x-staff"].map(HeaderName::from_static).into(),
    }
}

/// The full record with its explanation: the second filter refused, each took three microseconds.
pub fn explained_record() -> Record {
    let mut record = full_record();
    let client = Client {
        peer: ([203, 0, 113, 7], 40_000).into(),
        address: record.client,
        tls: true,
        destination: Some(([192, 0, 2, 9], 8_080).into()),
    };
    let mut ctx = RequestContext::new(MOMENT, client);
    ctx.trace.time(|| Duration::ZERO);
    (ctx.trace.ran, ctx.trace.done, ctx.trace.refused) = (2, 2, true);
    if let Some(timing) = &mut ctx.trace.timing {
        timing.spent.extend([Duration::from_micros(3); 2]);
        timing.began.extend([4, 9].map(|micros| MOMENT.monotonic + Duration::from_micros(micros)));
    }
    let description = Arc::new(described(&record.limits[0].rule));
    let mut sent = HeaderMap::new();
    sent.insert("x-staff", HeaderValue::from_static("hunter2"));
    sent.insert("user-agent", HeaderValue::from_static("curl/8"));
    let headers = Some(explain::look(&description, &sent));
    let explanation = Explanation::new(Some(description), &mut ctx, record.subject.as_deref(), headers);
    record.explanation = Some(Box::new(explanation));
    record
}

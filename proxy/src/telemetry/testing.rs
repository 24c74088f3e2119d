//! A record to test with.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::context::{AuditFact, LimitFact, ScoreFact};
use foregate_filters::moment::Moment;
use foregate_filters::principal::Principal;
use foregate_filters::reason::Reason;
use foregate_filters::score::ScoreFault;
use foregate_filters::step::Step;
use http::Method;
use serde_json::Map;
use smallvec::{SmallVec, smallvec};

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
        host: "crm.example.org".into(),
        path: "/services/data/v62.0/sobjects/Lead".into(),
        status: 201,
        refusal: None,
        client: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
        tls: true,
        subject: None,
        consumer: None,
        upstream: Some("leads-svc".into()),
        endpoint: Some(([10, 0, 0, 1], 8443).into()),
        durations: Durations {
            total: Duration::from_micros(1_234),
            upstream: Some(Duration::from_micros(900)),
            enrich: None,
        },
        bytes_received: 1_024,
        bytes_sent: 64,
        scores: SmallVec::new(),
        limits: SmallVec::new(),
        audits: SmallVec::new(),
        shadows: Vec::new(),
        trace: None,
        end: End::Complete,
    }
}

/// A record in which everything that can be set is set.
pub fn full_record() -> Record {
    let claims: Map<_, _> = [("secret".to_owned(), "claim-not-to-be-seen".into())].into_iter().collect();
    let principal = Principal {
        issuer: "https://idp.example.com/".into(),
        subject: "uid:005".into(),
        scopes: vec!["crm.write".into()],
        claims,
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
        scores: smallvec![ScoreFact {
            rule: "lead".into(),
            model: "lead-score".into(),
            version: "3".into(),
            scores: smallvec![0.25, 0.5],
            fault: Some(ScoreFault::Feature("Title".into())),
        }],
        limits: smallvec![LimitFact {
            rule: "per-org".into(),
            remaining: 0,
            retry_after: Duration::from_millis(20),
            admitted: false,
        }],
        audits: smallvec![AuditFact {
            step: Step::Decide,
            rule: "hold-risky".into(),
            detail: "score under 0.05".into(),
        }],
        durations: Durations { enrich: Some(Duration::from_micros(12)), ..record().durations },
        trace: Some(TraceContext::from_headers(&http::HeaderMap::new(), random::next)),
        ..record()
    }
}

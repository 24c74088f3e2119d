//! Calls of an org: refused before they are sent, counted by what is answered.

use std::sync::Arc;

use foregate_filters::chain::Refusal;
use foregate_filters::context::AuditFact;
use foregate_filters::org_quota::pool::{Pool, Refused, Ticket};
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use http::HeaderValue;
use http::header::RETRY_AFTER;
use serde::Serialize;

use crate::clock;
use crate::dispatch::upstream::UpstreamState;
use crate::dispatch::{Answer, DispatchError};
use crate::life::Life;
use crate::telemetry::Telemetry;
use crate::telemetry::sources::Kind;

/// How a call stood, for its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrgFact {
    /// Name of the class.
    pub class: Arc<str>,
    /// Calls of the org, with those under way; absent while nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// How an org stands, on the admin page.
#[derive(Debug, Serialize)]
pub struct OrgStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    /// Since the org said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
    under_way: u64,
    /// Fields that were not believed.
    ignored: u64,
    classes: Vec<ClassStatus>,
}

#[derive(Debug, Serialize)]
struct ClassStatus {
    name: Arc<str>,
    until_percent: u8,
    admitted: u64,
    refused: u64,
    used_in_24h: u64,
}

fn fact(pool: &Pool, class: Arc<str>) -> OrgFact {
    let standing = pool.standing(clock::monotonic());
    OrgFact { class, used: standing.used, limit: standing.limit }
}

/// Lets a request through to its upstream, where an org counts its calls.
///
/// # Errors
/// The refusal, where its class or its budget has no call left.
pub fn admit(life: &mut Life, upstream: &UpstreamState) -> Result<Option<Box<Ticket>>, Refusal> {
    let Some(pool) = &upstream.org else { return Ok(None) };
    match pool.admit(life.ctx.org_consumer.as_deref(), clock::monotonic()) {
        Ok(admitted) => {
            if let Some(Refused { class, detail, .. }) = admitted.audit {
                life.ctx.audits.push(AuditFact { step: Step::Dispatch, rule: class, detail: detail.into() });
            }
            Ok(Some(admitted.ticket))
        }
        Err(refused) => {
            life.org = Some(Box::new(fact(pool, Arc::clone(&refused.class))));
            let reason = if refused.exhausted { Reason::OrgQuotaExhausted } else { Reason::OrgQuotaReserved };
            let seconds = refused.retry_after.as_secs().max(1);
            let reply = Reply::new(reason).rule(&refused.class).detail(refused.detail);
            let reply = reply.header(RETRY_AFTER, HeaderValue::from(seconds));
            Err(Refusal { step: Step::Dispatch, reply: Box::new(reply) })
        }
    }
}

/// The call leaves: from now on it counts, whatever comes of it.
pub fn sent(ticket: Option<&mut Ticket>) {
    if let Some(ticket) = ticket {
        ticket.sent();
    }
}

/// Takes note of what came of a call.
pub fn settle(
    life: &mut Life,
    upstream: &UpstreamState,
    ticket: Option<Box<Ticket>>,
    outcome: &Result<Box<Answer>, DispatchError>,
) {
    let (Some(mut ticket), Some(pool)) = (ticket, &upstream.org) else { return };
    let class = ticket.class().cloned();
    match outcome {
        Ok(answer) => ticket.answered(answer.response.headers(), clock::monotonic()),
        Err(DispatchError::NoEndpoint | DispatchError::Connect { .. }) => ticket.unsent(),
        Err(_) => {}
    }
    life.org = class.map(|class| Box::new(fact(pool, class)));
}

/// How the org of an upstream stands.
pub fn status(pool: &Pool) -> OrgStatus {
    let now = clock::monotonic();
    let standing = pool.standing(now);
    let classes = pool.classes(now).into_iter().map(|class| ClassStatus {
        name: class.name,
        until_percent: class.until,
        admitted: class.admitted,
        refused: class.refused,
        used_in_24h: class.used,
    });
    OrgStatus {
        used: standing.used,
        limit: standing.limit,
        age_seconds: standing.age.map(|age| age.as_secs_f64()),
        under_way: standing.open,
        ignored: standing.ignored,
        classes: classes.collect(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are doubles; counts above 2^53 are not reached")]
fn number(count: u64) -> f64 {
    count as f64
}

/// Registers how the org of an upstream stands.
pub fn export(telemetry: &Telemetry, upstream: &str, pool: &Arc<Pool>) {
    let add = |kind, name: &str, help: &str, read: fn(&Pool) -> Option<f64>| {
        let read = move |pool: &Pool| read(pool).unwrap_or(f64::NAN);
        telemetry.sources().register_part(kind, name, help, &[("upstream", upstream)], pool, read);
    };
    let help = "Calls of the org in 24 hours, with those under way.";
    add(Kind::Gauge, "foregate_org_quota_used", help, |it| it.standing(clock::monotonic()).used.map(number));
    let help = "Calls that the org has in 24 hours.";
    add(Kind::Gauge, "foregate_org_quota_limit", help, |it| {
        it.standing(clock::monotonic()).limit.map(number)
    });
    add(Kind::Gauge, "foregate_org_quota_age_seconds", "Time since the org said so.", |it| {
        it.standing(clock::monotonic()).age.map(|age| age.as_secs_f64())
    });
    let help = "Usage of an org that was not believed.";
    add(Kind::Counter, "foregate_org_quota_ignored_total", help, |it| {
        Some(number(it.standing(clock::monotonic()).ignored))
    });
    let mut place = 0;
    while let Some((class, ..)) = pool.counted(place) {
        let labels = [("upstream", upstream), ("class", &**class)];
        for (name, help, admitted) in [
            ("foregate_org_quota_admitted_total", "Calls of a class that were let through.", true),
            ("foregate_org_quota_refused_total", "Calls of a class that were refused.", false),
        ] {
            let read = move |pool: &Pool| {
                pool.counted(place).map_or(f64::NAN, |(_, let_through, refused)| {
                    number(if admitted { let_through } else { refused })
                })
            };
            telemetry.sources().register_part(Kind::Counter, name, help, &labels, pool, read);
        }
        place += 1;
    }
}

//! Responses against the contract of their service: told of, or held until known right.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foregate_filters::chain::Refusal;
use foregate_filters::context::{AuditFact, RequestContext};
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::validate::{BodyCheck, MAX_RESPONSE, Matched, Responses};
use foregate_filters::verdict::Reply;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::admission::bodies::Share;
use crate::clock;
use crate::dispatch::Answer;
use crate::dispatch::pool::Lease;
use crate::life::Life;
use crate::respond::at;

/// A response that goes on.
#[derive(Debug)]
pub enum Inspected {
    /// As it comes; what is to be told of its body is told at its end.
    Passing(Box<Answer>),
    /// Its body is here, and right.
    Held(Box<Response<Bytes>>),
}

/// The copy of a body that passes by, to be looked at when it has ended.
#[derive(Debug)]
pub struct Watched {
    check: BodyCheck,
    body: BytesMut,
    share: Share,
    /// Why the body will not be looked at.
    lost: Option<Box<Reply>>,
}

/// True where somebody wants to know whether the response is what the contract allows.
pub fn is_asked(life: &Life) -> bool {
    let asks = |matched: &Matched| matched.responses != Responses::Off;
    life.grpc.is_none() && life.ctx.contract.as_deref().is_some_and(asks)
}

/// Looks at a response within `limit`. Bodies that the contract says nothing of, as streams of events, pass unread.
///
/// # Errors
/// A refusal where the response is not what the contract allows, and the policy enforces that.
pub async fn meet(life: &mut Life, answer: Box<Answer>, limit: Duration) -> Result<Inspected, Refusal> {
    let Some(matched) = life.ctx.contract.as_deref() else { return Ok(Inspected::Passing(answer)) };
    if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Inspected::Passing(answer));
    }
    let enforced = matched.responses == Responses::Enforce;
    let Answer { response, mut lease, endpoint } = *answer;
    let (head, body) = response.into_parts();
    let check = match matched.head(&head, life.is_head()) {
        Ok(check) => check,
        Err(reply) if enforced => {
            lease.abandon();
            return Err(at(Step::Respond)(*reply));
        }
        Err(reply) => {
            tell(&reply, &mut life.ctx);
            None
        }
    };
    let Some(check) = check.filter(|_| enforced) else {
        let share = || life.connection.gateway.capacity.bodies.share();
        life.watched = check.map(|check| Box::new(Watched::new(check, share())));
        let response = Response::from_parts(head, body);
        return Ok(Inspected::Passing(Box::new(Answer { response, lease, endpoint })));
    };
    let Some(matched) = life.ctx.contract.as_deref() else {
        return Err(at(Step::Respond)(Reply::new(Reason::Internal)));
    };
    let share = life.connection.gateway.capacity.bodies.share();
    let (whole, took) = clock::timed(timeout(limit, hold(&mut lease, body, matched, share))).await;
    life.waited += took;
    let whole = match whole {
        Ok(whole) => whole,
        Err(_) => Err(matched.unchecked("the body was not complete in time")),
    };
    match whole.and_then(|whole| matched.body(check, &whole).map(|()| whole)) {
        Ok(whole) => {
            lease.complete();
            Ok(Inspected::Held(Box::new(Response::from_parts(head, whole))))
        }
        Err(reply) => {
            lease.abandon();
            Err(at(Step::Respond)(*reply))
        }
    }
}

/// The whole body, within the bound of one and of all together. Trailers are left behind.
async fn hold(
    lease: &mut Lease,
    mut body: Incoming,
    matched: &Matched,
    mut share: Share,
) -> Result<Bytes, Box<Reply>> {
    let mut held = BytesMut::new();
    while let Some(frame) = lease.frame(&mut body).await {
        let frame = frame.map_err(|error| matched.unchecked(&format!("the upstream broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if held.len() + data.len() > MAX_RESPONSE {
            return Err(matched.too_large());
        }
        share.grow((held.len() + data.len()) as u64)?;
        held.extend_from_slice(&data);
    }
    Ok(share.hold(held.freeze()))
}

fn tell(reply: &Reply, ctx: &mut RequestContext) {
    let detail = format!("{}: {}", reply.reason, reply.detail).into();
    let rule = ctx.contract.as_ref().map(|matched| matched.rule.clone()).unwrap_or_default();
    ctx.audits.push(AuditFact { step: Step::Respond, rule, detail });
}

impl Watched {
    fn new(check: BodyCheck, share: Share) -> Self {
        Self { check, body: BytesMut::new(), share, lost: None }
    }

    /// Keeps what passes by, within the bounds; nothing of a body that is over them.
    pub fn push(&mut self, data: &[u8], matched: Option<&Matched>) {
        let Some(matched) = matched.filter(|_| self.lost.is_none()) else { return };
        let whole = self.body.len() + data.len();
        let room =
            if whole > MAX_RESPONSE { Err(matched.too_large()) } else { self.share.grow(whole as u64) };
        match room {
            Ok(()) => self.body.extend_from_slice(data),
            Err(why) => {
                self.body = BytesMut::new();
                self.lost = Some(why);
            }
        }
    }

    /// The body has ended: tells what is wrong with it.
    pub fn end(self, ctx: &mut RequestContext) {
        let found = match (self.lost, &ctx.contract) {
            (Some(why), _) => Err(why),
            (None, Some(matched)) => matched.body(self.check, &self.body),
            (None, None) => Ok(()),
        };
        if let Err(reply) = found {
            tell(&reply, ctx);
        }
    }
}

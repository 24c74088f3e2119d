//! What a request passes on its way to an upstream: place, choice, credential, body.

use std::time::Duration;

use foregate_filters::chain::Refusal;
use foregate_filters::edits::splice;
use foregate_filters::org_quota::pool::Ticket;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use foregate_policy::route::{Forward, Route, WeightedBackend};
use http::Method;
use http::request::Parts;

use crate::admission::Permit;
use crate::body::RequestBody;
use crate::clock;
use crate::dispatch::course::Course;
use crate::dispatch::upstream::UpstreamState;
use crate::dispatch::{Answer, DispatchError, affinity, maglev};
use crate::life::Life;
use crate::oauth::credential::Shown;
use crate::org_quota;
use crate::respond::at;
use crate::shape;
use crate::telemetry::random;
use crate::timeouts::{DEFAULT_REQUEST_TIMEOUT, late};

/// What a request needs to be sent: a call of the org behind its upstream, and a place among those under way.
pub async fn enter<'a>(
    life: &mut Life,
    upstream: &'a UpstreamState,
) -> Result<(Option<Box<Ticket>>, Permit<'a>), Refusal> {
    let ticket = org_quota::admit(life, upstream)?;
    let permit = if let Some(permit) = upstream.admission.at_once() {
        Ok(permit)
    } else {
        // Boxed: waiting is rare, and every request would carry its room.
        let waiting = Box::pin(upstream.admission.wait(life.ctx.tenant.as_deref()));
        let (permit, took) = clock::timed(waiting).await;
        life.waited += took;
        permit
    };
    let permit = permit.map_err(|shed| at(Step::Dispatch)(shed.reply(&upstream.spec.name)))?;
    Ok((ticket, permit))
}

/// The backend that a policy, the session or chance chooses, and the key of the session.
pub fn chosen<'a>(
    life: &mut Life,
    head: &Parts,
    route: &Route,
    forward: &'a Forward,
) -> (Option<&'a WeightedBackend>, Option<u64>) {
    let secure = life.connection.secure;
    let session =
        route.session.as_deref().map(|session| affinity::of_route(session, head, &mut life.ctx, secure));
    #[expect(clippy::cast_possible_truncation, reason = "any 32 of the bits will do")]
    let any = || session.map_or_else(random::next, maglev::mix) as u32;
    (forward.chosen(life.ctx.backend).or_else(|| forward.choose(any())), session)
}

/// What the upstream is shown; a request is not sent without it.
pub async fn credential(life: &mut Life, upstream: &UpstreamState) -> Result<Option<Shown>, Refusal> {
    let Some(credential) = &upstream.credential else {
        // Without what the document asks for nothing is sent, least of all what the client showed.
        return if upstream.spec.credentials.is_none() {
            Ok(None)
        } else {
            let reply = Reply::new(Reason::CredentialUnavailable).rule(&upstream.spec.name);
            Err(at(Step::Shape)(reply.detail("the credential cannot be made")))
        };
    };
    if let Some(shown) = credential.at_once(life.moment().monotonic) {
        return Ok(Some(shown));
    }
    // Boxed: waiting is rare, and every request would carry its room.
    let (shown, took) = clock::timed(Box::pin(credential.wait())).await;
    life.waited += took;
    shown.map(Some).map_err(|error| {
        let reply = Reply::new(Reason::CredentialUnavailable).rule(&upstream.spec.name);
        at(Step::Shape)(reply.detail(error.to_string()))
    })
}

/// The body as the filters want it, with a length that is true.
pub fn shaped_body(life: &mut Life, head: &mut Parts, body: RequestBody) -> Result<RequestBody, Refusal> {
    let Some(whole) = life.ctx.body.take() else { return Ok(body) };
    let mut spliced = splice(&whole, &life.ctx.edits.body)
        .ok_or_else(|| at(Step::Shape)(Reply::new(Reason::Internal).detail("splices overlap")))?;
    // What is only decoded is held already.
    if !life.ctx.edits.body.is_empty() {
        spliced = life.connection.gateway.capacity.bodies.share().hold(spliced);
    }
    let had_body = !whole.is_empty() || matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    if had_body {
        shape::content_length(&mut head.headers, spliced.len());
    }
    Ok(RequestBody::from(spliced))
}

/// How the request goes about several endpoints and attempts; `None` where there is one of each.
pub fn course<'a>(
    life: &mut Life,
    head: &Parts,
    route: &'a Route,
    upstream: &UpstreamState,
    session: Option<u64>,
) -> Option<Course<'a>> {
    let balanced = upstream.is_balanced();
    // Where a connection meant to go there is no other endpoint.
    if upstream.spec.captured.is_some() || (!balanced && route.retry.is_none()) {
        return None;
    }
    let secure = life.connection.secure;
    let key = match session {
        Some(_) => session,
        None if balanced => affinity::key(upstream, head, &mut life.ctx, secure),
        None => None,
    };
    let on = |limit: &Duration| !limit.is_zero();
    let limit = route.timeouts.backend_request.filter(on);
    let total = Some(route.timeouts.request.unwrap_or(DEFAULT_REQUEST_TIMEOUT)).filter(on);
    Some(Course { retry: route.retry.as_ref(), limit, total, of_caller: false, key, tries: None })
}

/// What came of the exchange, and what it says of the upstream.
pub fn settled(
    life: &mut Life,
    upstream: &UpstreamState,
    permit: Permit<'_>,
    started: Duration,
    outcome: Result<Box<Answer>, DispatchError>,
) -> Result<Box<Answer>, Refusal> {
    let now = clock::monotonic();
    let took = now.saturating_sub(started);
    life.upstream_time = Some(took);
    life.upstream_status = outcome.as_ref().map_or(0, |answer| answer.response.status().as_u16());
    if let Some(attempts) = &life.attempts {
        attempts.end(life.upstream_status, outcome.as_ref().err().map(DispatchError::reason), now);
    }
    match &outcome {
        // What a client does to its body says nothing of the upstream.
        Err(error) if error.is_of_client() || life.still_sends() => permit.forget(),
        _ => permit.answered(took, outcome.as_ref().map_or(true, |answer| answer.is_unavailable()), now),
    }
    outcome.map_err(|error| {
        life.endpoint = error.endpoint();
        if let DispatchError::Late { limit, .. } = error {
            return late(life, limit);
        }
        at(Step::Dispatch)(Reply::new(error.reason()).rule(&upstream.spec.name).detail(error.to_string()))
    })
}

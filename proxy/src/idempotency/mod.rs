//! Requests with a key: carried out to their end, their answers kept for repeats.

mod codec;
pub mod keeping;
pub mod memory;
pub mod stored;
pub mod tally;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use foregate_filters::idempotency::Once;
use foregate_filters::idempotency::answer::Answer;
use foregate_filters::reason::Reason;
use foregate_filters::verdict::Reply;
use foregate_policy::route::Route;
use futures_util::FutureExt;
use http::{Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::answer::ResponseBody;
use crate::gateway::{self, Admitted};
use crate::idempotency::keeping::Keeping;
use crate::idempotency::tally::{Ended, Outcome};
use crate::life::Life;
use crate::panics;
use crate::problem;
use crate::respond::{End, refuse};

/// Counts what a request with a key met; the answer given before, where there is one.
pub fn met(life: &mut Life, route: &Arc<Route>) -> Option<End> {
    let once = life.ctx.once.as_deref()?;
    life.once = Some(once.name());
    tally::count(match once {
        Once::First(_) => Outcome::First,
        Once::Again(_) => Outcome::Replayed,
        Once::Unguarded => Outcome::Unguarded,
    });
    let Once::Again(answer) = once else { return None };
    let answer = Arc::clone(answer);
    life.ctx.once = None;
    Some(End::Replayed { route: Arc::clone(route), answer })
}

/// True where the request holds keys: what it does must not depend on whether its client stays.
pub fn holds_keys(life: &Life) -> bool {
    matches!(life.ctx.once.as_deref(), Some(Once::First(_)))
}

/// Carries an admitted request out in a task of its own: a client that gives up and comes again with its key finds
/// the answer, and causes no second run.
pub async fn carry_out(life: Box<Life>, admitted: Box<Admitted>) -> Response<ResponseBody> {
    let id = life.id;
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let response = run(life, admitted).await;
        // Where nobody waits any more the body is dropped, and reads itself out for those who come again.
        let _ = sender.send(response);
    });
    let ended = || problem::response(&Reply::new(Reason::Internal), id).map(ResponseBody::recorded);
    receiver.await.unwrap_or_else(|_| ended())
}

async fn run(mut life: Box<Life>, admitted: Box<Admitted>) -> Response<ResponseBody> {
    let outcome = AssertUnwindSafe(gateway::carry_on(&mut life, *admitted)).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|payload| Err(panics::refusal(&life, payload)));
    match outcome {
        Ok(end) => panics::answered(life.id, || end.respond(life)),
        Err(refusal) => refuse(life, refusal),
    }
}

/// What is kept of an answer that begins, where its request holds keys.
pub fn keep(life: &mut Life, response: &Response<Incoming>) -> Option<Box<Keeping>> {
    begin(life, response, response.body().size_hint().exact())
}

/// Keeps an answer that is here already, where its request holds keys.
pub fn keep_whole(life: &mut Life, response: &Response<Bytes>) {
    let Some(mut keeping) = begin(life, response, Some(response.body().len() as u64)) else { return };
    if keeping.push(response.body()) {
        keeping.finish();
    }
}

/// There is no answer to keep. What may have been carried out, whatever of it the upstream got, is not carried out
/// again; what surely never went out frees its keys, and so does a message that is delivered until it is acknowledged.
pub fn let_go(life: &mut Life) {
    let Some(once) = life.ctx.once.take() else { return };
    let reached = life.reached.as_ref().is_some_and(|reached| reached.load(Ordering::Relaxed));
    if let (Once::First(first), true) = (*once, reached)
        && !first.terms.acknowledged
    {
        first.claims.into_iter().for_each(|claim| claim.finish(None));
        tally::ended(Ended::Spent);
    }
}

fn begin<B>(life: &mut Life, response: &Response<B>, length: Option<u64>) -> Option<Box<Keeping>> {
    let once = life.ctx.once.take()?;
    let Once::First(first) = *once else { return None };
    let until = life.moment().monotonic.saturating_add(first.lock);
    let share = life.connection.gateway.capacity.bodies.share();
    Keeping::begin(first, response.status(), response.headers(), length, (share, until))
}

/// The head of an answer that was given before.
pub fn replayed(answer: &Answer) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.replayed();
    debug_assert!(response.status() != StatusCode::SWITCHING_PROTOCOLS);
    response
}

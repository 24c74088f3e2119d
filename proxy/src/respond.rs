//! How a request ends: the response as filters, route and caller want it.

use std::sync::Arc;

use bytes::Bytes;
use foregate_filters::chain::Refusal;
use foregate_filters::idempotency::answer::Answer as Kept;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use foregate_filters::verdict::Reply;
use foregate_policy::route::{Action, Route, WeightedBackend};
use http::header::{CONTENT_LENGTH, LOCATION, UPGRADE};
use http::{HeaderValue, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;

use crate::answer::ResponseBody;
use crate::clock;
use crate::dispatch::Answer;
use crate::gateway::Admitted;
use crate::grpc;
use crate::idempotency;
use crate::life::Life;
use crate::problem;
use crate::shape;
use crate::timer::Timer;
use crate::upgrade;

/// How a request that nothing refused goes on.
#[derive(Debug)]
pub enum End {
    Answered {
        route: Arc<Route>,
        backend: usize,
        answer: Box<Answer>,
        client: Option<OnUpgrade>,
    },
    /// The body was looked at, and is here.
    Held {
        route: Arc<Route>,
        backend: usize,
        response: Box<Response<Bytes>>,
    },
    Redirected {
        route: Arc<Route>,
        location: HeaderValue,
        status: StatusCode,
    },
    /// With an answer that was given before.
    Replayed {
        route: Arc<Route>,
        answer: Arc<Kept>,
    },
    /// It holds a key, and is forwarded by a task of its own.
    Admitted(Box<Admitted>),
}

/// Turns a reply into a refusal at a step.
pub fn at(step: Step) -> impl Fn(Reply) -> Refusal {
    move |reply| Refusal { step, reply: Box::new(reply) }
}

impl End {
    /// respond: filters in reverse, edits once; record happens when the body ends.
    pub fn respond(self, mut life: Box<Life>) -> Response<ResponseBody> {
        match self {
            Self::Redirected { route, location, status } => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                response.headers_mut().insert(LOCATION, location);
                let response = seen(response, &mut life, &route, None);
                response.map(|()| ResponseBody::own(Bytes::new(), life))
            }
            Self::Held { route, backend, mut response } => {
                let Action::Forward(forward) = &route.action else { return internal(life) };
                shape::end_to_end(response.headers_mut());
                idempotency::keep_whole(&mut life, &response);
                let response = seen(*response, &mut life, &route, forward.backends.get(backend));
                response.map(|body| ResponseBody::own(body, life))
            }
            Self::Replayed { route, answer } => {
                let response = seen(idempotency::replayed(&answer), &mut life, &route, None);
                response.map(|()| ResponseBody::own(answer.body.clone(), life))
            }
            Self::Admitted(_) => internal(life),
            Self::Answered { route, backend, answer, client } => {
                let Action::Forward(forward) = &route.action else { return internal(life) };
                let backend = forward.backends.get(backend);
                answered(life, &route, backend, answer, client)
            }
        }
    }
}

/// Lets the filters see the response head, then applies every edit.
fn seen<B>(
    response: Response<B>,
    life: &mut Life,
    route: &Route,
    backend: Option<&WeightedBackend>,
) -> Response<B> {
    let (mut head, body) = response.into_parts();
    // The version is this connection's, not the upstream's: the codec finds the right one.
    head.version = Version::HTTP_11;
    head.extensions.clear();
    route.chain.respond(&head, &mut life.ctx);
    shape::response(&mut head.headers, life, Some(route), backend);
    if let Some(call) = &mut life.grpc {
        call.answered(&head);
    }
    life.status = head.status.as_u16();
    life.responded = Some(clock::monotonic());
    Response::from_parts(head, body)
}

fn answered(
    mut life: Box<Life>,
    route: &Route,
    backend: Option<&WeightedBackend>,
    answer: Box<Answer>,
    client: Option<OnUpgrade>,
) -> Response<ResponseBody> {
    let Answer { mut response, mut lease, .. } = *answer;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            lease.abandon();
            let reply =
                Reply::new(Reason::UpstreamMalformed).detail("101 to a request that asked for no upgrade");
            return refuse(life, at(Step::Dispatch)(reply));
        };
        let protocol = response.headers().get(UPGRADE).cloned();
        let mut switched = Response::new(());
        *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *switched.headers_mut() = std::mem::take(response.headers_mut());
        shape::end_to_end(switched.headers_mut());
        let mut switched = seen(switched, &mut life, route, backend);
        if let Some(protocol) = &protocol {
            upgrade::ask(switched.headers_mut(), protocol);
        }
        upgrade::tunnel(client, response, life);
        return switched.map(|()| ResponseBody::unrecorded());
    }
    life.hurry(route);
    shape::end_to_end(response.headers_mut());
    let keeping = idempotency::keep(&mut life, &response);
    let response = seen(response, &mut life, route, backend);
    let end = route.timeouts.request.filter(|limit| !limit.is_zero());
    let end = end.map(|limit| life.moment().monotonic.saturating_add(limit));
    // That of a call is no later than the route's.
    let end = life.grpc.and_then(|call| call.deadline).or(end);
    let deadline = end.map(Timer::until);
    response.map(|incoming| ResponseBody::upstream(incoming, lease, deadline, life).kept(keeping))
}

fn internal(life: Box<Life>) -> Response<ResponseBody> {
    refuse(life, at(Step::Respond)(Reply::new(Reason::Internal)))
}

/// A refusal as the caller sees it: status, reason and decision id, nothing else (RFC 9457); trailers for a call.
pub fn refuse(mut life: Box<Life>, refusal: Refusal) -> Response<ResponseBody> {
    // Whoever reads of it may come again at once: by then it is known what became of its keys.
    idempotency::let_go(&mut life);
    let preflight = refusal.reply.reason == Reason::Preflight;
    let refused = match life.grpc {
        None if preflight => problem::bodiless(&refusal.reply),
        None => problem::response(&refusal.reply, life.id),
        Some(_) => grpc::refusal(&refusal.reply),
    };
    let (mut head, mut body) = refused.into_parts();
    if life.is_head() {
        // The length that GET would have, and nothing of that length (RFC 9110, section 9.3.2).
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        body = Bytes::new();
    }
    shape::response(&mut head.headers, &life, None, None);
    if let Some(call) = &mut life.grpc {
        call.refused(refusal.reply.reason);
    }
    life.status = head.status.as_u16();
    life.responded = Some(clock::monotonic());
    // A preflight is answered, and nobody is refused.
    life.refusal = (!preflight).then_some(refusal);
    Response::from_parts(head, ResponseBody::own(body, life))
}

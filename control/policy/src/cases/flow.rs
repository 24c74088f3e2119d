//! The life of a case's request: the steps of the gateway without its sockets.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use foregate_filters::chain::Refusal;
use foregate_filters::context::{Client, LimitFact, RequestContext};
use foregate_filters::edits::splice;
use foregate_filters::filter::BodyNeed;
use foregate_filters::moment::Moment;
use foregate_filters::peer::Peer;
use foregate_filters::rate_limit::counted::Counted;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use http::{HeaderMap, StatusCode, request};
use serde_json::Value;

use crate::cases::connection;
use crate::cases::credentials::Credentials;
use crate::cases::{Name, describe};
use crate::documents::case::Expect;
use crate::route::{Action, Route, WeightedBackend};
use crate::routes::Door;
use crate::snapshot::{Listener, Snapshot, Speaks};

/// A request as it comes in.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub head: request::Parts,
    pub body: Bytes,
    /// Sent where the route looks for it.
    pub consumer: Option<Credentials>,
    pub host: String,
    pub port: Option<u16>,
    /// Where it meant to go, where the kernel redirected it.
    pub destination: Option<SocketAddr>,
    pub tls: Option<bool>,
    pub source: IpAddr,
    pub peer: Option<Arc<Peer>>,
    pub moment: Moment,
}

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    pub route: Option<Name>,
    pub verdict: Verdict,
    pub limits: Vec<LimitFact>,
    /// What it holds open until it is dropped.
    pub _open: Counted,
    /// Of a connection, which has no status.
    pub connection: bool,
}

#[derive(Debug)]
pub enum Verdict {
    Refused {
        reason: Reason,
        step: Step,
        rule: Box<str>,
        detail: Box<str>,
    },
    /// Redirected, or a preflight.
    Answered {
        status: StatusCode,
    },
    Forwarded {
        headers: HeaderMap,
        body: Bytes,
        upstreams: Vec<usize>,
    },
    Waits,
}

/// Takes a request through route, filters and shape.
pub fn decide(snapshot: &Snapshot, arrival: Arrival) -> Outcome {
    let Arrival { mut head, body, consumer, host, port, destination, tls, source, peer, moment } = arrival;
    let serves = |listener: &&Listener| {
        listener.speaks.is_captured() == destination.is_some()
            && port.is_none_or(|port| port == listener.port)
            && tls.is_none_or(|tls| tls == listener.tls.is_some())
    };
    let knows = |listener: &&Listener| {
        snapshot.routes.listener(door(listener, destination), listener.tls.is_some(), &host).is_some()
    };
    let secure = |listener: &&Listener| listener.tls.is_some();
    let mut listeners = snapshot.listeners.iter().filter(serves).filter(knows);
    let Some(listener) = listeners.clone().find(secure).or_else(|| listeners.next()) else {
        return missed();
    };
    let tls = listener.tls.is_some();
    let found = snapshot.routes.find(door(listener, destination), tls, &host, &head);
    let Ok(route) = found else { return missed() };
    if let Some(meant) = destination.filter(|_| listener.speaks == Speaks::Outbound)
        && !connection::knows(snapshot, listener, meant)
    {
        return missed();
    }
    // The port of the client is of no meaning to any rule. None: requests of cases are not drawn for explanations.
    let client = Client { peer: SocketAddr::new(source, 0), address: source, tls, destination };
    let mut ctx = RequestContext::new(moment, client);
    if let Some(consumer) = consumer {
        consumer.put(route.chain.credentials(), &mut head.headers);
    }
    ctx.route = route.name.clone();
    ctx.peer = peer;
    let verdict = match filter(route, &head, &body, &mut ctx) {
        Some(Ok(())) => match injected(&ctx) {
            Some(refused) => refused,
            None => shape(route, head.headers, &body, &ctx),
        },
        Some(Err(refusal)) if refusal.reply.reason == Reason::Preflight => {
            Verdict::Answered { status: refusal.reply.reason.status() }
        }
        Some(Err(Refusal { step, reply })) => {
            Verdict::Refused { reason: reply.reason, step, rule: reply.rule, detail: reply.detail }
        }
        None => Verdict::Waits,
    };
    let (route, limits) = (Some(route.name.clone()), ctx.limits);
    Outcome { route, verdict, limits, _open: ctx.counted, connection: false }
}

/// Where a connection comes in that meant to go to `destination`.
pub fn door(listener: &Listener, destination: Option<SocketAddr>) -> Door {
    Door { port: listener.port, meant: destination.map(|destination| destination.port()) }
}

pub fn missed() -> Outcome {
    let (reason, rule, detail) = (Reason::RouteNotFound, Box::default(), Box::default());
    let verdict = Verdict::Refused { reason, step: Step::Route, rule, detail };
    Outcome { route: None, verdict, limits: Vec::new(), _open: Counted::default(), connection: false }
}

/// A fault that every such request meets.
fn injected(ctx: &RequestContext) -> Option<Verdict> {
    let injection = ctx.injection.as_ref().filter(|injection| injection.abort && injection.percent == 100)?;
    let (reason, rule, detail) = (Reason::FaultInjected, (*injection.rule).into(), Box::default());
    Some(Verdict::Refused { reason, step: Step::Decide, rule, detail })
}

/// `None` where a filter waits for something that is not here.
fn filter(
    route: &Route,
    head: &request::Parts,
    body: &Bytes,
    ctx: &mut RequestContext,
) -> Option<Result<(), Refusal>> {
    if let Err(refusal) = at_once(route.chain.run_head(head, ctx))? {
        return Some(Err(refusal));
    }
    if route.chain.body_of(head) == BodyNeed::Whole {
        if body.len() > route.body_limit {
            let reply = foregate_filters::verdict::Reply::new(Reason::BodyTooLarge);
            return Some(Err(Refusal { step: Step::Enrich, reply: Box::new(reply) }));
        }
        ctx.body = Some(body.clone());
    }
    at_once(route.chain.run_body(head, ctx))
}

/// `None` where it would have to wait.
pub fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn shape(route: &Route, mut headers: HeaderMap, body: &Bytes, ctx: &RequestContext) -> Verdict {
    let forward = match &route.action {
        Action::Redirect(redirect) => return Verdict::Answered { status: redirect.status },
        Action::Forward(forward) => forward,
    };
    for edit in ctx.edits.request.iter().chain(&route.request_headers) {
        edit.apply(&mut headers);
    }
    if let Some(host) = &forward.rewrite.host {
        headers.insert(http::header::HOST, host.clone());
    }
    let backends: Vec<&WeightedBackend> = match forward.chosen(ctx.backend) {
        Some(chosen) => vec![chosen],
        None => forward.backends.iter().filter(|backend| backend.weight > 0).collect(),
    };
    let upstreams = backends.iter().map(|backend| backend.upstream).collect();
    if let [backend] = backends.as_slice() {
        for edit in &backend.request_headers {
            edit.apply(&mut headers);
        }
    }
    let body = splice(body, &ctx.edits.body).unwrap_or_default();
    Verdict::Forwarded { headers, body, upstreams }
}

/// Everything that differs from what was expected.
pub fn compare(snapshot: &Snapshot, expect: &Expect, outcome: &Outcome) -> Vec<String> {
    let mut differences = Vec::new();
    let got = describe(outcome);
    let mut differs = |what: &str, wanted: &str| {
        differences.push(format!("expected {what} {wanted}, but it was {got}"));
    };
    let status = match &outcome.verdict {
        Verdict::Refused { reason, .. } => Some(reason.status()),
        Verdict::Answered { status } => Some(*status),
        Verdict::Forwarded { .. } | Verdict::Waits => None,
    };
    match (expect.reply, status) {
        (Some(wanted), Some(status)) if wanted == status.as_u16() => {}
        (Some(wanted), _) => differs("reply", &wanted.to_string()),
        (None, _) if expect.refused => {
            if !matches!(outcome.verdict, Verdict::Refused { .. }) {
                differs("to be", "refused");
            }
        }
        (None, _) if !matches!(outcome.verdict, Verdict::Forwarded { .. }) => {
            differs("to be", if outcome.connection { "passed on" } else { "forwarded" });
        }
        (None, _) => {}
    }
    let (reason, step, rule) = match &outcome.verdict {
        Verdict::Refused { reason, step, rule, .. } => (reason.name(), step.name(), &**rule),
        _ => ("", "", ""),
    };
    for (what, wanted, is) in
        [("reason", &expect.reason, reason), ("step", &expect.step, step), ("rule", &expect.rule, rule)]
    {
        if let Some(wanted) = wanted.as_ref().filter(|wanted| wanted.as_str() != is) {
            differs(what, wanted);
        }
    }
    let route = outcome.route.as_deref().unwrap_or_default();
    if let Some(wanted) = expect.route.as_ref().filter(|wanted| wanted.as_str() != route) {
        differences.push(format!("expected route {wanted}, but it was `{route}`"));
    }
    for (rule, wanted) in &expect.limits {
        let fact = outcome.limits.iter().find(|fact| *fact.rule == **rule);
        match fact.map(|fact| fact.remaining) {
            Some(left) if left == *wanted => {}
            Some(left) => {
                differences.push(format!("expected limit {rule} to leave {wanted}, but it leaves {left}"));
            }
            None => {
                differences.push(format!("expected limit {rule} to leave {wanted}, but it was not asked"));
            }
        }
    }
    forwarded(snapshot, expect, &outcome.verdict, &mut differences);
    differences
}

/// What the upstream gets.
fn forwarded(snapshot: &Snapshot, expect: &Expect, verdict: &Verdict, differences: &mut Vec<String>) {
    let Verdict::Forwarded { headers, body, upstreams } = verdict else {
        if expect.upstream.is_some() || expect.body.is_some() || !expect.request_headers.is_empty() {
            differences.push("nothing was forwarded to compare".to_owned());
        }
        return;
    };
    let names: Vec<&str> = upstreams
        .iter()
        .filter_map(|index| snapshot.upstreams.get(*index))
        .map(|upstream| &*upstream.name)
        .collect();
    if let Some(wanted) = expect.upstream.as_ref().filter(|wanted| !names.contains(&wanted.as_str())) {
        differences.push(format!("expected upstream {wanted}, but it was {}", names.join(", ")));
    }
    for (name, wanted) in &expect.request_headers {
        let is = headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        if is.as_deref() != wanted.as_deref() {
            let show =
                |value: Option<&str>| value.map_or_else(|| "absent".to_owned(), |value| format!("`{value}`"));
            let (wanted, is) = (show(wanted.as_deref()), show(is.as_deref()));
            differences.push(format!("expected header {name} to be {wanted}, but it was {is}"));
        }
    }
    match &expect.body {
        None => {}
        Some(Value::Object(members)) => {
            let sent: Value = serde_json::from_slice(body).unwrap_or_default();
            for (name, wanted) in members {
                let is = sent.get(name).unwrap_or(&Value::Null);
                if !alike(is, wanted) {
                    differences.push(format!("expected body member {name} to be {wanted}, but it was {is}"));
                }
            }
        }
        Some(Value::String(text)) if text.as_bytes() == &**body => {}
        Some(wanted) if serde_json::from_slice::<Value>(body).is_ok_and(|sent| alike(&sent, wanted)) => {}
        Some(wanted) => {
            let is = String::from_utf8_lossy(body).chars().take(400).collect::<String>();
            differences.push(format!("expected body {wanted}, but it was {is}"));
        }
    }
}

/// Scores are single precision: numbers are compared as such.
fn alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) if one.fract() != 0.0 => (one - other).abs() <= 1e-6,
            _ => one == other,
        },
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| alike(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let known =
                |(name, one): (&String, &Value)| other.get(name).is_some_and(|other| alike(one, other));
            one.len() == other.len() && one.iter().all(known)
        }
        _ => one == other,
    }
}

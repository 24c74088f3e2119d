//! REST: the inference protocol as `KServe` and Triton have it, and TensorFlow Serving's.

mod infer;
mod json_data;
mod pages;
mod predict;
mod route;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::validate::media::Coding;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::json;

use self::route::Call;
use super::body::{Whole, aside, decoded, gzip, read};
use super::fault::{Fault, Kind};
use super::metrics::OPEN_METRICS;
use super::traffic::Turn;
use super::{GRACE, Shared};
use crate::clock::Stopwatch;

/// Where the JSON of a body ends, and its binary tensors begin.
pub(super) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Bytes of an answer that compression is worth while for.
const WORTH_PACKING: usize = 1 << 10;

/// An answer before it is encoded.
struct Reply {
    status: StatusCode,
    media: HeaderValue,
    /// Bytes of its JSON, where binary tensors follow.
    header_length: Option<usize>,
    body: Vec<u8>,
}

/// Answers one request; what is refused is an answer too.
pub(super) async fn answer(shared: &Shared, request: Request<Incoming>, turn: &mut Turn) -> Response<Whole> {
    let watch = Stopwatch::start();
    let (head, body) = request.into_parts();
    let found = Call::find(head.uri.path());
    let allowed = found.as_ref().map(|(method, _)| method.clone());
    let call = Call::under(found, &head.method);
    let name = call.as_ref().map_or("unknown", Call::name);
    let packed = takes_gzip(&head.headers);
    let answer = async { carry_out(shared, call?, &head.headers, body, watch, turn).await };
    let answer = match tokio::time::timeout(shared.limits.deadline + GRACE, Box::pin(answer)).await {
        Ok(answer) => answer,
        Err(_) => Err(Fault::new(Kind::Late, "the deadline has passed")),
    };
    shared.metrics.ended("http", name, answer.as_ref().err().map(|fault| fault.kind), watch.elapsed());
    match answer {
        Ok(reply) => reply.encode(packed),
        Err(fault) => refusal(&fault, allowed.as_ref()),
    }
}

async fn carry_out(
    shared: &Shared,
    call: Call,
    headers: &HeaderMap,
    body: Incoming,
    watch: Stopwatch,
    turn: &mut Turn,
) -> Result<Reply, Fault> {
    // Probes have no token, and must be answered when all else is busy.
    match &call {
        Call::Live => return Ok(Reply::json(&json!({ "live": true }))),
        Call::Ready => {
            return Ok(Reply::json_as(ready(shared.is_ready()), &json!({ "ready": shared.is_ready() })));
        }
        _ => shared.access.check(headers)?,
    }
    if call.takes_room() {
        turn.admitted(shared.admit()?);
    }
    let body = async || -> Result<Bytes, Fault> {
        let whole = read(body, shared.limits.body).await?;
        decoded(whole, Coding::of(headers), shared.limits.body).await
    };
    let repository = &shared.repository;
    match &call {
        Call::Live | Call::Ready | Call::Server => Ok(Reply::json(&pages::server())),
        Call::Metrics => Reply::metrics(shared),
        Call::ModelReady(model) => {
            let loaded = model.find(repository).is_ok();
            Ok(Reply::json_as(ready(loaded), &json!({ "name": model.name, "ready": loaded })))
        }
        Call::Model(model) => {
            let served = model.find(repository)?;
            Ok(Reply::json(&pages::model(&served, &repository.select(Some(&model.name), None)?)))
        }
        Call::Statistics(model) => {
            let (name, version) = model.as_ref().map_or((None, None), |it| (Some(&*it.name), it.version()));
            Ok(Reply::json(&pages::statistics(&repository.select(name, version)?)))
        }
        Call::Index => {
            let alone = pages::ready_alone(&body().await?)?;
            let repository = Arc::clone(repository);
            Ok(Reply::json(&aside(move || repository.index(alone)).await??))
        }
        Call::Load(model) => {
            pages::check_load(&body().await?)?;
            repository.load(&model.name).await?;
            Ok(Reply::json(&json!({})))
        }
        Call::Unload(model) => {
            repository.unload(&model.name)?;
            Ok(Reply::json(&json!({})))
        }
        Call::Status(model) => {
            Ok(Reply::json(&pages::status(&repository.select(Some(&model.name), model.version())?)))
        }
        Call::Infer(model) => {
            let (served, body) = (model.find(repository)?, body().await?);
            let budget = left(shared.limits.deadline, watch);
            infer::infer(shared, &served, header_length(headers)?, body, budget).await
        }
        Call::Predict(model) => {
            let (served, body) = (model.find(repository)?, body().await?);
            predict::predict(shared, &served, body, left(shared.limits.deadline, watch)).await
        }
    }
}

fn left(deadline: Duration, watch: Stopwatch) -> Duration {
    deadline.saturating_sub(watch.elapsed())
}

fn ready(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Fault> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| Fault::invalid("`Inference-Header-Content-Length` is no number of bytes"))
}

/// True where the client can read gzip (RFC 9110, section 12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && weight > 0.0
    })
}

impl Reply {
    fn json(value: &impl Serialize) -> Self {
        Self::json_as(StatusCode::OK, value)
    }

    fn json_as(status: StatusCode, value: &impl Serialize) -> Self {
        // What is written here has string keys and finite numbers, which cannot fail.
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self { status, media: JSON, header_length: None, body }
    }

    fn metrics(shared: &Shared) -> Result<Self, Fault> {
        let page = shared.metrics.exposition(&shared.repository.loaded());
        let page = page.map_err(|error| Fault::new(Kind::Internal, error.to_string()))?;
        let media = HeaderValue::from_static(OPEN_METRICS);
        Ok(Self { status: StatusCode::OK, media, header_length: None, body: page.into_bytes() })
    }

    fn encode(self, packed: bool) -> Response<Whole> {
        let Self { status, media, header_length, body } = self;
        let packed = packed && body.len() >= WORTH_PACKING;
        let body = if packed { tokio::task::block_in_place(|| gzip(&body)) } else { body };
        let mut response = Response::new(Whole::new(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, media);
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        if packed {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(length) = header_length {
            headers.insert(HEADER_LENGTH, length.into());
        }
        response
    }
}

/// `allowed` is the method of the path.
fn refusal(fault: &Fault, allowed: Option<&Method>) -> Response<Whole> {
    let reply = Reply::json_as(fault.kind.status(), &json!({ "error": fault.message }));
    let mut response = reply.encode(false);
    let headers = response.headers_mut();
    match fault.kind {
        Kind::Unauthenticated => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Kind::Busy => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        Kind::MethodNotAllowed => {
            let allowed = allowed.and_then(|method| HeaderValue::from_str(method.as_str()).ok());
            headers.extend(allowed.map(|allowed| (ALLOW, allowed)));
        }
        _ => {}
    }
    response
}

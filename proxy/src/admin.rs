//! The admin endpoint: health, metrics, configuration, recent decisions.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};

use crate::telemetry::Telemetry;
use crate::telemetry::exposition::{CLASSIC, OPEN_METRICS};
use crate::telemetry::json::{self, Timestamp};
use crate::telemetry::record::DecisionId;

/// Most decisions in one answer.
const MAX_DECISIONS: usize = 500;

/// Decisions in one answer where the caller does not say how many.
const DECISIONS: usize = 50;

const INDEX: &str = "\
foregate admin
/livez           200 while the process runs
/readyz          200 while it takes requests
/metrics         metrics, for Prometheus
/config          the configuration in force
/decisions       recent decisions, newest first (?limit=N)
/decisions/{id}  one decision
";

/// What the admin endpoint shows, shared with those who change it.
#[derive(Debug)]
pub struct AdminState {
    pub telemetry: Arc<Telemetry>,
    /// Set once the listeners accept requests.
    pub ready: AtomicBool,
    /// Set when no new requests should be sent here any more.
    pub draining: AtomicBool,
    pub config: ArcSwap<ConfigStatus>,
}

/// The configuration in force, and what became of the last attempt to change it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConfigStatus {
    pub revision: String,
    /// When it was published.
    #[serde(serialize_with = "timestamp")]
    pub loaded_at: Duration,
    pub routes: usize,
    pub listeners: usize,
    /// Rendered warnings of the configuration in force.
    pub warnings: Vec<String>,
    /// Set where a later configuration was refused; cleared when one is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<ReloadFailure>,
}

/// A configuration that was refused; the one before it stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReloadFailure {
    /// When it was refused.
    #[serde(serialize_with = "timestamp")]
    pub at: Duration,
    /// Rendered diagnostics, every fault at once.
    pub diagnostics: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
}

/// A problem document (RFC 9457).
#[derive(Debug, Serialize)]
struct Problem {
    #[serde(skip)]
    code: StatusCode,
    title: &'static str,
    status: u16,
    detail: &'static str,
}

fn timestamp<S: serde::Serializer>(unix: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    Timestamp(*unix).serialize(serializer)
}

/// The routes of the admin endpoint. It answers GET and HEAD, and only under a name that no web page can
/// claim. Bind it to loopback: whoever reaches it may read everything here.
pub fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/config", get(config))
        .route("/decisions", get(decisions))
        .route("/decisions/{id}", get(decision))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "No such page; see / for all.") })
        .layer(middleware::from_fn(guard))
        .with_state(state)
}

/// Refuses foreign names and other methods, and keeps answers out of caches and other sites.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = if !trusted(request.headers(), request.uri()) {
        let detail = "Use localhost or an IP address as host.";
        Problem::new(StatusCode::FORBIDDEN, detail).into_response()
    } else if matches!(*request.method(), Method::GET | Method::HEAD) {
        next.run(request).await
    } else {
        let detail = "Only GET and HEAD are answered.";
        let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// True where the request names us by address or as localhost. A web page that had its own name resolve
/// to this address (DNS rebinding) would send that name.
fn trusted(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host = host.to_str().is_ok_and(local);
    host && uri.authority().is_none_or(|authority| local(authority.as_str()))
}

/// True for `localhost` and IP addresses, with or without a port.
fn local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let literal = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(inner) => inner.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()),
        None => name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4()),
    };
    literal || name.eq_ignore_ascii_case("localhost")
}

async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    if state.draining.load(Ordering::Acquire) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
    } else if state.ready.load(Ordering::Acquire) {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
    }
}

async fn metrics(State(state): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    let asked = |accept: &HeaderValue| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.to_ascii_lowercase().contains("application/openmetrics-text"))
    };
    let open_metrics = headers.get_all(ACCEPT).iter().any(asked);
    let media_type = if open_metrics { OPEN_METRICS } else { CLASSIC };
    ([(CONTENT_TYPE, media_type)], state.telemetry.exposition(open_metrics)).into_response()
}

async fn config(State(state): State<Arc<AdminState>>) -> Response {
    as_json(&**state.config.load())
}

async fn decisions(
    State(state): State<Arc<AdminState>>,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Response {
    let limit = listing.map(|Query(listing)| listing.limit.unwrap_or(DECISIONS));
    match limit {
        Ok(limit) if (1..=MAX_DECISIONS).contains(&limit) => {
            let records = state.telemetry.decisions().recent(limit);
            as_json(&records.iter().map(|record| &**record).collect::<Vec<_>>())
        }
        _ => Problem::new(StatusCode::BAD_REQUEST, "limit must be a number from 1 to 500.").into_response(),
    }
}

async fn decision(State(state): State<Arc<AdminState>>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<DecisionId>() else {
        let detail = "A decision id has 32 hexadecimal digits.";
        return Problem::new(StatusCode::BAD_REQUEST, detail).into_response();
    };
    match state.telemetry.decisions().find(id) {
        Some(record) => as_json(&*record),
        None => {
            let detail = "This decision is not kept, or not any more; the access log may have it.";
            Problem::new(StatusCode::NOT_FOUND, detail).into_response()
        }
    }
}

fn as_json(value: &impl Serialize) -> Response {
    let mut body = Vec::new();
    if json::write(value, &mut body).is_err() {
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The answer could not be made.")
            .into_response();
    }
    body.push(b'\n');
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

impl AdminState {
    /// Neither ready nor draining, no configuration yet.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self {
            telemetry,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            config: ArcSwap::default(),
        }
    }
}

impl Problem {
    fn new(code: StatusCode, detail: &'static str) -> Self {
        Self { code, title: code.canonical_reason().unwrap_or_default(), status: code.as_u16(), detail }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (self.code, [(CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

//! The admin endpoint: health, metrics, configuration, recent decisions.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, VARY};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use serde::Serialize;

use crate::console;
use crate::fleet::follow::Fleet;
use crate::fleet::status::FleetStatus;
use crate::gateway::Gateway;
use crate::identity::{Identity, IdentityStatus};
use crate::model_page;
use crate::policies::Policies;
use crate::probes::{Applications, Outcome};
use crate::store::kept::Stores;
use crate::telemetry::Telemetry;
use crate::telemetry::explain::steps::Explained;
use crate::telemetry::exposition::{CLASSIC, OPEN_METRICS};
use crate::telemetry::filter::Filter;
use crate::telemetry::json::{self, Timestamp};
use crate::telemetry::record::DecisionId;
use crate::upstream_page;

/// Most decisions in one answer.
const MAX_DECISIONS: usize = 500;

/// Decisions in one answer where the caller does not say how many.
const DECISIONS: usize = 50;

const INDEX: &str = "\
foregate admin
/console/          all of it as a page
/livez             200 while the process runs
/readyz            200 while it takes requests
/metrics           metrics, for Prometheus
/config            the configuration in force
/upstreams         endpoints, and whether they are fit
/models            versions of models, and how they do
/stores            stores shared with others, and whether they answer
/decisions         recent decisions, newest first (?limit=N)
/decisions/stream  decisions as they are made, as events
                   both take ?route= &status= &step= &reason= &rule= &consumer= &refused=true
/decisions/{id}    one decision, step by step
/api/overview      numbers of the last seconds and minutes
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
    /// Set where the process has an identity of its workload.
    pub identity: OnceLock<Arc<Identity>>,
    /// Shared with other processes; absent in tests of these pages alone.
    pub stores: OnceLock<Arc<Stores>>,
    /// Absent in tests of these pages alone.
    pub policies: OnceLock<Arc<Policies>>,
    /// Set once there is one; absent in tests of these pages alone.
    pub gateway: OnceLock<Arc<Gateway>>,
    /// Set where policies come from a control plane.
    pub fleet: OnceLock<Arc<Fleet>>,
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
    /// Of this workload, where it has one; filled in when it is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityStatus>,
    /// How it stands with the control plane, where policies come from one; filled in when it is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetStatus>,
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

/// Whether requests should be sent here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    Draining,
    /// The control plane grants nothing any more.
    Withheld,
    /// For policies of the control plane.
    Waiting,
    Starting,
}

/// A problem document (RFC 9457).
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(skip)]
    code: StatusCode,
    title: &'static str,
    status: u16,
    detail: Cow<'static, str>,
}

fn timestamp<S: serde::Serializer>(unix: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    Timestamp(*unix).serialize(serializer)
}

/// The routes of the admin endpoint. It answers GET and HEAD, and only under a name that no web page can
/// claim. Bind it to loopback: whoever reaches it may read everything here.
pub fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/config", get(config))
        .route("/upstreams", get(upstreams))
        .route("/models", get(models))
        .route("/stores", get(stores))
        .route("/decisions", get(decisions))
        .route("/decisions/{id}", get(decision))
        .merge(console::routes(&state))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "No such page; see / for all.") })
        .layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
        .with_state(state)
}

/// The routes for those who look after the process from another machine, such as the kubelet and Prometheus: health and
/// metrics, and nothing of single requests; health of the applications behind this sidecar, too.
pub fn health(state: Arc<AdminState>, applications: Arc<Applications>) -> Router {
    let asked: Router<Arc<AdminState>> =
        Router::new().route("/probes/{container}/{kind}", get(probe)).with_state(applications);
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .merge(asked)
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "/livez, /readyz and /metrics are here.") })
        .layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
        .with_state(state)
}

/// Refuses foreign names and other methods, and keeps answers out of caches and other sites.
async fn guard(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
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
    if state.draining.load(Ordering::Acquire) {
        // The next request finds the process that takes the place of this one, if there is one.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if headers.get(CACHE_CONTROL).is_none_or(|value| value != console::FOREVER) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
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

/// A list of the pages for programs, the console for people.
async fn index(headers: HeaderMap) -> Response {
    let page = if accepts(&headers, "text/html") {
        Redirect::temporary(console::PAGE).into_response()
    } else {
        INDEX.into_response()
    };
    ([(VARY, "accept")], page).into_response()
}

/// True where the client names this media type.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let named = |accept: &HeaderValue| {
        accept.to_str().is_ok_and(|accept| accept.to_ascii_lowercase().contains(media_type))
    };
    headers.get_all(ACCEPT).iter().any(named)
}

async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    let told = match state.readiness() {
        Readiness::Ready => return "ready\n".into_response(),
        Readiness::Draining => "draining\n",
        Readiness::Withheld => "the control plane grants nothing to this proxy\n",
        Readiness::Waiting => "waiting for policies of the control plane\n",
        Readiness::Starting => "starting\n",
    };
    (StatusCode::SERVICE_UNAVAILABLE, told).into_response()
}

/// What an application says to the probe of this container and kind.
async fn probe(
    State(applications): State<Arc<Applications>>,
    Path((container, kind)): Path<(String, String)>,
) -> Response {
    match applications.ask(&container, &kind).await {
        Outcome::Fit => "ok\n".into_response(),
        Outcome::Unfit(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
        Outcome::Unknown => {
            let detail = "The variable FOREGATE_PROBES tells of no such probe.";
            Problem::new(StatusCode::NOT_FOUND, detail).into_response()
        }
    }
}

async fn metrics(State(state): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    let open_metrics = accepts(&headers, "application/openmetrics-text");
    let media_type = if open_metrics { OPEN_METRICS } else { CLASSIC };
    ([(CONTENT_TYPE, media_type)], state.telemetry.exposition(open_metrics)).into_response()
}

async fn config(State(state): State<Arc<AdminState>>) -> Response {
    let mut config = ConfigStatus::clone(&state.config.load());
    config.identity = state.identity.get().map(|identity| identity.status());
    config.fleet = state.fleet.get().map(|fleet| fleet.standing.status());
    as_json(&config)
}

async fn upstreams(State(state): State<Arc<AdminState>>) -> Response {
    let live = state.gateway.get().map(|gateway| gateway.live.pin());
    as_json(&live.map(|live| upstream_page::upstreams(&live)).unwrap_or_default())
}

async fn models(State(state): State<Arc<AdminState>>) -> Response {
    let loaded = state.policies.get().map(|policies| policies.models()).unwrap_or_default();
    as_json(&model_page::models(&loaded))
}

async fn stores(State(state): State<Arc<AdminState>>) -> Response {
    let all = state.stores.get().map(|stores| stores.all()).unwrap_or_default();
    as_json(&all.iter().map(|store| store.status()).collect::<Vec<_>>())
}

async fn decisions(
    State(state): State<Arc<AdminState>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let mut pairs = query.map(|Query(pairs)| pairs).unwrap_or_default();
    let limits: Vec<_> = pairs.extract_if(.., |(word, _)| word == "limit").collect();
    let limit = match limits.as_slice() {
        [] => Some(DECISIONS),
        [(_, limit)] => limit.parse().ok().filter(|limit| (1..=MAX_DECISIONS).contains(limit)),
        _ => None,
    };
    let Some(limit) = limit else {
        let detail = "limit must be a number from 1 to 500.";
        return Problem::new(StatusCode::BAD_REQUEST, detail).into_response();
    };
    match Filter::parse(pairs.iter().map(|(word, value)| (word.as_str(), value.as_str()))) {
        Ok(filter) => {
            let records = state.telemetry.decisions().recent(limit, |record| filter.passes(record));
            as_json(&records.iter().map(|record| &**record).collect::<Vec<_>>())
        }
        Err(error) => Problem::new(StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

async fn decision(State(state): State<Arc<AdminState>>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<DecisionId>() else {
        let detail = "A decision id has 32 hexadecimal digits.";
        return Problem::new(StatusCode::BAD_REQUEST, detail).into_response();
    };
    state.telemetry.decisions().find(id).map_or_else(
        || {
            let detail = "This decision is not kept, or not any more; the access log may have it.";
            Problem::new(StatusCode::NOT_FOUND, detail).into_response()
        },
        |record| as_json(&Explained(&record)),
    )
}

/// Printable ASCII, whatever a client sent.
pub(crate) fn as_json(value: &impl Serialize) -> Response {
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
            identity: OnceLock::new(),
            stores: OnceLock::new(),
            policies: OnceLock::new(),
            gateway: OnceLock::new(),
            fleet: OnceLock::new(),
        }
    }

    pub(crate) fn readiness(&self) -> Readiness {
        if self.draining.load(Ordering::Acquire) {
            Readiness::Draining
        } else if self.fleet.get().is_some_and(|fleet| fleet.refuses().is_some()) {
            Readiness::Withheld
        } else if self.ready.load(Ordering::Acquire) {
            Readiness::Ready
        } else if self.fleet.get().is_some_and(|fleet| !fleet.is_provided()) {
            Readiness::Waiting
        } else {
            Readiness::Starting
        }
    }
}

impl Readiness {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Withheld => "withheld",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
        }
    }
}

impl Problem {
    pub(crate) fn new(code: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let title = code.canonical_reason().unwrap_or_default();
        Self { code, title, status: code.as_u16(), detail: detail.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (self.code, [(CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::{AdminState, ConfigStatus, ReloadFailure, health, local, router};
    use crate::telemetry::access_log::AccessLog;
    use crate::telemetry::testing::{full_record, record};
    use crate::telemetry::{Telemetry, TelemetryOptions};
    use axum::Router;
    use serde_json::Value;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    struct Reply {
        status: u16,
        head: String,
        body: String,
    }

    impl Reply {
        fn json(&self) -> Value {
            serde_json::from_str(&self.body).unwrap()
        }

        fn is_problem(&self, status: u16) -> bool {
            self.status == status
                && self.head.contains("content-type: application/problem+json\r\n")
                && self.json()["status"] == status
        }
    }

    async fn serve() -> (Arc<AdminState>, SocketAddr) {
        serve_pages(router).await
    }

    async fn serve_pages(pages: fn(Arc<AdminState>) -> Router) -> (Arc<AdminState>, SocketAddr) {
        let options = TelemetryOptions { access_log: AccessLog::Off, ..Default::default() };
        let state = Arc::new(AdminState::new(Telemetry::new(options).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, pages(state.clone())).into_future());
        (state, address)
    }

    /// Sends a request line and headers as they are.
    async fn send(address: SocketAddr, head: &str) -> Reply {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head: format!("{head}\r\n"), body: body.to_owned() }
    }

    async fn get(address: SocketAddr, path: &str) -> Reply {
        send(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost")).await
    }

    #[tokio::test]
    async fn health_follows_the_life_of_the_process() {
        let (state, address) = serve().await;
        let health = async || {
            let (live, ready) = (get(address, "/livez").await, get(address, "/readyz").await);
            (live.status, ready.status, ready.body)
        };
        assert_eq!(health().await, (200, 503, "starting\n".to_owned()));
        state.ready.store(true, Ordering::Release);
        assert_eq!(health().await, (200, 200, "ready\n".to_owned()));
        state.draining.store(true, Ordering::Release);
        assert_eq!(health().await, (200, 503, "draining\n".to_owned()));
    }

    #[tokio::test]
    async fn whoever_looks_after_the_process_from_elsewhere_sees_health_and_metrics_alone() {
        let (state, address) = serve_pages(|state| health(state, Arc::default())).await;
        assert_eq!(get(address, "/readyz").await.status, 503);
        state.ready.store(true, Ordering::Release);
        for page in ["/livez", "/readyz", "/metrics"] {
            assert_eq!(get(address, page).await.status, 200, "{page}");
        }
        let others = [
            "/",
            "/config",
            "/upstreams",
            "/models",
            "/stores",
            "/decisions",
            "/decisions/stream",
            "/console/",
            "/console",
            "/api/overview",
            "/probes/app/liveness",
        ];
        for page in others {
            assert!(get(address, page).await.is_problem(404), "{page}");
        }
        assert!(send(address, "POST /livez HTTP/1.1\r\nHost: localhost").await.is_problem(405));
        assert!(send(address, "GET /livez HTTP/1.1\r\nHost: rebind.example.com").await.is_problem(403));
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_asked_for() {
        let (state, address) = serve().await;
        // Enough that some are kept: an exemplar leads to a decision that can be looked up.
        for _ in 0..500 {
            state.telemetry.record(record(), &state.telemetry.route("leads"));
        }
        let plain = get(address, "/metrics").await;
        assert!(plain.head.contains("content-type: text/plain; version=0.0.4"), "{}", plain.head);
        assert!(plain.body.contains("http_server_request_duration_seconds_count{http_request_method=\"POST\",http_response_status_code=\"201\",http_route=\"leads\"} 500\n"));
        assert!(!plain.body.contains("decision_id"));
        // What Prometheus 2.42 sends.
        let accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let open =
            send(address, &format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}")).await;
        assert!(
            open.head.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{}",
            open.head
        );
        assert!(open.body.contains("# {decision_id=") && open.body.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn the_configuration_shows_what_is_in_force_and_what_was_refused() {
        let (state, address) = serve().await;
        let status = ConfigStatus {
            revision: "a1".to_owned(),
            loaded_at: Duration::from_secs(1_790_000_000),
            routes: 3,
            listeners: 1,
            warnings: vec!["FG0601 unused upstream".to_owned()],
            failure: None,
            identity: None,
            fleet: None,
        };
        state.config.store(Arc::new(status.clone()));
        let shown = get(address, "/config").await.json();
        assert_eq!(shown["revision"], "a1");
        assert_eq!(shown["loaded_at"], "2026-09-21T14:13:20.000000Z");
        assert_eq!((&shown["routes"], &shown["listeners"]), (&3.into(), &1.into()));
        assert_eq!(shown["warnings"][0], "FG0601 unused upstream");
        assert!(shown.get("failure").is_none());
        let diagnostics = vec!["FG0401 gateway.yaml:3:7".to_owned()];
        let failure = Some(ReloadFailure { at: Duration::from_secs(1_790_000_001), diagnostics });
        state.config.store(Arc::new(ConfigStatus { failure, ..status }));
        let shown = get(address, "/config").await.json();
        assert_eq!(shown["revision"], "a1");
        assert_eq!(shown["failure"]["at"], "2026-09-21T14:13:21.000000Z");
        assert_eq!(shown["failure"]["diagnostics"][0], "FG0401 gateway.yaml:3:7");
    }

    #[tokio::test]
    async fn decisions_are_listed_and_found() {
        let (state, address) = serve().await;
        let route = state.telemetry.route("leads");
        let ids: Vec<String> = (0..60)
            .map(|_| {
                let refused = full_record();
                let id = refused.id.to_string();
                state.telemetry.record(refused, &route);
                id
            })
            .collect();
        let listed = get(address, "/decisions").await.json();
        assert_eq!(listed.as_array().unwrap().len(), 50);
        assert_eq!(listed[0]["foregate.decision"], ids[59]);
        let two = get(address, "/decisions?limit=2").await.json();
        assert_eq!(two.as_array().unwrap().len(), 2);
        let one = get(address, &format!("/decisions/{}", ids[7])).await;
        assert_eq!(one.json()["foregate.decision"], ids[7]);
        assert_eq!(one.json()["foregate.reason"], "RateLimited");
        assert!(!one.body.contains("claim-not-to-be-seen"));
        let refused = get(address, "/decisions?limit=3&refused=true&route=leads&status=4xx").await.json();
        assert_eq!(refused.as_array().unwrap().len(), 3);
        assert_eq!(get(address, "/decisions?route=cases").await.json().as_array().unwrap().len(), 0);
        let wrong = get(address, "/decisions?step=admitt").await.json();
        assert_eq!(wrong["detail"], "step `admitt` is not known; did you mean admit?");
        for bad in ["limit=0", "limit=501", "limit=x", "limit=-1", "limit=1&more=2", "limit=1&limit=2"] {
            assert!(get(address, &format!("/decisions?{bad}")).await.is_problem(400), "{bad}");
        }
        assert!(get(address, "/decisions/nonsense").await.is_problem(400));
        assert!(get(address, "/decisions/00000000-0000-7000-8000-000000000000").await.is_problem(404));
    }

    #[tokio::test]
    async fn only_reading_is_answered_and_nothing_is_cached() {
        let (_state, address) = serve().await;
        assert!(get(address, "/nothing").await.is_problem(404));
        assert!(get(address, "/").await.body.contains("/decisions"));
        let head = send(address, "HEAD /livez HTTP/1.1\r\nHost: localhost").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
            for path in ["/livez", "/nothing"] {
                let reply = send(address, &format!("{method} {path} HTTP/1.1\r\nHost: localhost")).await;
                assert!(reply.is_problem(405), "{method} {path}");
                assert!(reply.head.contains("allow: GET, HEAD\r\n"), "{method} {path}");
            }
        }
        for path in ["/livez", "/nothing", "/metrics", "/decisions"] {
            let head = send(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://a"))
                .await
                .head;
            assert!(head.contains("cache-control: no-store\r\n"), "{path}");
            assert!(!head.contains("access-control"), "{path}");
        }
    }

    #[tokio::test]
    async fn browsers_are_led_to_the_console_and_programs_get_the_list() {
        let (_state, address) = serve().await;
        let html = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8";
        let led = send(address, html).await;
        assert!(led.status == 307 && led.head.contains("location: /console/\r\n"), "{}", led.head);
        assert!(led.head.contains("vary: accept\r\n"));
        let list = send(address, "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*").await;
        assert!(list.status == 200 && list.head.contains("vary: accept\r\n"), "{}", list.head);
        assert!(list.body.contains("/console/"));
        assert!(get(address, "/console").await.head.contains("location: /console/\r\n"));
    }

    #[tokio::test]
    async fn the_page_is_bound_to_itself_and_its_files_are_kept() {
        let (_state, address) = serve().await;
        let page = get(address, "/console/").await;
        assert_eq!(page.status, 200);
        for header in [
            "content-type: text/html; charset=utf-8",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; ",
        ] {
            assert!(page.head.contains(header), "{header}: {}", page.head);
        }
        assert!(!page.head.contains("unsafe") && !page.head.contains("content-encoding"), "{}", page.head);
        let script = page.body.split("src=\"").nth(1).unwrap().split('"').next().unwrap();
        let path = format!("/console/{script}");
        let file = get(address, &path).await;
        assert_eq!(file.status, 200);
        assert!(
            file.head.contains("cache-control: public, max-age=31536000, immutable\r\n"),
            "{}",
            file.head
        );
        assert!(file.head.contains("content-type: text/javascript; charset=utf-8\r\n"));
        let length = |head: &str| {
            head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap().parse::<usize>()
        };
        assert_eq!(length(&file.head), Ok(file.body.len()));
        let packed = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip, br");
        let packed = send(address, &packed).await.head;
        assert!(
            packed.contains("content-encoding: gzip\r\n") && packed.contains("vary: accept-encoding\r\n"),
            "{packed}"
        );
        assert!(length(&packed).unwrap() < file.body.len() / 2);
        for gone in ["/console/app.js", "/console/app.0000000000000000.js", "/console/..%2fapp"] {
            let gone = get(address, gone).await;
            assert!(gone.is_problem(404) && gone.head.contains("cache-control: no-store\r\n"));
        }
        assert!(
            send(address, &format!("GET {path} HTTP/1.1\r\nHost: rebind.example.com")).await.is_problem(403)
        );
    }

    #[tokio::test]
    async fn the_overview_has_the_numbers_of_the_metrics() {
        let (state, address) = serve().await;
        let route = state.telemetry.route("leads");
        for _ in 0..7 {
            state.telemetry.record(record(), &route);
            state.telemetry.record(full_record(), &route);
        }
        state.ready.store(true, Ordering::Release);
        // Looked at once before the requests, perhaps: the numbers may be a second old.
        let asked = async {
            loop {
                let seen = get(address, "/api/overview").await.json();
                if seen["total"]["requests"] == 14 {
                    break seen;
                }
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(30), asked).await.unwrap();
        assert_eq!((&seen["state"], &seen["total"]["refused"]), (&"ready".into(), &7.into()));
        assert_eq!(seen["routes"][0]["name"], "leads");
        assert_eq!(seen["routes"][0]["refused_in"]["admit"], 7);
        let told = &seen["refusals"][0];
        assert_eq!(
            (&told["reason"], &told["rule"], &told["count"]),
            (&"RateLimited".into(), &"per-org".into(), &7.into())
        );
    }

    #[tokio::test]
    async fn a_stream_tells_decisions_and_takes_a_bounded_number_of_readers() {
        let (state, address) = serve().await;
        let open = async |query: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("GET /decisions/stream{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut text = String::new();
            read_until(&mut stream, &mut text, "\r\n\r\n").await;
            (stream, text)
        };
        let (mut stream, mut text) = open("?refused=true").await;
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.contains("content-type: text/event-stream\r\n"),
            "{text}"
        );
        assert!(text.contains("cache-control: no-store\r\n"), "{text}");
        let route = state.telemetry.route("leads");
        let refused = full_record();
        let id = refused.id.to_string();
        state.telemetry.record(record(), &route);
        state.telemetry.record(refused, &route);
        read_until(&mut stream, &mut text, "\n\n").await;
        assert!(text.contains("event: decision\ndata: {") && text.contains(&id), "{text}");
        let mut all = vec![stream];
        while all.len() < crate::telemetry::watch::MAX_WATCHERS {
            all.push(open("").await.0);
        }
        let full = get(address, "/decisions/stream").await;
        assert!(full.is_problem(503) && full.head.contains("retry-after: 5\r\n"), "{}", full.head);
        all.pop();
        // The place of who is gone is free again.
        let free = async { while status_of_head(address, "/decisions/stream").await != 200 {} };
        tokio::time::timeout(Duration::from_secs(30), free).await.unwrap();
        assert!(get(address, "/decisions/stream?rout=a").await.is_problem(400));
        let other = "GET /decisions/stream HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site";
        assert!(send(address, other).await.is_problem(403));
    }

    async fn status_of_head(address: SocketAddr, path: &str) -> u16 {
        send(address, &format!("HEAD {path} HTTP/1.1\r\nHost: localhost")).await.status
    }

    /// Reads on until this comes in what was not read before.
    async fn read_until(stream: &mut TcpStream, text: &mut String, end: &str) {
        let from = text.len();
        let mut buffer = [0; 4_096];
        while !text[from..].contains(end) {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "ended: {text}");
            text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }

    #[tokio::test]
    async fn a_name_that_a_web_page_may_claim_is_refused() {
        let (_state, address) = serve().await;
        for (head, answered) in [
            ("GET /livez HTTP/1.1\r\nHost: localhost:9901", true),
            ("GET /livez HTTP/1.1\r\nHost: 127.0.0.1:9901", true),
            ("GET /livez HTTP/1.1\r\nHost: [::1]:9901", true),
            ("GET /livez HTTP/1.1\r\nHost: 10.1.2.3", true),
            ("GET http://localhost/livez HTTP/1.1\r\nHost: localhost", true),
            ("GET /livez HTTP/1.1\r\nHost: rebind.example.com", false),
            ("GET /livez HTTP/1.1\r\nHost: localhost.example.com", false),
            ("GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: rebind.example.com", false),
            ("GET /livez HTTP/1.1\r\nHost: ", false),
            ("GET /livez HTTP/1.1", false),
            ("GET http://rebind.example.com/livez HTTP/1.1\r\nHost: localhost", false),
        ] {
            let reply = send(address, head).await;
            assert_eq!(reply.status == 200, answered, "{head}: {}", reply.head);
            assert!(answered || reply.is_problem(403), "{head}");
        }
    }

    #[test]
    fn only_addresses_and_localhost_are_local() {
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("127.0.0.1", true),
            ("192.168.0.1:80", true),
            ("[::1]", true),
            ("[fe80::1]:80", true),
            ("", false),
            (":80", false),
            ("[127.0.0.1]", false),
            ("::1", false),
            ("127.0.0.1.example.com", false),
            ("127.1", false),
            ("0x7f000001", false),
            ("2130706433", false),
            ("localhost.", false),
            ("user@localhost", false),
            ("localhost:80:80", false),
            ("localhost:x", false),
            ("example.com:127.0.0.1", false),
        ] {
            assert_eq!(local(host), expected, "{host}");
        }
    }
}

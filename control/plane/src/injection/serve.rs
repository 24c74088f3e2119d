//! Serves the webhooks over TLS, within bounds of time, size and number.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::codegen::Service;

use crate::event::event;
use crate::injection::certificate::Served;
use crate::injection::pod::{Injected, inject};
use crate::injection::question::Room;
use crate::injection::review::{Answer, Asked, read};
use crate::injection::settings::Injection;
use crate::injection::validate::validate;
use crate::kubernetes::objects::World;
use crate::metrics::Counters;
use crate::places::Places;
use crate::process::{Process, Shutdown};

/// Questions that are answered at once, of one address half of them; others wait.
const AT_ONCE: usize = 32;
/// How long a question may take, from its head on. The API server asks for ten seconds at most.
const LIMIT: Duration = Duration::from_secs(5);
/// Connections that are open at once, of one address an eighth of them.
const CONNECTIONS: usize = 256;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection may take for the head of a question, or wait for one.
const IDLE: Duration = Duration::from_secs(30);
/// How long questions may go on that are there when the process begins to end.
const DRAIN: Duration = Duration::from_secs(5);

/// What both webhooks need.
#[derive(Clone, Debug)]
struct Hooks {
    injection: Arc<Injection>,
    world: watch::Receiver<Arc<World>>,
    places: Arc<Places<IpAddr>>,
    room: Arc<Room>,
    counts: Counters,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the webhooks cannot be served: {0}")]
    Io(#[from] io::Error),
    #[error("TLS of the webhooks: {0}")]
    Tls(#[from] rustls::Error),
}

/// Serves `/inject` and `/validate` until the process ends.
///
/// # Errors
/// Where TLS cannot be spoken.
pub async fn serve(
    listener: TcpListener,
    served: Arc<Served>,
    injection: Injection,
    world: watch::Receiver<Arc<World>>,
    process: Process,
) -> Result<(), ServeError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = builder.with_no_client_auth().with_cert_resolver(served);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let counts =
        process.metrics.counters("webhook_reviews", "Reviews that were answered, by webhook and answer");
    let places = Arc::new(Places::new(AT_ONCE, AT_ONCE / 2));
    let hooks = Hooks { injection: Arc::new(injection), world, places, room: Arc::default(), counts };
    let routes = Router::new()
        .route("/inject", post(on_inject))
        .route("/validate", post(on_validate))
        .with_state(hooks);
    let (open, mut tasks) = (Places::new(CONNECTIONS, CONNECTIONS / 8), JoinSet::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            () = process.shutdown.begun() => break,
        };
        let (socket, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let fields = [("error", error.to_string().into())];
                event(log::Level::Warn, "webhook connection refused", &fields);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = open.try_take(from.ip()) else { continue };
        let (acceptor, routes, shutdown) = (acceptor.clone(), routes.clone(), process.shutdown.clone());
        tasks.spawn(async move {
            let _place = place;
            if let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(socket)).await {
                converse(stream, from.ip(), routes, shutdown).await;
            }
        });
    }
    drop(listener);
    let _ = timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Answers the questions of one connection.
async fn converse(stream: TlsStream<TcpStream>, from: IpAddr, routes: Router, shutdown: Shutdown) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(from);
        routes.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.begun() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn on_inject(State(hooks): State<Hooks>, from: Extension<IpAddr>, request: Request<Body>) -> Response {
    let injection = Arc::clone(&hooks.injection);
    hooks.answer("inject", from.0, request, move |asked| injected(asked, &injection)).await
}

async fn on_validate(
    State(hooks): State<Hooks>,
    from: Extension<IpAddr>,
    request: Request<Body>,
) -> Response {
    let world = Arc::clone(&hooks.world.borrow());
    hooks.answer("validate", from.0, request, move |asked| validate(asked, &world)).await
}

fn injected(asked: &Asked, settings: &Injection) -> Answer {
    let is_pod = asked.object.get("kind").is_some_and(|kind| kind == "Pod");
    if !is_pod || asked.operation != "CREATE" {
        return Answer::default();
    }
    match inject(&asked.object, settings) {
        Ok(Injected::Patch(patch, warnings)) => Answer { patch, warnings, refusal: None },
        Ok(Injected::Not(why)) => Answer::warned(format!("no sidecar is injected: {why}")),
        Err(why) => Answer::refused(format!("the sidecar cannot be injected: {why}")),
    }
}

impl Hooks {
    async fn answer(
        self,
        hook: &'static str,
        from: IpAddr,
        request: Request<Body>,
        work: impl FnOnce(&Asked) -> Answer + Send + 'static,
    ) -> Response {
        let answered = timeout(LIMIT, async {
            // A place is for the work alone: whoever is slow to ask keeps others from none.
            let question = self.room.read(from, request.into_body()).await?;
            let place = self.places.take(from).await;
            let asked = read(&question.text).map_err(|why| (StatusCode::BAD_REQUEST, why))?;
            let uid = asked.uid.clone();
            let done = tokio::task::spawn_blocking(move || {
                // They are held until the work ends, even where nobody waits for it any more.
                let _held = (place, question);
                work(&asked)
            });
            let defect = |_| (StatusCode::INTERNAL_SERVER_ERROR, "a defect while answering".to_owned());
            Ok::<_, (StatusCode, String)>((done.await.map_err(defect)?, uid))
        });
        let (answer, uid) = match answered.await {
            Ok(Ok(answered)) => answered,
            Ok(Err(refused)) if refused.0 != StatusCode::SERVICE_UNAVAILABLE => {
                return refused.into_response();
            }
            Ok(Err(_)) | Err(_) => {
                self.counts.get_or_create(&vec![("webhook", hook), ("answer", "late")]).inc();
                return (StatusCode::SERVICE_UNAVAILABLE, "too slow, or too many reviews at once")
                    .into_response();
            }
        };
        let outcome = match (&answer.refusal, answer.patch.is_empty()) {
            (Some(_), _) => "refused",
            (None, true) => "allowed",
            (None, false) => "patched",
        };
        self.counts.get_or_create(&vec![("webhook", hook), ("answer", outcome)]).inc();
        axum::Json(answer.review(&uid)).into_response()
    }
}

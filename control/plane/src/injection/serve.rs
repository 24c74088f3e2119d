//! Serves the webhooks over TLS, within bounds of time, size and number.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::event::event;
use crate::injection::certificate::Served;
use crate::injection::pod::{Injected, inject};
use crate::injection::review::{Answer, Asked, read};
use crate::injection::settings::Injection;
use crate::injection::validate::validate;
use crate::kubernetes::objects::World;
use crate::metrics::Counters;
use crate::process::Process;

/// Largest question in bytes: two objects of the largest size, and what is around them.
const MAX_BODY: usize = 4 << 20;
/// Questions that are answered at once; others wait.
const AT_ONCE: usize = 32;
/// How long a question may take, its way here included. The API server asks for ten seconds at most.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a handshake may take, and how many are under way at once.
const HANDSHAKE: Duration = Duration::from_secs(5);
const HANDSHAKES: usize = 256;

/// What both webhooks need.
#[derive(Clone, Debug)]
struct Hooks {
    injection: Arc<Injection>,
    world: watch::Receiver<Arc<World>>,
    places: Arc<Semaphore>,
    counts: Counters,
}

/// Connections whose handshake is over.
#[derive(Debug)]
struct Handshaken {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    at: SocketAddr,
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
/// Where the socket fails.
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
    let counts =
        process.metrics.counters("webhook_reviews", "Reviews that were answered, by webhook and answer");
    let hooks =
        Hooks { injection: Arc::new(injection), world, places: Arc::new(Semaphore::new(AT_ONCE)), counts };
    let routes = Router::new()
        .route("/inject", post(on_inject))
        .route("/validate", post(on_validate))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(hooks);
    let handshaken = handshakes(listener, TlsAcceptor::from(Arc::new(config)))?;
    let shutdown = process.shutdown.clone();
    axum::serve(handshaken, routes).with_graceful_shutdown(async move { shutdown.begun().await }).await?;
    Ok(())
}

async fn on_inject(State(hooks): State<Hooks>, body: Bytes) -> Response {
    let injection = Arc::clone(&hooks.injection);
    hooks.answer("inject", body, move |asked| injected(asked, &injection)).await
}

async fn on_validate(State(hooks): State<Hooks>, body: Bytes) -> Response {
    let world = Arc::clone(&hooks.world.borrow());
    hooks.answer("validate", body, move |asked| validate(asked, &world)).await
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
        body: Bytes,
        work: impl FnOnce(&Asked) -> Answer + Send + 'static,
    ) -> Response {
        let asked = match read(&body) {
            Ok(asked) => asked,
            Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
        };
        let uid = asked.uid.clone();
        let places = Arc::clone(&self.places);
        let answered = tokio::time::timeout(LIMIT, async move {
            let place = places.acquire_owned().await.ok()?;
            let done = tokio::task::spawn_blocking(move || {
                // It is held until the work ends, even where nobody waits for it any more.
                let _place = place;
                work(&asked)
            });
            done.await.ok()
        });
        let Ok(Some(answer)) = answered.await else {
            self.counts.get_or_create(&vec![("webhook", hook), ("answer", "late")]).inc();
            return (StatusCode::SERVICE_UNAVAILABLE, "too many reviews at once").into_response();
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

/// Accepts, and has handshakes go on beside each other.
fn handshakes(listener: TcpListener, acceptor: TlsAcceptor) -> io::Result<Handshaken> {
    let at = listener.local_addr()?;
    let (sender, ready) = mpsc::channel(HANDSHAKES);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let (socket, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    event(
                        log::Level::Warn,
                        "webhook connection refused",
                        &[("error", error.to_string().into())],
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                let _place = place;
                if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
                    // Nobody is there to serve it once the process ends.
                    drop(sender.send((stream, from)).await);
                }
            });
        }
    });
    Ok(Handshaken { ready, at })
}

impl Listener for Handshaken {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.at)
    }
}

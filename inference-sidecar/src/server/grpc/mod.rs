//! gRPC: `inference.GRPCInferenceService`, calls with one message each way, and streams.

mod bounds;
mod frame;
mod infer;
mod pages;
pub(super) mod stream;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use prost::Message;

use super::body::{Whole, aside, read};
use super::fault::{Fault, Kind};
use super::traffic::Turn;
use super::{GRACE, Shared};
use crate::clock::Stopwatch;
use crate::protocol::messages::{
    HealthCheckRequest, HealthCheckResponse, Live, ModelMetadataRequest, ModelReadyRequest,
    ModelRepositoryRequest, ModelStatisticsRequest, Nothing, Ready, RepositoryIndexRequest,
};
use crate::protocol::{CALLS, framed};

/// The health protocol of gRPC, which probes speak.
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// `ServingStatus` of the health protocol.
const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;
/// Bytes of a probe's body at most, which anybody may send: the name of a service, and what stands before it.
const MAX_PROBE: usize = 256;

fn is_call(method: &Method, headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    *method == Method::POST && matches!(media.strip_prefix(b"application/grpc"), Some([] | [b'+' | b';', ..]))
}

/// True for a call with many messages each way.
pub(super) fn is_stream(request: &Request<Incoming>) -> bool {
    let call = request.uri().path().strip_prefix(CALLS);
    call == Some("ModelStreamInfer") && is_call(request.method(), request.headers())
}

/// Answers one call; what is refused is an answer too.
pub(super) async fn answer(shared: &Shared, request: Request<Incoming>, turn: &mut Turn) -> Response<Whole> {
    let watch = Stopwatch::start();
    let (head, body) = request.into_parts();
    if !is_call(&head.method, &head.headers) {
        let mut response = Response::new(Whole::default());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let path = head.uri.path();
    let call = Call::parse(path);
    let name = call.map_or("unknown", Call::name);
    let own = shared.limits.deadline;
    let deadline = match frame::timeout(&head.headers) {
        Ok(asked) => asked.map_or(own, |asked| asked.min(own)),
        Err(fault) => return frame::refused(&fault),
    };
    let answer = async {
        let call = call.ok_or_else(|| Fault::new(Kind::Unsupported, "this call is not known here"))?;
        if !call.is_probe() {
            shared.access.check(&head.headers)?;
            turn.admitted(shared.admit()?);
        }
        carry_out(shared, call, &head.headers, body, deadline, watch).await
    };
    let answer = match tokio::time::timeout(deadline + GRACE, Box::pin(answer)).await {
        Ok(answer) => answer,
        Err(_) => Err(Fault::new(Kind::Late, "the deadline has passed")),
    };
    shared.metrics.ended("grpc", name, answer.as_ref().err().map(|fault| fault.kind), watch.elapsed());
    match answer {
        Ok(message) => frame::answered(message),
        Err(fault) => frame::refused(&fault),
    }
}

/// The calls of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Health,
    ServerLive,
    ServerReady,
    ModelReady,
    ServerMetadata,
    ModelMetadata,
    ModelInfer,
    ModelStatistics,
    RepositoryIndex,
    RepositoryModelLoad,
    RepositoryModelUnload,
}

impl Call {
    fn parse(path: &str) -> Option<Self> {
        if path == HEALTH {
            return Some(Self::Health);
        }
        Some(match path.strip_prefix(CALLS)? {
            "ServerLive" => Self::ServerLive,
            "ServerReady" => Self::ServerReady,
            "ModelReady" => Self::ModelReady,
            "ServerMetadata" => Self::ServerMetadata,
            "ModelMetadata" => Self::ModelMetadata,
            "ModelInfer" => Self::ModelInfer,
            "ModelStatistics" => Self::ModelStatistics,
            "RepositoryIndex" => Self::RepositoryIndex,
            "RepositoryModelLoad" => Self::RepositoryModelLoad,
            "RepositoryModelUnload" => Self::RepositoryModelUnload,
            _ => return None,
        })
    }

    /// The call as metrics name it; the words are those of REST.
    fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::ServerLive => "live",
            Self::ServerReady => "ready",
            Self::ModelReady => "model_ready",
            Self::ServerMetadata => "server_metadata",
            Self::ModelMetadata => "model_metadata",
            Self::ModelInfer => "infer",
            Self::ModelStatistics => "statistics",
            Self::RepositoryIndex => "index",
            Self::RepositoryModelLoad => "load",
            Self::RepositoryModelUnload => "unload",
        }
    }

    /// True for what probes ask, without a token and whatever else is under way.
    fn is_probe(self) -> bool {
        matches!(self, Self::Health | Self::ServerLive | Self::ServerReady)
    }
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Fault> {
    M::decode(message).map_err(|error| Fault::invalid(format!("the message: {error}")))
}

/// A version where one is named.
fn named(version: &str) -> Option<&str> {
    Some(version).filter(|version| !version.is_empty())
}

async fn carry_out(
    shared: &Shared,
    call: Call,
    headers: &HeaderMap,
    body: Incoming,
    deadline: Duration,
    watch: Stopwatch,
) -> Result<Bytes, Fault> {
    let most = if call.is_probe() {
        frame::check_plain(headers)?;
        MAX_PROBE
    } else {
        shared.limits.body
    };
    let message = frame::message(headers, read(body, most).await?, most).await?;
    let repository = &shared.repository;
    Ok(match call {
        Call::Health => {
            let asked: HealthCheckRequest = decode(message)?;
            if !asked.service.is_empty() && format!("/{}/", asked.service) != CALLS {
                return Err(Fault::new(Kind::NotFound, "no such service"));
            }
            let status = if shared.is_ready() { SERVING } else { NOT_SERVING };
            framed(&HealthCheckResponse { status })
        }
        Call::ServerLive => framed(&Live { live: true }),
        Call::ServerReady => framed(&Ready { ready: shared.is_ready() }),
        Call::ModelReady => {
            let asked: ModelReadyRequest = decode(message)?;
            let ready = repository.find(&asked.name, named(&asked.version)).is_ok();
            framed(&Ready { ready })
        }
        Call::ServerMetadata => framed(&pages::server()),
        Call::ModelMetadata => {
            let asked: ModelMetadataRequest = decode(message)?;
            let served = repository.find(&asked.name, named(&asked.version))?;
            framed(&pages::model(&served, &repository.select(Some(&asked.name), None)?))
        }
        Call::ModelInfer => infer::infer(shared, message, deadline.saturating_sub(watch.elapsed())).await?,
        Call::ModelStatistics => {
            let asked: ModelStatisticsRequest = decode(message)?;
            framed(&pages::statistics(&repository.select(named(&asked.name), named(&asked.version))?))
        }
        Call::RepositoryIndex => {
            let asked: RepositoryIndexRequest = decode(message)?;
            let repository = Arc::clone(repository);
            framed(&pages::index(aside(move || repository.index(asked.ready)).await??))
        }
        Call::RepositoryModelLoad => {
            let asked: ModelRepositoryRequest = decode(message)?;
            if !asked.parameters.is_empty() {
                return Err(Fault::invalid("a model is loaded as it lies in the folder: no parameters"));
            }
            repository.load(&asked.model_name).await?;
            framed(&Nothing {})
        }
        Call::RepositoryModelUnload => {
            let asked: ModelRepositoryRequest = decode(message)?;
            repository.unload(&asked.model_name)?;
            framed(&Nothing {})
        }
    })
}

//! A sidecar that lies, hangs or breaks off gives no score and no delay.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use foregate::clock::monotonic;
use foregate_inference::bundle::Bundle;
use foregate_inference::protocol::messages::{
    InferParameter, InferTensor, InferTensorContents, ModelInferRequest, ModelInferResponse,
    ModelMetadataResponse, Parameter, Ready, TensorMetadata,
};
use foregate_inference::protocol::{BUNDLE, CALLS, framed, unframed};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixListener;

use super::{BESIDE, Place, SCORE_DEADLINE, Stand, lead, post};
use crate::support::guarded::bundle;
use crate::support::process::Options;
use crate::support::within;

/// What the gateway has.
static DIGEST: LazyLock<String> =
    LazyLock::new(|| Bundle::load(&bundle("lead-score")).unwrap().digest.to_string());

/// What becomes of an honest answer.
#[derive(Clone, Copy, Debug)]
enum Lie {
    None,
    /// Changes the message.
    Message(fn(&mut ModelInferResponse)),
    /// Sends these bytes in place of a body.
    Body(&'static [u8]),
    /// So many bytes in one message.
    Size(usize),
    /// Without the status behind the body.
    NoStatus,
    /// A status of gRPC.
    Status(&'static str),
    /// A status of HTTP.
    Http(u16),
    /// Never answers.
    Hang,
    /// Ends the connection.
    Abort,
}

type Told = Arc<Mutex<Lie>>;
type Reply = Response<BoxBody<Bytes, Infallible>>;

fn reply(body: Bytes, status: Option<&'static str>) -> Reply {
    let trailers = status.map(|status| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        Ok(trailers)
    });
    let body = Full::new(body).with_trailers(std::future::ready(trailers)).boxed();
    let mut reply = Response::new(body);
    reply.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    reply
}

fn metadata() -> ModelMetadataResponse {
    let port = |name: &str, shape: &[i64]| TensorMetadata {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: shape.to_vec(),
    };
    ModelMetadataResponse {
        name: "lead-score".to_owned(),
        versions: vec!["1.0.0".to_owned()],
        platform: "none".to_owned(),
        inputs: vec![port("features", &[-1, 3])],
        outputs: vec![port("score", &[-1])],
        properties: [(BUNDLE.to_owned(), DIGEST.clone())].into(),
    }
}

fn parameter(digest: &str) -> InferParameter {
    InferParameter { choice: Some(Parameter::String(digest.to_owned())) }
}

/// Half a point for every row.
fn honest(request: &ModelInferRequest) -> ModelInferResponse {
    let rows = request.inputs[0].shape[0];
    let raw: Vec<u8> = (0..rows).flat_map(|_| 0.5_f32.to_le_bytes()).collect();
    ModelInferResponse {
        model_name: request.model_name.clone(),
        model_version: request.model_version.clone(),
        id: String::new(),
        parameters: [(BUNDLE.to_owned(), parameter(&DIGEST))].into(),
        outputs: vec![InferTensor {
            name: request.outputs[0].name.clone(),
            datatype: "FP32".to_owned(),
            shape: vec![rows],
            ..InferTensor::default()
        }],
        raw_output_contents: vec![raw.into()],
    }
}

async fn answer(told: Told, request: Request<Incoming>) -> Result<Reply, std::io::Error> {
    let call = request.uri().path().strip_prefix(CALLS).unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    if call == "ServerReady" {
        return Ok(reply(framed(&Ready { ready: true }), Some("0")));
    }
    if call == "ModelMetadata" {
        return Ok(reply(framed(&metadata()), Some("0")));
    }
    let mut message = honest(&ModelInferRequest::decode(unframed(body).unwrap()).unwrap());
    let lie = *told.lock().unwrap();
    Ok(match lie {
        Lie::None => reply(framed(&message), Some("0")),
        Lie::Message(change) => {
            change(&mut message);
            reply(framed(&message), Some("0"))
        }
        Lie::Body(body) => reply(Bytes::from_static(body), Some("0")),
        Lie::Size(size) => {
            message.id = "n".repeat(size);
            reply(framed(&message), Some("0"))
        }
        Lie::NoStatus => reply(framed(&message), None),
        Lie::Status(status) => reply(Bytes::new(), Some(status)),
        Lie::Http(status) => {
            let mut reply = reply(framed(&message), Some("0"));
            *reply.status_mut() = status.try_into().unwrap();
            reply
        }
        Lie::Hang => std::future::pending().await,
        Lie::Abort => return Err(std::io::Error::other("abort")),
    })
}

/// Serves a socket as long as the test runs.
fn serve(path: &Path) -> Told {
    let told: Told = Arc::new(Mutex::new(Lie::None));
    let (listener, shared) = (UnixListener::bind(path).unwrap(), Arc::clone(&told));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let told = Arc::clone(&shared);
            let service = service_fn(move |request| answer(Arc::clone(&told), request));
            tokio::spawn(
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    told
}

/// Each lie, the kind of fault it is, and a part of what the record says of it.
fn lies() -> Vec<(Lie, &'static str, &'static str)> {
    vec![
        (Lie::Message(|it| it.outputs[0].shape = vec![2]), "answer", "shape [2] for 1 rows of 1"),
        (Lie::Message(|it| it.outputs[0].shape = vec![1, 2]), "answer", "shape [1, 2]"),
        (Lie::Message(|it| it.outputs[0].shape = vec![-1]), "answer", "shape [-1]"),
        (Lie::Message(|it| it.outputs[0].shape = vec![i64::MAX, i64::MAX]), "answer", "shape"),
        (Lie::Message(|it| it.outputs[0].shape.clear()), "answer", "shape []"),
        (
            Lie::Message(|it| it.raw_output_contents[0] = Bytes::from_static(b"\0\0")),
            "answer",
            "2 bytes for 4",
        ),
        (Lie::Message(|it| it.raw_output_contents[0] = Bytes::new()), "answer", "0 bytes for 4"),
        (Lie::Message(|it| it.raw_output_contents.clear()), "answer", "one raw FP32 tensor `score`"),
        (Lie::Message(|it| it.outputs.clear()), "answer", "one raw FP32 tensor `score`"),
        (Lie::Message(|it| it.outputs[0].name = "other".to_owned()), "answer", "one raw FP32 tensor"),
        (Lie::Message(|it| it.outputs[0].datatype = "FP64".to_owned()), "answer", "one raw FP32 tensor"),
        (
            Lie::Message(|it| it.outputs[0].contents = Some(InferTensorContents::default())),
            "answer",
            "one raw FP32 tensor",
        ),
        (
            Lie::Message(|it| it.raw_output_contents[0] = f32::NAN.to_le_bytes().to_vec().into()),
            "answer",
            "NaN or infinity",
        ),
        (
            Lie::Message(|it| it.raw_output_contents[0] = f32::INFINITY.to_le_bytes().to_vec().into()),
            "answer",
            "NaN or infinity",
        ),
        (Lie::Message(|it| it.model_version = "7".to_owned()), "answer", "has version 7, not 1.0.0"),
        (Lie::Message(|it| it.model_name = "churn".to_owned()), "answer", "for model `churn`"),
        (
            Lie::Message(|it| drop(it.parameters.insert(BUNDLE.to_owned(), parameter("0123")))),
            "bundle",
            "another bundle under this name and version: its model.yaml has SHA-256 0123",
        ),
        (Lie::Message(|it| it.parameters.clear()), "bundle", "does not tell which bundle it has"),
        (Lie::Body(b""), "answer", "not one message"),
        (Lie::Body(b"\0\0\0\0\x09garbage"), "answer", "not one message"),
        (Lie::Body(b"\x01\0\0\0\x01a"), "answer", "not one message"),
        (Lie::Body(b"\0\0\0\0\x07garbage"), "answer", "no message of the protocol"),
        (Lie::Size(1 << 20), "answer", "too large"),
        (Lie::NoStatus, "answer", "no gRPC status"),
        (Lie::Http(500), "answer", "HTTP status 500"),
        (Lie::Status("13"), "refused", "gRPC status 13"),
        (Lie::Status("5"), "refused", "other tensors"),
        (Lie::Status("yes"), "refused", "gRPC status 2"),
        (Lie::Abort, "unavailable", "broke"),
        (Lie::Hang, "late", ""),
        (Lie::Status("4"), "late", ""),
        (Lie::Status("8"), "busy", ""),
    ]
}

#[tokio::test]
async fn what_cannot_be_right_is_no_score_and_the_record_says_why() {
    let place = Place::new(&[]);
    let told = serve(&place.socket());
    let stand = Stand::start(&place.option()).await;
    let misfit = stand.gateway.event("inference sidecar does not fit").await;
    let ports = "the sidecar's model takes or gives other tensors than the bundle here";
    assert_eq!(misfit["error"], ports);
    let mut client = stand.client().await;
    for (lie, kind, says) in lies() {
        stand.wait_scored().await;
        *told.lock().unwrap() = lie;
        let faults = format!("foregate_inference_sidecar_faults_total{{kind=\"{kind}\"}}");
        let before = stand.gateway.sample(&faults).await.unwrap();
        let start = monotonic();
        let (status, score) = stand.lenient(&mut client).await;
        let reply = post(&mut client, "/strict", &lead(1)).await;
        assert!(monotonic().saturating_sub(start) < 2 * SCORE_DEADLINE + BESIDE, "{lie:?}");
        let cause = if ["late", "busy"].contains(&kind) { kind } else { "model" };
        assert_eq!(status, format!("default;cause={cause}"), "{lie:?}");
        assert!(score.to_string().contains(says), "{lie:?}: {score}");
        assert_eq!((reply.status, reply.reason().as_str()), (503, "ScoreUnavailable"), "{lie:?}");
        stand.gateway.wait_sample(&faults, |count| count > before + 0.5).await;
        *told.lock().unwrap() = Lie::None;
    }
    stand.wait_scored().await;
    stand.gateway.wait_sample("foregate_inference_sidecar_calls_in_flight", |open| open < 0.5).await;
    stand.gateway.wait_sample("foregate_request_panics_total", |panics| panics < 0.5).await;
}

#[tokio::test]
async fn a_sidecar_that_never_answers_is_not_asked_more_than_it_takes_at_once() {
    let place = Place::new(&[]);
    let told = serve(&place.socket());
    let stand = Stand::start(&place.option()).await;
    stand.wait_scored().await;
    *told.lock().unwrap() = Lie::Hang;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(stand.client().await);
    }
    let before = stand.upstream.received().len();
    let start = monotonic();
    let round = clients
        .iter_mut()
        .enumerate()
        .map(|(number, client)| async move { post(client, "/lenient", &lead(number)).await.status });
    assert!(futures_util::future::join_all(round).await.iter().all(|status| *status == 200));
    assert!(
        monotonic().saturating_sub(start) < SCORE_DEADLINE + BESIDE,
        "{:?}",
        monotonic().saturating_sub(start)
    );
    let seen = stand.upstream.received();
    let of = |cause: &str| {
        seen[before..]
            .iter()
            .filter(|seen| seen.header("x-score-status") == format!("default;cause={cause}"))
            .count()
    };
    assert_eq!(of("late") + of("busy"), 100);
    assert!(of("late") >= 64, "{} late", of("late"));
    *told.lock().unwrap() = Lie::None;
    stand.wait_scored().await;
}

#[tokio::test]
async fn the_command_line_bounds_the_calls_under_way() {
    let place = Place::new(&[]);
    let told = serve(&place.socket());
    let words = ["--inference-sidecar", &place.option(), "--inference-sidecar-calls", "1"];
    let stand = Stand::with(Options::default().args(&words), &bundle("lead-score")).await;
    stand.wait_scored().await;
    *told.lock().unwrap() = Lie::Hang;
    let mut clients = [stand.client().await, stand.client().await];
    within("a call that finds another one under way", async {
        loop {
            let before = stand.upstream.received().len();
            let lead = lead(1);
            let round = clients.iter_mut().map(|client| post(client, "/lenient", &lead));
            assert!(futures_util::future::join_all(round).await.iter().all(|reply| reply.status == 200));
            let seen = stand.upstream.received();
            let is = |cause: &str| {
                let status = format!("default;cause={cause}");
                seen[before..].iter().any(|seen| seen.header("x-score-status") == status)
            };
            if is("late") && is("busy") {
                return;
            }
        }
    })
    .await;
}

//! Requests of HTTP/2, and calls of gRPC.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::load::Work;
use crate::load::h1;
use crate::load::tally::Answer;
use crate::tls::NAME;

/// Bytes that a stream and a connection may send without asking.
const WINDOW: u32 = 4 << 20;

pub(super) type Sender = SendRequest<Full<Bytes>>;

/// A connection that many lanes share.
pub(super) async fn connect(work: &Work) -> Result<Sender> {
    let io = TokioIo::new(h1::connect(work).await?);
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let (sender, connection) = builder.handshake(io).await.context("HTTP/2")?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One request on a stream of its own.
pub(super) async fn ask(work: &Work, sender: &mut Sender, token: Option<&HeaderValue>) -> Result<Answer> {
    let scheme = if work.tls.is_some() { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(NAME).path_and_query(work.path.as_str()).build()?;
    let mut request = Request::new(Full::new(work.body.clone()));
    *request.method_mut() = work.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = work.headers.clone();
    if let Some(token) = token {
        request.headers_mut().insert(header::AUTHORIZATION, token.clone());
    }
    sender.ready().await.context("HTTP/2")?;
    let response = sender.send_request(request).await.context("HTTP/2")?;
    let status = response.status().as_u16();
    let headers = response.headers().get("grpc-status").cloned();
    let whole = response.into_body().collect().await.context("body")?;
    if work.grpc {
        let trailer = whole.trailers().and_then(|trailers| trailers.get("grpc-status").cloned());
        let outcome = trailer.or(headers);
        ensure!(outcome.as_ref().is_some_and(|it| it == "0"), "grpc-status is {outcome:?}");
    }
    Ok(Answer { status, bytes: whole.to_bytes().len() })
}

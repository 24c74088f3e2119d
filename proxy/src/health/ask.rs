//! One question to one endpoint, on a connection of its own.

use std::sync::Arc;

use foregate_policy::balancing::CheckKind;
use http::header::{HOST, USER_AGENT};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use crate::body::RequestBody;
use crate::dispatch::connect;
use crate::dispatch::endpoint::Endpoint;
use crate::dispatch::pool::Sender;
use crate::dispatch::upstream::UpstreamState;
use crate::health::grpc;

/// How the gateway names itself to those that log their visitors.
const AGENT: &str = concat!("foregate/", env!("CARGO_PKG_VERSION"), " (health check)");

/// Asks once.
///
/// # Errors
/// Why the endpoint is not fit, in words for the operator.
pub async fn ask(upstream: &Arc<UpstreamState>, endpoint: &Endpoint, kind: &CheckKind) -> Result<(), String> {
    let sender = connect::connect(upstream, endpoint, None).await.map_err(|error| error.to_string())?;
    match kind {
        CheckKind::Tcp => Ok(()),
        CheckKind::Http { path, host, statuses } => {
            let request = request(upstream, endpoint, "GET", path, host.as_deref(), RequestBody::Empty)?;
            let status = send(sender, request).await?.status().as_u16();
            let fits =
                if statuses.is_empty() { (200..400).contains(&status) } else { statuses.contains(&status) };
            if fits { Ok(()) } else { Err(format!("status {status}")) }
        }
        CheckKind::Grpc { service, host } => {
            let body = RequestBody::from(grpc::question(service));
            let mut request = request(upstream, endpoint, "POST", grpc::METHOD, host.as_deref(), body)?;
            let headers = request.headers_mut();
            headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
            headers.insert("te", http::HeaderValue::from_static("trailers"));
            grpc::answer(send(sender, request).await?).await
        }
    }
}

fn request(
    upstream: &UpstreamState,
    endpoint: &Endpoint,
    method: &str,
    path: &str,
    host: Option<&str>,
    body: RequestBody,
) -> Result<Request<RequestBody>, String> {
    let own = match &*endpoint.at.host {
        address if address.contains(':') => format!("[{address}]:{}", endpoint.address().port()),
        name => format!("{name}:{}", endpoint.address().port()),
    };
    let host = host.unwrap_or(&own);
    let builder = Request::builder().method(method).header(USER_AGENT, AGENT);
    let builder = if upstream.is_http2() {
        let scheme = if upstream.tls.is_some() { "https" } else { "http" };
        let target = Uri::builder().scheme(scheme).authority(host).path_and_query(path).build();
        builder.uri(target.map_err(|error| error.to_string())?)
    } else {
        builder.uri(path).header(HOST, host)
    };
    builder.body(body).map_err(|error| error.to_string())
}

async fn send(sender: Sender, request: Request<RequestBody>) -> Result<Response<Incoming>, String> {
    let sent = match sender {
        Sender::Http1(mut driven) => {
            driven.part();
            driven.send(request).await.map_err(TrySendError::into_error)
        }
        Sender::Http2(mut sender) => sender.send_request(request).await,
    };
    sent.map_err(|error| error.to_string())
}

//! One HTTP/2 connection to the sidecar, and one call on it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foregate_inference::protocol::messages::{Nothing, Ready};
use foregate_inference::protocol::{CALLS, framed, unframed};
use foregate_policy::snapshot::{Protocol, UpstreamTls};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::dispatch::tls::config;
use crate::identity::set::Set;

/// How often the sidecar is asked whether it lives, and how long it may take to say so. A process that is
/// stopped keeps its connections, and costs every call its deadline until it is found out.
const PING: Duration = Duration::from_secs(1);
/// Bytes of an answer that is no tensor at most.
const MAX_PAGE: usize = 256 << 10;
/// Characters of what the sidecar says of a refusal that are told on.
const TOLD: usize = 200;

/// A connection, as often as it is needed.
#[derive(Clone, Debug)]
pub struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// Scheme and authority of requests.
    origin: Arc<str>,
}

/// A connection that was made now.
pub struct Opened {
    pub link: Link,
    /// Ends with the connection, and tells why. It is closed when this is dropped and nothing is under way.
    pub connection: tokio::task::JoinHandle<String>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the sidecar's connection broke: {0}")]
    Broken(String),
    #[error("the sidecar refused with gRPC status {code}: {message}")]
    Refused { code: u8, message: String },
    #[error("the sidecar's answer is malformed: {0}")]
    Malformed(&'static str),
}

/// Connects to a socket.
pub async fn unix(path: &Path) -> Result<Opened, String> {
    let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
    open(TokioIo::new(stream), "http://localhost").await
}

/// Connects with mutual TLS.
pub async fn tls(
    host: &str,
    port: u16,
    spec: &UpstreamTls,
    identity: Option<&Set>,
) -> Result<Opened, String> {
    let trust = config(spec, Protocol::Http2, identity).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connect = async {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::clone(&trust.config)).connect(name, stream).await?;
        trust.still_trusts(stream.get_ref().1).map_err(io::Error::other)?;
        Ok::<_, io::Error>(stream)
    };
    let stream = connect.await.map_err(|error| error.to_string())?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    open(TokioIo::new(stream), &format!("https://{host}:{port}")).await
}

async fn open<S: Read + Write + Unpin + Send + 'static>(stream: S, origin: &str) -> Result<Opened, String> {
    let handshake = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        .handshake(stream)
        .await;
    let (sender, connection) = handshake.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(async move {
        match connection.await {
            Ok(()) => "it was closed".to_owned(),
            Err(error) => causes(&error),
        }
    });
    Ok(Opened { link: Link { sender, origin: origin.into() }, connection })
}

/// An error with what it comes from.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Link {
    /// True where the sidecar wants to be asked.
    pub async fn is_ready(&self) -> Result<bool, CallError> {
        let answer = self.call("ServerReady", framed(&Nothing {}), None, MAX_PAGE).await?;
        Ready::decode(answer).map(|ready| ready.ready).map_err(|_| CallError::Malformed("no `Ready`"))
    }

    /// The metadata of a model.
    pub async fn metadata(&self, frame: Bytes) -> Result<Bytes, CallError> {
        self.call("ModelMetadata", frame, None, MAX_PAGE).await
    }

    /// Scores; the answer has so many bytes at most. The caller sees to the deadline, and the sidecar is told of it.
    pub async fn infer(&self, frame: Bytes, budget: Duration, most: usize) -> Result<Bytes, CallError> {
        self.call("ModelInfer", frame, Some(budget), most).await
    }

    async fn call(
        &self,
        call: &str,
        frame: Bytes,
        budget: Option<Duration>,
        most: usize,
    ) -> Result<Bytes, CallError> {
        let broken = |error: hyper::Error| CallError::Broken(causes(&error));
        let mut request = Request::post(format!("{}{CALLS}{call}", self.origin))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(budget) = budget {
            request = request.header("grpc-timeout", timeout(budget));
        }
        let request = request.body(Full::new(frame)).map_err(|error| CallError::Broken(error.to_string()))?;
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(broken)?;
        let response: Response<Incoming> = sender.send_request(request).await.map_err(broken)?;
        if response.status() != http::StatusCode::OK {
            return Err(CallError::Malformed("its HTTP status is not 200"));
        }
        if let Some(refused) = refusal(response.headers()) {
            return Err(refused);
        }
        let body = Limited::new(response.into_body(), most).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => broken(*error),
            Err(_) => CallError::Malformed("it is too large"),
        })?;
        match body.trailers().map(|trailers| (trailers.contains_key("grpc-status"), refusal(trailers))) {
            Some((true, None)) => {}
            Some((_, Some(refused))) => return Err(refused),
            Some((false, None)) | None => return Err(CallError::Malformed("it has no gRPC status")),
        }
        unframed(body.to_bytes()).ok_or(CallError::Malformed("it is not one message"))
    }
}

/// What a gRPC status other than OK says.
fn refusal(headers: &HeaderMap) -> Option<CallError> {
    let status = headers.get("grpc-status")?;
    let code = status.to_str().ok().and_then(|status| status.parse().ok());
    if code == Some(0) {
        return None;
    }
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    // 2 is UNKNOWN, which is what a status that is no number means.
    Some(CallError::Refused { code: code.unwrap_or(2), message: message.chars().take(TOLD).collect() })
}

/// `grpc-timeout`: at most eight digits and a unit.
fn timeout(budget: Duration) -> String {
    match u32::try_from(budget.as_micros()).ok().filter(|micros| *micros < 100_000_000) {
        Some(micros) => format!("{micros}u"),
        None => format!("{}m", budget.as_millis().min(99_999_999)),
    }
}

#[cfg(test)]
mod tests {
    use super::timeout;
    use std::time::Duration;

    #[test]
    fn a_deadline_has_eight_digits_at_most() {
        for (budget, told) in [
            (Duration::ZERO, "0u"),
            (Duration::from_micros(1_500), "1500u"),
            (Duration::from_secs(99), "99000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(1 << 40), "99999999m"),
        ] {
            assert_eq!(timeout(budget), told);
        }
    }
}

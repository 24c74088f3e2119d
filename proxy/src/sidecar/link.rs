//! One HTTP/2 connection to the sidecar, and one call on it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foregate_inference::protocol::messages::{Nothing, Ready};
use foregate_inference::protocol::{CALLS, framed};
use foregate_policy::snapshot::{Protocol, UpstreamTls};
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::dispatch::tls::config;
use crate::grpc;
use crate::identity::set::Set;
use crate::rpc::answer::{Fault, one};
use crate::rpc::connect::{self, Pings};
use crate::rpc::endpoint::Endpoint;
use crate::rpc::{self, causes};

/// How a silent sidecar is found out. A process that is stopped keeps its connections, and costs every call its deadline
/// until then.
const PINGS: Pings = Pings { every: Duration::from_secs(1), within: Duration::from_secs(1), idle: true };
/// Bytes of an answer that is no tensor at most.
const MAX_PAGE: usize = 256 << 10;

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

/// Connects to a socket.
pub async fn unix(path: &Path) -> Result<Opened, String> {
    let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
    open(stream, "http://localhost").await
}

/// Connects with mutual TLS.
pub async fn tls(at: &Endpoint, spec: &UpstreamTls, identity: Option<&Set>) -> Result<Opened, String> {
    let trust = config(spec, Protocol::Http2, identity).map_err(|error| error.to_string())?;
    let stream = connect::tls(at, Arc::clone(&trust.config)).await;
    let stream = stream.and_then(|stream| {
        trust.still_trusts(stream.get_ref().1).map_err(io::Error::other)?;
        Ok(stream)
    });
    open(stream.map_err(|error| error.to_string())?, &at.to_string()).await
}

async fn open<S>(stream: S, origin: &str) -> Result<Opened, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let opened = connect::open(stream, PINGS).await.map_err(|error| causes(&error))?;
    Ok(Opened { link: Link { sender: opened.sender, origin: origin.into() }, connection: opened.connection })
}

impl Link {
    /// True where the sidecar wants to be asked.
    pub async fn is_ready(&self) -> Result<bool, Fault> {
        let answer = self.call("ServerReady", framed(&Nothing {}), None, MAX_PAGE).await?;
        Ready::decode(answer).map(|ready| ready.ready).map_err(|_| Fault::malformed("no `Ready`"))
    }

    /// The metadata of a model.
    pub async fn metadata(&self, frame: Bytes) -> Result<Bytes, Fault> {
        self.call("ModelMetadata", frame, None, MAX_PAGE).await
    }

    /// Scores; the answer has so many bytes at most. The caller sees to the deadline, and the sidecar is told of it.
    pub async fn infer(&self, frame: Bytes, budget: Duration, most: usize) -> Result<Bytes, Fault> {
        self.call("ModelInfer", frame, Some(budget), most).await
    }

    async fn call(
        &self,
        call: &str,
        frame: Bytes,
        budget: Option<Duration>,
        most: usize,
    ) -> Result<Bytes, Fault> {
        let broken = |error: hyper::Error| Fault::broken(&error);
        let mut request = rpc::request(&format!("{}{CALLS}{call}", self.origin));
        if let Some(budget) = budget {
            request = request.header(grpc::GRPC_TIMEOUT, grpc::timeout(budget));
        }
        let request = request.body(Full::new(frame)).map_err(|error| Fault::broken(&error))?;
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(broken)?;
        one(sender.send_request(request).await.map_err(broken)?, most).await
    }
}

//! One export: connects where it must, sends, and reads what the collector says.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foregate_inference::protocol::{framed_bytes, unframed};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::dispatch::connect::Opened;
use crate::rpc::answer::Refusal;
use crate::rpc::causes;
use crate::telemetry::otlp::message::ExportResponse;
use crate::telemetry::otlp::patience;
use crate::telemetry::otlp::target::{Speech, Target};
use crate::tls::{certificates, provider};

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Statuses of gRPC after which the same call may be made again (OTLP 1.9, "OTLP/gRPC Response").
const PASSING: [u8; 6] = [1, 4, 10, 11, 14, 15];

/// `RESOURCE_EXHAUSTED`: the call may be made again where the collector says when.
const EXHAUSTED: u8 = 8;

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    #[error("{at}: {fault}")]
    Away { at: String, fault: String },
    #[error("{at}: no answer within {limit:?}")]
    Late { at: String, limit: Duration },
    #[error("{at}: HTTP status {status}")]
    Http { at: String, status: StatusCode, asked: Option<Duration> },
    #[error("{at}: gRPC status {code}: {message}")]
    Grpc { at: String, code: u8, message: String, asked: Option<Duration> },
    #[error("{at}: the answer is malformed: {fault}")]
    Malformed { at: String, fault: String },
}

impl PostError {
    /// True where the same message may be taken later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Late { .. } => true,
            Self::Http { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Grpc { code, asked, .. } => {
                PASSING.contains(code) || (*code == EXHAUSTED && asked.is_some())
            }
            Self::Malformed { .. } => false,
        }
    }

    /// How long the collector asks to be left alone, where it says.
    pub const fn asked(&self) -> Option<Duration> {
        match self {
            Self::Http { asked, .. } | Self::Grpc { asked, .. } => *asked,
            Self::Away { .. } | Self::Late { .. } | Self::Malformed { .. } => None,
        }
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A collector, and the connection to it.
pub struct Post {
    target: Target,
    tls: Option<Arc<ClientConfig>>,
    sender: Option<Sender>,
}

impl Post {
    /// # Errors
    /// Where the authorities cannot be read.
    pub fn new(target: Target) -> io::Result<Self> {
        let alpn: &[u8] = if target.speech == Speech::Grpc { b"h2" } else { b"http/1.1" };
        let tls = target.tls.then(|| trust(target.ca.as_deref(), alpn)).transpose()?;
        Ok(Self { target, tls, sender: None })
    }

    /// Sends a message; gives how many of its items the collector would not have.
    pub async fn send(&mut self, message: &[u8]) -> Result<usize, PostError> {
        let limit = self.target.limit;
        let outcome = timeout(limit, self.exchange(message)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(PostError::Late { at: self.target.to_string(), limit }));
        if outcome.is_err() {
            // Whatever is wrong with it, the next export does not begin with it.
            self.sender = None;
        }
        outcome
    }

    async fn exchange(&mut self, message: &[u8]) -> Result<usize, PostError> {
        let request = self.request(message)?;
        let at = self.target.to_string();
        let away = |error: &dyn std::error::Error| PostError::Away { at: at.clone(), fault: causes(error) };
        let sender = match self.sender.take().filter(Sender::is_open) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let (sender, response) = match sender {
            Sender::Http1(mut sender) => {
                sender.ready().await.map_err(|error| away(&error))?;
                let response = sender.send_request(request).await;
                (Sender::Http1(sender), response)
            }
            Sender::Http2(mut sender) => {
                sender.ready().await.map_err(|error| away(&error))?;
                let response = sender.send_request(request).await;
                (Sender::Http2(sender), response)
            }
        };
        let (head, body) = response.map_err(|error| away(&error))?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| PostError::Away { at: at.clone(), fault: error.to_string() })?;
        self.sender = Some(sender);
        let trailers = body.trailers().cloned().unwrap_or_default();
        self.read(head.status, &[&head.headers, &trailers], &body.to_bytes())
    }

    fn request(&self, message: &[u8]) -> Result<Request<Full<Bytes>>, PostError> {
        let Target { signal, speech, path, .. } = &self.target;
        let authority = self.target.authority();
        let (uri, media, body) = match speech {
            Speech::Grpc => {
                let scheme = if self.target.tls { "https" } else { "http" };
                let uri = format!("{scheme}://{authority}{}", signal.method());
                (uri, "application/grpc", framed_bytes(message))
            }
            Speech::Http => (path.clone(), "application/x-protobuf", Bytes::copy_from_slice(message)),
        };
        let request = Request::post(uri)
            .header(CONTENT_TYPE, media)
            .header(USER_AGENT, concat!("foregate/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body));
        let mut request = request.map_err(|error| PostError::Malformed {
            at: self.target.to_string(),
            fault: error.to_string(),
        })?;
        let headers = request.headers_mut();
        match speech {
            Speech::Grpc => drop(headers.insert(TE, HeaderValue::from_static("trailers"))),
            Speech::Http => drop(HeaderValue::from_str(&authority).map(|host| headers.insert(HOST, host))),
        }
        for (name, value) in &self.target.headers {
            headers.insert(name, value.clone());
        }
        Ok(request)
    }

    fn read(&self, status: StatusCode, heads: &[&HeaderMap], body: &Bytes) -> Result<usize, PostError> {
        let at = self.target.to_string();
        if !status.is_success() {
            let asked = heads.first().and_then(|headers| patience::by_http(status, headers));
            return Err(PostError::Http { at, status, asked });
        }
        let mut message = body.clone();
        if self.target.speech == Speech::Grpc {
            let status = heads.iter().find(|headers| headers.contains_key("grpc-status"));
            let Some(headers) = status else {
                return Err(PostError::Away { at, fault: "it ended without a status".to_owned() });
            };
            if let Some(Refusal { code, message }) = Refusal::read(headers) {
                return Err(PostError::Grpc { at, code, message, asked: patience::by_grpc(headers) });
            }
            // Where it says nothing else, it has taken all.
            if !message.is_empty() {
                message = unframed(message).ok_or_else(|| {
                    let fault = "its answer is not one message, or compressed".to_owned();
                    PostError::Malformed { at: at.clone(), fault }
                })?;
            }
        }
        let response = ExportResponse::decode(message)
            .map_err(|error| PostError::Malformed { at, fault: error.to_string() })?;
        let rejected = response.partial_success.map_or(0, |partial| partial.rejected);
        Ok(usize::try_from(rejected).unwrap_or(0))
    }

    async fn connect(&self) -> Result<Sender, PostError> {
        let at = self.target.to_string();
        let away = |error: &dyn std::error::Error| PostError::Away { at: at.clone(), fault: causes(error) };
        let stream = TcpStream::connect((self.target.host.as_str(), self.target.port)).await;
        let stream = stream.map_err(|error| away(&error))?;
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.handshake(Opened::Plain(stream)).await.map_err(|error| away(&error));
        };
        let name = ServerName::try_from(self.target.host.clone()).map_err(|error| away(&error))?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
        let stream = Opened::Tls(Box::new(stream.map_err(|error| away(&error))?));
        self.handshake(stream).await.map_err(|error| away(&error))
    }

    async fn handshake(&self, stream: Opened) -> Result<Sender, hyper::Error> {
        let io = TokioIo::new(stream);
        if self.target.speech == Speech::Grpc {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new()).handshake(io).await?;
            tokio::spawn(connection);
            return Ok(Sender::Http2(sender));
        }
        let (sender, connection) = http1::Builder::new().handshake(io).await?;
        tokio::spawn(connection);
        Ok(Sender::Http1(sender))
    }
}

impl Sender {
    fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }
}

/// TLS that trusts the authorities of the file, or those of the system.
fn trust(ca: Option<&Path>, alpn: &[u8]) -> io::Result<Arc<ClientConfig>> {
    let found = match ca {
        Some(file) => certificates(file).map_err(io::Error::other)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found);
    if added == 0 {
        let whose = ca.map_or("the system".to_owned(), |file| file.display().to_string());
        return Err(io::Error::other(format!("{whose}: no authority to trust a collector by")));
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::{Post, PostError};
    use crate::telemetry::otlp::signal::Signal;
    use crate::telemetry::otlp::target::Target;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode};
    use std::time::Duration;

    /// One second, as details of a gRPC status.
    const RETRY_INFO: &str = "CAgaMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIAQ";

    /// What becomes of an answer with these headers.
    fn fault(url: &str, status: u16, fields: &[(&'static str, &'static str)]) -> PostError {
        let post = Post::new(Target::parse(url, Signal::Traces).unwrap()).unwrap();
        let fields =
            fields.iter().map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let headers: HeaderMap = fields.collect();
        let status = StatusCode::from_u16(status).unwrap();
        post.read(status, &[&headers, &HeaderMap::new()], &Bytes::new()).unwrap_err()
    }

    #[test]
    fn a_collector_that_is_exhausted_is_asked_again_where_it_says_when() {
        let grpc = |code, details| {
            let fields = [("grpc-status", code), ("grpc-status-details-bin", details)];
            let fault = fault("grpc://127.0.0.1:4317", 200, &fields);
            (fault.may_pass(), fault.asked())
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(grpc("8", ""), (false, None));
        assert_eq!(grpc("8", RETRY_INFO), (true, second));
        assert_eq!(grpc("14", ""), (true, None));
        assert_eq!(grpc("14", RETRY_INFO), (true, second));
        assert!(!grpc("3", RETRY_INFO).0, "what is wrong stays wrong");
    }

    #[test]
    fn http_says_when_to_ask_again() {
        let http = |status| {
            let fault = fault("http://127.0.0.1:4318", status, &[("retry-after", "30")]);
            (fault.may_pass(), fault.asked())
        };
        let asked = Some(Duration::from_secs(30));
        assert_eq!([429, 503].map(http), [(true, asked); 2]);
        assert_eq!([502, 400].map(http), [(true, None), (false, None)]);
    }
}

//! An external processor for Envoy that scores leads with the engine of the gateway.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use foregate_filters::edits::{HeaderEdit, splice};
use foregate_policy::route::Route;
use http::{header, request};
use jsonwebtoken::Algorithm;
use prost::{Message, Oneof};
use tonic::body::Body;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::{BoxFuture, Context, Poll, Service};
use tonic::server::{Grpc, StreamingService};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::keys::Issuer;
use crate::micro;
use crate::policies;

/// `ProcessingRequest` of `envoy.service.ext_proc.v3`, as far as a buffered body needs it.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(oneof = "Part", tags = "2, 4")]
    part: Option<Part>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Part {
    /// `request_headers`, which are not looked at.
    #[prost(message, tag = "2")]
    Headers(Headers),
    #[prost(message, tag = "4")]
    Body(HttpBody),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Headers {}

#[derive(Clone, PartialEq, Message)]
struct HttpBody {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
}

/// `ProcessingResponse`.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(oneof = "Done", tags = "1, 3")]
    done: Option<Done>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Done {
    #[prost(message, tag = "1")]
    Headers(Changed),
    #[prost(message, tag = "3")]
    Body(Changed),
}

/// `HeadersResponse` and `BodyResponse`, which are alike.
#[derive(Clone, PartialEq, Message)]
struct Changed {
    #[prost(message, optional, tag = "1")]
    response: Option<Common>,
}

/// `CommonResponse`.
#[derive(Clone, PartialEq, Message)]
struct Common {
    #[prost(message, optional, tag = "2")]
    headers: Option<HeaderMutation>,
    #[prost(message, optional, tag = "3")]
    body: Option<BodyMutation>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderMutation {
    #[prost(message, repeated, tag = "1")]
    set: Vec<HeaderValueOption>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    /// 2: overwrites the value, or adds it.
    #[prost(int32, tag = "3")]
    action: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "bytes", tag = "3")]
    raw_value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct BodyMutation {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
}

impl HeaderValueOption {
    fn of(edit: &HeaderEdit) -> Option<Self> {
        let (HeaderEdit::Set(name, value) | HeaderEdit::Add(name, value)) = edit else { return None };
        let raw_value = Bytes::copy_from_slice(value.as_bytes());
        Some(Self { header: Some(Header { key: name.as_str().to_owned(), raw_value }), action: 2 })
    }
}

/// The chain of the gateway that scores a lead into header and body.
struct Engine {
    route: Arc<Route>,
    head: request::Parts,
}

impl Engine {
    fn new() -> Result<Self> {
        let issuer = Issuer::new(Algorithm::ES256)?;
        let snapshot =
            policies::snapshot(1, &policies::scored("lead-score"), &micro::materials(&issuer, true)?)?;
        let head = micro::head("none")?;
        Ok(Self { route: policies::route(&snapshot, &head)?, head })
    }

    fn answer(&self, asked: Asked) -> Result<Answer, Status> {
        let done = match asked.part {
            Some(Part::Body(body)) => Done::Body(Changed { response: Some(self.score(&body.body)?) }),
            Some(Part::Headers(_)) | None => Done::Headers(Changed::default()),
        };
        Ok(Answer { done: Some(done) })
    }

    fn score(&self, body: &Bytes) -> Result<Common, Status> {
        let mut ctx = micro::context(micro::CLOCK);
        ctx.body = Some(body.clone());
        let outcome = micro::settle(self.route.chain.run_body(&self.head, &mut ctx));
        if outcome.is_none_or(|outcome| outcome.is_err()) {
            return Err(Status::invalid_argument("the lead is not scored"));
        }
        let body = splice(body, &ctx.edits.body).ok_or_else(|| Status::internal("the splices do not fit"))?;
        // Envoy refuses a body of another length than its head tells.
        let length = HeaderEdit::Set(header::CONTENT_LENGTH, body.len().into());
        let set = ctx.edits.request.iter().chain([&length]).filter_map(HeaderValueOption::of);
        Ok(Common { headers: Some(HeaderMutation { set: set.collect() }), body: Some(BodyMutation { body }) })
    }
}

/// The method `Process`, and every other: Envoy calls nothing else.
#[derive(Clone)]
struct Processor(Arc<Engine>);

/// The answers to one request's parts, each when its part came.
struct Answers {
    asked: Streaming<Asked>,
    engine: Arc<Engine>,
}

impl Stream for Answers {
    type Item = Result<Answer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let asked = Pin::new(&mut self.asked).poll_next(cx);
        asked.map(|asked| asked.map(|asked| asked.and_then(|asked| self.engine.answer(asked))))
    }
}

impl StreamingService<Asked> for Processor {
    type Response = Answer;
    type ResponseStream = Answers;
    type Future = BoxFuture<Response<Answers>, Status>;

    fn call(&mut self, request: Request<Streaming<Asked>>) -> Self::Future {
        let engine = Arc::clone(&self.0);
        Box::pin(async move { Ok(Response::new(Answers { asked: request.into_inner(), engine })) })
    }
}

impl Service<http::Request<Body>> for Processor {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let processor = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<Answer, Asked>::default();
            Ok(Grpc::new(codec).streaming(processor, request).await)
        })
    }
}

/// Serves on this address, on this thread, until the process is ended.
pub fn run(address: SocketAddr) -> Result<()> {
    let processor = Processor(Arc::new(Engine::new().context("no engine")?));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(Server::builder().serve(address, processor))?)
}

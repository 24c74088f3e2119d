//! A gRPC server of tonic that says again what it is asked.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Result;
use foregate_inference::protocol::messages::ModelInferRequest;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::{Grpc, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Every call is decoded, handed on, and encoded again, as code made by tonic's generator does it.
#[derive(Clone, Copy, Debug)]
struct Echo;

/// What stands where a handler would.
#[derive(Clone, Copy, Debug)]
struct Same;

impl UnaryService<ModelInferRequest> for Same {
    type Response = ModelInferRequest;
    type Future = BoxFuture<Response<ModelInferRequest>, Status>;

    fn call(&mut self, request: Request<ModelInferRequest>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<ModelInferRequest, ModelInferRequest>::default();
            Ok(Grpc::new(codec).unary(Same, request).await)
        })
    }
}

/// Serves on this address until the process is ended.
pub async fn serve(address: SocketAddr) -> Result<()> {
    Ok(Server::builder().serve(address, Echo).await?)
}

/// The same, on this thread.
pub fn run(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(address))
}

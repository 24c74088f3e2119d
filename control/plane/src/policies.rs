//! The service `Policies`, as far as it goes: who may call it.

use std::pin::Pin;

use foregate_policy::fleet::{PolicyRequest, PolicyResponse};
use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::fleet::policies::policies_server::Policies;
use crate::serve::peer::Peer;

/// Streams policies to proxies that have an identity.
#[derive(Debug)]
pub struct Distribution;

#[tonic::async_trait]
impl Policies for Distribution {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<PolicyResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<PolicyRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        Peer::required(&request)?;
        Err(Status::unimplemented("no source of policies is configured"))
    }
}

//! Where the next process asks for the sockets, as a service of the process.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;

use crate::failure::Failure;
use crate::handover::Handover;

#[derive(Debug)]
pub struct HandoverEndpoint {
    pub handover: Arc<Handover>,
    pub failure: Arc<Failure>,
}

#[async_trait]
impl Service for HandoverEndpoint {
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        if let Err(error) = Arc::clone(&self.handover).run().await {
            self.failure.tell(error.to_string());
        }
    }

    fn name(&self) -> &'static str {
        "handover"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

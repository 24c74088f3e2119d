//! Holds upstreams up until a test lets them go on.

use std::sync::Arc;

use http::Response;
use tokio::sync::watch;

use crate::support::upstream::{Upstream, full};
use crate::support::within;

/// Closed until it is opened.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub fn close(&self) {
        self.0.send_replace(false);
    }

    /// An upstream that answers so once it is open.
    pub async fn upstream(&self, status: u16, text: &'static str) -> Upstream {
        let gate = self.clone();
        Upstream::start(move |_| {
            let gate = gate.clone();
            async move {
                gate.passed().await;
                Response::builder().status(status).body(full(text)).unwrap()
            }
        })
        .await
    }

    /// Waits until it is open.
    pub async fn passed(&self) {
        let mut open = self.0.subscribe();
        within("the gate to open", open.wait_for(|open| *open)).await.unwrap();
    }
}

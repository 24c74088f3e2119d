//! Holds upstreams up until a test lets them go on.

use std::sync::Arc;

use tokio::sync::watch;

use crate::support::within;

/// Closed until it is opened; then open for good.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn passed(&self) {
        let mut open = self.0.subscribe();
        within("the gate to open", open.wait_for(|open| *open)).await.unwrap();
    }
}

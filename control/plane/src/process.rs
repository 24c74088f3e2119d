//! What all parts of the running process share: metrics, readiness, the end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::metrics::Metrics;

/// Lent to every part.
#[derive(Clone, Debug)]
pub struct Process {
    pub metrics: Arc<Metrics>,
    pub readiness: Arc<Readiness>,
    pub shutdown: Shutdown,
}

/// What the process still waits for before it is ready.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<BTreeSet<&'static str>>);

/// Tells that the process ends. Streams that would not end by themselves end then.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Begins the end.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Process {
    /// A process that has not begun to end, and the trigger that ends it.
    pub fn new() -> (Self, Trigger) {
        let (trigger, shutdown) = watch::channel(false);
        let this = Self { metrics: Arc::default(), readiness: Arc::default(), shutdown: Shutdown(shutdown) };
        (this, Trigger(trigger))
    }
}

impl Readiness {
    /// From now on the process is not ready, until `name` has arrived.
    pub fn await_arrival(&self, name: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
    }

    pub fn arrived(&self, name: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// What is waited for; nothing where the process is ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

impl Shutdown {
    /// Waits until the process begins to end.
    pub async fn begun(&self) {
        let mut told = self.0.clone();
        // A trigger that is gone means the end as well.
        let _ = told.wait_for(|begun| *begun).await;
    }
}

impl Trigger {
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

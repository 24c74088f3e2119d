//! The first thing that keeps the process from going on.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Told once, by whatever fails first.
#[derive(Debug, Default)]
pub struct Failure {
    told: Mutex<Option<String>>,
    notify: Notify,
}

impl Failure {
    pub fn tell(&self, message: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.get_or_insert(message);
        self.notify.notify_one();
    }

    pub fn take(&self) -> Option<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until something fails.
    pub async fn told(&self) {
        self.notify.notified().await;
    }
}

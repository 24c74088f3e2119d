//! The end of the process, told to every connection; the process waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// One end of the drain, held by everything that must finish before the process may end.
#[derive(Clone, Debug)]
pub struct Drain {
    flag: Arc<AtomicBool>,
    started: watch::Receiver<bool>,
    /// Time between the announcement of a close and the close of a connection that stays idle.
    notice: Duration,
}

/// The end that starts the drain and waits for all others to be dropped.
#[derive(Debug)]
pub struct DrainStart {
    flag: Arc<AtomicBool>,
    started: watch::Sender<bool>,
}

/// Makes the two ends.
pub fn drain(notice: Duration) -> (DrainStart, Drain) {
    let flag = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = watch::channel(false);
    (DrainStart { flag: Arc::clone(&flag), started: sender }, Drain { flag, started: receiver, notice })
}

impl Drain {
    /// True once the drain has started.
    pub fn started(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Waits until the drain starts.
    pub async fn wait(&self) {
        let mut started = self.started.clone();
        // The sender is dropped only when the process ends: then, too, it is time to go.
        let _ = started.wait_for(|started| *started).await;
    }

    /// Waits until the drain has started and the notice has passed.
    pub async fn noticed(&self) {
        self.wait().await;
        tokio::time::sleep(self.notice).await;
    }
}

impl DrainStart {
    /// Starts the drain: nothing new, and everything under way may finish.
    pub fn start(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.started.send_replace(true);
    }

    /// Waits until nothing holds the other end any more; false where `limit` passed first.
    pub async fn finished(&self, limit: Duration) -> bool {
        timeout(limit, self.started.closed()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::drain;
    use std::time::Duration;

    #[tokio::test]
    async fn the_drain_ends_with_its_last_holder() {
        let (start, first) = drain(Duration::ZERO);
        let second = first.clone();
        start.start();
        second.noticed().await;
        assert!(first.started());
        drop(first);
        let waiting = tokio::spawn(async move { start.finished(Duration::from_secs(30)).await });
        drop(second);
        assert!(waiting.await.unwrap());
    }
}

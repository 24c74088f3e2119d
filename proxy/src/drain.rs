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
    /// Time after which what has no end of its own is ended, so that it is told before the process is gone.
    last: Duration,
    /// Set for a connection that may have to end before the process does.
    own: Option<Own>,
}

/// The end of one connection.
#[derive(Clone, Debug)]
struct Own {
    flag: Arc<AtomicBool>,
    started: watch::Receiver<bool>,
}

/// Time for what is under way on a connection that must end, after the notice: then it is cut.
const GRACE: Duration = Duration::from_secs(10);

/// Most time before the end of the drain that is left for farewells.
const FAREWELL: Duration = Duration::from_secs(2);

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
    (
        DrainStart { flag: Arc::clone(&flag), started: sender },
        Drain { flag, started: receiver, notice, last: Duration::MAX, own: None },
    )
}

impl Drain {
    /// The same, with a time after which it is over whatever is still under way.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self { last: limit.saturating_sub(FAREWELL.min(limit / 4)), ..self }
    }

    /// Waits until the drain is nearly over: tunnels, which have no end of their own, say goodbye now.
    pub async fn last_call(&self) {
        let mut started = self.started.clone();
        // Without a sender the process ends already.
        if started.wait_for(|started| *started).await.is_ok() {
            tokio::time::sleep(self.last).await;
        }
    }

    /// True once the drain has started.
    pub fn started(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
            || self.own.as_ref().is_some_and(|own| own.flag.load(Ordering::Relaxed))
    }

    /// The same drain for one connection, and the end that starts it for that one alone.
    pub fn of_one(&self) -> (DrainStart, Self) {
        let flag = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = watch::channel(false);
        let own = Own { flag: Arc::clone(&flag), started: receiver };
        (DrainStart { flag, started: sender }, Self { own: Some(own), ..self.clone() })
    }

    /// True for a connection that may have to end alone.
    pub fn is_of_one(&self) -> bool {
        self.own.is_some()
    }

    /// Waits until a connection that must end alone has had its time; forever for all others.
    pub async fn cut(&self) {
        let Some(own) = &self.own else { return std::future::pending().await };
        own.wait().await;
        tokio::time::sleep(self.notice + GRACE).await;
    }

    /// Waits until the drain starts.
    pub async fn wait(&self) {
        let mut started = self.started.clone();
        // The sender is dropped only when the process ends: then, too, it is time to go.
        let process = started.wait_for(|started| *started);
        match &self.own {
            None => drop(process.await),
            Some(own) => tokio::select! {
                _ = process => {}
                () = own.wait() => {}
            },
        }
    }

    /// Waits until the drain has started and the notice has passed.
    pub async fn noticed(&self) {
        self.wait().await;
        tokio::time::sleep(self.notice).await;
    }
}

impl Own {
    async fn wait(&self) {
        let mut started = self.started.clone();
        // Without a sender nobody can start it any more.
        if started.wait_for(|started| *started).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl DrainStart {
    /// Starts the drain: nothing new, and everything under way may finish.
    pub fn start(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.started.send_replace(true);
    }

    /// Waits until nothing holds the other end any more.
    pub async fn closed(&self) {
        self.started.closed().await;
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
    async fn one_connection_ends_alone() {
        let (start, all) = drain(Duration::ZERO);
        let (own, one) = all.of_one();
        assert!(!one.started());
        own.start();
        one.noticed().await;
        assert!(one.started() && !all.started());
        let (_own, other) = all.of_one();
        start.start();
        other.noticed().await;
        assert!(other.started());
        drop(one);
        own.closed().await;
    }

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

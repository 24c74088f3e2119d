//! Kept decisions handed to those who watch; a slow watcher misses some.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender, channel};

use crate::telemetry::record::Record;

/// Decisions that a watcher may be behind; one that is further behind misses the oldest.
const BEHIND: usize = 512;

/// Most watchers at once.
pub const MAX_WATCHERS: usize = 16;

/// Hands decisions to watchers, and waits for none. Without watchers it costs one load.
#[derive(Debug, Default)]
pub struct Watched {
    watchers: Arc<AtomicUsize>,
    /// Made for the first watcher.
    sender: OnceLock<Sender<Arc<Record>>>,
}

/// Somebody who watches, until dropped.
#[derive(Debug)]
pub struct Watcher {
    receiver: Receiver<Arc<Record>>,
    watchers: Arc<AtomicUsize>,
}

/// What a watcher is told next.
#[derive(Debug)]
pub enum Seen {
    Decision(Arc<Record>),
    /// So many were missed.
    Missed(u64),
}

impl Watched {
    pub fn tell(&self, record: &Arc<Record>) {
        if self.watchers.load(Ordering::Relaxed) > 0
            && let Some(sender) = self.sender.get()
        {
            // It fails where the last watcher has just gone.
            let _ = sender.send(Arc::clone(record));
        }
    }

    /// One more watcher; `None` where there are as many as there may be.
    pub fn watch(&self) -> Option<Watcher> {
        let more = |watchers: usize| (watchers < MAX_WATCHERS).then_some(watchers + 1);
        self.watchers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let sender = self.sender.get_or_init(|| channel(BEHIND).0);
        Some(Watcher { receiver: sender.subscribe(), watchers: Arc::clone(&self.watchers) })
    }
}

impl Watcher {
    /// The next decision, or how many were missed; `None` at the end of the process. Nothing is lost where it is
    /// dropped before it is ready.
    pub async fn next(&mut self) -> Option<Seen> {
        match self.receiver.recv().await {
            Ok(record) => Some(Seen::Decision(record)),
            Err(RecvError::Lagged(missed)) => Some(Seen::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{BEHIND, MAX_WATCHERS, Seen, Watched};
    use crate::telemetry::testing::record;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_watcher_that_is_behind_is_told_how_much_it_missed() {
        let all = Watched::default();
        let record = Arc::new(record());
        all.tell(&record);
        assert_eq!(Arc::strong_count(&record), 1, "nobody watches");
        let mut watcher = all.watch().unwrap();
        for _ in 0..BEHIND + 88 {
            all.tell(&record);
        }
        assert!(matches!(watcher.next().await, Some(Seen::Missed(88))));
        for _ in 0..BEHIND {
            assert!(matches!(watcher.next().await, Some(Seen::Decision(_))));
        }
        drop(watcher);
        all.tell(&record);
        assert_eq!(Arc::strong_count(&record), 1, "nobody watches any more");
    }

    #[test]
    fn watchers_are_bounded_and_make_room() {
        let watched = Watched::default();
        let mut watchers: Vec<_> = (0..MAX_WATCHERS).map(|_| watched.watch().unwrap()).collect();
        assert!(watched.watch().is_none());
        watchers.pop();
        assert!(watched.watch().is_some());
    }
}

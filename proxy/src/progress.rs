//! How far a streaming request body has come; its end where nothing comes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Looks at a body in the time that it may be silent: it ends between that time and a quarter more.
const LOOKS: u32 = 8;

/// How long a body may be silent once its answer has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The client must send some of it.
    OfClient(Duration),
    /// Something must pass, whichever way: for streams, of which one side may only listen.
    OfBoth(Duration),
}

impl Silence {
    const fn limit(self) -> Duration {
        match self {
            Self::OfClient(limit) | Self::OfBoth(limit) => limit,
        }
    }
}

/// How far a request body has come.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    /// Bytes of the answer.
    answered: AtomicU64,
    done: AtomicBool,
    broken: AtomicBool,
    /// True while the client is waited for, not the upstream.
    waits: AtomicBool,
    late: AtomicBool,
    waker: AtomicWaker,
    watch: OnceLock<AbortHandle>,
}

impl Progress {
    /// Bytes of content read from the client so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// True where the client broke it off, or sent what is no body.
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// True once the client has sent all of it.
    pub fn done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// True where it was ended because nothing came any more.
    pub fn late(&self) -> bool {
        self.late.load(Ordering::Acquire)
    }

    /// Some of it has come.
    pub fn comes(&self, bytes: usize) {
        self.waits.store(false, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// All of it has come.
    pub fn ends(&self) {
        self.done.store(true, Ordering::Relaxed);
    }

    /// Nothing more will come, and that was not all.
    pub fn breaks(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// The client is waited for; true where it has been for too long.
    pub fn waits(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.waits.store(true, Ordering::Relaxed);
        self.late()
    }

    /// Some of the answer has gone out.
    pub fn answers(&self, bytes: usize) {
        self.answered.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// From now on it must not be silent for long, or is ended. While the upstream takes nothing, nobody can tell
    /// whether the client would send. Only the first call counts.
    pub fn watch(self: &Arc<Self>, silence: Silence) {
        let watched = Arc::downgrade(self);
        self.watch.get_or_init(|| tokio::spawn(watch(watched, silence)).abort_handle());
    }

    /// What grows while it is not silent.
    fn count(&self, silence: Silence) -> u64 {
        match silence {
            Silence::OfClient(_) => self.bytes(),
            Silence::OfBoth(_) => self.bytes().wrapping_add(self.answered.load(Ordering::Relaxed)),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.get() {
            watch.abort();
        }
    }
}

/// Reads no clock: it looks whether the count still grows.
async fn watch(progress: Weak<Progress>, silence: Silence) {
    let (mut seen, mut looks) = (None, 0);
    while looks <= LOOKS {
        sleep(silence.limit() / LOOKS).await;
        let Some(progress) = progress.upgrade().filter(|progress| !progress.done() && !progress.broken())
        else {
            return;
        };
        let now = Some(progress.count(silence));
        let silent = now == seen && progress.waits.load(Ordering::Relaxed);
        looks = if silent { looks + 1 } else { 0 };
        seen = now;
    }
    if let Some(progress) = progress.upgrade() {
        progress.late.store(true, Ordering::Release);
        progress.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::{Progress, Silence};
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;
    use std::time::Duration;
    use tokio::time::{advance, sleep, timeout};

    const LIMIT: Duration = Duration::from_secs(8);

    async fn late(progress: &Progress) {
        poll_fn(|cx| if progress.waits(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_is_waited_for_is_late() {
        let progress = Arc::new(Progress::default());
        progress.watch(Silence::OfClient(LIMIT));
        sleep(10 * LIMIT).await;
        assert!(!progress.late(), "the upstream takes nothing");
        assert!(timeout(LIMIT, late(&progress)).await.is_err(), "not yet");
        progress.comes(1);
        progress.answers(1);
        assert!(timeout(LIMIT, late(&progress)).await.is_err(), "it came");
        timeout(LIMIT, late(&progress)).await.unwrap();
        assert!(progress.late());
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_stream_either_side_may_only_listen() {
        let progress = Arc::new(Progress::default());
        progress.watch(Silence::OfBoth(LIMIT));
        for _ in 0..10 {
            assert!(timeout(LIMIT / 2, late(&progress)).await.is_err());
            progress.answers(1);
        }
        timeout(2 * LIMIT, late(&progress)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_watched_no_more() {
        let progress = Arc::new(Progress::default());
        progress.watch(Silence::OfClient(LIMIT));
        let watch = progress.watch.get().unwrap().clone();
        advance(LIMIT).await;
        drop(progress);
        while !watch.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

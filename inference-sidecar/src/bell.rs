//! Wakes a task for several futures on it, but not while it polls them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// How often futures are looked at in one turn: what one of them gives to another is taken along.
pub const PASSES: usize = 4;

/// The futures are being polled.
const POLLED: u8 = 1;
/// Something has happened since then.
const RUNG: u8 = 2;

/// What several futures on one task wake.
///
/// With the waker of the task itself, one that gives something to another would queue the task anew, though it is there and
/// looks at once; that may wake another thread.
#[derive(Debug)]
pub struct Bell {
    rope: Arc<Rope>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Rope {
    /// [`POLLED`] and [`RUNG`].
    state: AtomicU8,
    task: AtomicWaker,
}

impl Default for Bell {
    fn default() -> Self {
        let rope = Arc::<Rope>::default();
        Self { waker: Waker::from(Arc::clone(&rope)), rope }
    }
}

impl Bell {
    /// Polls `look` with the bell as its waker, again where it has rung meanwhile. What rings later wakes `cx`.
    ///
    /// Where it is ready, it may have rung unheard: whoever wants more of the same futures has to poll them.
    pub fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Rope { state, task } = &*self.rope;
        task.register(cx.waker());
        let mut own = Context::from_waker(&self.waker);
        for _ in 0..PASSES {
            // Takes what rang before: whoever rings between two looks wakes nobody, and what it gave has to be seen.
            state.swap(POLLED, Ordering::SeqCst);
            if let ready @ Poll::Ready(_) = look(&mut own) {
                state.swap(0, Ordering::SeqCst);
                return ready;
            }
            if state.compare_exchange(POLLED, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return Poll::Pending;
            }
        }
        // Others have their turn.
        state.store(RUNG, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What rings it.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Wakes nobody from now on, until it is polled again: whoever calls this is about to.
    pub fn hush(&self) {
        drop(self.rope.task.take());
    }

    /// True where it has rung and nobody has looked.
    pub fn has_rung(&self) -> bool {
        self.rope.state.load(Ordering::SeqCst) & RUNG != 0
    }
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(RUNG, Ordering::SeqCst) & POLLED == 0 {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bell, PASSES};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Polls once, ringing in each of the first `rings` looks; gives how often it looked, and how often the task was woken.
    fn polled(bell: &Bell, rings: usize) -> (usize, usize) {
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let mut looks = 0;
        let pending = bell.poll(&mut Context::from_waker(&waker), |cx| {
            looks += 1;
            if looks <= rings {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        assert!(pending.is_pending());
        (looks, woken.0.load(Ordering::SeqCst))
    }

    #[test]
    fn what_rings_while_it_is_polled_is_looked_at_and_queues_nothing() {
        let bell = Bell::default();
        assert_eq!(polled(&bell, 0), (1, 0));
        assert_eq!(polled(&bell, 2), (3, 0));
        assert!(!bell.has_rung());
    }

    #[test]
    fn nobody_is_woken_by_what_rings_before_the_next_poll_that_they_announced() {
        let bell = Bell::default();
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        assert!(bell.poll(&mut Context::from_waker(&waker), |_| Poll::<()>::Pending).is_pending());
        bell.hush();
        bell.waker().wake_by_ref();
        assert!(bell.has_rung());
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        assert_eq!(polled(&bell, 0), (1, 0));
        assert!(!bell.has_rung());
    }

    #[test]
    fn what_rings_without_end_leaves_others_their_turn_and_is_not_forgotten() {
        let bell = Bell::default();
        assert_eq!(polled(&bell, usize::MAX), (PASSES, 1));
        assert!(bell.has_rung());
        assert_eq!(polled(&bell, 0), (1, 0));
        assert!(!bell.has_rung());
    }

    #[test]
    fn what_rings_later_wakes_the_task_that_polled_last() {
        let bell = Bell::default();
        polled(&bell, 0);
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        assert!(bell.poll(&mut cx, |_| Poll::<()>::Pending).is_pending());
        std::thread::scope(|scope| scope.spawn(|| bell.waker().wake_by_ref()).join().unwrap());
        assert!(bell.has_rung());
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(bell.poll(&mut cx, |_| Poll::Ready(7)), Poll::Ready(7));
    }
}

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
            state.store(POLLED, Ordering::SeqCst);
            if let ready @ Poll::Ready(_) = look(&mut own) {
                state.store(0, Ordering::SeqCst);
                return ready;
            }
            if state.compare_exchange(POLLED, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return Poll::Pending;
            }
        }
        // Others have their turn.
        state.store(0, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// True where it has rung since it was last polled.
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

//! Ends of what requests wait for, on timers that are used again.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::coop::unconstrained;
use tokio::time::{Sleep, sleep_until};

use crate::clock;

/// Timers that a thread keeps: more requests seldom wait at once, and each is some hundred bytes.
const MOST: usize = 1_024;

thread_local! {
    /// A timer stays in its runtime's wheel when a request ends, and moves on for the next one: that takes no lock, where to
    /// take it out and to put it in takes one each.
    static KEPT: RefCell<Vec<Pin<Box<Sleep>>>> = const { RefCell::new(Vec::new()) };
}

/// Where a thread keeps its timers: they are not used on others, whose runtime may be gone.
fn home() -> usize {
    KEPT.try_with(|kept| std::ptr::from_ref(kept) as usize).unwrap_or_default()
}

/// A moment to be waited for; costs nothing before somebody waits.
#[derive(Debug)]
pub struct Timer {
    /// Monotonic.
    end: Duration,
    /// Set once somebody waits, with the thread it is of.
    sleep: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Timer {
    /// `end` is a monotonic time.
    pub const fn until(end: Duration) -> Self {
        Self { end, sleep: None }
    }

    /// Ready once the time has come.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let end = self.end;
        let (sleep, _) = self.sleep.get_or_insert_with(|| (started(end), home()));
        // Also where what is waited for has used up the turn of its task: it may do so each time.
        pin!(unconstrained(sleep.as_mut())).poll(cx)
    }

    /// True once the time has come; wakes nobody.
    pub fn has_come(&self) -> bool {
        clock::monotonic() >= self.end
    }
}

fn started(end: Duration) -> Pin<Box<Sleep>> {
    let end = clock::instant_of(end).into();
    let kept = KEPT.try_with(|kept| kept.borrow_mut().pop()).ok().flatten();
    kept.map_or_else(
        || Box::pin(sleep_until(end)),
        |mut sleep| {
            sleep.as_mut().reset(end);
            sleep
        },
    )
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some((mut sleep, thread)) = self.sleep.take() else { return };
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if thread == home() && kept.len() < MOST {
                // It wakes nobody meanwhile, and keeps no task that has ended.
                let _ = pin!(unconstrained(sleep.as_mut())).poll(&mut Context::from_waker(Waker::noop()));
                kept.push(sleep);
            }
        });
    }
}

/// What a future gives, where that comes before a monotonic time.
pub async fn within<F: Future>(end: Duration, future: F) -> Option<F::Output> {
    let (mut future, mut timer) = (pin!(future), Timer::until(end));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => timer.poll(cx).map(|()| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Timer, within};
    use crate::clock;
    use std::future::{pending, poll_fn, ready};
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;
    use tokio::task::yield_now;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_mins(1);

    fn kept() -> usize {
        KEPT.with_borrow(Vec::len)
    }

    #[tokio::test]
    async fn what_comes_in_time_is_given_and_what_does_not_is_none() {
        assert_eq!(within(clock::monotonic() + LONG, ready(1)).await, Some(1));
        assert_eq!(kept(), 0, "nobody waited");
        let end = clock::monotonic() + SHORT;
        assert_eq!(within(end, pending::<()>()).await, None);
        assert!(clock::monotonic() >= end);
        assert_eq!(within(Duration::ZERO, pending::<()>()).await, None, "it has passed");
    }

    /// The second wait ends when it should, whether its timer was set for later or has rung before.
    #[tokio::test]
    async fn a_timer_that_is_used_again_keeps_the_new_time() {
        for first in [LONG, SHORT] {
            let mut timer = Timer::until(clock::monotonic() + first);
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
            if first == SHORT {
                poll_fn(|cx| timer.poll(cx)).await;
            }
            drop(timer);
            assert_eq!(kept(), 1);
            for next in [SHORT, SHORT * 2] {
                let end = clock::monotonic() + next;
                assert_eq!(within(end, pending::<()>()).await, None);
                assert!(clock::monotonic() >= end);
                assert_eq!(kept(), 1);
            }
            // Not late either: this ends long before the minute that the timer was set for at first.
            assert_eq!(within(clock::monotonic() + LONG, yield_now()).await, Some(()));
        }
    }

    /// What is waited for takes all of the turn that its task has, each time.
    #[tokio::test]
    async fn what_is_always_busy_does_not_keep_the_time_from_coming() {
        let end = clock::monotonic() + SHORT;
        let busy = poll_fn(|cx| {
            while let Poll::Ready(turn) = tokio::task::coop::poll_proceed(cx) {
                turn.made_progress();
            }
            Poll::<()>::Pending
        });
        assert_eq!(within(end, busy).await, None);
        assert!(Timer::until(end).has_come() && !Timer::until(end + LONG).has_come());
    }

    struct Counted;

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {}
    }

    /// A task that has ended is let go of, also where it had used up its turn.
    #[tokio::test]
    async fn a_timer_that_is_kept_holds_no_waker() {
        let counted = Arc::new(Counted);
        let waker = Waker::from(Arc::clone(&counted));
        let mut timer = Timer::until(clock::monotonic() + LONG);
        assert!(timer.poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert_eq!(Arc::strong_count(&counted), 2);
        let mut timer = Some(timer);
        poll_fn(|cx| {
            while let Poll::Ready(turn) = tokio::task::coop::poll_proceed(cx) {
                turn.made_progress();
            }
            timer = None;
            Poll::Ready(())
        })
        .await;
        assert_eq!((Arc::strong_count(&counted), kept()), (1, 1));
    }

    #[tokio::test]
    async fn no_thread_gets_the_timer_of_another() {
        let mut timer = Timer::until(clock::monotonic() + LONG);
        assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
        let left = std::thread::spawn(move || {
            drop(timer);
            kept()
        });
        assert_eq!(left.join().unwrap(), 0);
    }
}

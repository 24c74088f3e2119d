//! Streams of an HTTP/2 connection on its own task: their answers leave together.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::rt::Executor;

use crate::bell::Bell;
use crate::clock::Stopwatch;

/// Time that streams may take of their connection's task at once; the rest of them run elsewhere.
const TURN: Duration = Duration::from_micros(500);

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Streams that have just come.
type Inbox = Mutex<Vec<Stream>>;

/// Where a connection puts its streams. Weak, as each stream knows where it was put.
#[derive(Clone, Debug)]
pub struct Intake(Weak<Inbox>);

impl<F> Executor<F> for Intake
where
    F: Future<Output = ()> + Send + 'static,
{
    /// Drops the stream where its connection is gone.
    fn execute(&self, stream: F) {
        if let Some(inbox) = self.0.upgrade() {
            inbox.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(stream));
        }
    }
}

/// A connection and its streams, as one task.
///
/// On tasks of their own, answers that are ready together would wake the connection one by one, and leave with a write each.
pub struct Together<C> {
    pub connection: Pin<Box<C>>,
    inbox: Arc<Inbox>,
    /// Those that wait for something: a model on threads, the rest of a request, room for an answer.
    waiting: FuturesUnordered<Stream>,
    bell: Arc<Bell>,
    turn: Duration,
}

impl<C> Together<C> {
    /// `connect` makes the connection that puts its streams there.
    pub fn new(connect: impl FnOnce(Intake) -> C) -> Self {
        let (inbox, bell) = (Arc::new(Inbox::default()), Arc::default());
        let connection = Box::pin(connect(Intake(Arc::downgrade(&inbox))));
        Self { connection, inbox, waiting: FuturesUnordered::new(), bell, turn: TURN }
    }

    /// Runs the streams that have come, and those that were woken.
    fn run(&mut self, cx: &mut Context<'_>) {
        let came = std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        let watch = Stopwatch::start();
        for mut stream in came {
            if watch.elapsed() > self.turn {
                tokio::spawn(stream);
            } else if stream.as_mut().poll(cx).is_pending() {
                self.waiting.push(stream);
            }
        }
        while let Poll::Ready(Some(())) = self.waiting.poll_next_unpin(cx) {
            if watch.elapsed() > self.turn {
                for stream in std::mem::take(&mut self.waiting) {
                    tokio::spawn(stream);
                }
            }
        }
    }
}

impl<C: Future> Future for Together<C> {
    type Output = C::Output;

    /// Reads requests, runs their streams, and writes what these have given.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.get_mut();
        let bell = Arc::clone(&this.bell);
        bell.poll(cx, |cx| {
            let end = this.connection.as_mut().poll(cx);
            if end.is_pending() {
                this.run(cx);
            }
            end
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Intake, Together};
    use crate::bell::PASSES;
    use crate::clock::Stopwatch;
    use hyper::rt::Executor;
    use std::future::{pending, poll_fn};
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;
    use tokio::sync::oneshot;

    /// However slow this machine is.
    const LONG: Duration = Duration::MAX;
    const SHORT: Duration = Duration::from_micros(500);

    /// What a connection and its streams share, as in a real one.
    #[derive(Default)]
    struct Wire {
        /// That of the connection, until a stream has something to send.
        waker: Mutex<Option<Waker>>,
        given: AtomicUsize,
        /// What each look at the connection found to send.
        writes: Mutex<Vec<usize>>,
    }

    impl Wire {
        fn give(&self) {
            self.given.fetch_add(1, Ordering::SeqCst);
            let waker = self.waker.lock().unwrap().take();
            waker.into_iter().for_each(Waker::wake);
        }

        fn writes(&self) -> Vec<usize> {
            std::mem::take(&mut *self.writes.lock().unwrap())
        }
    }

    /// Counts how often a task is queued anew.
    #[derive(Default)]
    struct Queued(AtomicUsize);

    impl Wake for Queued {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    type Ends = Pin<Box<dyn Future<Output = ()> + Send>>;

    struct Stand {
        together: Together<Ends>,
        intake: Intake,
        wire: Arc<Wire>,
        queued: Arc<Queued>,
    }

    impl Stand {
        fn new(turn: Duration) -> Self {
            let wire = Arc::new(Wire::default());
            let own = Arc::clone(&wire);
            let connection: Ends = Box::pin(poll_fn(move |cx| {
                *own.waker.lock().unwrap() = Some(cx.waker().clone());
                own.writes.lock().unwrap().push(own.given.swap(0, Ordering::SeqCst));
                Poll::Pending
            }));
            let mut intake = None;
            let mut together = Together::new(|given| {
                intake = Some(given);
                connection
            });
            together.turn = turn;
            Self { together, intake: intake.unwrap(), wire, queued: Arc::default() }
        }

        /// Polls once; what each look at the connection found to send.
        fn poll(&mut self) -> Vec<usize> {
            let waker = Waker::from(Arc::clone(&self.queued));
            assert!(Pin::new(&mut self.together).poll(&mut Context::from_waker(&waker)).is_pending());
            self.wire.writes()
        }

        fn queued(&self) -> usize {
            self.queued.0.swap(0, Ordering::SeqCst)
        }

        /// A stream that waits for this and then gives an answer.
        fn after(&self, first: impl Future + Send + 'static) {
            let wire = Arc::clone(&self.wire);
            self.intake.execute(async move {
                first.await;
                wire.give();
            });
        }
    }

    #[test]
    fn answers_that_are_ready_together_are_written_at_once() {
        let mut stand = Stand::new(LONG);
        (0..8).for_each(|_| stand.after(async {}));
        assert_eq!(stand.poll(), [0, 8]);
        assert_eq!(stand.queued(), 0, "it goes on by itself");
        assert_eq!(stand.poll(), [0]);
    }

    #[test]
    fn a_stream_that_waits_holds_up_no_other() {
        let mut stand = Stand::new(LONG);
        let (wake, woken) = oneshot::channel::<()>();
        stand.after(woken);
        stand.after(pending::<()>());
        stand.after(async {});
        assert_eq!(stand.poll(), [0, 1]);
        assert_eq!(stand.queued(), 0);
        wake.send(()).unwrap();
        assert_eq!(stand.queued(), 1);
        assert_eq!(stand.poll(), [0, 1]);
    }

    #[test]
    fn a_connection_without_end_of_work_leaves_others_their_turn() {
        let mut stand = Stand::new(LONG);
        let wire = Arc::clone(&stand.wire);
        stand.intake.execute(poll_fn(move |cx| {
            wire.give();
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        assert_eq!(stand.poll().len(), PASSES);
        assert_eq!(stand.queued(), 1);
    }

    fn burn() {
        let watch = Stopwatch::start();
        while watch.elapsed() <= SHORT {}
    }

    /// What tells the task on which it runs.
    fn task() -> (impl Future<Output = ()> + Send, oneshot::Receiver<Option<tokio::task::Id>>) {
        let (tell, told) = oneshot::channel();
        (async move { assert!(tell.send(tokio::task::try_id()).is_ok()) }, told)
    }

    async fn assert_apart(told: oneshot::Receiver<Option<tokio::task::Id>>) {
        let id = tokio::time::timeout(Duration::from_secs(30), told).await.unwrap().unwrap();
        assert!(id.is_some() && id != tokio::task::try_id(), "it has no task of its own");
    }

    #[tokio::test]
    async fn streams_beyond_a_turn_run_beside_the_connection() {
        let mut stand = Stand::new(SHORT);
        stand.intake.execute(async { burn() });
        let (tells, told) = task();
        stand.intake.execute(tells);
        stand.poll();
        assert_apart(told).await;
    }

    #[tokio::test]
    async fn streams_that_have_waited_have_one_turn_as_well() {
        let mut stand = Stand::new(SHORT);
        let (wake, woken) = oneshot::channel::<()>();
        let (go, gone) = oneshot::channel::<()>();
        stand.intake.execute(async move {
            woken.await.unwrap();
            burn();
        });
        let (tells, told) = task();
        stand.intake.execute(async move {
            gone.await.unwrap();
            tells.await;
        });
        stand.poll();
        wake.send(()).unwrap();
        stand.poll();
        // What its own task now waits for.
        go.send(()).unwrap();
        assert_apart(told).await;
    }

    #[test]
    fn streams_end_with_their_connection() {
        let mut stand = Stand::new(LONG);
        let held = Arc::new(());
        let stream = |held: &Arc<()>| {
            let held = Arc::clone(held);
            async move {
                pending::<()>().await;
                drop(held);
            }
        };
        stand.intake.execute(stream(&held));
        stand.poll();
        // This one is still on its way, and knows the intake as those of hyper do.
        let (own, waits) = (stand.intake.clone(), stream(&held));
        stand.intake.execute(async move {
            waits.await;
            drop(own);
        });
        let Stand { together, intake, .. } = stand;
        drop(together);
        assert_eq!(Arc::strong_count(&held), 1);
        intake.execute(stream(&held));
        assert_eq!(Arc::strong_count(&held), 1);
    }
}

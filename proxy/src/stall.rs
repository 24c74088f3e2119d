//! Ends HTTP/2 streams whose client takes nothing of their responses.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

/// Streams that were ended.
pub static STALLED: AtomicU64 = AtomicU64::new(0);

/// What the body of a response did while its stream was last polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// It was not asked: the stream still has what it was given before.
    No,
    /// It had something to give.
    Gave,
    /// It has to wait for the upstream itself.
    Waits,
}

thread_local! {
    static BODY: Cell<Asked> = const { Cell::new(Asked::No) };
}

/// Notes that the body of a response was asked for more.
pub fn asked(waits: bool) {
    BODY.set(if waits { Asked::Waits } else { Asked::Gave });
}

/// Runs the streams of a connection, each until its client has taken nothing for a time.
#[derive(Clone, Copy, Debug)]
pub struct StreamExecutor {
    pub limit: Duration,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(Stream { future, limit: self.limit, timer: None, stalled: false });
    }
}

pin_project! {
    /// One request and its response.
    struct Stream<F> {
        #[pin]
        future: F,
        limit: Duration,
        // Made when the client lets the stream wait for the first time: most never do.
        timer: Option<Pin<Box<Sleep>>>,
        stalled: bool,
    }
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    /// The codec asks the body for a piece and waits until the client has room for it. So while the body is
    /// not asked, and did not say last that it waits itself, it is the client that everything waits for.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        BODY.set(Asked::No);
        if this.future.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match BODY.get() {
            Asked::No => {}
            Asked::Waits => *this.stalled = false,
            Asked::Gave => {
                *this.stalled = true;
                match this.timer {
                    Some(timer) => timer.as_mut().set(sleep(*this.limit)),
                    None => *this.timer = Some(Box::pin(sleep(*this.limit))),
                }
            }
        }
        if *this.stalled
            && let Some(timer) = this.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            STALLED.fetch_add(1, Ordering::Relaxed);
            // Dropped before its end: the client is told that the stream is reset.
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::Ordering;
    use std::task::Poll;
    use std::time::Duration;

    use hyper::rt::Executor;
    use tokio::sync::mpsc;

    use super::{STALLED, StreamExecutor, asked};

    /// Runs a stream whose body does what it is told whenever it is told; true where it was ended.
    async fn run(bodies: &[Option<bool>]) -> bool {
        let (orders, mut received) = mpsc::channel::<Option<bool>>(1);
        let (alive, mut ended) = mpsc::channel::<()>(1);
        let executor = StreamExecutor { limit: Duration::from_millis(100) };
        executor.execute(async move {
            let _alive = alive;
            poll_fn(|cx| {
                while let Poll::Ready(Some(order)) = received.poll_recv(cx) {
                    if let Some(waits) = order {
                        asked(waits);
                    }
                }
                Poll::<()>::Pending
            })
            .await;
        });
        for order in bodies {
            orders.send(*order).await.unwrap();
            while orders.capacity() == 0 {
                tokio::task::yield_now().await;
            }
        }
        tokio::time::timeout(Duration::from_secs(1), ended.recv()).await.is_ok()
    }

    #[tokio::test]
    async fn only_a_stream_that_waits_for_its_client_is_ended() {
        let before = STALLED.load(Ordering::Relaxed);
        assert!(!run(&[]).await, "no response yet");
        assert!(!run(&[Some(false), Some(true)]).await, "the upstream is slow");
        assert!(!run(&[Some(true), None]).await, "woken for nothing");
        assert!(run(&[Some(false)]).await, "the client takes nothing");
        assert!(run(&[Some(true), Some(false), None]).await, "and wakes the stream for nothing");
        assert_eq!(STALLED.load(Ordering::Relaxed), before + 2);
    }
}

//! Whether a request may go to its upstream now, later, or not.

pub mod bodies;
pub mod capacity;
pub mod clients;
pub mod limit;
pub mod load;
mod queue;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_filters::fairness::Tenant;
use foregate_filters::reason::Reason;
use foregate_filters::verdict::Reply;
use foregate_policy::snapshot::Concurrency;
use http::HeaderValue;
use http::header::RETRY_AFTER;
use tokio::sync::oneshot::{Receiver, channel};
use tokio::time::timeout;

use crate::admission::limit::Limit;
use crate::admission::queue::Queue;
use crate::clock;

/// What a client that is shed waits before it comes again, in seconds.
const RETRY: HeaderValue = HeaderValue::from_static("1");

/// What stands between the requests and one upstream. One for each upstream of the process.
#[derive(Debug)]
pub struct Admission {
    bounds: Concurrency,
    limit: Limit,
    /// Requests whose response heads are not there yet.
    under_way: AtomicU32,
    /// As [`Queue::len`], to be read without its lock.
    waiting: AtomicU32,
    queue: Mutex<Queue>,
    queued: AtomicU64,
    shed: AtomicU64,
}

/// A request under way; its place is free again when this is dropped.
#[derive(Debug)]
pub struct Permit<'a> {
    admission: &'a Admission,
    /// On the monotonic clock; zero until the request is sent.
    sent: Duration,
    /// Requests under way then, itself included.
    with: u32,
    answered: bool,
}

/// The upstream has as much as it can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shed {
    pub under_way: u32,
    pub limit: u32,
    pub waiting: u32,
}

/// A refusal for want of room, and when to come again.
pub fn overloaded(reason: Reason, detail: String) -> Reply {
    Reply::new(reason).detail(detail).header(RETRY_AFTER, RETRY)
}

impl Shed {
    /// What the caller is told.
    pub fn reply(self, upstream: &str) -> Reply {
        let Self { under_way, limit, waiting } = self;
        let detail = format!("{under_way} requests under way of {limit}, {waiting} waiting");
        overloaded(Reason::Overloaded, detail).rule(upstream)
    }
}

impl Admission {
    pub fn new(bounds: Concurrency) -> Self {
        Self {
            bounds,
            limit: Limit::new(bounds),
            under_way: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            queue: Mutex::default(),
            queued: AtomicU64::new(0),
            shed: AtomicU64::new(0),
        }
    }

    /// Takes a place, where one is free and nobody waits for it.
    pub fn at_once(&self) -> Option<Permit<'_>> {
        self.enter().then(|| Permit { admission: self, sent: Duration::ZERO, with: 0, answered: false })
    }

    /// Takes a place where one is free and nobody waits for it.
    fn enter(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0 && self.take()
    }

    /// Takes a place where one is free. There are never more under way than the limit, not for a moment: it would be
    /// taken for a load.
    fn take(&self) -> bool {
        let limit = self.limit.now();
        let more = |before: u32| (before < limit).then_some(before + 1);
        self.under_way.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn leave(&self) {
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        // Whoever joined the queue meanwhile has looked for a place after that, or is seen here: all of these are
        // sequentially consistent.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.serve(&mut self.queue());
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// Where none was free in time, or too many wait.
    pub async fn wait(&self, tenant: Option<&Tenant>) -> Result<Permit<'_>, Shed> {
        // It may be that nobody is answered, and so nobody else looks.
        self.limit.look(clock::monotonic());
        if self.bounds.queue == 0 {
            return self.at_once().ok_or_else(|| self.refuse());
        }
        let (sender, receiver) = channel();
        let mut place = Waiting { admission: self, receiver };
        {
            let mut queue = self.queue();
            let bound = usize::try_from(self.bounds.queue).unwrap_or(usize::MAX);
            queue.push(tenant, sender, bound, clock::monotonic());
            self.waiting.store(count(queue.len()), Ordering::SeqCst);
            self.serve(&mut queue);
        }
        self.queued.fetch_add(1, Ordering::Relaxed);
        match timeout(self.bounds.wait, &mut place.receiver).await {
            Ok(Ok(())) => Ok(Permit { admission: self, sent: Duration::ZERO, with: 0, answered: false }),
            Ok(Err(_)) | Err(_) => Err(self.refuse()),
        }
    }

    fn refuse(&self) -> Shed {
        self.shed.fetch_add(1, Ordering::Relaxed);
        Shed { under_way: self.under_way(), limit: self.limit(), waiting: self.waiting() }
    }

    /// Gives the places that are free to those who wait.
    fn serve(&self, queue: &mut Queue) {
        let now = clock::monotonic();
        // Taken before somebody is chosen: between the two nobody else can have it.
        while self.take() {
            // A waiter that has gone since it was chosen does not use the place: it is for the next one.
            let mut served = false;
            while let Some(waiter) = queue.pop(now) {
                served = waiter.send(()).is_ok();
                if served {
                    break;
                }
            }
            if !served {
                self.under_way.fetch_sub(1, Ordering::SeqCst);
                break;
            }
        }
        self.waiting.store(count(queue.len()), Ordering::SeqCst);
    }

    /// Requests under way now.
    pub fn under_way(&self) -> u32 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Most that may be under way now.
    pub fn limit(&self) -> u32 {
        self.limit.now()
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Requests that had to wait, until now.
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Requests that were refused for want of room, until now.
    pub fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    fn observe(&self, took: Duration, failed: bool, with: u32, now: Duration) {
        if self.limit.observe(took, failed, self.under_way().max(with), now) && self.waiting() > 0 {
            self.serve(&mut self.queue());
        }
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Permit<'_> {
    /// The request is sent at this monotonic time.
    pub fn sent(&mut self, now: Duration) {
        self.sent = now;
        self.with = self.admission.under_way();
    }

    /// What became of the request says nothing of the upstream.
    pub fn forget(mut self) {
        self.sent = Duration::ZERO;
    }

    /// There is an answer after `took`, or a failure of the upstream. `now` is the monotonic time.
    pub fn answered(mut self, took: Duration, failed: bool, now: Duration) {
        self.answered = true;
        self.admission.observe(took, failed, self.with, now);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.answered && self.sent > Duration::ZERO {
            // Given up before there was an answer. It would have taken longer still: only that says something.
            let now = clock::monotonic();
            let took = now.saturating_sub(self.sent);
            if took > self.admission.limit.idle() {
                self.admission.observe(took, false, self.with, now);
            }
        }
        self.admission.leave();
    }
}

/// A place in the queue; one that was given and is not used goes to the next.
struct Waiting<'a> {
    admission: &'a Admission,
    receiver: Receiver<()>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        if self.receiver.try_recv().is_ok() {
            self.admission.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use foregate_filters::fairness::Tenant;
    use foregate_policy::snapshot::Concurrency;

    use super::{Admission, Permit, Shed};

    fn admission(max: u32, queue: u32, wait: Duration) -> Arc<Admission> {
        Arc::new(Admission::new(Concurrency { max, min: max, adaptive: false, queue, wait }))
    }

    async fn admit(admission: &Admission) -> Result<Permit<'_>, Shed> {
        match admission.at_once() {
            Some(permit) => Ok(permit),
            None => admission.wait(None).await,
        }
    }

    #[tokio::test]
    async fn no_more_than_the_limit_are_under_way_and_the_rest_wait_or_go() {
        let admission = admission(2, 1, Duration::from_mins(1));
        let first = admit(&admission).await.unwrap();
        let second = admit(&admission).await.unwrap();
        let one = Arc::clone(&admission);
        let waiting = tokio::spawn(async move { admit(&one).await.map(drop) });
        while admission.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        // The queue is full: whoever has waited longest gives way to whoever comes.
        let one = Arc::clone(&admission);
        let later = tokio::spawn(async move { admit(&one).await.map(drop) });
        let shed = waiting.await.unwrap().unwrap_err();
        assert_eq!((shed.under_way, shed.limit), (2, 2));
        drop(first);
        later.await.unwrap().unwrap();
        assert_eq!((admission.under_way(), admission.waiting()), (1, 0));
        drop(second);
        assert_eq!(admission.under_way(), 0);
        assert_eq!((admission.queued(), admission.shed()), (2, 1));
    }

    #[tokio::test]
    async fn whoever_waits_too_long_is_refused_and_leaves_no_trace() {
        let admission = admission(1, 10, Duration::from_millis(5));
        let first = admit(&admission).await.unwrap();
        assert!(admit(&admission).await.is_err());
        drop(first);
        drop(admit(&admission).await.unwrap());
        assert_eq!((admission.under_way(), admission.waiting()), (0, 0));
        assert_eq!(admission.shed(), 1);
    }

    #[tokio::test]
    async fn without_a_queue_the_answer_comes_at_once() {
        let admission = admission(1, 0, Duration::from_mins(1));
        let _first = admit(&admission).await.unwrap();
        assert!(admit(&admission).await.is_err());
    }

    #[tokio::test]
    async fn a_place_given_to_whoever_has_gone_is_not_lost() {
        let admission = admission(1, 10, Duration::from_mins(1));
        for _ in 0..100 {
            let first = admit(&admission).await.unwrap();
            let one = Arc::clone(&admission);
            let waiting = tokio::spawn(async move { admit(&one).await.map(drop) });
            while admission.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            // Given the place, and gone before it could take it.
            drop(first);
            waiting.abort();
            let _ = waiting.await;
        }
        assert_eq!((admission.under_way(), admission.waiting()), (0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_at_once_lose_no_place_and_never_exceed_the_limit() {
        let admission = admission(3, 10_000, Duration::from_mins(1));
        let here = Arc::new(AtomicU32::new(0));
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let (admission, here) = (Arc::clone(&admission), Arc::clone(&here));
                tokio::spawn(async move {
                    let tenant = Tenant { key: task % 3, weight: 1 };
                    for _ in 0..500 {
                        let permit = match admission.at_once() {
                            Some(permit) => permit,
                            None => admission.wait(Some(&tenant)).await.unwrap(),
                        };
                        assert!(here.fetch_add(1, Ordering::SeqCst) < 3);
                        tokio::task::yield_now().await;
                        here.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((admission.under_way(), admission.waiting(), admission.shed()), (0, 0, 0));
    }
}

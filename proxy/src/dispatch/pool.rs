//! Idle upstream connections, kept by each thread for itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::body::RequestBody;
use crate::clock;
use crate::dispatch::driven::Driven;
use crate::dispatch::endpoint::{Endpoint, Outstanding};
use crate::dispatch::tally::ShelfTally;
use crate::dispatch::upstream::UpstreamState;
use crate::progress::Progress;

/// Connections put back between two looks at all of a thread's idle connections.
const SWEEP_EVERY: u32 = 256;

/// The sending half of an upstream connection.
#[derive(Debug)]
pub enum Sender {
    Http1(Driven),
    Http2(http2::SendRequest<RequestBody>),
}

struct Idle {
    sender: Sender,
    /// Monotonic time since when nobody uses it.
    since: Duration,
}

/// The connections to one endpoint.
struct Shelf {
    idle: Vec<Idle>,
    timeout: Duration,
    /// That of the upstream.
    retired: Arc<AtomicBool>,
    /// That of the endpoint.
    gone: Arc<AtomicBool>,
    tally: Arc<ShelfTally>,
}

impl Shelf {
    fn new(upstream: &UpstreamState, endpoint: &Endpoint) -> Self {
        Self {
            idle: Vec::new(),
            timeout: upstream.spec.idle_timeout,
            retired: Arc::clone(&upstream.retired),
            gone: Arc::clone(&endpoint.gone),
            tally: upstream.roster.connections.shelf(),
        }
    }

    /// True where its connections may serve on.
    fn serves(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && !self.gone.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Pool {
    shelves: HashMap<u64, Shelf, ahash::RandomState>,
    returned: u32,
    /// [`LEFT`] as this thread last saw it.
    seen: u64,
    /// True once a task of this thread waits for those that leave.
    waits: bool,
    /// That of this task, once it runs.
    waker: Option<Waker>,
}

/// Counts times that upstreams or endpoints left, so that threads look for their connections.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Tells of each, so that threads do so at once: one that serves nothing has no other cause to look.
static TOLD: LazyLock<watch::Sender<()>> = LazyLock::new(|| watch::channel(()).0);

/// Lets go of the connections of an upstream: idle ones at once, those in use when their exchange ends.
pub fn retire(upstream: &UpstreamState) {
    upstream.retired.store(true, Ordering::Relaxed);
    tell();
}

/// The same for endpoints that their upstream has no more.
pub fn leave(endpoints: &[Arc<Endpoint>]) {
    for endpoint in endpoints {
        endpoint.gone.store(true, Ordering::Relaxed);
    }
    if !endpoints.is_empty() {
        tell();
    }
}

fn tell() {
    LEFT.fetch_add(1, Ordering::Release);
    TOLD.send_replace(());
}

impl Pool {
    fn forget_left(&mut self) {
        let left = LEFT.load(Ordering::Acquire);
        if self.seen != left {
            self.seen = left;
            self.shelves.retain(|_, shelf| shelf.serves());
        }
    }

    /// Waits for those that leave, on this thread, for as long as it serves.
    fn wait(&mut self) {
        if let (false, Ok(runtime)) = (self.waits, Handle::try_current()) {
            self.waits = true;
            runtime.spawn(async {
                let mut told = TOLD.subscribe();
                // What was told before is no news any more.
                POOL.with_borrow_mut(Pool::forget_left);
                loop {
                    let mut changed = pin!(told.changed());
                    let changed = poll_fn(|cx| {
                        POOL.with_borrow_mut(|pool| pool.heed(cx));
                        changed.as_mut().poll(cx)
                    });
                    if changed.await.is_err() {
                        return;
                    }
                    POOL.with_borrow_mut(Pool::forget_left);
                }
            });
        }
    }

    /// Looks at the idle connections on which something has happened, at all of them when first asked: one that its upstream
    /// has closed is not kept.
    fn heed(&mut self, cx: &mut Context<'_>) {
        let first = self.waker.is_none();
        if first {
            self.waker = Some(cx.waker().clone());
        }
        for shelf in self.shelves.values_mut() {
            let before = shelf.idle.len();
            shelf.idle.retain_mut(|idle| match &mut idle.sender {
                Sender::Http1(driven) if first || driven.has_rung() => {
                    driven.rest(cx);
                    driven.is_ready()
                }
                Sender::Http1(_) | Sender::Http2(_) => true,
            });
            if shelf.idle.len() < before {
                shelf.tally.holds(shelf.idle.len());
            }
        }
    }
}

thread_local! {
    /// No lock and no hand-over between threads: a connection stays where its event loop is.
    static POOL: RefCell<Pool> = RefCell::default();
}

/// Takes a usable idle connection to an endpoint, the one used last first; tells how long it was idle.
///
/// `now` is the monotonic time.
pub fn take(upstream: &UpstreamState, endpoint: &Endpoint, now: Duration) -> Option<(Sender, Duration)> {
    POOL.with_borrow_mut(|pool| {
        pool.forget_left();
        let shelf = pool.shelves.get_mut(&endpoint.pool)?;
        while let Some(found) = shelf.idle.pop() {
            shelf.tally.holds(shelf.idle.len());
            let idle = now.saturating_sub(found.since);
            if idle > upstream.spec.idle_timeout {
                // All below were put back earlier still.
                shelf.idle.clear();
                shelf.tally.holds(0);
                return None;
            }
            match found.sender {
                Sender::Http1(mut driven) => {
                    if driven.has_rung() {
                        driven.rest(&mut Context::from_waker(Waker::noop()));
                    }
                    if driven.is_ready() {
                        shelf.tally.taken();
                        return Some((Sender::Http1(driven), idle));
                    }
                }
                Sender::Http2(sender) if sender.is_ready() => {
                    shelf.tally.taken();
                    // Many requests share one HTTP/2 connection: a copy stays for the next.
                    shelf.idle.push(Idle { sender: Sender::Http2(sender.clone()), since: now });
                    shelf.tally.holds(shelf.idle.len());
                    return Some((Sender::Http2(sender), idle));
                }
                Sender::Http2(_) => {}
            }
        }
        None
    })
}

/// Keeps a connection for the next request.
fn put(upstream: &UpstreamState, endpoint: &Endpoint, mut sender: Sender) {
    // With the PROXY protocol a connection is that of one client.
    if upstream.spec.proxy_protocol.is_some() {
        return;
    }
    let now = clock::monotonic();
    POOL.with_borrow_mut(|pool| {
        pool.forget_left();
        if upstream.retired.load(Ordering::Relaxed) || endpoint.gone.load(Ordering::Relaxed) {
            return;
        }
        pool.wait();
        pool.returned = pool.returned.wrapping_add(1);
        if pool.returned.is_multiple_of(SWEEP_EVERY) {
            pool.shelves.retain(|_, shelf| {
                let timeout = shelf.timeout;
                shelf.idle.retain(|idle| now.saturating_sub(idle.since) <= timeout);
                shelf.tally.holds(shelf.idle.len());
                !shelf.idle.is_empty()
            });
        }
        let new = || Shelf::new(upstream, endpoint);
        let shelf = pool.shelves.entry(endpoint.pool).or_insert_with(new);
        shelf.timeout = upstream.spec.idle_timeout;
        if !Arc::ptr_eq(&shelf.retired, &upstream.retired) {
            shelf.retired = Arc::clone(&upstream.retired);
            shelf.gone = Arc::clone(&endpoint.gone);
        }
        if shelf.idle.len() < upstream.idle_each() {
            if let Sender::Http1(driven) = &mut sender {
                let waker = pool.waker.as_ref().unwrap_or(Waker::noop());
                driven.rest(&mut Context::from_waker(waker));
                if driven.has_ended() {
                    return;
                }
            }
            shelf.idle.push(Idle { sender, since: now });
            shelf.tally.holds(shelf.idle.len());
        }
    });
}

/// Shares a new HTTP/2 connection with the requests that follow; others serve one request at a time.
pub fn share(upstream: &UpstreamState, endpoint: &Endpoint, sender: &Sender) {
    if let Sender::Http2(sender) = sender {
        put(upstream, endpoint, Sender::Http2(sender.clone()));
    }
}

/// A connection in use by one exchange; goes back to the pool when the exchange is complete.
#[derive(Debug)]
pub struct Lease {
    upstream: Arc<UpstreamState>,
    endpoint: Arc<Endpoint>,
    sender: Option<Sender>,
    /// Tells whether a streaming request body was sent to its end.
    request: Option<Arc<Progress>>,
    /// Set where it counts among the outstanding exchanges of its endpoint.
    _outstanding: Option<Outstanding>,
}

impl Lease {
    pub fn new(
        upstream: Arc<UpstreamState>,
        endpoint: Arc<Endpoint>,
        sender: Sender,
        request: Option<Arc<Progress>>,
    ) -> Self {
        Self { upstream, endpoint, sender: Some(sender), request, _outstanding: None }
    }

    /// Counts it among the outstanding exchanges of its endpoint, until it ends.
    #[must_use]
    pub fn counted(self) -> Self {
        let outstanding = Outstanding::new(&self.endpoint.state);
        Self { _outstanding: Some(outstanding), ..self }
    }

    /// Sends the request of this exchange, at once; the answer is waited for.
    ///
    /// # Errors
    /// What hyper says, with the request where it was not sent.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<> {
        match &mut self.sender {
            Some(Sender::Http1(driven)) => Either::Left(Either::Left(driven.send(request))),
            Some(Sender::Http2(sender)) => Either::Left(Either::Right(sender.try_send_request(request))),
            // Unreachable by construction: only `complete` and `abandon` take the sender, and both end the lease.
            None => Either::Right(pending()),
        }
    }

    /// Waits for something that the connection gives: it gives nothing otherwise.
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut asks: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match &mut self.sender {
            Some(Sender::Http1(driven)) => driven.poll(cx, asks),
            Some(Sender::Http2(_)) | None => asks(cx),
        }
    }

    /// The next piece of the answer.
    pub async fn frame(&mut self, body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        poll_fn(|cx| self.poll(cx, |cx| Pin::new(&mut *body).poll_frame(cx))).await
    }

    /// From now on the connection gives what it has without being waited for.
    pub fn part(&mut self) {
        if let Some(Sender::Http1(driven)) = &mut self.sender {
            driven.part();
        }
    }

    /// The response has ended: the connection serves again, if the request has ended too.
    pub fn complete(mut self) {
        let sent = self.request.as_ref().is_none_or(|progress| progress.done());
        if let Some(sender @ Sender::Http1(_)) = self.sender.take()
            && sent
        {
            put(&self.upstream, &self.endpoint, sender);
        }
    }

    /// The connection is of no more use.
    pub fn abandon(&mut self) {
        self.sender = None;
    }
}

//! An HTTP/1 connection to an upstream, run by the task that uses it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use foregate_inference::bell::Bell;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use tokio::runtime::Handle;

use crate::body::RequestBody;

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection that serves one request at a time.
///
/// On a task of its own it would be queued for each head and each piece of a body, and would have the task of its request
/// queued for what it makes of them; that task runs it instead. Dropped, it comes to its end by itself.
pub struct Driven {
    sender: SendRequest<RequestBody>,
    /// None once it has ended, or runs apart.
    running: Option<Running>,
    apart: bool,
    bell: Bell,
}

impl Driven {
    /// `running` is what `sender` gives its requests to.
    pub fn new(sender: SendRequest<RequestBody>, running: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { sender, running: Some(Box::pin(running)), apart: false, bell: Bell::default() }
    }

    /// True where it can take a request.
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Takes a request; the answer is waited for by [`poll`](Self::poll), at once: until then nobody is woken. Who watched
    /// the connection while it was idle has nothing to do with what is given to it now.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<> {
        self.bell.hush();
        self.sender.try_send_request(request)
    }

    /// Waits for something that the connection gives, and runs it meanwhile.
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut asks: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self { running, bell, .. } = self;
        bell.poll(cx, |cx| {
            let asked = asks(cx);
            if asked.is_ready() || !run(running, cx) {
                return asked;
            }
            asks(cx)
        })
    }

    /// Sees to what has happened while nobody asked; from now on that wakes `cx`.
    pub fn rest(&mut self, cx: &mut Context<'_>) {
        let Self { running, bell, .. } = self;
        let _ = bell.poll(cx, |cx| {
            run(running, cx);
            Poll::<()>::Pending
        });
    }

    /// True where something has happened while nobody asked: the upstream may have closed it.
    pub fn has_rung(&self) -> bool {
        (self.apart || self.running.is_some()) && self.bell.has_rung()
    }

    /// True where it has come to its end: its upstream has said farewell, or broke.
    pub const fn has_ended(&self) -> bool {
        self.running.is_none() && !self.apart
    }

    /// Lets it run on a task of its own from now on, whether anybody asks or not.
    pub fn part(&mut self) {
        // Without a runtime the process is ending.
        if let (Some(running), Ok(runtime)) = (self.running.take(), Handle::try_current()) {
            self.apart = true;
            let rings = self.bell.waker().clone();
            runtime.spawn(async move {
                running.await;
                rings.wake();
            });
        }
    }
}

/// True where it ran, now or to its end.
fn run(running: &mut Option<Running>, cx: &mut Context<'_>) -> bool {
    let Some(connection) = running else { return false };
    if connection.as_mut().poll(cx).is_ready() {
        *running = None;
    }
    true
}

impl Drop for Driven {
    /// It learns that nobody asks any more, and says its farewell.
    fn drop(&mut self) {
        self.part();
    }
}

impl fmt::Debug for Driven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driven").field("sender", &self.sender).finish_non_exhaustive()
    }
}

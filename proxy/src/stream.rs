//! A client's byte stream, closed when it stays idle or sends a head too slowly.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

use crate::clock;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the first byte of a head to its end; for TLS, the handshake as well.
    pub head: Duration,
    /// For a body that filters wait for, from its first read to its end.
    pub body: Duration,
    /// Between requests.
    pub idle: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { head: Duration::from_secs(10), body: Duration::from_secs(30), idle: Duration::from_secs(75) }
    }
}

/// A monotonic time in microseconds.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What a connection is doing, shared by its stream and its requests.
#[derive(Debug, Default)]
pub struct Activity {
    in_flight: AtomicU32,
    /// True between the first byte of an HTTP/1 head and the request it becomes.
    in_head: AtomicBool,
    /// HTTP/2 reads frames at any time, so that bytes do not tell of a head.
    multiplexed: AtomicBool,
    /// Monotonic microseconds at which the head or the idle time began.
    since: AtomicU64,
}

impl Activity {
    fn now() -> u64 {
        micros(clock::monotonic())
    }

    /// A request came out of the stream.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
    }

    /// A request is over; `now` is the monotonic time.
    pub fn end(&self, now: Duration) {
        self.since.store(micros(now), Ordering::Relaxed);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// The connection speaks HTTP/2.
    pub fn multiplex(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
    }

    fn busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    fn bytes_arrived(&self) {
        if !self.busy()
            && !self.multiplexed.load(Ordering::Relaxed)
            && !self.in_head.swap(true, Ordering::Relaxed)
        {
            self.since.store(Self::now(), Ordering::Relaxed);
        }
    }

    /// Time left until the stream must close; `None` while a request is under way.
    fn left(&self, deadlines: &Deadlines) -> Option<Duration> {
        if self.busy() {
            return None;
        }
        let limit = if self.in_head.load(Ordering::Relaxed) { deadlines.head } else { deadlines.idle };
        let gone = Self::now().saturating_sub(self.since.load(Ordering::Relaxed));
        Some(limit.saturating_sub(Duration::from_micros(gone)))
    }
}

/// A client's connection, plain or in TLS.
#[derive(Debug)]
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A transport that ends by itself when its client is too slow.
#[derive(Debug)]
pub struct ClientStream {
    transport: Transport,
    activity: Arc<Activity>,
    deadlines: Deadlines,
    timer: Option<Pin<Box<Sleep>>>,
    /// Runs while the client takes nothing of what is written to it.
    stalled: Option<Pin<Box<Sleep>>>,
    /// True where `timer` was set for the head that is being read.
    timer_for_head: bool,
}

/// The whole answer to a head that came too slowly: the codec has no request to answer yet.
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

impl ClientStream {
    pub fn new(transport: Transport, activity: Arc<Activity>, deadlines: Deadlines) -> Self {
        activity.since.store(Activity::now(), Ordering::Relaxed);
        Self { transport, activity, deadlines, stalled: None, timer: None, timer_for_head: false }
    }

    /// Nothing to read for now: ready once the client has used up its time.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let in_head = self.activity.in_head.load(Ordering::Relaxed);
        if in_head != self.timer_for_head {
            self.timer = None;
            self.timer_for_head = in_head;
        }
        loop {
            let left = self.activity.left(&self.deadlines);
            if left == Some(Duration::ZERO) {
                return Poll::Ready(());
            }
            let timer =
                self.timer.get_or_insert_with(|| Box::pin(sleep(left.unwrap_or(self.deadlines.idle))));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
    }

    /// Watches a write: one that gets nowhere for the idle time ends the connection.
    fn progress<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let idle = self.deadlines.idle;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(idle)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_transport_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Poll::Ready(outcome) = this.poll_transport_read(cx, buf) {
            if buf.filled().len() > before {
                this.activity.bytes_arrived();
            }
            return Poll::Ready(outcome);
        }
        ready!(this.poll_expired(cx));
        if this.activity.in_head.load(Ordering::Relaxed) {
            let _ = Pin::new(&mut *this).poll_write(cx, REQUEST_TIMEOUT);
            let _ = Pin::new(&mut *this).poll_flush(cx);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        // An idle connection ends as if the client had closed it.
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        this.progress(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        this.progress(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        this.progress(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

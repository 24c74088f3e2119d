//! A client's byte stream, closed when it stays idle or sends a head too slowly.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::server::TlsStream;

use crate::clock;
use crate::frames::{Frames, GOAWAY};
use crate::lines::Lines;
use crate::maybe_tls::MaybeTls;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the first byte of a head to its end; for TLS, the handshake as well.
    pub head: Duration,
    /// For a body that filters wait for, from its first read to its end; for one that streams, between two pieces
    /// once its answer has begun.
    pub body: Duration,
    /// Between requests; also for a client to take something of a response.
    pub idle: Duration,
    /// Between two pieces of a tunnel or a call, whichever way.
    pub tunnel: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            tunnel: Duration::from_hours(1),
        }
    }
}

/// Requests of one connection that its client may abandon within [`PATIENCE`].
const MAX_ABANDONED: u32 = 1_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// Part of the idle time after which an HTTP/1 connection gives back all that it needs only for requests: five
/// seconds of the default.
const REST: u32 = 15;

/// HTTP/1 connections that wait for a head and hold no buffers for it.
pub static RESTING: AtomicU64 = AtomicU64::new(0);

/// One of [`RESTING`], until it is dropped.
struct Rests;

impl Rests {
    fn begin() -> Self {
        RESTING.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Rests {
    fn drop(&mut self) {
        RESTING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes of a head that are waited for without the codec: most heads are shorter.
const MOST_WAITING: usize = 2_048;

/// Bytes read at once meanwhile.
const PIECE: usize = 1_024;

/// A monotonic time in microseconds.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What a connection is doing, shared by its stream and its requests.
#[derive(Debug, Default)]
pub struct Activity {
    in_flight: AtomicU32,
    /// Requests so far.
    begun: AtomicU32,
    abandoned: AtomicU32,
    /// Monotonic microseconds at which `abandoned` was last 0.
    patience: AtomicU64,
    /// The client asks for much and waits for nothing.
    flooding: AtomicBool,
    /// True between the first byte of an HTTP/1 head and the request it becomes.
    in_head: AtomicBool,
    /// Idle for a while: set by the stream, taken by whoever serves it.
    resting: AtomicBool,
    /// HTTP/2 reads frames at any time, so that bytes do not tell of a head.
    multiplexed: AtomicBool,
    /// The body of the last request was not read to its end: bytes may be its rest.
    unread: AtomicBool,
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
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
    }

    /// A request is over; `now` is the monotonic time, `unread` true where its body is not at its end.
    pub fn end(&self, now: Duration, unread: bool) {
        self.unread.store(unread, Ordering::Relaxed);
        self.since.store(micros(now), Ordering::Relaxed);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Requests so far, the present one included.
    pub fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    /// A request was reset by its client before there was an answer (CVE-2023-44487: the codec counts only those
    /// that it has not handed on yet); `now` is the monotonic time.
    pub fn abandon(&self, now: Duration) {
        if self.abandoned.fetch_add(1, Ordering::Relaxed) < MAX_ABANDONED {
            return;
        }
        let now = micros(now);
        let since = self.patience.swap(now, Ordering::Relaxed);
        self.abandoned.store(0, Ordering::Relaxed);
        if now.saturating_sub(since) < micros(PATIENCE) {
            self.flooding.store(true, Ordering::Relaxed);
        }
    }

    /// The connection speaks HTTP/2.
    pub fn multiplex(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
    }

    /// True once, where the connection has been idle for long enough to be put to rest.
    pub fn rests(&self) -> bool {
        self.resting.load(Ordering::Relaxed) && self.resting.swap(false, Ordering::Relaxed)
    }

    fn busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// Notes bytes that came; true where they begin a head.
    fn bytes_arrived(&self) -> bool {
        let begins = !self.busy()
            && !self.multiplexed.load(Ordering::Relaxed)
            && !self.in_head.swap(true, Ordering::Relaxed);
        if begins {
            self.since.store(Self::now(), Ordering::Relaxed);
        }
        begins
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
pub type Transport = MaybeTls<TlsStream<TcpStream>>;

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
    /// Set where the connection speaks HTTP/2.
    frames: Option<Box<Frames>>,
    /// Read before a rest, and not used yet.
    unread: Bytes,
    /// The line ends of that head.
    lines: Lines,
}

/// The whole answer to a head that came too slowly: the codec has no request to answer yet.
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// The whole answer to a head that two readers could read in two ways, and that the codec would take.
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// True where this is the beginning of a head that the codec could do no more with than wait for its end.
fn may_become_head(have: &[u8]) -> bool {
    let line = have.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let whole = line.len() < have.len();
    let line = if whole { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
    let sound = |(place, byte): (usize, &u8)| {
        matches!(byte, b' '..=b'~') || (*byte == b'\r' && !whole && place + 1 == line.len())
    };
    have.len() < MOST_WAITING
        && line.iter().enumerate().all(sound)
        && (!whole || line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0"))
        && !have.windows(4).any(|end| end == b"\r\n\r\n")
}

impl ClientStream {
    pub fn new(transport: Transport, activity: Arc<Activity>, deadlines: Deadlines, http2: bool) -> Self {
        let now = clock::monotonic();
        activity.since.store(micros(now), Ordering::Relaxed);
        let frames = http2.then(|| Box::new(Frames::new(now)));
        let unread = Bytes::new();
        Self {
            transport,
            activity,
            deadlines,
            stalled: None,
            timer: None,
            timer_for_head: false,
            frames,
            unread,
            lines: Lines::default(),
        }
    }

    /// Waits for a whole HTTP/1 head without the buffers of the codec, for whoever connects, or stops in the
    /// middle, and holds the connection. False where the connection is to be closed instead. `unread` was read before.
    pub async fn head(&mut self, unread: Bytes) -> bool {
        self.timer = None;
        let mut have = BytesMut::from(unread);
        let _rests = Rests::begin();
        while may_become_head(&have) {
            let Some(left) = self.activity.left(&self.deadlines) else { break };
            let piece = poll_fn(|cx| {
                let mut room = [0; PIECE];
                let mut piece = ReadBuf::new(&mut room);
                let read = ready!(Pin::new(&mut self.transport).poll_read(cx, &mut piece));
                have.extend_from_slice(piece.filled());
                Poll::Ready(read.map(|()| piece.filled().len()))
            });
            match timeout(left, piece).await {
                Ok(Ok(0)) if have.is_empty() => return false,
                // The codec says what it thinks of half a head.
                Ok(Ok(0)) => break,
                Ok(Ok(came)) => {
                    let came = have.len().saturating_sub(came);
                    if !self.reads_one_way(have.get(came..).unwrap_or_default()) {
                        self.turn_away(BAD_REQUEST).await;
                        return false;
                    }
                }
                Ok(Err(_)) => return false,
                Err(_) => {
                    if !have.is_empty() {
                        self.turn_away(REQUEST_TIMEOUT).await;
                    }
                    return false;
                }
            }
        }
        self.unread = have.freeze();
        true
    }

    /// Answers in place of the codec, outside of it.
    async fn turn_away(&mut self, answer: &[u8]) {
        poll_fn(|cx| {
            // Best effort: the connection is closed whether the client takes it or not.
            let _ = self.refuse(cx, answer, io::ErrorKind::InvalidData);
            Poll::Ready(())
        })
        .await;
    }

    /// True where the client only keeps this side busy with what came.
    fn floods(&mut self, came: &[u8]) -> bool {
        let Some(frames) = &mut self.frames else { return false };
        frames.came(came, clock::monotonic) || self.activity.flooding.load(Ordering::Relaxed)
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
            let mut wait = left.unwrap_or(self.deadlines.idle);
            if self.frames.is_none() {
                let rest = self.deadlines.idle / REST;
                let rests = !in_head && left.is_some_and(|left| left + rest <= self.deadlines.idle);
                if rests && self.stalled.is_none() {
                    self.activity.resting.store(true, Ordering::Relaxed);
                }
                wait = wait.min(rest);
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(wait)));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Some(frames), Poll::Ready(Ok(bytes))) = (&mut self.frames, written) {
            frames.wrote(*bytes);
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

    /// Notes bytes that came; false where they end a line of a head by LF alone. Heads sent before the answer to the
    /// one before are not looked at: whoever stands between us and a client sends none.
    fn reads_one_way(&mut self, came: &[u8]) -> bool {
        if self.activity.bytes_arrived() {
            let unread = self.activity.unread.load(Ordering::Relaxed);
            self.lines = if unread { Lines::ended() } else { Lines::default() };
        }
        !self.activity.in_head.load(Ordering::Relaxed) || self.lines.accept(came)
    }

    /// Answers in place of the codec, which has no request yet; gives the end of the stream.
    fn refuse(&mut self, cx: &mut Context<'_>, answer: &[u8], kind: io::ErrorKind) -> io::Result<()> {
        let _ = Pin::new(&mut *self).poll_write(cx, answer);
        let _ = Pin::new(&mut *self).poll_flush(cx);
        Err(kind.into())
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if !this.unread.is_empty() {
            let part = this.unread.split_to(this.unread.remaining().min(buf.remaining()));
            // It was looked at when it came.
            buf.put_slice(&part);
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(outcome) = Pin::new(&mut this.transport).poll_read(cx, buf) {
            let came = buf.filled().get(before..).unwrap_or_default();
            if !came.is_empty() && !this.reads_one_way(came) {
                return Poll::Ready(this.refuse(cx, BAD_REQUEST, io::ErrorKind::InvalidData));
            }
            if !came.is_empty() && this.floods(came) {
                return Poll::Ready(this.refuse(cx, GOAWAY, io::ErrorKind::ConnectionAborted));
            }
            return Poll::Ready(outcome);
        }
        ready!(this.poll_expired(cx));
        if this.activity.in_head.load(Ordering::Relaxed) {
            return Poll::Ready(this.refuse(cx, REQUEST_TIMEOUT, io::ErrorKind::TimedOut));
        }
        // An idle connection ends as if the client had closed it.
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.transport).poll_write(cx, buf);
        this.wrote(&written);
        this.progress(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.transport).poll_write_vectored(cx, bufs);
        this.wrote(&written);
        this.progress(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.transport).poll_flush(cx);
        this.progress(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::may_become_head;

    #[test]
    fn only_what_may_become_a_head_is_waited_for() {
        for head in [
            "",
            "G",
            "GET /",
            "GET / HTTP/1.1\r",
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.0\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r",
        ] {
            assert!(may_become_head(head.as_bytes()), "{head:?}");
        }
        for other in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT",
            "GET /\r\n",
            "\r\n",
            "GET / HTTP/2.0\r\n",
            "GET /\0",
            "GET\r /",
            "\u{16}\u{3}\u{1}",
            "SSH-2.0-OpenSSH_9.2\r\n",
            &"x".repeat(2_048),
        ] {
            assert!(!may_become_head(other.as_bytes()), "{other:?}");
        }
    }
}
